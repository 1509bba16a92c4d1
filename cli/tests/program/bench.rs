//! A directory for one test, and runs of the program in it.

use std::{
    fs,
    io::{BufRead, BufReader, PipeReader},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{self, Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// Timeout of all waits.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Interval at which Ctrl-C is repeated.
const AGAIN: Duration = Duration::from_secs(2);

pub const MANIFEST: &str = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: example}
spec:
  coordinators: {replicas: 1}
  pools:
  - {name: data, replicas: 1, standby: 1, executor: {echo: {}}}
";

/// Runs until its standard input is closed, or SIGTERM.
pub const PATIENT_AGENT: &str = "exec cat >/dev/null\n";
/// Prints something and fails.
pub const FAILING_AGENT: &str = "echo out\necho 'boom: no such disk' >&2\nexit 3\n";
/// Does not end on SIGTERM.
pub const STUBBORN_AGENT: &str = "trap '' TERM\nexec cat >/dev/null\n";

/// A directory for one test, with a manifest. Commands that run in it see only the test's own fleet.
pub struct Bench {
    pub dir: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        bench.write("manifest.yaml", MANIFEST);
        bench
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("the directory can be written to");
        path
    }

    /// Creates a fake agent program: it prints its version for `--version`, and otherwise runs the script.
    pub fn agent(&self, script: &str) -> PathBuf {
        let version = "[ \"$1\" = --version ] && echo robeing-agent 0.0.0 && exit";
        self.program("agent", &format!("{version}\n{script}"))
    }

    pub fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.write(name, &format!("#!/bin/sh\n{script}"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is our file");
        path
    }

    pub fn command(&self, line: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_robeing")), line)
    }

    pub fn command_of(&self, program: &Path, line: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(line).current_dir(self.dir.path()).stdin(Stdio::null()).env("XDG_RUNTIME_DIR", self.dir.path());
        // No kubeconfig, and no service account of a pod.
        command.env("HOME", self.dir.path());
        // This also keeps directories that killed fleets leave behind within the test.
        command.env("TMPDIR", self.dir.path());
        for name in [
            "ROBEING_ENDPOINT",
            "ROBEING_AGENT_BIN",
            "ROBEING_SUBMITTER",
            "ROBEING_TRUST",
            "ROBEING_CERTIFICATE",
            "ROBEING_PRIVATE_KEY",
            "ROBEING_TOKEN_FILE",
            "ROBEING_CA",
            "KUBECONFIG",
            "KUBERNETES_SERVICE_HOST",
        ] {
            command.env_remove(name);
        }
        command
    }

    pub fn run(&self, line: &[&str]) -> Ended {
        Ended::of(self.command(line).output().expect("the program can be started"))
    }
}

#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    pub fn assert(&self, code: i32, sentence: &str) {
        assert_eq!(self.code, Some(code), "the exit code of {self:?}");
        assert!(self.stderr.contains(sentence), "{sentence:?} is not in {self:?}");
    }
}

pub fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// A running `robeing dev`, whose output lines can be waited for. Killed on drop.
pub struct Dev {
    pub child: Child,
    pub lines: Receiver<String>,
    pub seen: Vec<String>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dev {
    pub fn start(bench: &Bench, agent: &Path, more: &[&str]) -> Self {
        let agent = agent.display().to_string();
        let line = [&["dev", "-f", "manifest.yaml", "--agent-bin", &agent], more].concat();
        let mut command = bench.command(&line);
        let (stdout, output) = std::io::pipe().expect("a pipe");
        Self::of(command.stdout(output), stdout)
    }

    /// As [`Dev::start`], but with the lines of standard error included.
    pub fn start_with_errors(bench: &Bench, agent: &Path) -> Self {
        let agent = agent.display().to_string();
        let mut command = bench.command(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent]);
        let (stdout, output) = std::io::pipe().expect("a pipe");
        let errors = output.try_clone().expect("a pipe can be shared");
        Self::of(command.stdout(output).stderr(errors), stdout)
    }

    pub fn of(command: &mut Command, stdout: PipeReader) -> Self {
        let child = command.spawn().expect("the program can be started");
        // Drop this side's copy of the pipe's write end, which would keep the pipe open.
        command.stdout(Stdio::null()).stderr(Stdio::inherit());
        let (told, lines) = sync_channel(1_000);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if told.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, seen: Vec::new() }
    }

    /// Waits for a line that contains all of these parts.
    pub fn line_with(&mut self, parts: &[&str]) -> String {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no line with {parts:?} came; these did: {:#?}", self.seen);
            };
            self.seen.push(line.clone());
            if parts.iter().all(|part| line.contains(part)) {
                return line;
            }
        }
    }

    /// Waits until a process has been started, and returns its process id.
    pub fn pid_of(&mut self, name: &str) -> Pid {
        let line = self.line_with(&["started", name]);
        let digits: String = line.chars().skip_while(|c| *c != '(').filter(char::is_ascii_digit).collect();
        Pid::from_raw(digits.parse().unwrap_or_else(|error| panic!("no pid in {line:?}: {error}")))
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("pids are small"));
        kill(pid, signal).expect("it runs");
    }

    pub fn ended(&mut self) -> Option<i32> {
        self.child.wait().expect("it is our child").code()
    }
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what} did not happen in {PATIENCE:?}");
        thread::yield_now();
    }
}

/// Returns whether a process has ended. A zombie has, even if its parent has not reaped it yet.
pub fn has_ended(pid: Pid) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|after| after.starts_with('Z')),
        Err(_) => true,
    }
}

/// Waits until a process has a handler for SIGINT.
pub fn wait_for_handler(child: &Child) {
    let status = format!("/proc/{}/status", child.id());
    wait_until("a handler of SIGINT", || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
        caught & (1 << (Signal::SIGINT as u32 - 1)) != 0
    });
}

/// Sends SIGINT repeatedly until `wait` returns, because a process that is just installing its handler can miss the
/// first one.
pub fn press_ctrl_c<T>(child: u32, wait: impl FnOnce() -> T) -> T {
    let pid = Pid::from_raw(i32::try_from(child).expect("pids are small"));
    let (ended, is_over) = mpsc::channel::<()>();
    thread::scope(|scope| {
        scope.spawn(move || {
            loop {
                kill(pid, Signal::SIGINT).expect("it is our child");
                if is_over.recv_timeout(AGAIN) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        let told = wait();
        drop(ended);
        told
    })
}
