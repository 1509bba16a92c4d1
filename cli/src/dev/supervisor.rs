//! Keeps one process running: starts it, and restarts it when it dies, until the fleet stops. The process's standard
//! input is a pipe that this side keeps open and never writes to. However this process ends, the child then reads
//! end-of-file and exits.

use std::{
    fs::File,
    hash::{BuildHasher, RandomState},
    io,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use robeing_settings::settings::JOIN_TOKEN;
use tokio::{
    process::{Child, Command},
    sync::{broadcast, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{
    DevEvent, ProcessStatus,
    backoff::Backoff,
    identity::DevIdentity,
    logs,
    plan::{Process, ProcessKind},
};

/// The exit code of a coordinator that refuses its settings.
const MISCONFIGURED: i32 = 2;
/// How often the size of the log is checked.
const LOG_CHECK: Duration = Duration::from_secs(30);

/// The supervisor of one process.
#[derive(Debug)]
pub(super) struct Supervisor {
    process: Process,
    log: PathBuf,
    pid: watch::Receiver<Option<u32>>,
    stop: CancellationToken,
    kill: CancellationToken,
    task: JoinHandle<()>,
    has_ended: bool,
}

impl Supervisor {
    pub(super) fn start(
        program: &Path,
        process: Process,
        log: PathBuf,
        events: broadcast::Sender<DevEvent>,
        backoff: Backoff,
        identity: Option<Arc<DevIdentity>>,
    ) -> Self {
        let (pid_told, pid) = watch::channel(None);
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let run = Run {
            program: program.to_owned(),
            process: process.clone(),
            log: log.clone(),
            events,
            pid: pid_told,
            stop: stop.clone(),
            kill: kill.clone(),
            backoff,
            identity,
        };
        Self { process, log, pid, stop, kill, task: tokio::spawn(run.keep()), has_ended: false }
    }

    pub(super) fn status(&self) -> ProcessStatus {
        ProcessStatus {
            name: self.process.name.clone(),
            kind: self.process.kind.clone(),
            pid: *self.pid.borrow(),
            log: self.log.clone(),
        }
    }

    /// Stops the process with SIGTERM, without a restart.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Kills the process with SIGKILL, without a restart.
    pub(super) fn kill(&self) {
        self.kill.cancel();
        self.stop.cancel();
    }

    /// Waits until the process has ended and won't be restarted.
    pub(super) async fn ended(&mut self) {
        if !self.has_ended {
            // A supervisor that panicked has ended, too; its child was killed on drop.
            let _ = (&mut self.task).await;
            self.has_ended = true;
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The state of a supervisor's task.
struct Run {
    program: PathBuf,
    process: Process,
    log: PathBuf,
    events: broadcast::Sender<DevEvent>,
    pid: watch::Sender<Option<u32>>,
    stop: CancellationToken,
    kill: CancellationToken,
    backoff: Backoff,
    /// Makes the join tokens of an agent; `None` without TLS.
    identity: Option<Arc<DevIdentity>>,
}

impl Run {
    async fn keep(mut self) {
        while !self.stop.is_cancelled() {
            let pause = self.run_once().await;
            let Some(pause) = pause else { break };
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Runs the process until it ends. Returns how long to wait before the next start, or `None` if there is none: the
    /// process was stopped, or is a coordinator that refuses its settings.
    async fn run_once(&mut self) -> Option<Duration> {
        let began = Instant::now();
        let (mut child, log_start) = match self.spawn() {
            Ok(started) => started,
            Err(error) => {
                let restart_in = self.backoff.after_death(Duration::ZERO, random());
                let name = self.process.name.clone();
                self.tell(DevEvent::NotStarted { name, problem: error.to_string(), restart_in });
                return Some(restart_in);
            }
        };
        // Keep the pipe: `Child::wait` would close it.
        let _stdin = child.stdin.take();
        let pid = child.id().unwrap_or_default();
        self.pid.send_replace(Some(pid));
        self.tell(DevEvent::Started { name: self.process.name.clone(), pid });
        let died = tokio::select! {
            ended = child.wait() => Some(ended),
            () = self.stop.cancelled() => None,
            () = tend_log(&self.log) => None,
        };
        let Some(ended) = died else {
            self.end(&mut child).await;
            self.pid.send_replace(None);
            self.tell(DevEvent::Stopped { name: self.process.name.clone() });
            return None;
        };
        self.pid.send_replace(None);
        let is_refused = matches!(&ended, Ok(status) if refuses_settings(&self.process.kind, *status));
        let pause = self.backoff.after_death(began.elapsed(), random());
        let restart_in = (!is_refused).then_some(pause);
        let how = ended.map_or_else(|error| error.to_string(), how_it_ended);
        let last_line = logs::last_line(&self.log, log_start);
        // The log can be unwritable, for example on a full disk; then the event reports that.
        let noted = logs::note(&self.log, &format!("robeing dev: process {pid} of {} ended: {how}", self.process.name));
        self.tell(DevEvent::Died {
            name: self.process.name.clone(),
            pid,
            how,
            last_line,
            log: self.log.clone(),
            log_problem: noted.err().map(|error| error.to_string()),
            restart_in,
        });
        restart_in
    }

    /// Starts the process in its own process group, so that Ctrl-C at the terminal only reaches `robeing dev`, which
    /// stops its processes in order.
    fn spawn(&self) -> io::Result<(Child, u64)> {
        let (log, start) = logs::open(&self.log)?;
        let output = |log: &File| log.try_clone().map(Stdio::from);
        let child = Command::new(&self.program)
            .args(&self.process.arguments)
            .envs(self.process.environment.iter().map(|variable| (&variable.name, &variable.value)))
            .envs(self.join_token()?.map(|token| (JOIN_TOKEN.variable(), token)))
            .stdin(Stdio::piped())
            .stdout(output(&log)?)
            .stderr(output(&log)?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok((child, start))
    }

    /// Makes the token with which the new process of an agent enrols.
    fn join_token(&self) -> io::Result<Option<String>> {
        let (Some(identity), ProcessKind::Agent { pool, role }) = (&self.identity, &self.process.kind) else {
            return Ok(None);
        };
        identity.join_token(role, pool, &self.process.name).map(Some).map_err(io::Error::other)
    }

    async fn end(&self, child: &mut Child) {
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw) {
            // The process may just have ended. A frozen process must be resumed to handle SIGTERM.
            let _ = kill(pid, Signal::SIGTERM);
            let _ = kill(pid, Signal::SIGCONT);
        }
        tokio::select! {
            _ = child.wait() => {}
            () = self.kill.cancelled() => {
                let _ = child.kill().await;
            }
        }
    }

    /// Sends an event. It is fine if nobody receives it.
    fn tell(&self, event: DevEvent) {
        let _ = self.events.send(event);
    }
}

/// Keeps a log within its limit; never returns.
async fn tend_log(log: &Path) {
    let mut ticks = interval(LOG_CHECK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        // If the log can't be checked now, the next tick tries again.
        let _ = logs::rotate(log, logs::LOG_LIMIT);
    }
}

/// Returns a random number from 0 to 1, for jitter.
fn random() -> f64 {
    RandomState::new().hash_one(0_u8) as f64 / u64::MAX as f64
}

/// Returns whether a process of this kind has ended because it refuses its settings, as it would again. What keeps an agent
/// from starting, such as a program that its executor lacks, may change.
fn refuses_settings(kind: &ProcessKind, status: ExitStatus) -> bool {
    *kind == ProcessKind::Coordinator && status.code() == Some(MISCONFIGURED)
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("killed by {signal}"),
            Err(_) => format!("killed by signal {number}"),
        },
        (None, None) => status.to_string(),
    }
}
