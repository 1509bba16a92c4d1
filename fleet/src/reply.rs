//! What a command is answered with.

use bilrost::{Enumeration, Message, Oneof};

use crate::{AgentId, SessionId, TaskId, TaskState};

/// The answer to a command.
#[derive(Clone, PartialEq, Eq, Debug, Oneof, Message)]
#[bilrost(distinguished)]
pub enum Reply {
    /// The task is accepted.
    #[bilrost(tag(1), message)]
    Submitted {
        /// Its id, which for `existing` may not be the one submitted (an idempotency key matched).
        #[bilrost(1)]
        task: TaskId,
        /// It had been accepted before.
        #[bilrost(2)]
        existing: bool,
    },
    /// The task is in this state now: cancelled, or as it had ended before.
    #[bilrost(2)]
    Cancelled(TaskState),
    /// The session is open.
    #[bilrost(tag(3), message)]
    Joined {
        /// The agent's number.
        #[bilrost(1)]
        agent: AgentId,
        /// Its stay.
        #[bilrost(2)]
        session: SessionId,
    },
    /// The attempt was current and its result stands.
    #[bilrost(tag(4), message)]
    Completed,
    /// The attempt was not current: nothing changed but the slot it held, if it held one.
    #[bilrost(5)]
    Stale(StaleReason),
    /// Done, with nothing to tell.
    #[bilrost(empty)]
    Done,
    /// Refused; nothing changed.
    #[bilrost(6)]
    Refused(Refusal),
    /// The pools should be so from here on.
    #[bilrost(tag(7), message)]
    PoolsSet {
        /// Of the fleet, after it.
        #[bilrost(1)]
        revision: u64,
    },
    /// The command was applied, and the coordinator that was asked can't read what came of it. The state machine never says so.
    #[bilrost(tag(20), message)]
    Unreadable {
        /// Why.
        #[bilrost(1)]
        problem: String,
    },
}

/// Why a completion did not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
pub enum StaleReason {
    /// The task is not known (any more).
    UnknownTask = 0,
    /// The task had been finished.
    Finished = 1,
    /// A newer attempt is current, or the attempt had been ended.
    NotCurrent = 2,
    /// The agent's session is over.
    SessionEnded = 3,
}

/// Why a command was refused. The message says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error, Oneof, Message)]
#[bilrost(distinguished)]
pub enum Refusal {
    /// Too many unfinished tasks.
    #[error("the queue is full: {limit} unfinished tasks; submit again when some have finished")]
    #[bilrost(tag(1), message)]
    QueueFull {
        /// The limit.
        #[bilrost(1)]
        limit: u32,
    },
    /// Too many tasks kept.
    #[error(
        "{limit} tasks are kept, which is the limit; submit again when results have expired, or use a shorter result TTL"
    )]
    #[bilrost(tag(2), message)]
    TooManyTasks {
        /// The limit.
        #[bilrost(1)]
        limit: u32,
    },
    /// Too many bytes kept.
    #[error("inputs and results fill {limit} bytes, which is the limit; submit again when results have expired")]
    #[bilrost(tag(3), message)]
    StorageFull {
        /// The limit.
        #[bilrost(1)]
        limit: u64,
    },
    /// Input over the limit.
    #[error("the input has {bytes} bytes, the limit is {limit}; store it elsewhere and submit a reference")]
    #[bilrost(tag(4), message)]
    InputTooLarge {
        /// Its size.
        #[bilrost(1)]
        bytes: u64,
        /// The limit.
        #[bilrost(2)]
        limit: u64,
    },
    /// A field is out of its range.
    #[error("{field}: {problem}")]
    #[bilrost(tag(5), message)]
    Invalid {
        /// Which.
        #[bilrost(1)]
        field: String,
        /// What is wrong and what would be right.
        #[bilrost(2)]
        problem: String,
    },
    /// The id or key belongs to a task with other content.
    #[error("{what} belongs to task {task}, which was submitted with another kind or input; use a new one")]
    #[bilrost(tag(6), message)]
    Conflict {
        /// "the id" or "the idempotency key".
        #[bilrost(1)]
        what: String,
        /// Whose it is.
        #[bilrost(2)]
        task: TaskId,
    },
    /// No such task.
    #[error("no task {task}: it never existed, or its result has expired")]
    #[bilrost(tag(7), message)]
    UnknownTask {
        /// The id.
        #[bilrost(1)]
        task: TaskId,
    },
    /// Too many agents.
    #[error("the fleet has {limit} agents, which is the limit")]
    #[bilrost(tag(8), message)]
    TooManyAgents {
        /// The limit.
        #[bilrost(1)]
        limit: u32,
    },
    /// The name is in use by a live agent whose process is another one.
    #[error("the session is over or belongs to another process")]
    #[bilrost(empty)]
    StaleSession,
    /// The version can't be taken.
    #[error(
        "fleet version {asked} can't be taken: this fleet is at {current} and this coordinator knows up to {known}"
    )]
    #[bilrost(tag(9), message)]
    Version {
        /// Asked for.
        #[bilrost(1)]
        asked: u32,
        /// The fleet's.
        #[bilrost(2)]
        current: u32,
        /// The newest this binary knows.
        #[bilrost(3)]
        known: u32,
    },
    /// The command needs a feature that is not in force.
    #[error(
        "the feature {feature} needs fleet version {since}, and this fleet is at {current}: it comes into force once every \
         coordinator runs a version that has it"
    )]
    #[bilrost(tag(20), message)]
    NotInForce {
        /// Its name.
        #[bilrost(1)]
        feature: String,
        /// The version that brings it.
        #[bilrost(2)]
        since: u32,
        /// The fleet's.
        #[bilrost(3)]
        current: u32,
    },
    /// The coordinator that leads can't read the command. It says so before it gets into the log; the state machine never does.
    #[error("the coordinator that leads can't read this: {problem}")]
    #[bilrost(tag(21), message)]
    Unreadable {
        /// Why.
        #[bilrost(1)]
        problem: String,
    },
    /// The coordinators' disks are nearly full. Coordinators say so before a task gets into the log; the state machine never does.
    #[error("{reason}")]
    #[bilrost(tag(10), message)]
    NoRoom {
        /// Whose disks, and what to do.
        #[bilrost(1)]
        reason: String,
    },
}
