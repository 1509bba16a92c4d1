//! What can be asked of a fleet. Commands are what the Raft log carries; their encoding is append-only (see `codec`).

use std::net::SocketAddr;

use bilrost::{Enumeration, Message, Oneof};
use bytes::Bytes;

use crate::{AgentId, SessionId, TaskId, codec::Endpoint};

/// What an agent is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum Role {
    /// Takes everything.
    Worker = 0,
    /// Takes tasks of its domain first.
    Specialist = 1,
    /// Takes only tasks that require its role or name one of its specializations as their kind.
    Messenger = 2,
    /// As a messenger.
    Guardian = 3,
}

/// One entry of the log's batch.
#[derive(Clone, PartialEq, Eq, Debug, Oneof, Message)]
#[bilrost(distinguished)]
pub enum Command {
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
    /// An agent opens a session.
    #[bilrost(3)]
    AgentJoined(AgentJoin),
    /// A session ended without a word. Ignored unless `session` is the agent's current one.
    #[bilrost(tag(4), message)]
    AgentLost {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
        /// How it was noticed.
        #[bilrost(3)]
        reason: LossReason,
    },
    /// An agent takes nothing new from here on.
    #[bilrost(tag(5), message)]
    AgentDraining {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
    },
    /// An agent leaves in good order; whatever it still holds is queued again at no cost to the task.
    #[bilrost(tag(6), message)]
    AgentLeft {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
    },
    /// An attempt ended.
    #[bilrost(7)]
    Complete(Completion),
    /// Nothing but the passing of time: fires what is due.
    #[bilrost(empty)]
    Tick,
    /// Replace the configuration.
    #[bilrost(8)]
    Configure(FleetConfig),
    /// Raise the version of what apply does. Lower or unknown versions are refused.
    #[bilrost(9)]
    RaiseVersion(u32),
    /// Fix how large the named pools should be, by the word of whoever runs the fleet. It beats what joining agents say, for
    /// as long as the pool is named in the newest such command.
    #[bilrost(10)]
    SetPools(Vec<PoolShape>),
    /// An agent failed its health checks: it gets nothing new until it is healthy again. Ignored unless `session` is the
    /// agent's current one and it works or waits.
    #[bilrost(tag(11), message)]
    AgentUnhealthy {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
        /// Why, in words; cut to [`crate::limits::MAX_REASON_BYTES`].
        #[bilrost(3)]
        reason: String,
    },
    /// An unhealthy agent passed its health check. Ignored for any other agent, and unless `session` is the current one.
    #[bilrost(tag(12), message)]
    AgentHealthy {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
        /// It has passed enough of them to be given work again.
        #[bilrost(3)]
        readmit: bool,
    },
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

/// An agent that opens a session.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct AgentJoin {
    /// The same after a restart.
    #[bilrost(1)]
    pub name: String,
    /// Drawn by each process.
    #[bilrost(2)]
    pub incarnation: u64,
    /// Its role.
    #[bilrost(3)]
    pub role: Role,
    /// Its pool, and how many agents that should have.
    #[bilrost(4)]
    pub pool: Option<PoolShape>,
    /// Its skills.
    #[bilrost(5)]
    pub specializations: Vec<String>,
    /// Tasks it runs at once.
    #[bilrost(6)]
    pub slots: u32,
    /// Where others reach it, as it says: host:port.
    #[bilrost(7)]
    pub address: String,
    /// Where its process listens for certain: nobody but it, or a process in its place, can accept a connection there. `None`
    /// if that is not known.
    #[bilrost(tag(8), encoding(Endpoint))]
    pub process: Option<SocketAddr>,
    /// Process id.
    #[bilrost(9)]
    pub pid: u32,
    /// Of its binary.
    #[bilrost(10)]
    pub version: String,
}

/// How many agents a pool should have. Unless the fleet was told by [`Command::SetPools`], the newest join's word counts.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct PoolShape {
    /// Its name.
    #[bilrost(1)]
    pub name: String,
    /// Agents that work. `None`: not fixed (an autoscaler decides); then all but `standby` of those known, the recently lost
    /// included, should work.
    #[bilrost(2)]
    pub replicas: Option<u32>,
    /// Agents that wait.
    #[bilrost(3)]
    pub standby: u32,
}

/// How the loss of an agent was noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
pub enum LossReason {
    /// Its connection dropped and its process is gone.
    Disconnected = 0,
    /// No heartbeat for the session timeout.
    Silent = 1,
    /// Another process of the same name joined.
    Replaced = 2,
    /// It lives, and failed its health checks beyond recovery.
    Failed = 3,
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

/// Weights of the terms of a score, in points.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Weights {
    /// For a specialization that is the task's kind.
    #[bilrost(1)]
    pub specialization: i32,
    /// For a full agent; usually negative.
    #[bilrost(2)]
    pub load: i32,
    /// For a perfect track record.
    #[bilrost(3)]
    pub performance: i32,
}

/// What a fleet is configured with. Bounds are in [`crate::limits`].
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct FleetConfig {
    /// For scheduling.
    #[bilrost(1)]
    pub weights: Weights,
    /// For tasks that bring none.
    #[bilrost(2)]
    pub retry: RetryPolicy,
    /// How long finished tasks are kept, ms.
    #[bilrost(3)]
    pub result_ttl: u64,
    /// Unfinished tasks at most.
    #[bilrost(4)]
    pub max_queued: u32,
    /// Tasks at most, the finished ones that are kept included.
    #[bilrost(5)]
    pub max_tasks: u32,
    /// Bytes of inputs and outputs at most.
    #[bilrost(6)]
    pub max_bytes: u64,
    /// How long a lost agent is remembered, ms.
    #[bilrost(7)]
    pub lost_agent_ttl: u64,
}
