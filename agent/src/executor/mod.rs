//! Running tasks on an agent: an [`Executor`] receives one attempt and returns one [`Outcome`].
//!
//! An executor knows processes, pipes, HTTP and local gRPC. It knows nothing of sessions, coordinators or the fleet; it
//! decides whether a failed attempt is worth another one, and nothing else about retries. When `run` returns or its
//! future is dropped, the attempt's process group is killed; a server or an attached process is only notified.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use robeing_target::TargetError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub mod attempt_log;
pub mod cgroups;
pub mod command;
pub mod echo;
pub mod guard;
pub mod http;
pub mod reaper;
pub mod worker;

mod launcher;
mod pipes;
mod presence;
mod process_group;
mod program;
mod start;
mod stop;
mod text;

pub use attempt_log::{AttemptLog, LogStream};
pub use cgroups::Allowance;
pub use command::{CommandConfig, CommandExecutor, PERMANENT_FAILURE_EXIT_CODE, SESSION_GRACE};
pub use echo::EchoExecutor;
pub use guard::{Guard, GuardTrust, MAX_AUTHORITIES, SessionInfo};
pub use http::{
    CLOSED_WITHIN, CertificatesError, ERROR_BODY_WITHIN, HttpConfig, HttpExecutor, MAX_HEADERS, SECURED_WITHIN,
};
pub use start::start;
pub(crate) use start::start_guard;
pub(crate) use text::rfc3339;
pub use worker::{WorkerConfig, WorkerExecutor, WorkerMail};

/// Default of [`Limits::max_output`]: 1 MiB, which is also the maximum size of an input or output that is not in the object
/// store.
pub const DEFAULT_MAX_OUTPUT: usize = 1 << 20;
/// Default of [`Limits::stderr_tail`]: 4 KiB.
pub const DEFAULT_STDERR_TAIL: usize = 4 << 10;
/// Default of [`Limits::kill_grace`].
pub const DEFAULT_KILL_GRACE: Duration = Duration::from_secs(2);
/// Default of [`Limits::output_grace`].
pub const DEFAULT_OUTPUT_GRACE: Duration = Duration::from_secs(5);

/// Runs attempts at tasks.
#[async_trait]
pub trait Executor: Send + Sync + 'static {
    /// Runs one attempt until it ends, `cancel` fires, or the attempt's time limit passes.
    ///
    /// Dropping the future stops the attempt at once, without a grace period.
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome;

    /// Sets how much longer attempts may run unless the agent renews the lease; `None`: until further notice. An
    /// executor whose attempts outlive a stopped agent process must end them itself.
    fn lease(&self, left: Option<Duration>) {
        let _ = left;
    }

    /// Sets the session that attempts belong to from now on; `None`: no session. The guard of an executor reports to
    /// the coordinators when nothing of the session runs any more and the agent can't report that itself.
    fn set_session(&self, info: Option<SessionInfo>) {
        let _ = info;
    }

    /// Whether the executor has a guard.
    fn is_guarded(&self) -> bool {
        false
    }

    /// Returns the messages between attached processes and other agents, if processes can attach.
    fn mail(&self) -> Option<Arc<WorkerMail>> {
        None
    }

    /// Whether the guard has revoked the session because the agent was stopped: no attempt of it may start, and the
    /// running ones are killed.
    fn is_revoked(&self) -> bool {
        false
    }

    /// Watches whether attempts can start here; `None`: always. An agent that can start none accepts no tasks.
    fn presence(&self) -> Option<watch::Receiver<bool>> {
        None
    }

    /// Whether the agent stays in the fleet, without slots, while attempts can't start; otherwise it leaves the fleet.
    fn is_member_when_absent(&self) -> bool {
        false
    }

    /// Checks the health of this executor and of what it runs attempts with. The answer is due within `within`; the
    /// caller drops the future when it is late.
    async fn health(&self, within: Duration) -> Health {
        let _ = within;
        Health::Healthy
    }

    /// The executor's name as written in a manifest: `command`, `http`, `worker` or `echo`.
    fn name(&self) -> &'static str;
}

/// The health of an executor. Reasons are human-readable sentences.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// The executor can run attempts.
    Healthy,
    /// The executor can't run attempts now, or what runs them reports that it can't.
    Unhealthy(String),
    /// What runs attempts did not answer, which may be a temporary problem.
    Silent(String),
    /// The executor can never run attempts again in this process.
    Failed(String),
}

/// One attempt at a task, as passed to an executor.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The task's id, the same in every attempt.
    pub task_id: String,
    /// The attempt's fencing number; it increases with each attempt of a task.
    pub attempt: u32,
    /// The task's kind, as set by its submitter.
    pub kind: String,
    /// The task's input.
    pub input: Bytes,
    /// When the result becomes worthless. It is only passed to the task; the coordinators stop the task at that time.
    pub deadline: Option<Deadline>,
    /// The time this attempt may still take, measured on the monotonic clock from the call of `run`.
    pub time_limit: Option<Duration>,
    /// What the attempt was granted of the fleet's resource pool, to which an executor of processes binds them.
    pub allowance: Option<Allowance>,
    /// Gets what the attempt says while it runs, for those who follow it.
    pub log: AttemptLog,
    /// The results of the tasks that the task depends on, as submitted, then those of its parts or subtasks, in order.
    /// Only attached processes see them.
    pub results: Vec<PassedResult>,
    /// What an earlier attempt at the task has left to this one when it was suspended.
    pub carried: Bytes,
}

/// The result of a task that is passed on to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedResult {
    /// The task's id; empty for parts and subtasks.
    pub task_id: String,
    /// How the task ended.
    pub end: PassedEnd,
}

/// How a task ended whose result is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassedEnd {
    /// It succeeded, with this output.
    Succeeded(Bytes),
    /// It succeeded, and its output is in the object store.
    Stored {
        /// The SHA-256 of the output, by which it is found.
        sha256: Bytes,
        /// The length of the output, bytes.
        bytes: u64,
    },
    /// It failed, for this reason.
    Failed(String),
    /// It was cancelled or skipped, for this reason.
    Cancelled(String),
}

/// A subtask that an attempt asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subtask {
    /// The kind of work.
    pub kind: String,
    /// The input.
    pub input: Bytes,
    /// 1 (lowest) to 10 (highest); 0: that of the task.
    pub priority: u32,
    /// The time after which it fails if it has not ended.
    pub deadline: Option<Duration>,
    /// The time before which it is not started.
    pub delay: Option<Duration>,
    /// The time limit of one attempt at it.
    pub time_limit: Option<Duration>,
    /// The maximum number of attempts at it; 0: the fleet's default.
    pub max_attempts: u32,
    /// The specialization that an agent must have; empty: none.
    pub required_specialization: String,
    /// The ids of the tasks that must have succeeded before it is started.
    pub depends_on: Vec<String>,
}

/// The deadline of a task, as known when an attempt starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// The time left, measured on the monotonic clock from the call of `run`.
    pub left: Duration,
    /// The same moment on the wall clock of the agent's machine, in Unix milliseconds, for processes that use that
    /// clock.
    pub unix_ms: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The task succeeded.
    Succeeded {
        /// Its output.
        output: Bytes,
    },
    /// The task failed.
    Failed(Failure),
    /// The attempt was stopped because `cancel` fired.
    Cancelled,
    /// The task waits for subtasks; another attempt is given their results.
    Suspended {
        /// The subtasks.
        subtasks: Vec<Subtask>,
        /// What the next attempt is given besides their results.
        carried: Bytes,
    },
    /// The attempt never started, through no fault of the task: the agent has nothing to run it with, or lacks a
    /// resource for it.
    NotBegun,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The kind of failure.
    pub kind: FailureKind,
    /// A human-readable sentence: what happened, to what, and what to do about it if that is known.
    pub message: String,
    /// The command's exit code, the number of the signal that ended it, the HTTP status, or the code an attached
    /// process reported.
    pub code: Option<i32>,
    /// The end of the command's stderr or of the details from an attached process, or the start of an HTTP error's
    /// body; at most [`Limits::stderr_tail`] bytes, with invalid UTF-8 replaced.
    pub stderr_tail: String,
    /// Whether another attempt, perhaps on another agent, may succeed.
    pub retryable: bool,
    /// The minimum delay before the next attempt; `None`: unspecified.
    pub retry_after: Option<Duration>,
    /// What an attached process calls the failure; empty: nothing. At most
    /// [`MAX_FAILURE_NAME_BYTES`](robeing_fleet::limits::MAX_FAILURE_NAME_BYTES).
    pub name: String,
}

impl Failure {
    fn new(kind: FailureKind, retryable: bool, message: impl Into<String>) -> Self {
        let (message, stderr_tail, name) = (message.into(), String::new(), String::new());
        Self { kind, message, code: None, stderr_tail, retryable, retry_after: None, name }
    }
}

/// The kinds of failure of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The command exited with a code other than 0.
    Exit,
    /// A signal that the agent did not send ended the command.
    Signal,
    /// The command could not be started.
    Spawn,
    /// The attempt's time limit passed.
    TimedOut,
    /// The output is larger than [`Limits::max_output`].
    OutputTooLarge,
    /// The HTTP server answered with a status other than 2xx.
    Http,
    /// The connection to the HTTP server or to the attached process broke before the answer was complete, or the server
    /// did not answer with HTTP.
    Unreachable,
    /// An attached process reported a failure.
    Reported,
    /// The attempt itself can't be passed on, such as a kind with a character that no HTTP header can carry.
    InvalidAttempt,
}

/// The limits of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The maximum size of an attempt's output, in bytes; a larger output fails with [`FailureKind::OutputTooLarge`].
    pub max_output: usize,
    /// How much of the end of stderr is kept, in bytes.
    pub stderr_tail: usize,
    /// How long a command has between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// How long processes that a command started may still write to its output after the command has exited.
    pub output_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_output: DEFAULT_MAX_OUTPUT,
            stderr_tail: DEFAULT_STDERR_TAIL,
            kill_grace: DEFAULT_KILL_GRACE,
            output_grace: DEFAULT_OUTPUT_GRACE,
        }
    }
}

/// Why an executor can't be created from its configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// `argv` is empty, or its first word is.
    #[error("the command executor has no program to run; name one as the first word of executor.command.argv")]
    NoProgram,
    /// A word of `argv` contains a NUL character, which can't be passed to a process.
    #[error("word {index} of executor.command.argv contains a NUL character, which no program can be given; remove it")]
    NulInArgv {
        /// The word's index in `argv`, from 0.
        index: usize,
    },
    /// The program of `argv` is missing or not executable, as the sentence explains.
    #[error("{0}")]
    Program(String),
    /// The URL does not parse, or is not an absolute http or https URL.
    #[error("executor.http.url {url:?} is not a URL that can be called ({reason}); write it as http://HOST:PORT/PATH")]
    BadUrl {
        /// The URL as given, without credentials.
        url: String,
        /// What is wrong with it.
        reason: TargetError,
    },
    /// The health path can't be requested.
    #[error("executor.http.healthPath {path:?} can't be requested ({reason}); write it as /PATH")]
    BadHealthPath {
        /// The path as given, without its query.
        path: String,
        /// What is wrong with it.
        reason: TargetError,
    },
    /// A header can't be sent.
    #[error("executor.http.headers {name:?} can't be sent: {reason}")]
    BadHeader {
        /// The header's name as given.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The trusted certificates can't be read, so an https URL can't be called.
    #[error("{url:?} can't be called without trusted certificates: {source}")]
    Certificates {
        /// The URL as given, without credentials.
        url: String,
        /// Why there are no trusted certificates.
        source: CertificatesError,
    },
    /// Processes can't attach, because the agent can't listen on the address.
    #[error("{0}; another process may listen there: change --worker-listen")]
    Listen(#[source] std::io::Error),
    /// The thread that starts commands can't be started.
    #[error("the thread that starts commands can't be started: {0}; the agent may be at its limit of processes")]
    Thread(#[source] std::io::Error),
}
