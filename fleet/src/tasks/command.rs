//! What can be asked of tasks.

use bilrost::{Enumeration, Message, Oneof};
use bytes::Bytes;

use crate::{AgentId, Effect, Fleet, Reply, Role, SessionId, TaskId};

/// A command that is about one task. The numbers are those of all domains' commands; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum TaskCommand {
    /// Accept a task.
    #[bilrost(1)]
    Submit(SubmitTask),
    /// End a task that is not finished.
    #[bilrost(tag(2), message)]
    Cancel {
        /// Which.
        #[bilrost(1)]
        task: TaskId,
        /// Why, for the reader of the task.
        #[bilrost(2)]
        reason: String,
    },
    /// An attempt ended.
    #[bilrost(7)]
    Complete(Completion),
}

/// A task as submitted. Durations are in milliseconds from acceptance.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct SubmitTask {
    /// Drawn by the submitter; a second submission with the same id is the same task.
    #[bilrost(1)]
    pub id: TaskId,
    /// What is to be done.
    #[bilrost(2)]
    pub kind: String,
    /// For the executor.
    #[bilrost(3)]
    pub input: Bytes,
    /// 1 (last) to 10 (first).
    #[bilrost(tag(4), encoding(varint))]
    pub priority: u8,
    /// The task fails this long after acceptance.
    #[bilrost(5)]
    pub deadline_in: Option<u64>,
    /// Not started before this long after acceptance.
    #[bilrost(6)]
    pub delay: Option<u64>,
    /// The longest an attempt may take.
    #[bilrost(7)]
    pub attempt_timeout: Option<u64>,
    /// `None` takes the fleet's default.
    #[bilrost(8)]
    pub retry: Option<RetryPolicy>,
    /// `None`: workers and specialists, and whoever has `kind` as a specialization.
    #[bilrost(9)]
    pub required_role: Option<Role>,
    /// Only agents that have it.
    #[bilrost(10)]
    pub required_specialization: Option<String>,
    /// A second submission with this key is the same task.
    #[bilrost(11)]
    pub idempotency_key: Option<String>,
    /// How long the finished task is kept. `None` takes the fleet's default.
    #[bilrost(12)]
    pub result_ttl: Option<u64>,
    /// Who submits.
    #[bilrost(13)]
    pub submitter: String,
    /// Needs [`Feature::Trial`](crate::Feature::Trial).
    #[cfg(feature = "trial")]
    #[bilrost(14)]
    pub trial: bool,
}

/// How often, and how far apart, a task is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1. Attempts that were handed back do not count.
    #[bilrost(1)]
    pub max_attempts: u32,
    /// Pause before the second attempt, ms. After the loss of an agent there is no pause.
    #[bilrost(2)]
    pub initial_backoff: u64,
    /// Longest pause, ms.
    #[bilrost(3)]
    pub max_backoff: u64,
    /// Factor from one pause to the next, percent, at least 100.
    #[bilrost(4)]
    pub multiplier_percent: u32,
}

/// The end of an attempt, as its agent tells it.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Completion {
    /// Who says so.
    #[bilrost(1)]
    pub agent: AgentId,
    /// In which stay.
    #[bilrost(2)]
    pub session: SessionId,
    /// Of which task.
    #[bilrost(3)]
    pub task: TaskId,
    /// Fencing number of the attempt.
    #[bilrost(4)]
    pub attempt: u32,
    /// How long the executor took, microseconds.
    #[bilrost(5)]
    pub ran_us: u64,
    /// How it ended.
    #[bilrost(oneof(6-8))]
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum Outcome {
    /// With this output.
    #[bilrost(6)]
    Succeeded(Bytes),
    /// With a failure.
    #[bilrost(7)]
    Failed(Failure),
    /// Stopped because the coordinators asked.
    #[bilrost(empty)]
    Stopped,
    /// Given back unfinished; queued again at once, at no cost to the task.
    #[bilrost(tag(8), message)]
    HandedBack,
}

/// What kind of failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
pub enum FailureKind {
    /// Non-zero exit code.
    Exit = 0,
    /// Ended by a signal.
    Signal = 1,
    /// Could not be started.
    Spawn = 2,
    /// Took longer than it may.
    TimedOut = 3,
    /// Wrote more than it may.
    OutputTooLarge = 4,
    /// An HTTP answer that is not 2xx.
    Http = 5,
    /// No answer of an HTTP server or of an attached process.
    Unreachable = 6,
    /// The agent was lost.
    AgentLost = 7,
    /// The task's deadline passed.
    Deadline = 8,
    /// The agent's own fault.
    Internal = 9,
    /// What the process said that is attached to an agent and ran it.
    Reported = 10,
}

/// Why an attempt, or a task, failed.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Failure {
    /// What kind.
    #[bilrost(1)]
    pub kind: FailureKind,
    /// In words.
    #[bilrost(2)]
    pub message: String,
    /// Exit code, signal number or HTTP status.
    #[bilrost(3)]
    pub code: Option<i32>,
    /// The end of stderr.
    #[bilrost(4)]
    pub stderr_tail: String,
    /// Another attempt may do better.
    #[bilrost(5)]
    pub retryable: bool,
    /// ms before which it will not, as a server said; 0: nothing is known. At most
    /// [`MAX_RETRY_AFTER_MS`](crate::limits::MAX_RETRY_AFTER_MS) of it counts.
    #[bilrost(6)]
    pub retry_after_ms: u64,
}

impl Fleet {
    pub(crate) fn run_task(&mut self, command: TaskCommand, effects: &mut Vec<Effect>) -> Reply {
        match command {
            TaskCommand::Submit(submission) => self.submit(submission, effects),
            TaskCommand::Cancel { task, reason } => self.cancel(task, reason, effects),
            TaskCommand::Complete(completion) => self.complete(completion, effects),
        }
    }
}
