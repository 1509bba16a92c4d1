//! The holder: the background process that `devkube up` starts. It holds the cluster, with the proxy on 127.0.0.1,
//! after `up` has returned. `up` reads the holder's stderr: progress, and a last line once the cluster is up.

use std::{
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    process::{ExitCode, Stdio},
};

use devkube::{Cluster, Error, Options, Result};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    signal::unix::{Signal, SignalKind, signal},
};

use crate::Up;

/// The beginning of the line that reports that the cluster is up; the run folder follows.
const IS_UP: &str = "devkube: up: ";

/// The signals that ask this process to terminate.
pub(crate) struct Ends([Signal; 3]);

impl Ends {
    /// Installs signal handlers, so that these signals no longer terminate the process.
    ///
    /// # Errors
    /// [`Error::Start`] if the handlers can't be installed.
    pub(crate) fn new() -> Result<Self> {
        let failed = |source| Error::Start { command: "the wait for signals".into(), source };
        let [interrupt, terminate, hangup] =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        Ok(Self([interrupt.map_err(failed)?, terminate.map_err(failed)?, hangup.map_err(failed)?]))
    }

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Starts a holder, and returns when its cluster is up or the holder has exited. Prints the holder's progress and
/// errors.
pub(crate) async fn start(up: &Up) -> Result<ExitCode> {
    let failed = |source| Error::Start { command: "devkube supervise".into(), source };
    let mut command = Command::new("setsid");
    command.arg(std::env::current_exe().map_err(failed)?).arg("supervise");
    command.args(["--nodes", &up.nodes.to_string(), "--volumes", &up.volumes.to_string()]);
    if let Some(run) = &up.run {
        command.arg("--run").arg(run);
    }
    if up.keep_failed {
        command.arg("--keep-failed");
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    let mut ends = Ends::new()?;
    let stderr = child.stderr.take();
    let mut lines = stderr.map(|stderr| BufReader::new(stderr).lines());
    loop {
        let line = async {
            match &mut lines {
                Some(lines) => lines.next_line().await.ok().flatten(),
                None => None,
            }
        };
        let line = tokio::select! {
            line = line => line,
            () = ends.next() => {
                end(&mut child);
                continue;
            }
        };
        let Some(line) = line else { break };
        eprintln!("{line}");
        if let Some(run) = line.strip_prefix(IS_UP) {
            println!("{run}");
            return Ok(ExitCode::SUCCESS);
        }
    }
    let status = child.wait().await.map_err(failed)?;
    if let Some(signal) = status.signal() {
        eprintln!("devkube: the process that holds the cluster was killed by signal {signal}: run `devkube down`");
    }
    Ok(ExitCode::FAILURE)
}

/// Asks the holder to remove what it has created so far.
fn end(child: &mut Child) {
    use nix::{sys::signal, unistd::Pid};
    if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
        // An error means that it has already ended.
        let _ = signal::kill(Pid::from_raw(pid), signal::Signal::SIGTERM);
    }
}

/// Creates a cluster and holds it until a signal, then removes it. `down` kills this process instead.
pub(crate) async fn hold(options: Options) -> Result<()> {
    let mut ends = Ends::new()?;
    let cluster = tokio::select! {
        cluster = Cluster::up(options, &tell) => cluster?,
        // Dropping an unfinished cluster removes it.
        () = ends.next() => {
            tell("interrupted: the unfinished cluster was removed");
            return Ok(());
        }
    };
    tell(&format!("kubectl and helm: eval \"$(devkube env --run {})\"", cluster.run().display()));
    tell(&format!("up: {}", cluster.run().display()));
    ends.next().await;
    cluster.down().await
}

/// Writes a line to stderr, which nobody may be reading any more.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "devkube: {text}");
}
