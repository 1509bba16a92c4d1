//! The `command` executor: one process group per attempt, the input on its stdin, the output from its stdout.
//!
//! The command sees the agent's environment and, besides, `ROBEING_TASK_ID`, `ROBEING_ATTEMPT` (a number),
//! `ROBEING_KIND` and, when the task has a deadline, `ROBEING_DEADLINE` (RFC 3339 in UTC with milliseconds, such as
//! `2026-11-23T10:00:00.000Z`; unset without one).
//!
//! - Exit code 0 is success. [`PERMANENT_FAILURE_EXIT_CODE`] is a failure that no other attempt would avoid; every
//!   other code, a signal, a command that can't be started and a time limit that passed are failures worth another
//!   attempt. Too much output is not.
//! - When it is cancelled or its time limit passes, its whole group gets SIGTERM, and what is left after the grace
//!   period SIGKILL. One that gives too much output, or whose future is dropped, gets SIGKILL at once.
//! - The attempt ends with the command's own process. What else is in its group then is killed, so that a child left
//!   behind neither lingers nor holds the output open. A process that left the group (`setsid`) is out of reach.
//! - A command need not read its input.

use std::env;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::guard::{Guard, Stay};
use super::launcher::{Launch, Launched, Launcher};
use super::pipes::Pipes;
use super::process_group::ProcessGroup;
use super::text::{lossy, rfc3339, timed_out};
use super::{Attempt, Executor, ExecutorError, Failure, FailureKind, Health, Limits, Outcome};

/// The exit code with which a command says that no other attempt at this task can do better: `EX_DATAERR` of
/// sysexits.h, "the input data was incorrect in some way".
pub const PERMANENT_FAILURE_EXIT_CODE: i32 = 65;

/// Where programs are looked for when `PATH` is not set, as the system does.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// What to run, and within which limits.
#[derive(Debug, Clone, Default)]
pub struct CommandConfig {
    /// The program, looked up in `PATH` if it has no slash, and its arguments.
    pub argv: Vec<String>,
    /// What an attempt may use.
    pub limits: Limits,
    /// The process that kills the commands if the agent is killed. Without one, only the commands' own processes die
    /// with the agent, not those they started.
    pub guard: Option<Arc<Guard>>,
}

impl CommandConfig {
    /// Looks whether the program is there, so that an agent that can run nothing takes no tasks.
    ///
    /// # Errors
    /// When there is no such file for a path, or none in `PATH`, or none of them may be executed by anybody.
    pub fn check_program(&self) -> Result<(), ExecutorError> {
        check_program(&self.argv)
    }
}

/// See [`CommandConfig::check_program`].
pub(super) fn check_program(argv: &[String]) -> Result<(), ExecutorError> {
    let Some(program) = argv.first().filter(|program| !program.is_empty()) else {
        return Err(ExecutorError::NoProgram);
    };
    let candidates: Vec<PathBuf> = if program.contains('/') {
        vec![PathBuf::from(program)]
    } else {
        let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
        env::split_paths(&path).map(|folder| folder.join(program)).collect()
    };
    let files = candidates.iter().filter_map(|path| path.metadata().ok()).filter(Metadata::is_file);
    let modes: Vec<u32> = files.map(|file| file.permissions().mode()).collect();
    let words = match &modes[..] {
        [] => absent(program),
        modes if modes.iter().all(|mode| mode & 0o111 == 0) => not_executable(program),
        _ => return Ok(()),
    };
    Err(ExecutorError::Program(words))
}

/// Runs each attempt as a process.
pub struct CommandExecutor {
    argv: Arc<[String]>,
    limits: Limits,
    launcher: Launcher,
    guard: Option<Arc<Guard>>,
}

impl CommandExecutor {
    /// Makes the executor and starts the thread that starts its commands.
    ///
    /// # Errors
    /// When `argv` names no program or can't be passed to one, or the thread can't be started. Whether the program
    /// exists is seen at each attempt; [`CommandConfig::check_program`] looks before.
    pub fn new(config: CommandConfig) -> Result<Self, ExecutorError> {
        if config.argv.first().is_none_or(String::is_empty) {
            return Err(ExecutorError::NoProgram);
        }
        if let Some(index) = config.argv.iter().position(|word| word.contains('\0')) {
            return Err(ExecutorError::NulInArgv { index });
        }
        let launcher = Launcher::start(config.guard.clone()).map_err(ExecutorError::Thread)?;
        Ok(Self { argv: config.argv.into(), limits: config.limits, launcher, guard: config.guard })
    }

    fn program(&self) -> &str {
        &self.argv[0]
    }

    async fn launch(&self, attempt: &Attempt, cancel: &CancellationToken) -> Result<Launched, Failure> {
        let launch = Launch {
            argv: Arc::clone(&self.argv),
            env: [
                ("ROBEING_TASK_ID", Some(attempt.task_id.clone())),
                ("ROBEING_ATTEMPT", Some(attempt.attempt.to_string())),
                ("ROBEING_KIND", Some(attempt.kind.clone())),
                ("ROBEING_DEADLINE", attempt.deadline.map(|deadline| rfc3339(deadline.unix_ms))),
            ],
            has_input: !attempt.input.is_empty(),
        };
        if let Some((name, _)) = launch.env.iter().find(|(_, value)| value.as_ref().is_some_and(|v| v.contains('\0'))) {
            let message = format!("{name} would contain a NUL character, which no program can be given");
            return Err(Failure::new(FailureKind::InvalidAttempt, false, message));
        }
        self.launcher.launch(launch, cancel.clone()).await.map_err(|error| not_started(self.program(), &error))
    }

    fn pipes(&self, launched: &mut Launched, input: Bytes) -> Pipes {
        let stdin = launched.stdin.take().map(|pipe| (pipe, input));
        let (stdout, stderr) = (launched.stdout.take(), launched.stderr.take());
        Pipes::new(stdin, stdout, stderr, self.limits.max_output, self.limits.stderr_tail)
    }

    /// Sees a started command through to the end of its group.
    async fn see_through(&self, group: &mut ProcessGroup, pipes: &mut Pipes, stop: &Stop) -> End {
        let end = tokio::select! {
            biased;
            why = stop.requested() => End::Stopped(why),
            () = pipes.pump_until_overflow() => End::Overflowed,
            status = group.leader_exited() => End::Exited(status),
        };
        if matches!(end, End::Stopped(_)) {
            group.terminate();
            tokio::select! {
                _ = tokio::time::timeout(self.limits.kill_grace, group.leader_exited()) => {}
                () = pipes.pump_discarding() => {}
            }
        }
        group.finish().await;
        pipes.drain();
        end
    }
}

#[async_trait]
impl Executor for CommandExecutor {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        let stop = Stop::new(attempt.time_limit, cancel);
        // Not given up while the command is being started: what came of it has to be ended in order first.
        let mut launched = match self.launch(&attempt, &stop.cancel).await {
            Ok(launched) => launched,
            Err(_) if stop.cancel.is_cancelled() => return Outcome::Cancelled,
            Err(failure) => return Outcome::Failed(failure),
        };
        let mut pipes = self.pipes(&mut launched, attempt.input);
        let end = self.see_through(&mut launched.group, &mut pipes, &stop).await;
        conclude(self.program(), &self.limits, end, pipes)
    }

    fn lease(&self, left: Option<Duration>) {
        if let Some(guard) = &self.guard {
            guard.lease(left);
        }
    }

    /// In the thread that starts commands, so that a disk that hangs delays nothing else.
    async fn health(&self, within: Duration) -> Health {
        let late =
            || format!("the thread that starts commands did not answer within {}", humantime::format_duration(within));
        let checked = tokio::time::timeout(within, self.launcher.check(Arc::clone(&self.argv))).await;
        checked.unwrap_or_else(|_| Health::Silent(late()))
    }

    fn stay(&self, stay: Option<Stay>) {
        if let Some(guard) = &self.guard {
            guard.stay(stay);
        }
    }

    fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    fn is_revoked(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.is_revoked())
    }

    fn name(&self) -> &'static str {
        "command"
    }
}

/// What may stop an attempt from outside.
struct Stop {
    cancel: CancellationToken,
    limit: Option<(Duration, Instant)>,
}

/// What did.
#[derive(Debug, Clone, Copy)]
enum Why {
    Cancelled,
    TimedOut(Duration),
}

impl Stop {
    fn new(time_limit: Option<Duration>, cancel: CancellationToken) -> Self {
        // A limit beyond what the clock can count to is none.
        let limit = time_limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
        Self { cancel, limit }
    }

    async fn requested(&self) -> Why {
        let at_limit = async {
            match self.limit {
                Some((limit, at)) => {
                    sleep_until(at).await;
                    Why::TimedOut(limit)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Why::Cancelled,
            why = at_limit => why,
        }
    }
}

/// How a command's run ended.
enum End {
    Exited(io::Result<ExitStatus>),
    Overflowed,
    Stopped(Why),
}

/// What the end of a command and what it wrote amount to.
fn conclude(program: &str, limits: &Limits, end: End, pipes: Pipes) -> Outcome {
    // The last of the output may have been over the limit after the command had exited.
    let overflowed = pipes.overflowed();
    let (output, stderr_tail) = pipes.into_parts();
    let failure = match end {
        End::Stopped(Why::Cancelled) => return Outcome::Cancelled,
        End::Stopped(Why::TimedOut(limit)) => timed_out(limit),
        End::Overflowed => too_large(program, limits),
        End::Exited(_) if overflowed => too_large(program, limits),
        End::Exited(Ok(status)) if status.success() => {
            return Outcome::Succeeded { output: output.into() };
        }
        End::Exited(Ok(status)) => exited(program, status),
        End::Exited(Err(error)) => {
            let message = format!("the end of the command {program:?} could not be learned: {error}");
            Failure::new(FailureKind::Exit, true, message)
        }
    };
    Outcome::Failed(Failure { stderr_tail: lossy(&stderr_tail), ..failure })
}

fn too_large(program: &str, limits: &Limits) -> Failure {
    let message = format!(
        "the command {program:?} was killed for writing more than {} bytes to stdout; write less, or write it \
         elsewhere and return a reference",
        limits.max_output
    );
    Failure::new(FailureKind::OutputTooLarge, false, message)
}

fn exited(program: &str, status: ExitStatus) -> Failure {
    match (status.code(), status.signal()) {
        (Some(code), _) => {
            let retryable = code != PERMANENT_FAILURE_EXIT_CODE;
            let message = format!("the command {program:?} exited with code {code}");
            Failure { code: Some(code), ..Failure::new(FailureKind::Exit, retryable, message) }
        }
        (None, number) => {
            let number = number.unwrap_or_default();
            let name = Signal::try_from(number).map_or("an unknown signal", Signal::as_str);
            let hint = if number == Signal::SIGKILL as i32 { "; it may have run out of memory" } else { "" };
            let message = format!("the command {program:?} was ended by {name} (signal {number}){hint}");
            Failure { code: Some(number), ..Failure::new(FailureKind::Signal, true, message) }
        }
    }
}

fn absent(program: &str) -> String {
    format!(
        "the command {program:?} does not exist on this agent (or the interpreter it names does not); check the first \
         word of executor.command.argv, and PATH and the files in the pool's image"
    )
}

fn not_executable(program: &str) -> String {
    format!(
        "the command {program:?} may not be executed by this agent; make it executable (chmod +x) for the user the \
         agent runs as"
    )
}

/// Retryable, because what is missing here may be there on another agent.
fn not_started(program: &str, error: &io::Error) -> Failure {
    let message = match error.kind() {
        io::ErrorKind::NotFound => absent(program),
        io::ErrorKind::PermissionDenied => not_executable(program),
        io::ErrorKind::ArgumentListTooLong => {
            format!("the command {program:?} can't be started: its arguments and environment are too large")
        }
        _ if error.raw_os_error() == Some(nix::errno::Errno::ENOEXEC as i32) => format!(
            "the command {program:?} is not a program this agent can run; a script needs a first line such as \
             #!/bin/sh, a binary the agent's architecture"
        ),
        _ => format!("the command {program:?} can't be started: {error}"),
    };
    Failure::new(FailureKind::Spawn, true, message)
}
