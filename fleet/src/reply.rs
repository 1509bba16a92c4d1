//! The replies to commands.

use bilrost::{Enumeration, Message, Oneof};

use crate::{AgentId, BallotOutcome, CountedVote, LetterOutcome, Refusal, SessionId, TaskId, TaskState, UnixMillis};

/// The reply to a command.
#[derive(Clone, PartialEq, Eq, Debug, Oneof, Message)]
#[bilrost(distinguished)]
pub enum Reply {
    /// The task is accepted.
    #[bilrost(tag(1), message)]
    Submitted {
        /// The task's id. If `existing`, it can differ from the submitted id, because the idempotency key matched.
        #[bilrost(1)]
        task: TaskId,
        /// The task had been accepted before.
        #[bilrost(2)]
        existing: bool,
    },
    /// The task's final state now: cancelled, or the state in which it had already ended.
    #[bilrost(2)]
    Cancelled(TaskState),
    /// The session is open.
    #[bilrost(tag(3), message)]
    Joined {
        /// The agent's number.
        #[bilrost(1)]
        agent: AgentId,
        /// The agent's session.
        #[bilrost(2)]
        session: SessionId,
    },
    /// The attempt was current and its result counts.
    #[bilrost(tag(4), message)]
    Completed,
    /// The attempt was not current: its result is discarded, and the slot that it held, if any, is free.
    #[bilrost(5)]
    Stale(StaleReason),
    /// The command was applied and has no result.
    #[bilrost(empty)]
    Done,
    /// The command was refused and changed nothing but the audit log; see [`Fleet::apply`](crate::Fleet::apply).
    #[bilrost(6)]
    Refused(Refusal),
    /// The sizes of the pools are set.
    #[bilrost(tag(7), message)]
    PoolsSet {
        /// The fleet's revision after the command.
        #[bilrost(1)]
        revision: u64,
    },
    /// The agent is enrolled with this key.
    #[bilrost(tag(8), message)]
    Enrolled {
        /// The enrolment's epoch.
        #[bilrost(1)]
        epoch: u64,
    },
    /// The letter waits for its receiver, or has been settled.
    #[bilrost(tag(9), message)]
    Posted {
        /// The letter had been posted before.
        #[bilrost(1)]
        existing: bool,
    },
    /// The letter's outcome now: the given one, or the one with which it had been settled already.
    #[bilrost(10)]
    Settled(LetterOutcome),
    /// The policies are set.
    #[bilrost(tag(24), message)]
    PoliciesSet {
        /// The fleet's revision when they last changed.
        #[bilrost(1)]
        revision: u64,
    },
    /// The kinds are set.
    #[bilrost(tag(120), message)]
    KindsSet {
        /// The fleet's revision when they last changed.
        #[bilrost(1)]
        revision: u64,
    },
    /// The ballot is open, or was opened before.
    #[bilrost(tag(25), message)]
    BallotOpened {
        /// The ballot had been opened before. It may be closed.
        #[bilrost(1)]
        existing: bool,
    },
    /// The vote counts.
    #[bilrost(tag(26), message)]
    VoteCast {
        /// The same vote had been cast before.
        #[bilrost(1)]
        existing: bool,
        /// The ballot's outcome now; `None` while it is open.
        #[bilrost(2)]
        outcome: Option<BallotOutcome>,
    },
    /// Each of several votes counts, or is refused, for itself.
    #[bilrost(tag(160), message)]
    VotesCast {
        /// What became of them, in their order.
        #[bilrost(1)]
        votes: Vec<CountedVote>,
    },
    /// The team is formed, or was formed before.
    #[bilrost(tag(27), message)]
    TeamFormed {
        /// The team had been formed before. It may be disbanded.
        #[bilrost(1)]
        existing: bool,
        /// How many members it has now.
        #[bilrost(2)]
        members: u32,
    },
    /// The team is disbanded.
    #[bilrost(tag(28), message)]
    TeamDisbanded {
        /// The team had been disbanded before.
        #[bilrost(1)]
        existing: bool,
    },
    /// The request for resources was granted or waits, or was made before.
    #[bilrost(tag(30), message)]
    Allocated {
        /// The request had been made before. It may have ended.
        #[bilrost(1)]
        existing: bool,
        /// The fencing token of the grant; `None` unless it is granted now.
        #[bilrost(2)]
        token: Option<u64>,
    },
    /// The lease is renewed.
    #[bilrost(tag(31), message)]
    LeaseRenewed {
        /// How long it lasts from now on, ms of fleet time.
        #[bilrost(1)]
        ttl: u64,
    },
    /// The dead letter is tried again.
    #[bilrost(tag(41), message)]
    DeadRetried {
        /// The task's epoch now.
        #[bilrost(1)]
        epoch: u32,
        /// It had been tried again before. It may have ended.
        #[bilrost(2)]
        existing: bool,
    },
    /// The dead letter is dropped.
    #[bilrost(tag(42), message)]
    DeadDropped {
        /// It had been dropped before, or made room for others.
        #[bilrost(1)]
        existing: bool,
    },
    /// The schedule is set.
    #[bilrost(tag(140), message)]
    ScheduleSet {
        /// How often it was changed, counting from 1.
        #[bilrost(1)]
        generation: u64,
        /// When it is due next; `None` if it is suspended, or is never due again.
        #[bilrost(2)]
        next: Option<UnixMillis>,
    },
    /// It is decided about the moment of a schedule, or a run was started by hand.
    #[bilrost(tag(141), message)]
    ScheduleFired {
        /// The task of the run that has started; `None` if none has.
        #[bilrost(1)]
        task: Option<TaskId>,
        /// The run had started before.
        #[bilrost(2)]
        existing: bool,
    },
    /// The command was applied, but the coordinator that proposed it can't decode the reply. The state machine never
    /// returns this.
    #[bilrost(tag(20), message)]
    Unreadable {
        /// Why the reply can't be decoded.
        #[bilrost(1)]
        problem: String,
    },
}

/// Why a completion did not count.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
pub enum StaleReason {
    /// The task is not known, or was forgotten.
    UnknownTask = 0,
    /// The task had already finished.
    Finished = 1,
    /// A newer attempt is current, or the attempt had already been ended.
    NotCurrent = 2,
    /// The agent's session is over.
    SessionEnded = 3,
}
