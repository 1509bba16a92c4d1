//! What follows from a command, for the coordinator to carry out or to tell. Effects are hints: whoever misses some (a new
//! leader, a watcher that was away) finds the same in the state.

use crate::{AgentId, RecoveryStep, SessionId, TaskId};

/// Why an attempt is to be stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CancelCause {
    /// The task was cancelled.
    Cancelled,
    /// The task's deadline passed.
    Deadline,
    /// The attempt's own time ran out.
    TimedOut,
}

/// What follows from a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Hand this attempt to this agent.
    Assign {
        /// To whom.
        agent: AgentId,
        /// In which stay.
        session: SessionId,
        /// What.
        task: TaskId,
        /// Under which fencing number.
        attempt: u32,
    },
    /// Tell this agent to stop this attempt.
    Stop {
        /// Whom.
        agent: AgentId,
        /// In which stay.
        session: SessionId,
        /// What.
        task: TaskId,
        /// Which attempt.
        attempt: u32,
        /// Why.
        cause: CancelCause,
    },
    /// A task reached a final state.
    Finished {
        /// Which.
        task: TaskId,
    },
    /// An agent's session began.
    SessionStarted {
        /// Whose.
        agent: AgentId,
        /// Which stay.
        session: SessionId,
    },
    /// An agent's session ended; whatever it still says is stale.
    SessionEnded {
        /// Whose.
        agent: AgentId,
        /// Which stay.
        session: SessionId,
    },
    /// Attempts of a lost agent were queued again or given to others.
    Redistributed {
        /// Who was lost.
        from: AgentId,
        /// How many.
        tasks: u32,
    },
    /// A standby agent began to work.
    StandbyActivated {
        /// Who.
        agent: AgentId,
    },
    /// A step in the recovery of an agent was done.
    Recovery {
        /// Of whom.
        agent: AgentId,
        /// What.
        step: RecoveryStep,
    },
}
