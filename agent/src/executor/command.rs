//! The `command` executor: one process group per attempt, with the input on its stdin and the output from its stdout.
//!
//! The command gets the agent's environment, but no secrets of webhooks, plus `ROBEING_TASK_ID`, `ROBEING_ATTEMPT` (a
//! number), `ROBEING_KIND` and, when the task has a deadline, `ROBEING_DEADLINE` (RFC 3339 in UTC with milliseconds, such
//! as `2026-11-23T10:00:00.000Z`; unset without one).
//!
//! - Exit code 0 is success. [`PERMANENT_FAILURE_EXIT_CODE`] is a failure that is not retryable; every other code, a
//!   signal, a program that can't be run and an exceeded time limit are retryable failures. Too much output is not
//!   retryable.
//! - If a command can't be started because the agent temporarily lacks something, such as processes, open files, its
//!   guard or the program itself, the start is retried for a second. Then the attempt is handed back, since it never
//!   started, and the agent leaves the fleet until it can start commands again.
//! - When an attempt is cancelled or its time limit passes, its whole group gets SIGTERM, and after the grace period
//!   SIGKILL. A cancelled attempt has stopped when the group is empty, or after [`STOPPED_WITHIN`]. A command that
//!   exceeds the output limit, or whose future is dropped, gets SIGKILL at once.
//! - The command's own process decides how the attempt ends. Processes of its group that still have the output open
//!   when it exits, such as `tee` in `exec > >(tee log)`, have [`Limits::output_grace`], but no longer than the time
//!   limit, to write and close it; a reader such as `cat` in a shell pipeline would wait for them, too. After a failure
//!   the same applies to stderr, and after a success stderr has [`STDERR_GRACE`]. Then the rest of the group is killed,
//!   so that no child remains. A process that left the group is not killed. Once the group is empty, a process that is
//!   still in its session, as after `timeout` or with a shell's job control, has [`SESSION_GRACE`]; one that left the
//!   session too (`setsid`) is not waited for.
//! - Every command has its own session, without a terminal, so that none can block on terminal input.
//! - A command need not read its input.
//! - An attempt that was granted resources runs in a control group with a quota of processor time and a limit of memory,
//!   where the machine allows it ([`cgroups`](super::cgroups)). `ROBEING_CPU_MILLIS` and `ROBEING_MEMORY_BYTES` are what
//!   was granted, and `ROBEING_BOUND` is whether that binds the command (`true` or `false`); without resources, none of
//!   them is set. All processes in the group are killed when the attempt ends, also one that left the process group or
//!   session. If processes of the group were killed at the limit of memory, a failure says so; one that the limit does
//!   not let start fails, and the agent stays in the fleet.

use std::{io, os::unix::process::ExitStatusExt, process::ExitStatus, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use nix::sys::signal::Signal;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Allowance, Attempt, AttemptLog, Executor, ExecutorError, Failure, FailureKind, Health, Limits, Outcome,
    cgroups::{Binding, Cgroup},
    guard::{Guard, SessionInfo},
    launcher::{Launch, Launched, Launcher, NotLaunched},
    pipes::Pipes,
    presence::{Look, Presence, TRY_AGAIN},
    process_group::{GONE_WITHIN, ProcessGroup},
    program::{self, Program},
    stop::{Stop, Why},
    text::{lossy, needs_more, not_started_within, rfc3339, timed_out},
};

/// The exit code with which a command reports that no other attempt at this task can succeed: `EX_DATAERR` of
/// sysexits.h, "the input data was incorrect in some way".
pub const PERMANENT_FAILURE_EXIT_CODE: i32 = 65;

/// How long a process that left the group, but not the session, may still write after the group is empty.
pub const SESSION_GRACE: Duration = Duration::from_secs(1);

/// How long stderr may stay open after a success with complete output, while processes of the group remain.
pub const STDERR_GRACE: Duration = Duration::from_secs(1);

/// How long the processes of an attempt that was cancelled may take to disappear after SIGKILL before the attempt counts
/// as stopped nevertheless. Only one that hangs in the kernel takes so long, such as on an unreachable network disk.
pub const STOPPED_WITHIN: Duration = Duration::from_secs(60);

/// The command to run, and its limits.
#[derive(Debug, Clone, Default)]
pub struct CommandConfig {
    /// The program, looked up in `PATH` if it has no slash, and its arguments.
    pub argv: Vec<String>,
    /// The limits of an attempt.
    pub limits: Limits,
    /// The process that kills the commands if the agent is killed. Without one, only the commands' own processes die
    /// with the agent, not those they started.
    pub guard: Option<Arc<Guard>>,
}

impl CommandConfig {
    /// Checks that the program exists, so that an agent that can run nothing accepts no tasks.
    ///
    /// # Errors
    /// When the given path, or every candidate in `PATH`, does not exist or is not executable.
    pub fn check_program(&self) -> Result<(), ExecutorError> {
        program::check(&self.argv)
    }
}

/// What a command is run with.
pub(crate) struct Work {
    /// Environment variables to set, or with `None` to remove, relative to the agent's environment.
    pub(crate) env: Vec<(&'static str, Option<String>)>,
    /// What it reads from stdin.
    pub(crate) input: Bytes,
    /// How long it may take.
    pub(crate) time_limit: Option<Duration>,
    /// What its processes may use.
    pub(crate) allowance: Option<Allowance>,
    /// Gets what it writes.
    pub(crate) log: AttemptLog,
}

/// Runs each attempt as a process.
pub struct CommandExecutor {
    argv: Arc<[String]>,
    limits: Limits,
    launcher: Arc<Launcher>,
    guard: Option<Arc<Guard>>,
    program: Arc<Program>,
    presence: Presence,
    binding: Binding,
}

impl CommandExecutor {
    /// Creates the executor and starts the thread that starts its commands.
    ///
    /// # Errors
    /// When `argv` names no program or can't be passed to one, or the thread can't be started. Whether the program
    /// exists is checked at each attempt; [`CommandConfig::check_program`] checks it in advance.
    pub fn new(config: CommandConfig) -> Result<Self, ExecutorError> {
        if config.argv.first().is_none_or(String::is_empty) {
            return Err(ExecutorError::NoProgram);
        }
        if let Some(index) = config.argv.iter().position(|word| word.contains('\0')) {
            return Err(ExecutorError::NulInArgv { index });
        }
        let launcher = Arc::new(Launcher::start(config.guard.clone()).map_err(ExecutorError::Thread)?);
        let argv: Arc<[String]> = config.argv.into();
        let program = Arc::new(Program::new(Arc::clone(&argv)));
        let presence = Presence::new(look(&launcher, &program));
        let binding = Binding::default();
        Ok(Self { argv, limits: config.limits, launcher, guard: config.guard, program, presence, binding })
    }

    fn program(&self) -> &str {
        self.program.name()
    }

    /// Starts the command, in a control group if it is to be bound to what it was granted and that is possible.
    async fn launch_bound(&self, work: &Work, stop: &Stop) -> Result<(Launched, Option<Cgroup>), Unlaunched> {
        if let Some(allowance) = work.allowance
            && let Some(group) = self.binding.open(allowance).await
        {
            let launched = self.launch(work, Some(&group), stop).await;
            match (launched, group.met_limit()) {
                // The kernel counts what a start needs, too: the agent lacks nothing.
                (Err(Unlaunched::Short(_) | Unlaunched::Unbound(_) | Unlaunched::Failed(_)), Some(limit)) => {
                    return Err(Unlaunched::Failed(not_started_within(self.program(), limit)));
                }
                (Err(Unlaunched::Unbound(why)), None) => self.binding.tell(&why),
                (launched, _) => return launched.map(|launched| (launched, Some(group))),
            }
        }
        self.launch(work, None, stop).await.map(|launched| (launched, None))
    }

    /// Starts the command, retrying briefly if the agent lacks something for it.
    async fn launch(&self, work: &Work, group: Option<&Cgroup>, stop: &Stop) -> Result<Launched, Unlaunched> {
        let launch = self.what_to_launch(work, group)?;
        let mut pauses = TRY_AGAIN.iter();
        loop {
            let unlaunched = match self.launcher.launch(launch.clone(), stop.cancel.clone()).await {
                Ok(launched) => return Ok(launched),
                Err(_) if stop.cancel.is_cancelled() => return Err(Unlaunched::Cancelled),
                Err(NotLaunched::Cancelled) => return Err(Unlaunched::Cancelled),
                Err(NotLaunched::Revoked) => return Err(Unlaunched::Revoked),
                Err(NotLaunched::Unbound) => {
                    return Err(Unlaunched::Unbound("a command could not enter its control group".to_owned()));
                }
                Err(NotLaunched::Short(why)) => Unlaunched::Short(why),
                Err(NotLaunched::Program(error)) => match self.program.is_gone() {
                    Some(why) => Unlaunched::Short(why),
                    // The program exists but this machine can't run it, which is not the task's fault. It may just have
                    // been replaced.
                    None if self.program.was_there() && error.kind() != io::ErrorKind::ArgumentListTooLong => {
                        Unlaunched::Short(self.program.not_started(&error).message)
                    }
                    None => return Err(Unlaunched::Failed(self.program.not_started(&error))),
                },
            };
            let Some(pause) = pauses.next() else { return Err(unlaunched) };
            tokio::select! {
                biased;
                why = stop.requested() => match why {
                    Why::Cancelled => return Err(Unlaunched::Cancelled),
                    Why::TimedOut(_) => return Err(unlaunched),
                },
                () = tokio::time::sleep(*pause) => {}
            }
        }
    }

    fn what_to_launch(&self, work: &Work, group: Option<&Cgroup>) -> Result<Launch, Unlaunched> {
        let entries = group.map_or_else(|| Ok(Arc::default()), Cgroup::entries);
        let unbound = |error| Unlaunched::Unbound(format!("a control group can't be entered: {error}"));
        let entries = entries.map_err(unbound)?;
        let granted = |amount: fn(Allowance) -> u64| work.allowance.map(amount).filter(|amount| *amount > 0);
        let mut env = work.env.clone();
        env.extend([
            ("ROBEING_CPU_MILLIS", granted(|allowance| allowance.cpu_millis).map(|amount| amount.to_string())),
            ("ROBEING_MEMORY_BYTES", granted(|allowance| allowance.memory_bytes).map(|amount| amount.to_string())),
            ("ROBEING_BOUND", work.allowance.map(|_| group.is_some().to_string())),
        ]);
        let launch = Launch { argv: Arc::clone(&self.argv), env, has_input: !work.input.is_empty(), entries };
        if let Some((name, _)) = launch.env.iter().find(|(_, value)| value.as_ref().is_some_and(|v| v.contains('\0'))) {
            let message = format!("{name} would contain a NUL character, which no program can be given");
            return Err(Unlaunched::Failed(Failure::new(FailureKind::InvalidAttempt, false, message)));
        }
        Ok(launch)
    }

    fn pipes(&self, launched: &mut Launched, input: Bytes, log: AttemptLog) -> Pipes {
        let stdin = launched.stdin.take().map(|pipe| (pipe, input));
        let (stdout, stderr) = (launched.stdout.take(), launched.stderr.take());
        Pipes::new(stdin, stdout, stderr, &self.limits, log)
    }

    /// Waits for a started command and its group to end, stopping them if requested.
    async fn see_through(&self, group: &mut ProcessGroup, pipes: &mut Pipes, stop: &Stop) -> End {
        let end = tokio::select! {
            biased;
            why = stop.requested() => End::Stopped(why),
            () = pipes.pump_until_overflow() => End::Overflowed,
            status = group.leader_exited() => End::Exited(status),
        };
        let end = match end {
            End::Stopped(_) => {
                group.terminate();
                tokio::select! {
                    _ = timeout(self.limits.kill_grace, group.leader_exited()) => {}
                    () = pipes.pump_discarding() => {}
                }
                end
            }
            End::Exited(status) => {
                let end = self.collect_output(group, pipes, stop, status).await;
                if let End::Stopped(_) = end {
                    // The remaining processes get SIGTERM first, as the command itself would have.
                    group.terminate();
                    tokio::select! {
                        _ = timeout(self.limits.kill_grace, group.emptied()) => {}
                        () = pipes.pump_discarding() => {}
                    }
                }
                end
            }
            End::Overflowed => end,
        };
        group.finish(gone_within(&end)).await;
        pipes.drain();
        end
    }

    /// After the command's own process has exited, waits for output that others of its group still write.
    async fn collect_output(
        &self,
        group: &mut ProcessGroup,
        pipes: &mut Pipes,
        stop: &Stop,
        status: io::Result<ExitStatus>,
    ) -> End {
        let failed = !status.as_ref().is_ok_and(ExitStatus::success);
        let grace = Instant::now() + self.limits.output_grace;
        let until = stop.limit.map_or(grace, |(_, at)| at.min(grace));
        let written = async {
            pipes.pump_to_end(failed).await;
            if !failed {
                // The outcome includes no stderr, but a process that reads it, as in `2> >(tee log >&2)`, must not lose
                // any.
                let _ = timeout(STDERR_GRACE, pipes.pump_to_end(true)).await;
            }
        };
        let emptied = async {
            group.emptied().await;
            // Processes outside the session get no more time.
            let _ = timeout(SESSION_GRACE, group.session_emptied()).await;
        };
        tokio::select! {
            biased;
            () = stop.cancel.cancelled() => return End::Stopped(Why::Cancelled),
            () = written => {}
            () = emptied => {}
            () = sleep_until(until) => {
                tracing::warn!(
                    command = self.program(),
                    "a command has exited, but processes that it started still have its output open: killing them and \
                     returning the output so far"
                );
            }
        }
        End::Exited(status)
    }

    /// Runs the command once, with these environment variables and this input. If the future is dropped, its process
    /// group is killed.
    pub(crate) async fn run_with(&self, work: Work, cancel: CancellationToken) -> Outcome {
        let stop = Stop::new(work.time_limit, cancel);
        // A start is not cancelled midway: if it created a process, that must be shut down properly.
        let (mut launched, bound) = match self.launch_bound(&work, &stop).await {
            Ok(launched) => launched,
            Err(Unlaunched::Cancelled) => return Outcome::Cancelled,
            Err(Unlaunched::Revoked) => return Outcome::NotBegun,
            Err(Unlaunched::Failed(failure)) => return Outcome::Failed(failure),
            Err(Unlaunched::Short(why) | Unlaunched::Unbound(why)) => {
                self.presence.lost(&why).await;
                return Outcome::NotBegun;
            }
        };
        let mut pipes = self.pipes(&mut launched, work.input, work.log);
        let end = self.see_through(&mut launched.group, &mut pipes, &stop).await;
        let killed_at = bound.as_ref().and_then(Cgroup::killed_at);
        if let Some(group) = bound {
            group.end(gone_within(&end)).await;
        }
        conclude(self.program(), &self.limits, end, pipes, killed_at)
    }
}

#[async_trait]
impl Executor for CommandExecutor {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        let env = vec![
            ("ROBEING_TASK_ID", Some(attempt.task_id)),
            ("ROBEING_ATTEMPT", Some(attempt.attempt.to_string())),
            ("ROBEING_KIND", Some(attempt.kind)),
            ("ROBEING_DEADLINE", attempt.deadline.map(|deadline| rfc3339(deadline.unix_ms))),
        ];
        let Attempt { input, time_limit, allowance, log, .. } = attempt;
        self.run_with(Work { env, input, time_limit, allowance, log }, cancel).await
    }

    fn lease(&self, left: Option<Duration>) {
        if let Some(guard) = &self.guard {
            guard.lease(left);
        }
    }

    /// Runs on the thread that starts commands, so that a hanging disk delays nothing else.
    async fn health(&self, within: Duration) -> Health {
        let late =
            || format!("the thread that starts commands did not answer within {}", humantime::format_duration(within));
        let checked = tokio::time::timeout(within, self.launcher.check(Arc::clone(&self.argv))).await;
        checked.unwrap_or_else(|_| Health::Silent(late()))
    }

    fn set_session(&self, info: Option<SessionInfo>) {
        if let Some(guard) = &self.guard {
            guard.set_session(info);
        }
    }

    fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    fn is_revoked(&self) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.is_revoked())
    }

    fn presence(&self) -> Option<watch::Receiver<bool>> {
        Some(self.presence.watch())
    }

    fn name(&self) -> &'static str {
        "command"
    }
}

/// Why the command of an attempt was not started.
enum Unlaunched {
    Cancelled,
    /// The guard has revoked the session.
    Revoked,
    /// The agent lacks something that a start needs.
    Short(String),
    /// The command could not enter its control group.
    Unbound(String),
    /// The task or the program is at fault.
    Failed(Failure),
}

/// Returns the check of whether commands can be started.
fn look(launcher: &Arc<Launcher>, program: &Arc<Program>) -> Look {
    let (launcher, program) = (Arc::downgrade(launcher), Arc::clone(program));
    Arc::new(move || {
        let (launcher, program) = (launcher.upgrade(), Arc::clone(&program));
        Box::pin(async move {
            if let Some(why) = program.is_gone() {
                return Err(why);
            }
            match launcher.ok_or("the executor is gone")?.rehearse().await {
                Ok(()) => Ok(()),
                Err(NotLaunched::Short(why)) => Err(why),
                Err(NotLaunched::Program(error)) => Err(format!("no process can be started here: {error}")),
                Err(NotLaunched::Cancelled | NotLaunched::Revoked | NotLaunched::Unbound) => {
                    Err("the start was not attempted".into())
                }
            }
        })
    })
}

/// How a command's run ended.
enum End {
    Exited(io::Result<ExitStatus>),
    Overflowed,
    Stopped(Why),
}

/// Returns how long the processes of a command have to disappear. Who cancels a task may want to know that they are gone.
fn gone_within(end: &End) -> Duration {
    match end {
        End::Stopped(Why::Cancelled) => STOPPED_WITHIN,
        End::Stopped(Why::TimedOut(_)) | End::Exited(_) | End::Overflowed => GONE_WITHIN,
    }
}

/// Converts the end of a command and its output into an outcome. `killed_at` is the limit of memory at which processes
/// of it were killed.
fn conclude(program: &str, limits: &Limits, end: End, pipes: Pipes, killed_at: Option<u64>) -> Outcome {
    // The last output may have exceeded the limit after the command exited.
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
        End::Exited(Ok(status)) => exited(program, status, killed_at),
        End::Exited(Err(error)) => {
            let message = format!("waiting for the command {program:?} to exit failed: {error}");
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

fn exited(program: &str, status: ExitStatus, killed_at: Option<u64>) -> Failure {
    let at_limit = killed_at.map(|limit| format!("; {}", needs_more(limit)));
    match (status.code(), status.signal()) {
        (Some(code), _) => {
            let retryable = code != PERMANENT_FAILURE_EXIT_CODE;
            let message = format!("the command {program:?} exited with code {code}{}", at_limit.unwrap_or_default());
            Failure { code: Some(code), ..Failure::new(FailureKind::Exit, retryable, message) }
        }
        (None, number) => {
            let number = number.unwrap_or_default();
            let name = Signal::try_from(number).map_or("an unknown signal", Signal::as_str);
            let guess = if number == Signal::SIGKILL as i32 { "; it may have run out of memory" } else { "" };
            let hint = at_limit.unwrap_or_else(|| guess.to_owned());
            let message = format!("the command {program:?} was ended by {name} (signal {number}){hint}");
            Failure { code: Some(number), ..Failure::new(FailureKind::Signal, true, message) }
        }
    }
}
