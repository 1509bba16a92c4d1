//! What a command is answered with.

use serde::{Deserialize, Serialize};

use crate::{AgentId, SessionId, TaskId, TaskState};

/// The answer to a command.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The task is accepted.
    Submitted {
        /// Its id, which for `existing` may not be the one submitted (an idempotency key matched).
        task: TaskId,
        /// It had been accepted before.
        existing: bool,
    },
    /// The task is in this state now: cancelled, or as it had ended before.
    Cancelled(TaskState),
    /// The session is open.
    Joined {
        /// The agent's number.
        agent: AgentId,
        /// Its stay.
        session: SessionId,
    },
    /// The attempt was current and its result stands.
    Completed,
    /// The attempt was not current: nothing changed but the slot it held, if it held one.
    Stale(StaleReason),
    /// Done, with nothing to tell.
    Done,
    /// Refused; nothing changed.
    Refused(Refusal),
    /// The pools should be so from here on.
    PoolsSet {
        /// Of the fleet, after it.
        revision: u64,
    },
}

/// Why a completion did not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum StaleReason {
    /// The task is not known (any more).
    UnknownTask,
    /// The task had been finished.
    Finished,
    /// A newer attempt is current, or the attempt had been ended.
    NotCurrent,
    /// The agent's session is over.
    SessionEnded,
}

/// Why a command was refused. The message says what to do.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// Too many unfinished tasks.
    #[error("the queue is full: {limit} unfinished tasks; submit again when some have finished")]
    QueueFull {
        /// The limit.
        limit: u32,
    },
    /// Too many tasks kept.
    #[error(
        "{limit} tasks are kept, which is the limit; submit again when results have expired, or use a shorter result TTL"
    )]
    TooManyTasks {
        /// The limit.
        limit: u32,
    },
    /// Too many bytes kept.
    #[error("inputs and results fill {limit} bytes, which is the limit; submit again when results have expired")]
    StorageFull {
        /// The limit.
        limit: u64,
    },
    /// Input over the limit.
    #[error("the input has {bytes} bytes, the limit is {limit}; store it elsewhere and submit a reference")]
    InputTooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// A field is out of its range.
    #[error("{field}: {problem}")]
    Invalid {
        /// Which.
        field: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The id or key belongs to a task with other content.
    #[error("{what} belongs to task {task}, which was submitted with another kind or input; use a new one")]
    Conflict {
        /// "the id" or "the idempotency key".
        what: String,
        /// Whose it is.
        task: TaskId,
    },
    /// No such task.
    #[error("no task {task}: it never existed, or its result has expired")]
    UnknownTask {
        /// The id.
        task: TaskId,
    },
    /// Too many agents.
    #[error("the fleet has {limit} agents, which is the limit")]
    TooManyAgents {
        /// The limit.
        limit: u32,
    },
    /// The name is in use by a live agent whose process is another one.
    #[error("the session is over or belongs to another process")]
    StaleSession,
    /// The version can't be taken.
    #[error(
        "fleet version {asked} can't be taken: this fleet is at {current} and this coordinator knows up to {known}"
    )]
    Version {
        /// Asked for.
        asked: u32,
        /// The fleet's.
        current: u32,
        /// The newest this binary knows.
        known: u32,
    },
    /// The coordinators' disks are nearly full. Coordinators say so before a task gets into the log; the state machine never does.
    #[error("{reason}")]
    NoRoom {
        /// Whose disks, and what to do.
        reason: String,
    },
}
