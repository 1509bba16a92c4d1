//! The command line as users run it: commands that end, and `robeing dev`.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    processes::send,
    program::{CLI, program},
    wait::{PATIENCE, eventually, in_time_within},
};

/// The result of a command.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Ended {
    /// Returns the output of a command that succeeded.
    ///
    /// # Panics
    /// If it did not succeed.
    pub fn success(&self) -> &str {
        assert_eq!(self.code, Some(0), "{self:?}");
        &self.stdout
    }

    /// Returns the output as JSON.
    ///
    /// # Panics
    /// If it did not succeed, or its output is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(self.success()).unwrap_or_else(|error| panic!("not JSON: {error}: {self:?}"))
    }

    /// Checks that it failed with this exit code, and that its standard error contains `words`.
    ///
    /// # Panics
    /// If that is not so.
    pub fn assert_failed(&self, code: i32, words: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.stderr.contains(words), "{words:?} is not in {self:?}");
    }
}

/// A user's environment: a directory, and no fleets except those that were started from it.
#[derive(Debug)]
pub struct Terminal {
    dir: TempDir,
}

impl Default for Terminal {
    fn default() -> Self {
        Self { dir: tempfile::Builder::new().prefix("robeing-test-").tempdir().expect("a temporary directory") }
    }
}

impl Terminal {
    /// Returns the directory in which commands run.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file in the directory.
    ///
    /// # Panics
    /// If the directory can't be written to.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).expect("the test's directory can be written to");
        path
    }

    fn command(&self, line: &[&str]) -> Command {
        self.command_of(&program(CLI), line)
    }

    fn command_of(&self, program: &Path, line: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(line).current_dir(self.dir.path()).stdin(Stdio::null()).env("XDG_RUNTIME_DIR", self.dir.path());
        // Files that a killed `robeing dev` leaves there are removed with the test's directory.
        command.env("TMPDIR", self.dir.path());
        for name in ["ROBEING_ENDPOINT", "ROBEING_AGENT_BIN", "ROBEING_SUBMITTER", "ROBEING_OBJECT_STORE"] {
            command.env_remove(name);
        }
        command
    }

    /// Runs a command until it ends.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn run(&self, line: &[&str]) -> Ended {
        Self::end_of(self.command(line), &format!("robeing {}", line.join(" ")), PATIENCE).await
    }

    /// Runs the commands of a shell script until one fails. `robeing` is the command line.
    ///
    /// # Panics
    /// If they do not end in time.
    pub async fn shell(&self, script: &str) -> Ended {
        self.shell_within(PATIENCE, script).await
    }

    /// Like [`Terminal::shell`], for commands that take longer.
    ///
    /// # Panics
    /// If they do not end within this time.
    pub async fn shell_within(&self, patience: Duration, script: &str) -> Ended {
        let mut command = self.command_of(Path::new("/bin/sh"), &["-ec", script]);
        let own = program(CLI).parent().map(Path::to_owned).unwrap_or_default();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([own].into_iter().chain(env::split_paths(&path)));
        command.env("PATH", path.expect("no directory of programs has a colon in its name"));
        Self::end_of(command, script, patience).await
    }

    async fn end_of(command: Command, what: &str, patience: Duration) -> Ended {
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let output = in_time_within(patience, what, command.output()).await;
        let output = output.expect("the program can be started");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ended { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Starts `robeing dev` with these additional arguments.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn dev(&self, line: &[&str]) -> Dev {
        let mut command = self.command(&[&["dev"], line].concat());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program can be started");
        let stdout = child.stdout.take().expect("it is piped");
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let read = Arc::clone(&lines);
        // The thread ends with the process.
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                read.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        Dev { child, lines }
    }
}

/// A running `robeing dev`. Dropping it kills it, and with it its whole fleet.
#[derive(Debug)]
pub struct Dev {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dev {
    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the lines that it has written so far.
    pub fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a line that contains all of these parts, and returns it.
    pub async fn line_with(&self, parts: &[&str]) -> String {
        eventually(&format!("a line with {parts:?}"), async || {
            let lines = self.lines().clone();
            let found = lines.iter().find(|line| parts.iter().all(|part| line.contains(part)));
            found.cloned().ok_or(lines)
        })
        .await
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the end of robeing dev", async || {
            self.child.try_wait().expect("it is our child").ok_or_else(|| self.lines().clone())
        })
        .await
    }
}
