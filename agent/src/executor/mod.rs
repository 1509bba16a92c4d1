//! What running a task means on an agent: an [`Executor`] is handed one attempt and answers with one [`Outcome`].
//!
//! An executor knows processes, pipes, HTTP and local gRPC. It knows nothing of sessions, coordinators or the fleet; it decides
//! whether an attempt that failed is worth another one, and nothing else about retries. Everything an attempt started
//! in processes of the agent's is gone when `run` returns or its future is dropped; a server or an attached process is told.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use robeing_target::TargetError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

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
mod text;

pub use command::{CommandConfig, CommandExecutor, PERMANENT_FAILURE_EXIT_CODE, SESSION_GRACE};
pub use echo::EchoExecutor;
pub use guard::{Guard, Stay};
pub use http::{
    CLOSED_WITHIN, CertificatesError, ERROR_BODY_WITHIN, HttpConfig, HttpExecutor, MAX_HEADERS, SECURED_WITHIN,
};
pub use start::start;
pub use worker::{WorkerConfig, WorkerExecutor};

/// Default of [`Limits::max_output`]: 1 MiB, which is also the most a task's input may be.
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
    /// Runs one attempt to its end, or until `cancel` fires or the attempt's time limit passes.
    ///
    /// Dropping the future stops the attempt at once, without a grace period.
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome;

    /// For how much longer attempts may run without another word from the agent; `None`: until it says otherwise. An
    /// executor whose attempts outlive a stopped agent process must see to their end by itself.
    fn lease(&self, left: Option<Duration>) {
        let _ = left;
    }

    /// Which session attempts are of from now on; `None`: of none. An executor with a guard has it report when nothing of the
    /// session runs any more though the agent can't say so.
    fn stay(&self, stay: Option<Stay>) {
        let _ = stay;
    }

    /// Whether it has a guard.
    fn is_guarded(&self) -> bool {
        false
    }

    /// Whether the guard has taken the session from the agent, because the agent was stopped: nothing of it may be begun, and
    /// what ran is killed.
    fn is_revoked(&self) -> bool {
        false
    }

    /// Whether attempts can be begun here, as it changes; `None`: always. An agent that can begin none takes no tasks.
    fn presence(&self) -> Option<watch::Receiver<bool>> {
        None
    }

    /// Whether the agent is in the fleet, without slots, while attempts can't be begun; otherwise it is out of it.
    fn is_member_when_absent(&self) -> bool {
        false
    }

    /// How this executor is, and what it runs attempts with. The answer is wanted within `within`; the caller drops the future
    /// when it is late.
    async fn health(&self, within: Duration) -> Health {
        let _ = within;
        Health::Healthy
    }

    /// The executor's name as it is written in a manifest: `command`, `http`, `worker` or `echo`.
    fn name(&self) -> &'static str;
}

/// How an executor is. Reasons are sentences for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It can run attempts.
    Healthy,
    /// It can't run attempts now, or what runs them says so.
    Unhealthy(String),
    /// What runs attempts did not answer, which may be a moment's trouble.
    Silent(String),
    /// It can never run attempts again in this process.
    Failed(String),
}

/// One attempt at a task, as handed to an executor.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The task's id, the same in every attempt.
    pub task_id: String,
    /// The attempt's fencing number: higher in each attempt of a task.
    pub attempt: u32,
    /// The task's kind, as its submitter named it.
    pub kind: String,
    /// The task's input.
    pub input: Bytes,
    /// When the result becomes worthless. Only told to the task; the coordinators stop it then.
    pub deadline: Option<Deadline>,
    /// Time this attempt may still take, measured on the monotonic clock from the moment `run` is called.
    pub time_limit: Option<Duration>,
}

/// The deadline of a task, as it is known where an attempt begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadline {
    /// What is left, measured on the monotonic clock from the moment `run` is called.
    pub left: Duration,
    /// The same moment by the wall clock of the agent's machine, Unix milliseconds: for processes that ask that clock.
    pub unix_ms: u64,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The task did its work.
    Succeeded {
        /// What it answered.
        output: Bytes,
    },
    /// The task did not do its work.
    Failed(Failure),
    /// The attempt was stopped because `cancel` fired.
    Cancelled,
    /// Nothing of it was begun, by no fault of the task's: the agent has nothing to run it with, or lacks what that takes.
    NotBegun,
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub kind: FailureKind,
    /// A sentence for people: what happened, to what, and what to do where that is known.
    pub message: String,
    /// The command's exit code, the number of the signal that ended it, the HTTP status, or what an attached process says.
    pub code: Option<i32>,
    /// The end of what the command wrote to stderr or an attached process gives as details, or the start of an HTTP error's
    /// body; at most
    /// [`Limits::stderr_tail`] bytes, with invalid UTF-8 replaced.
    pub stderr_tail: String,
    /// Whether another attempt, perhaps on another agent, may do better.
    pub retryable: bool,
    /// The earliest that it may do better, from now; `None`: that is not said.
    pub retry_after: Option<Duration>,
}

impl Failure {
    fn new(kind: FailureKind, retryable: bool, message: impl Into<String>) -> Self {
        let (message, stderr_tail) = (message.into(), String::new());
        Self { kind, message, code: None, stderr_tail, retryable, retry_after: None }
    }
}

/// What went wrong in an attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The command exited with a code other than 0.
    Exit,
    /// The command was ended by a signal that the agent did not send.
    Signal,
    /// The command could not be started.
    Spawn,
    /// The attempt's time limit passed.
    TimedOut,
    /// The answer is larger than [`Limits::max_output`].
    OutputTooLarge,
    /// The HTTP server answered with a status other than 2xx.
    Http,
    /// The HTTP server could not be reached, or the connection to it or to an attached process broke before the answer
    /// was whole.
    Unreachable,
    /// An attached process says that it failed.
    Reported,
    /// The attempt itself can't be handed over, such as a kind with a character no HTTP header can carry.
    InvalidAttempt,
}

/// What an attempt may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The most output an attempt may give, in bytes; one more and it fails with [`FailureKind::OutputTooLarge`].
    pub max_output: usize,
    /// How much of the end of stderr is kept, in bytes.
    pub stderr_tail: usize,
    /// How long a command has between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// How long what a command started may still write to its output after the command itself has exited.
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

/// Why an executor can't be made from its configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// `argv` is empty, or its first word is.
    #[error("the command executor has no program to run; name one as the first word of executor.command.argv")]
    NoProgram,
    /// A word of `argv` contains a NUL character, which no process can be given.
    #[error("word {index} of executor.command.argv contains a NUL character, which no program can be given; remove it")]
    NulInArgv {
        /// The word's place in `argv`, from 0.
        index: usize,
    },
    /// The program of `argv` is not there, or is none, in words.
    #[error("{0}")]
    Program(String),
    /// The URL does not parse, or is not an absolute http or https URL.
    #[error("executor.http.url {url:?} is not a URL that can be called ({reason}); write it as http://HOST:PORT/PATH")]
    BadUrl {
        /// The URL as given, but for credentials.
        url: String,
        /// What is wrong with it.
        reason: TargetError,
    },
    /// The path is none that can be asked for.
    #[error("executor.http.healthPath {path:?} can't be asked for ({reason}); write it as /PATH")]
    BadHealthPath {
        /// The path as given, but for its query.
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
        /// The URL as given, but for credentials.
        url: String,
        /// Why there are none.
        source: CertificatesError,
    },
    /// Processes can't attach, because the address can't be listened on.
    #[error("{0}; another process may listen there: change --worker-listen")]
    Listen(#[source] std::io::Error),
    /// The thread that starts commands can't be started.
    #[error("the thread that starts commands can't be started: {0}; the agent may be at its limit of processes")]
    Thread(#[source] std::io::Error),
}
