//! What can be asked of a fleet. Commands are what the Raft log carries; their encoding is append-only (see `codec`).

use std::net::SocketAddr;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{AgentId, SessionId, TaskId};

/// What an agent is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Takes everything.
    Worker,
    /// Takes tasks of its domain first.
    Specialist,
    /// Takes only tasks that require its role or name one of its specializations as their kind.
    Messenger,
    /// As a messenger.
    Guardian,
}

/// One entry of the log's batch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Command {
    /// Accept a task.
    Submit(SubmitTask),
    /// End a task that is not finished.
    Cancel {
        /// Which.
        task: TaskId,
        /// Why, for the reader of the task.
        reason: String,
    },
    /// An agent opens a session.
    AgentJoined(AgentJoin),
    /// A session ended without a word. Ignored unless `session` is the agent's current one.
    AgentLost {
        /// Who.
        agent: AgentId,
        /// Which stay.
        session: SessionId,
        /// How it was noticed.
        reason: LossReason,
    },
    /// An agent takes nothing new from here on.
    AgentDraining {
        /// Who.
        agent: AgentId,
        /// Which stay.
        session: SessionId,
    },
    /// An agent leaves in good order; whatever it still holds is queued again at no cost to the task.
    AgentLeft {
        /// Who.
        agent: AgentId,
        /// Which stay.
        session: SessionId,
    },
    /// An attempt ended.
    Complete(Completion),
    /// Nothing but the passing of time: fires what is due.
    Tick,
    /// Replace the configuration.
    Configure(FleetConfig),
    /// Raise the version of what apply does. Lower or unknown versions are refused.
    RaiseVersion(u32),
    /// Fix how large the named pools should be, by the word of whoever runs the fleet. It beats what joining agents say, for
    /// as long as the pool is named in the newest such command.
    SetPools(Vec<PoolShape>),
    /// An agent failed its health checks: it gets nothing new until it is healthy again. Ignored unless `session` is the
    /// agent's current one and it works or waits.
    AgentUnhealthy {
        /// Who.
        agent: AgentId,
        /// Which stay.
        session: SessionId,
        /// Why, in words; cut to [`crate::limits::MAX_REASON_BYTES`].
        reason: String,
    },
    /// An unhealthy agent passed its health check. Ignored for any other agent, and unless `session` is the current one.
    AgentHealthy {
        /// Who.
        agent: AgentId,
        /// Which stay.
        session: SessionId,
        /// It has passed enough of them to be given work again.
        readmit: bool,
    },
}

/// A task as submitted. Durations are in milliseconds from acceptance.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct SubmitTask {
    /// Drawn by the submitter; a second submission with the same id is the same task.
    pub id: TaskId,
    /// What is to be done.
    pub kind: String,
    /// For the executor.
    pub input: Bytes,
    /// 1 (last) to 10 (first).
    pub priority: u8,
    /// The task fails this long after acceptance.
    pub deadline_in: Option<u64>,
    /// Not started before this long after acceptance.
    pub delay: Option<u64>,
    /// The longest an attempt may take.
    pub attempt_timeout: Option<u64>,
    /// `None` takes the fleet's default.
    pub retry: Option<RetryPolicy>,
    /// `None`: workers and specialists, and whoever has `kind` as a specialization.
    pub required_role: Option<Role>,
    /// Only agents that have it.
    pub required_specialization: Option<String>,
    /// A second submission with this key is the same task.
    pub idempotency_key: Option<String>,
    /// How long the finished task is kept. `None` takes the fleet's default.
    pub result_ttl: Option<u64>,
    /// Who submits.
    pub submitter: String,
}

/// How often, and how far apart, a task is tried.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1. Attempts that were handed back do not count.
    pub max_attempts: u32,
    /// Pause before the second attempt, ms. After the loss of an agent there is no pause.
    pub initial_backoff: u64,
    /// Longest pause, ms.
    pub max_backoff: u64,
    /// Factor from one pause to the next, percent, at least 100.
    pub multiplier_percent: u32,
}

/// An agent that opens a session.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AgentJoin {
    /// The same after a restart.
    pub name: String,
    /// Drawn by each process.
    pub incarnation: u64,
    /// Its role.
    pub role: Role,
    /// Its pool, and how many agents that should have.
    pub pool: Option<PoolShape>,
    /// Its skills.
    pub specializations: Vec<String>,
    /// Tasks it runs at once.
    pub slots: u32,
    /// Where others reach it, as it says: host:port.
    pub address: String,
    /// Where its process listens for certain: nobody but it, or a process in its place, can accept a connection there. `None`
    /// if that is not known.
    pub process: Option<SocketAddr>,
    /// Process id.
    pub pid: u32,
    /// Of its binary.
    pub version: String,
}

/// How many agents a pool should have. Unless the fleet was told by [`Command::SetPools`], the newest join's word counts.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolShape {
    /// Its name.
    pub name: String,
    /// Agents that work. `None`: not fixed (an autoscaler decides); then all but `standby` of those known, the recently lost
    /// included, should work.
    pub replicas: Option<u32>,
    /// Agents that wait.
    pub standby: u32,
}

/// How the loss of an agent was noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LossReason {
    /// Its connection dropped and its process is gone.
    Disconnected,
    /// No heartbeat for the session timeout.
    Silent,
    /// Another process of the same name joined.
    Replaced,
    /// It lives, and failed its health checks beyond recovery.
    Failed,
}

/// The end of an attempt, as its agent tells it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Completion {
    /// Who says so.
    pub agent: AgentId,
    /// In which stay.
    pub session: SessionId,
    /// Of which task.
    pub task: TaskId,
    /// Fencing number of the attempt.
    pub attempt: u32,
    /// How long the executor took, microseconds.
    pub ran_us: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// How an attempt ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Outcome {
    /// With this output.
    Succeeded(Bytes),
    /// With a failure.
    Failed(Failure),
    /// Stopped because the coordinators asked.
    Stopped,
    /// Given back unfinished; queued again at once, at no cost to the task.
    HandedBack,
}

/// What kind of failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum FailureKind {
    /// Non-zero exit code.
    Exit,
    /// Ended by a signal.
    Signal,
    /// Could not be started.
    Spawn,
    /// Took longer than it may.
    TimedOut,
    /// Wrote more than it may.
    OutputTooLarge,
    /// An HTTP answer that is not 2xx.
    Http,
    /// No answer of an HTTP server or of an attached process.
    Unreachable,
    /// The agent was lost.
    AgentLost,
    /// The task's deadline passed.
    Deadline,
    /// The agent's own fault.
    Internal,
    /// What the process said that is attached to an agent and ran it.
    Reported,
}

/// Why an attempt, or a task, failed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// In words.
    pub message: String,
    /// Exit code, signal number or HTTP status.
    pub code: Option<i32>,
    /// The end of stderr.
    pub stderr_tail: String,
    /// Another attempt may do better.
    pub retryable: bool,
    /// ms before which it will not, as a server said; 0: nothing is known. At most
    /// [`MAX_RETRY_AFTER_MS`](crate::limits::MAX_RETRY_AFTER_MS) of it counts.
    pub retry_after_ms: u64,
}

/// Weights of the terms of a score, in points.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Weights {
    /// For a specialization that is the task's kind.
    pub specialization: i32,
    /// For a full agent; usually negative.
    pub load: i32,
    /// For a perfect track record.
    pub performance: i32,
}

/// What a fleet is configured with. Bounds are in [`crate::limits`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FleetConfig {
    /// For scheduling.
    pub weights: Weights,
    /// For tasks that bring none.
    pub retry: RetryPolicy,
    /// How long finished tasks are kept, ms.
    pub result_ttl: u64,
    /// Unfinished tasks at most.
    pub max_queued: u32,
    /// Tasks at most, the finished ones that are kept included.
    pub max_tasks: u32,
    /// Bytes of inputs and outputs at most.
    pub max_bytes: u64,
    /// How long a lost agent is remembered, ms.
    pub lost_agent_ttl: u64,
}
