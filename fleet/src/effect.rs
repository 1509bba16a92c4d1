//! What the coordinators must do or report after a command. Effects are hints: a new leader, or a watcher that was
//! disconnected and missed some, finds the same information in the state.

use std::sync::Arc;

use crate::{AgentId, AllocationId, BallotId, Choice, LetterId, RecoveryStep, SessionId, Task, TaskId, TeamId};

/// Why an attempt must be stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CancelCause {
    /// The task was cancelled.
    Cancelled,
    /// The task's deadline passed.
    Deadline,
    /// The attempt exceeded its timeout.
    TimedOut,
    /// The attempt made no progress.
    Stalled,
}

/// Something to do or to report after a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Send this attempt to this agent.
    Assign {
        /// The agent that gets the attempt.
        agent: AgentId,
        /// The agent's session.
        session: SessionId,
        /// The task.
        task: TaskId,
        /// The attempt's fencing number.
        attempt: u32,
    },
    /// Tell this agent to stop this attempt.
    Stop {
        /// The agent that runs the attempt.
        agent: AgentId,
        /// The agent's session.
        session: SessionId,
        /// The task.
        task: TaskId,
        /// The attempt's fencing number.
        attempt: u32,
        /// Why the attempt must stop.
        cause: CancelCause,
    },
    /// A task reached a final state.
    Finished {
        /// The task.
        task: TaskId,
    },
    /// An agent's session began.
    SessionStarted {
        /// The agent.
        agent: AgentId,
        /// The new session.
        session: SessionId,
    },
    /// An agent's session ended; later reports from it are stale.
    SessionEnded {
        /// The agent.
        agent: AgentId,
        /// The session that ended.
        session: SessionId,
    },
    /// Tasks of a lost agent were queued again.
    Redistributed {
        /// The agent that was lost.
        from: AgentId,
        /// The number of tasks.
        tasks: u32,
    },
    /// A standby agent became live.
    StandbyActivated {
        /// The agent.
        agent: AgentId,
    },
    /// A step in the recovery of an agent was recorded.
    Recovery {
        /// The agent that is recovered.
        agent: AgentId,
        /// The step.
        step: RecoveryStep,
    },
    /// Who may be in the fleet changed: the configuration, an enrolment or a bar. Coordinators look at the state for
    /// each call, so none of them needs this so far.
    TrustChanged,
    /// What the directory shows of an agent changed: it joined, got into another state, was lost or forgotten, reports
    /// something else about itself, has another identity, or its performance changed by a twentieth.
    DirectoryChanged {
        /// The agent's name.
        agent: Arc<str>,
    },
    /// An agent has enrolled, with the same key as before or another one, or its enrolment was forgotten to make room.
    EnrolmentChanged {
        /// The agent's name.
        agent: Arc<str>,
    },
    /// An agent was barred: it was removed or quarantined.
    Barred {
        /// The agent's name.
        agent: Arc<str>,
    },
    /// The policies changed.
    PoliciesChanged,
    /// A letter was posted. A coordinator at which its receiver has opened its mailbox sends it there; a mailbox that is
    /// opened later gets the letters that wait by [`Fleet::first_letters_for`](crate::Fleet::first_letters_for).
    Mail {
        /// The name of the agent that gets the letter.
        receiver: Arc<str>,
        /// The letter.
        id: LetterId,
    },
    /// A letter was accepted, was refused or expired.
    LetterSettled {
        /// The letter.
        id: LetterId,
    },
    /// A ballot was opened.
    BallotOpened {
        /// The ballot.
        id: BallotId,
    },
    /// A vote was cast. It is the newest one of the ballot.
    VoteCast {
        /// The ballot.
        id: BallotId,
        /// What it says.
        choice: Choice,
    },
    /// A ballot was closed: it has an outcome.
    BallotClosed {
        /// The ballot.
        id: BallotId,
    },
    /// A team was formed or disbanded, or its members, leader or state changed.
    TeamChanged {
        /// The team.
        id: TeamId,
    },
    /// A request for resources waits, was granted or has ended.
    AllocationChanged {
        /// The allocation.
        id: AllocationId,
    },
    /// A schedule was set, changed or removed, or one is due at another time.
    SchedulesChanged,
    /// A task is no longer in memory. This is more than a hint: from now on, only an archive has it. It is repeated
    /// whenever the log is.
    Archived {
        /// The number of its record.
        record: u64,
        /// The task.
        task: Arc<Task>,
    },
    /// An archived task was forgotten, so its record is not needed any more.
    RecordExpired {
        /// The number of its record.
        record: u64,
    },
}
