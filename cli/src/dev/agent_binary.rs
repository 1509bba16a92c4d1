//! Finds the agent program, and checks that it is one.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::AsyncReadExt,
    process::Command,
    time::{sleep, timeout},
};

use super::DevError;

/// The program's file name.
const AGENT: &str = "robeing-agent";
/// How long the program may take to print its version; on a busy machine it takes a while to load.
const VERSION_PATIENCE: Duration = Duration::from_secs(10);
/// Maximum number of bytes of its output that are read.
const VERSION_BYTES: u64 = 256;
/// Pause before retrying a program that is just being written, for example by a build.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// Returns the path of the agent program: the given one, else the one beside this program, else the one in `PATH`.
pub(super) fn find_agent_binary(named: Option<&Path>) -> Result<PathBuf, DevError> {
    if let Some(path) = named {
        return check(path)
            .map(|()| path.to_owned())
            .map_err(|problem| DevError::AgentProgram { path: path.to_owned(), problem });
    }
    // Resolve symbolic links such as kubectl-robeing to the program itself.
    let program = env::current_exe().and_then(fs::canonicalize).ok();
    let beside = program.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = env::var_os("PATH").unwrap_or_default();
    beside
        .iter()
        .cloned()
        .chain(env::split_paths(&path))
        .map(|directory| directory.join(AGENT))
        .find(|candidate| check(candidate).is_ok())
        .ok_or(DevError::NoAgentProgram { beside })
}

/// Checks that a program is an agent, because any other would exit and be restarted again and again.
pub(super) async fn ensure_is_agent(path: &Path) -> Result<(), DevError> {
    ensure_within(VERSION_PATIENCE, path).await.map_err(|problem| DevError::NoAgent { path: path.to_owned(), problem })
}

async fn ensure_within(patience: Duration, path: &Path) -> Result<(), String> {
    let said = match timeout(patience, say_version(path)).await {
        Ok(Ok(said)) => said,
        Ok(Err(error)) => return Err(format!("it can't be run: {error}")),
        Err(_) => return Err(format!("it printed nothing for --version within {}s", patience.as_secs_f64())),
    };
    if said.split_whitespace().next() == Some(AGENT) {
        return Ok(());
    }
    match said.lines().next().map(str::trim).filter(|line| !line.is_empty()) {
        Some(line) => Err(format!("for --version it printed {line:?}")),
        None => Err("it printed nothing for --version".into()),
    }
}

/// Returns the beginning of the program's output for `--version`. The program is killed once that has been read, or
/// when this future is dropped.
async fn say_version(path: &Path) -> io::Result<String> {
    let mut child = loop {
        let mut command = Command::new(path);
        command.arg("--version").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        match command.process_group(0).spawn() {
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => sleep(BUSY_PAUSE).await,
            spawned => break spawned?,
        }
    };
    let mut said = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(VERSION_BYTES).read_to_end(&mut said).await?;
    }
    // It may already have exited.
    let _ = child.kill().await;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Checks that a file can be executed; returns the problem otherwise.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let metadata = fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("it is not a file".into());
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err("it is not executable".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn problem(patience: Duration, script: &str) -> Option<String> {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("program");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is our file");
        ensure_within(patience, &path).await.err()
    }

    #[tokio::test]
    async fn an_agent_is_known_by_what_it_says_to_version() {
        let long = Duration::from_secs(60);
        assert_eq!(problem(long, "[ \"$1\" = --version ] && echo robeing-agent 9.9.9").await, None);
        assert_eq!(problem(long, "exit 0").await.as_deref(), Some("it printed nothing for --version"));
        assert_eq!(
            problem(long, "echo robeing-agents").await.as_deref(),
            Some("for --version it printed \"robeing-agents\"")
        );
        let endless = problem(long, "while :; do echo y; done").await;
        assert_eq!(endless.as_deref(), Some("for --version it printed \"y\""), "no more is read than is needed");
    }

    #[tokio::test]
    async fn a_program_that_says_nothing_is_not_waited_for_without_end() {
        let problem = problem(Duration::from_millis(50), "exec sleep 1000").await;
        assert_eq!(problem.as_deref(), Some("it printed nothing for --version within 0.05s"));
    }
}
