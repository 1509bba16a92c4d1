//! The commands for tasks.

use bilrost::{Enumeration, Message, Oneof};
use bytes::Bytes;

use super::{
    blobs::BlobRef,
    dead::{DropDead, RetryDead},
    links::{AskedLinks, suspending::Suspension},
    timing::Timing,
};
use crate::{
    AgentId, AskedLane, Demand, Effect, Fleet, OpenBallot, Reply, Role, SessionId, TaskId, TaskResources, TeamId,
    Verify, steps::Jobs,
};

/// A command for one task. All domains share one range of field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
#[expect(
    clippy::large_enum_variant,
    reason = "half of all commands are submissions, which a box would cost an allocation"
)]
pub enum TaskCommand {
    /// Accepts a task.
    #[bilrost(1)]
    Submit(SubmitTask),
    /// Cancels a task that is not finished.
    #[bilrost(tag(2), message)]
    Cancel {
        /// The task.
        #[bilrost(1)]
        task: TaskId,
        /// The reason, for readers of the task.
        #[bilrost(2)]
        reason: String,
    },
    /// An attempt ended.
    #[bilrost(7)]
    Complete(Completion),
    /// Tries a dead letter again. Needs [`Feature::DeadLetters`](crate::Feature::DeadLetters).
    #[bilrost(41)]
    RetryDead(RetryDead),
    /// Drops a dead letter. Needs [`Feature::DeadLetters`](crate::Feature::DeadLetters).
    #[bilrost(42)]
    DropDead(DropDead),
    /// An attempt has made no progress for as long as its task allows. Needs
    /// [`Feature::Timing`](crate::Feature::Timing).
    #[bilrost(tag(43), message)]
    Stalled {
        /// The task.
        #[bilrost(1)]
        task: TaskId,
        /// Fencing number of the attempt.
        #[bilrost(2)]
        attempt: u32,
    },
}

/// A task as submitted. Durations are in milliseconds from acceptance.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct SubmitTask {
    /// The id, drawn by the submitter; a second submission with the same id is the same task.
    #[bilrost(1)]
    pub id: TaskId,
    /// The kind of work.
    #[bilrost(2)]
    pub kind: String,
    /// The input for the executor.
    #[bilrost(3)]
    pub input: Bytes,
    /// The priority, 1 (last) to 10 (first).
    #[bilrost(tag(4), encoding(varint))]
    pub priority: u8,
    /// How long after acceptance the task fails if it is not finished.
    #[bilrost(5)]
    pub deadline_in: Option<u64>,
    /// How long after acceptance the task is queued before it may start.
    #[bilrost(6)]
    pub delay: Option<u64>,
    /// The longest time an attempt may take.
    #[bilrost(7)]
    pub attempt_timeout: Option<u64>,
    /// The retry policy. `None` takes the fleet's default.
    #[bilrost(8)]
    pub retry: Option<RetryPolicy>,
    /// The role an agent must have. `None`: workers, specialists, and agents that have the task's domain as a
    /// specialization.
    #[bilrost(9)]
    pub required_role: Option<Role>,
    /// The specialization an agent must have.
    #[bilrost(10)]
    pub required_specialization: Option<String>,
    /// A second submission with this key is the same task.
    #[bilrost(11)]
    pub idempotency_key: Option<String>,
    /// How long the finished task is kept. `None` takes the fleet's default.
    #[bilrost(12)]
    pub result_ttl: Option<u64>,
    /// The name of the submitter.
    #[bilrost(13)]
    pub submitter: String,
    /// The ballot that must approve the task before it may start. It is opened when the task is accepted, and has the
    /// task's id ([`TaskId::ballot`]) and no options. Needs [`Feature::Approvals`](crate::Feature::Approvals).
    #[bilrost(15)]
    pub approval: Option<Box<OpenBallot>>,
    /// The task runs on several agents, and its result is the output that enough of them agree on. Needs
    /// [`Feature::Verification`](crate::Feature::Verification).
    #[bilrost(16)]
    pub verify: Option<Box<Verify>>,
    /// Needs [`Feature::Trial`](crate::Feature::Trial).
    #[cfg(feature = "trial")]
    #[bilrost(14)]
    pub trial: bool,
    /// The rules about its time and its retries that only some tasks have. Needs
    /// [`Feature::Timing`](crate::Feature::Timing).
    #[bilrost(40)]
    pub timing: Option<Box<Timing>>,
    /// The team whose members alone may run it. Needs [`Feature::Teams`](crate::Feature::Teams).
    #[bilrost(30)]
    pub team: Option<TeamId>,
    /// The term of the team's leader in whose name it is submitted; refused if that is not the current one. `None`: it
    /// is not submitted in the name of a leader. Ignored without a team.
    #[bilrost(31)]
    pub team_term: Option<u64>,
    /// The resources that it needs while it runs. Needs [`Feature::Resources`](crate::Feature::Resources).
    #[bilrost(32)]
    pub resources: Option<Box<TaskResources>>,
    /// The tasks that it depends on, its parts, and whose part it is. Needs
    /// [`Feature::Graphs`](crate::Feature::Graphs).
    #[bilrost(60)]
    pub links: Option<Box<AskedLinks>>,
    /// Where it waits, and who submits it. Needs [`Feature::Queues`](crate::Feature::Queues).
    #[bilrost(100)]
    pub lane: Option<Box<AskedLane>>,
    /// What it takes of its agent beyond one slot and one skill. Needs [`Feature::Kinds`](crate::Feature::Kinds).
    #[bilrost(120)]
    pub demand: Option<Box<Demand>>,
    /// The input, if it is in the object store; `input` is empty then. Needs [`Feature::Blobs`](crate::Feature::Blobs).
    #[bilrost(170)]
    pub input_ref: Option<Box<BlobRef>>,
}

/// How often a task is attempted, and the backoff between attempts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct RetryPolicy {
    /// Total number of attempts, at least 1. The first [`MAX_FREE_HAND_BACKS`](crate::limits::MAX_FREE_HAND_BACKS)
    /// hand-backs don't count.
    #[bilrost(1)]
    pub max_attempts: u32,
    /// Backoff before the second attempt, ms. After the loss of an agent there is none.
    #[bilrost(2)]
    pub initial_backoff: u64,
    /// Longest backoff, ms.
    #[bilrost(3)]
    pub max_backoff: u64,
    /// Factor from one backoff to the next, percent, at least 100.
    #[bilrost(4)]
    pub multiplier_percent: u32,
}

/// The end of an attempt, as its agent reports it.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Completion {
    /// The agent that reports.
    #[bilrost(1)]
    pub agent: AgentId,
    /// The agent's session.
    #[bilrost(2)]
    pub session: SessionId,
    /// The task.
    #[bilrost(3)]
    pub task: TaskId,
    /// Fencing number of the attempt.
    #[bilrost(4)]
    pub attempt: u32,
    /// How long the executor ran, microseconds.
    #[bilrost(5)]
    pub ran_us: u64,
    /// How the attempt ended.
    #[bilrost(oneof(6-9, 60, 170))]
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum Outcome {
    /// The attempt succeeded with this output.
    #[bilrost(6)]
    Succeeded(Bytes),
    /// The attempt failed.
    #[bilrost(7)]
    Failed(Failure),
    /// The attempt was stopped because the coordinators ordered it.
    #[bilrost(empty)]
    Stopped,
    /// The attempt was handed back unfinished; the task is queued again at once, at no cost to it.
    #[bilrost(tag(8), message)]
    HandedBack,
    /// The attempt succeeded, and its output is compared with those of other agents. Needs
    /// [`Feature::Verification`](crate::Feature::Verification).
    #[bilrost(tag(9), message)]
    Answered {
        /// The output.
        #[bilrost(1)]
        output: Bytes,
        /// The digest of what is compared of it. The coordinator that proposes the completion computes it.
        #[bilrost(tag(2), encoding(plainbytes))]
        digest: [u8; 32],
    },
    /// The attempt ended because the task waits for subtasks; another attempt is given their results. Needs
    /// [`Feature::Graphs`](crate::Feature::Graphs).
    #[bilrost(60)]
    Suspended(Suspension),
    /// The attempt succeeded, and has put its output into the object store. Needs
    /// [`Feature::Blobs`](crate::Feature::Blobs).
    #[bilrost(170)]
    Stored(BlobRef),
}

impl Outcome {
    /// Returns the digest of what is compared of the output, if it is compared.
    pub(crate) fn digest(&self) -> Option<[u8; 32]> {
        match self {
            Outcome::Answered { digest, .. } => Some(*digest),
            Outcome::Succeeded(_)
            | Outcome::Failed(_)
            | Outcome::Stopped
            | Outcome::HandedBack
            | Outcome::Suspended(_)
            | Outcome::Stored(_) => None,
        }
    }
}

/// The kind of a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
pub enum FailureKind {
    /// The process exited with a non-zero code.
    Exit = 0,
    /// The process was ended by a signal.
    Signal = 1,
    /// The process could not be started.
    Spawn = 2,
    /// The attempt exceeded its timeout.
    TimedOut = 3,
    /// The output exceeds the limit, or there is no room left to store it.
    OutputTooLarge = 4,
    /// The HTTP response was not 2xx.
    Http = 5,
    /// An HTTP server or an attached process did not respond.
    Unreachable = 6,
    /// The agent was lost.
    AgentLost = 7,
    /// The task's deadline passed.
    Deadline = 8,
    /// An internal error of the agent.
    Internal = 9,
    /// Reported by the attached process that ran the task for the agent.
    Reported = 10,
    /// A policy of the fleet denied the result. Needs [`Feature::Policies`](crate::Feature::Policies).
    Denied = 11,
    /// The ballot that should approve the task was rejected, or expired. Needs
    /// [`Feature::Approvals`](crate::Feature::Approvals).
    NotApproved = 12,
    /// The agents that ran the task did not agree on an output, what must be compared is not in an output, or outputs could
    /// not be compared. Needs [`Feature::Verification`](crate::Feature::Verification).
    Disagreement = 13,
    /// No agent took the task before its queue expiry passed. Needs [`Feature::Timing`](crate::Feature::Timing).
    Expired = 40,
    /// The attempt made no progress for as long as its task allows. Needs [`Feature::Timing`](crate::Feature::Timing).
    Stalled = 41,
    /// A task that the task depends on has not succeeded. Needs [`Feature::Graphs`](crate::Feature::Graphs).
    Dependency = 60,
    /// Too few parts of the task have succeeded, or were submitted, or its subtasks were refused. Needs
    /// [`Feature::Graphs`](crate::Feature::Graphs).
    Subtask = 61,
    /// The results that the task would be given are too large. Needs [`Feature::Graphs`](crate::Feature::Graphs).
    ResultsTooLarge = 62,
}

/// Why an attempt, or a task, failed.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Failure {
    /// The kind of failure.
    #[bilrost(1)]
    pub kind: FailureKind,
    /// The message.
    #[bilrost(2)]
    pub message: String,
    /// Exit code, signal number or HTTP status.
    #[bilrost(3)]
    pub code: Option<i32>,
    /// The end of stderr.
    #[bilrost(4)]
    pub stderr_tail: String,
    /// Whether another attempt may succeed.
    #[bilrost(5)]
    pub retryable: bool,
    /// Pause before the next attempt that a server asked for, ms; 0 if none was given. At most
    /// [`MAX_RETRY_AFTER_MS`](crate::limits::MAX_RETRY_AFTER_MS) of it counts.
    #[bilrost(6)]
    pub retry_after_ms: u64,
    /// What the handler calls the failure, such as a class of exceptions; empty if it gave no name. At most
    /// [`MAX_FAILURE_NAME_BYTES`](crate::limits::MAX_FAILURE_NAME_BYTES); a longer one is cut. Needs
    /// [`Feature::Timing`](crate::Feature::Timing).
    #[bilrost(40)]
    pub name: String,
}

impl Failure {
    /// Creates a final failure that the fleet itself reports, so that it has no code, stderr or name.
    pub fn of(kind: FailureKind, message: impl Into<String>) -> Self {
        let (message, stderr_tail, name) = (message.into(), String::new(), String::new());
        Self { kind, message, code: None, stderr_tail, retryable: false, retry_after_ms: 0, name }
    }
}

impl Fleet {
    pub(crate) fn run_task(&mut self, command: TaskCommand, jobs: &mut Jobs, effects: &mut Vec<Effect>) -> Reply {
        match command {
            TaskCommand::Submit(submission) => self.submit(submission, jobs, effects),
            TaskCommand::Cancel { task, reason } => self.cancel(task, reason, effects),
            TaskCommand::Complete(completion) => self.complete(completion, effects),
            TaskCommand::RetryDead(command) => self.retry_dead(command, effects),
            TaskCommand::DropDead(command) => self.drop_dead(command),
            TaskCommand::Stalled { task, attempt } => self.stalled(task, attempt, effects),
        }
    }
}
