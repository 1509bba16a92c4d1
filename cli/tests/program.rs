//! The program as users run it, without a coordinator: exit codes, sentences, and `dev` over stand-ins for the agent
//! program.

use std::{
    fs,
    io::{BufRead, BufReader, PipeReader, Write},
    net::TcpListener,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

/// Time within which anything that is waited for must happen.
const PATIENCE: Duration = Duration::from_secs(30);

const MANIFEST: &str = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: example}
spec:
  coordinators: {replicas: 1}
  pools:
  - {name: data, replicas: 1, standby: 1, executor: {echo: {}}}
";

/// Runs until its standard input ends, or SIGTERM.
const PATIENT_AGENT: &str = "exec cat >/dev/null\n";
/// Says something and fails.
const FAILING_AGENT: &str = "echo out\necho 'boom: no such disk' >&2\nexit 3\n";
/// Does not end on SIGTERM.
const STUBBORN_AGENT: &str = "trap '' TERM\nexec cat >/dev/null\n";

/// A directory for one test, with a manifest, and commands that see no fleet but the test's own.
struct Bench {
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        bench.write("manifest.yaml", MANIFEST);
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("the directory can be written to");
        path
    }

    /// A stand-in for the agent program: it tells its version, and else does this.
    fn agent(&self, script: &str) -> PathBuf {
        let version = "[ \"$1\" = --version ] && echo robeing-agent 0.0.0 && exit";
        self.program("agent", &format!("{version}\n{script}"))
    }

    fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = self.write(name, &format!("#!/bin/sh\n{script}"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is our file");
        path
    }

    fn command(&self, line: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_robeing")), line)
    }

    fn command_of(&self, program: &Path, line: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(line).current_dir(self.dir.path()).stdin(Stdio::null()).env("XDG_RUNTIME_DIR", self.dir.path());
        // No kubeconfig, and no service account of a pod.
        command.env("HOME", self.dir.path());
        // Directories that are left by killed fleets are the test's own, too.
        command.env("TMPDIR", self.dir.path());
        for name in
            ["ROBEING_ENDPOINT", "ROBEING_AGENT_BIN", "ROBEING_SUBMITTER", "KUBECONFIG", "KUBERNETES_SERVICE_HOST"]
        {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, line: &[&str]) -> Ended {
        Ended::of(self.command(line).output().expect("the program can be started"))
    }
}

#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ended {
    fn of(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    fn assert(&self, code: i32, sentence: &str) {
        assert_eq!(self.code, Some(code), "the exit code of {self:?}");
        assert!(self.stderr.contains(sentence), "{sentence:?} is not in {self:?}");
    }
}

fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// A running `robeing dev`, whose lines can be waited for. Killed when it is dropped.
struct Dev {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Dev {
    fn start(bench: &Bench, agent: &Path, more: &[&str]) -> Self {
        let agent = agent.display().to_string();
        let line = [&["dev", "-f", "manifest.yaml", "--agent-bin", &agent], more].concat();
        let mut command = bench.command(&line);
        let (stdout, output) = std::io::pipe().expect("a pipe");
        Self::of(command.stdout(output), stdout)
    }

    /// The same, whose lines are also those of standard error.
    fn start_with_errors(bench: &Bench, agent: &Path) -> Self {
        let agent = agent.display().to_string();
        let mut command = bench.command(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent]);
        let (stdout, output) = std::io::pipe().expect("a pipe");
        let errors = output.try_clone().expect("a pipe can be shared");
        Self::of(command.stdout(output).stderr(errors), stdout)
    }

    fn of(command: &mut Command, stdout: PipeReader) -> Self {
        let child = command.spawn().expect("the program can be started");
        // This side's copy of the pipe's other end, which would keep it open.
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

    /// Waits for a line that contains all of this.
    fn line_with(&mut self, parts: &[&str]) -> String {
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

    /// Waits until a process was started and tells its id.
    fn pid_of(&mut self, name: &str) -> Pid {
        let line = self.line_with(&["started", name]);
        let digits: String = line.chars().skip_while(|c| *c != '(').filter(char::is_ascii_digit).collect();
        Pid::from_raw(digits.parse().unwrap_or_else(|error| panic!("no pid in {line:?}: {error}")))
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("pids are small"));
        kill(pid, signal).expect("it runs");
    }

    fn ended(&mut self) -> Option<i32> {
        self.child.wait().expect("it is our child").code()
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "{what} did not happen in {PATIENCE:?}");
        thread::yield_now();
    }
}

/// A zombie has ended; whoever adopted it may take a while to notice.
fn has_ended(pid: Pid) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.rsplit(") ").next().is_some_and(|after| after.starts_with('Z')),
        Err(_) => true,
    }
}

#[test]
fn exit_codes_and_sentences() {
    let bench = Bench::new();
    let endpoint = format!("127.0.0.1:{}", closed_port());
    bench.run(&["status", "--endpoint", &endpoint]).assert(
        5,
        &format!("error: no fleet answers at http://{endpoint} (connection refused); start one with `robeing dev -f MANIFEST`"),
    );
    bench.run(&["status", "--endpoint", "https://x"]).assert(2, "\"https://x\" is no endpoint");
    bench.run(&["agents", "--fleet", "none"]).assert(4, "named \"none\" runs; none does at all");
    bench.run(&["nonsense"]).assert(2, "unrecognized subcommand");
    bench.run(&["submit", "--kind", "k", "--input", "absent"]).assert(2, "can't read absent: No such file");
    bench.write("bad.jsonl", "\"good\"\nbad\n");
    bench.run(&["submit", "--kind", "k", "--inputs", "bad.jsonl"]).assert(2, "bad.jsonl line 2: not JSON, at column 1");
    bench.write("large", &"x".repeat(1024 * 1024 + 1));
    bench.run(&["submit", "--kind", "k", "--input", "large"]).assert(3, "large has more than 1048576 bytes (1 MiB)");
    let help = bench.run(&["--help"]);
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Exit codes:\n    0  everything asked for was done"), "{}", help.stdout);
}

/// Waits until a process catches SIGINT.
fn wait_for_handler(child: &Child) {
    let status = format!("/proc/{}/status", child.id());
    wait_until("a handler of SIGINT", || {
        let status = fs::read_to_string(&status).unwrap_or_default();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
        let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
        caught & (1 << (Signal::SIGINT as u32 - 1)) != 0
    });
}

/// What users can cause without a fleet, by exit code; those of a live fleet are tested with one.
#[test]
fn what_is_done_is_what_the_help_says_of_exit_codes() {
    let bench = Bench::new();
    let closed = format!("127.0.0.1:{}", closed_port());
    bench.write("large", &"x".repeat(1024 * 1024 + 1));
    bench.write("plain", "x");
    bench.write("data", "no directory");
    let agent = bench.agent(PATIENT_AGENT).display().to_string();
    let task = "0190a5c8-0000-7000-8000-000000000001";
    let cases: &[(i32, &str, &[&str])] = &[
        (0, "everything asked for was done", &["crd"]),
        (2, "the command line", &["nonsense"]),
        (2, "the command line", &["status", "--endpoint", "https://x"]),
        (2, "a manifest", &["dev", "-f", "absent"]),
        (2, "a manifest", &["dev", "-f", "plain", "--agent-bin", &agent]),
        (2, "an input file is wrong or can't be read", &["submit", "--kind", "k", "--input", "absent"]),
        (2, "an input file is wrong or can't be read", &["submit", "--kind", "k", "--inputs", "plain"]),
        (3, "an input is over a limit", &["submit", "--kind", "k", "--input", "large"]),
        (4, "malformed ids included", &["task", "not-an-id", "--endpoint", &closed]),
        (4, "malformed ids included", &["cancel", "not-an-id", "--endpoint", &closed]),
        (4, "no such fleet", &["status", "--fleet", "none"]),
        (5, "no coordinator answers", &["task", task, "--endpoint", &closed]),
        (7, "a data directory", &["dev", "-f", "manifest.yaml", "--agent-bin", &agent, "--data", "data"]),
        (7, "a process", &["dev", "-f", "manifest.yaml", "--agent-bin", "/bin/true"]),
        (7, "a kubeconfig", &["status", "--cluster", "c"]),
    ];
    let help = bench.run(&["--help"]).stdout;
    let codes = help.split("Exit codes:\n").nth(1).expect("the help lists them");
    let meaning = |code: i32| codes.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{code}  ")));
    for (code, words, line) in cases {
        let ended = bench.run(line);
        assert_eq!(ended.code, Some(*code), "{line:?}: {ended:?}");
        let meaning = meaning(*code).unwrap_or_else(|| panic!("the help does not tell of {code}"));
        assert!(meaning.contains(words), "{line:?}: {words:?} is not in {meaning:?}");
    }
    let mut waiting = bench
        .command(&["submit", "--kind", "k", "--input", "-", "--endpoint", &closed])
        .stdin(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    wait_for_handler(&waiting);
    kill(Pid::from_raw(i32::try_from(waiting.id()).expect("pids are small")), Signal::SIGINT).expect("it runs");
    // Its standard input is open until it has ended.
    let input = waiting.stdin.take();
    assert_eq!(waiting.wait().expect("it is our child").code(), Some(130));
    drop(input);
    assert!(meaning(130).is_some_and(|meaning| meaning.starts_with("ended by Ctrl-C")));
}

#[test]
fn what_has_no_end_is_read_to_its_limit() {
    let bench = Bench::new();
    for (line, sentence) in [
        (&["submit", "--kind", "k", "--input", "/dev/zero"][..], "/dev/zero has more than 1048576 bytes (1 MiB)"),
        (&["submit", "--kind", "k", "--inputs", "/dev/zero"], "/dev/zero line 1 has more than"),
        (&["submit", "--kind", "k", "--input", "-"], "standard input has more than 1048576 bytes (1 MiB)"),
        (&["submit", "--kind", "k", "--inputs", "-"], "standard input line 1 has more than"),
    ] {
        let zeros = fs::File::open("/dev/zero").expect("every Linux has it");
        let output = bench.command(line).stdin(zeros).output().expect("the program can be started");
        Ended::of(output).assert(3, sentence);
    }
    bench.run(&["dev", "-f", "/dev/zero"]).assert(2, "at most 1048576 are read");
}

#[test]
fn an_empty_variable_counts_as_unset() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let mut dev = Dev::start(&bench, &agent, &[]);
    let line = dev.line_with(&["endpoints:"]);
    let endpoint = line.rsplit(' ').next().expect("the line names it");
    let run = |line: &[&str], variable: &str| {
        Ended::of(bench.command(line).env(variable, "").output().expect("the program can be started"))
    };
    run(&["status"], "ROBEING_ENDPOINT").assert(5, &format!("no fleet answers at {endpoint} "));
    run(&["submit", "--kind", "k"], "ROBEING_SUBMITTER").assert(5, endpoint);
    run(&["dev", "-f", "absent"], "ROBEING_AGENT_BIN").assert(2, "can't read the manifest absent");
    bench.run(&["status", "--endpoint", ""]).assert(2, "is no endpoint");
}

#[test]
fn the_crd_is_printed_as_yaml_and_json() {
    let bench = Bench::new();
    let yaml = bench.run(&["crd"]).stdout;
    assert_eq!(yaml, robeing_crds::crd_yaml());
    let json: serde_json::Value = serde_json::from_str(&bench.run(&["crd", "-o", "json"]).stdout).expect("it is JSON");
    assert_eq!(json["spec"]["names"]["kind"], "RobeingCluster");
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let bench = Bench::new();
    for line in [&["crd"][..], &["crd", "-o", "json"], &["completions", "zsh"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ended = Ended::of(bench.command(line).stdout(writer).output().expect("the program can be started"));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{line:?}");
    }
}

#[test]
fn as_a_plugin_of_kubectl_it_calls_itself_so() {
    let bench = Bench::new();
    let plugin = bench.path("kubectl-robeing");
    symlink(env!("CARGO_BIN_EXE_robeing"), &plugin).expect("a link");
    let help = Ended::of(bench.command_of(&plugin, &["submit", "--help"]).output().expect("it can be started"));
    assert!(help.stdout.contains("Usage: kubectl robeing submit"), "{}", help.stdout);
    let wrong = Ended::of(bench.command_of(&plugin, &["task"]).output().expect("it can be started"));
    wrong.assert(2, "Usage: kubectl robeing task");
}

#[test]
fn dev_refuses_what_it_cannot_run() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT).display().to_string();
    bench.run(&["dev", "-f", "absent.yaml"]).assert(2, "can't read the manifest absent.yaml: No such file");
    bench.write("even.yaml", &MANIFEST.replace("replicas: 1}\n  pools", "replicas: 2}\n  pools"));
    bench.run(&["dev", "-f", "even.yaml"]).assert(2, "the manifest even.yaml can't be used:\n");
    bench.run(&["dev", "-f", "manifest.yaml", "--agent-bin", "./absent"]).assert(7, "./absent is no program");
    bench.run(&["dev", "-f", "manifest.yaml", "--agent-bin", "manifest.yaml"]).assert(7, "it is not executable");
    bench.run(&["dev", "-f", "manifest.yaml", "--name", "../x", "--agent-bin", &agent]).assert(2, "can't be the name");
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = busy.local_addr().expect("it is bound").port().to_string();
    bench
        .run(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent, "--port", &port])
        .assert(7, &format!("port {port} of 127.0.0.1 is busy; choose another --port"));
}

#[test]
fn dev_refuses_a_program_that_is_no_agent() {
    let bench = Bench::new();
    let silent = bench.program("silent", "exit 0\n").display().to_string();
    for (program, problem) in [
        ("/bin/true", "to --version it says \"true"),
        (silent.as_str(), "it says nothing to --version"),
        (env!("CARGO_BIN_EXE_robeing"), "to --version it says \"robeing 0"),
    ] {
        let ended = bench.run(&["dev", "-f", "manifest.yaml", "--agent-bin", program]);
        ended.assert(7, &format!("{program} is not robeing-agent ({problem}"));
    }
}

#[test]
fn dev_refuses_executors_that_can_not_run_here() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT).display().to_string();
    let refusal = |executor: &str| {
        bench.write("refused.yaml", &MANIFEST.replace("echo: {}", executor));
        bench.run(&["dev", "-f", "refused.yaml", "--agent-bin", &agent])
    };
    refusal("worker: {}").assert(
        2,
        "spec.pools[0].executor.worker (line 8, column 54): The executor worker is declared and not there yet; use \
         command, http or echo.",
    );
    let absent = refusal("command: {argv: [no-such-program]}");
    absent.assert(2, "spec.pools[0].executor.command.argv[0] (line 8, column ");
    absent.assert(2, "The program no-such-program is not in PATH");
    refusal("command: {argv: [/bin/absent, x]}").assert(2, "The program /bin/absent can't be run (No such file");
    refusal("command: {argv: [/etc/passwd]}").assert(2, "The program /etc/passwd can't be run (it is not executable)");
}

#[test]
fn dev_leaves_directories_of_others_alone() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT).display().to_string();
    fs::create_dir(bench.path("mine")).expect("the directory can be written to");
    bench.write("mine/notes.txt", "dear diary");
    bench
        .run(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent, "--data", "mine"])
        .assert(7, "mine is not empty and was not made by `robeing dev --data` (it has notes.txt)");
    assert_eq!(fs::read_dir(bench.path("mine")).expect("listed").count(), 1, "nothing was added");
}

#[test]
fn dev_removes_what_a_killed_one_left_and_nothing_that_is_in_use() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let data = |dev: &mut Dev| -> PathBuf {
        let line = dev.line_with(&["data:", "removed at the end"]);
        line.split_whitespace().nth(1).expect("the line names it").into()
    };
    let mut killed = Dev::start(&bench, &agent, &[]);
    let left = data(&mut killed);
    let pids = ["coordinator-0", "data-0", "data-1"].map(|name| killed.pid_of(name));
    let mut running = Dev::start(&bench, &agent, &["--name", "running"]);
    let used = data(&mut running);
    killed.signal(Signal::SIGKILL);
    killed.ended();
    for pid in pids {
        wait_until("the end of an orphan", || has_ended(pid));
    }
    assert!(left.is_dir(), "nobody could remove it yet");
    let mut next = Dev::start(&bench, &agent, &["--name", "next"]);
    data(&mut next);
    assert!(!left.exists(), "{} is removed", left.display());
    assert!(used.join("logs").is_dir(), "{} is in use", used.display());
}

#[test]
fn fleets_of_one_name_are_told_apart_by_their_endpoints() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let endpoint = |dev: &mut Dev| -> String {
        dev.line_with(&["endpoints:"]).rsplit(' ').next().expect("the line names it").into()
    };
    let mut first = Dev::start(&bench, &agent, &[]);
    let older = endpoint(&mut first);
    let mut second = Dev::start(&bench, &agent, &[]);
    let newer = endpoint(&mut second);
    let named = bench.run(&["agents", "--fleet", "example"]);
    named.assert(2, "2 fleets of `robeing dev` named \"example\" run; choose one by --endpoint:");
    named.assert(2, &format!("--endpoint {older} "));
    named.assert(2, &format!("--endpoint {newer} "));
    let unnamed = bench.run(&["agents"]);
    unnamed.assert(5, &format!("note: this is about example at {newer}, the newest of the fleets"));
    unnamed.assert(5, &format!("example at {older}"));
}

#[test]
fn dev_takes_the_one_cluster_of_a_manifest() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let others = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n---\napiVersion: v1\nkind: ConfigMap\n---";
    bench.write("manifest.yaml", &format!("{others}{MANIFEST}"));
    let mut dev = Dev::start_with_errors(&bench, &agent);
    dev.line_with(&["only the RobeingCluster is used; ignored: document 1 (Namespace team), document 2 (ConfigMap)"]);
    dev.line_with(&["fleet example:"]);
    drop(dev);
    bench.write("two.yaml", &format!("{MANIFEST}---{}", MANIFEST.replace("name: example", "name: second")));
    bench
        .run(&["dev", "-f", "two.yaml", "--agent-bin", &agent.display().to_string()])
        .assert(2, "holds 2 RobeingClusters (example, second), but only one can be used here");
}

#[test]
fn dev_without_an_agent_program_says_how_to_get_one() {
    let bench = Bench::new();
    // A copy, so that no agent program is beside it.
    let alone = bench.path("robeing");
    fs::copy(env!("CARGO_BIN_EXE_robeing"), &alone).expect("copied");
    let mut command = bench.command_of(&alone, &["dev", "-f", "manifest.yaml"]);
    let ended = Ended::of(command.env("PATH", "/nowhere").output().expect("it can be started"));
    ended.assert(7, "robeing-agent is neither beside this program in");
}

#[test]
fn dev_restarts_what_dies_and_stops_all_on_sigterm() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let mut dev = Dev::start(&bench, &agent, &["--data", "data"]);
    dev.line_with(&["fleet example: 1 coordinator, 1 agent and 1 standby"]);
    let coordinator = dev.pid_of("coordinator-0");
    let working = dev.pid_of("data-0");
    let standby = dev.pid_of("data-1");
    kill(working, Signal::SIGKILL).expect("it runs");
    dev.line_with(&["died", "data-0", "killed by SIGKILL", "again in", "logs/data-0.log"]);
    let again = dev.pid_of("data-0");
    assert_ne!(again, working);
    bench
        .run(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent.display().to_string(), "--data", "data"])
        .assert(7, &format!("in use by another `robeing dev` (process {})", dev.child.id()));
    // A frozen process ends with the others.
    kill(standby, Signal::SIGSTOP).expect("it runs");
    dev.signal(Signal::SIGTERM);
    dev.line_with(&["stopped", "coordinator-0"]);
    assert_eq!(dev.ended(), Some(0));
    for pid in [coordinator, again, standby] {
        assert!(has_ended(pid), "process {pid} outlived its fleet");
    }
}

#[test]
fn a_killed_dev_takes_its_processes_with_it() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let mut dev = Dev::start(&bench, &agent, &[]);
    let pids = ["coordinator-0", "data-0", "data-1"].map(|name| dev.pid_of(name));
    dev.signal(Signal::SIGKILL);
    dev.ended();
    for pid in pids {
        wait_until("the end of an orphan", || has_ended(pid));
    }
}

#[test]
fn a_process_that_ignores_sigterm_is_killed_by_a_second_signal() {
    let bench = Bench::new();
    let agent = bench.agent(STUBBORN_AGENT);
    let mut dev = Dev::start(&bench, &agent, &[]);
    let pids = ["coordinator-0", "data-0", "data-1"].map(|name| dev.pid_of(name));
    dev.signal(Signal::SIGINT);
    dev.line_with(&["stopping", "for up to 4s", "after 5s", "Ctrl-C again ends everything at once"]);
    dev.signal(Signal::SIGINT);
    dev.line_with(&["ending everything at once"]);
    assert_eq!(dev.ended(), Some(130));
    assert!(pids.into_iter().all(has_ended), "a process outlived its fleet");
}

#[test]
fn a_process_that_fails_is_told_with_its_last_words() {
    let bench = Bench::new();
    let agent = bench.agent(FAILING_AGENT);
    let mut dev = Dev::start(&bench, &agent, &["--data", "data"]);
    let line = dev.line_with(&["died", "data-1", "exit code 3", "boom: no such disk"]);
    let log = line.rsplit("log ").next().expect("the line names the log");
    assert_eq!(fs::read_to_string(log).expect("the log is there"), "out\nboom: no such disk\n");
}

#[test]
fn a_fleet_comes_back_on_its_ports_and_refuses_another_in_its_place() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let endpoints = |dev: &mut Dev| dev.line_with(&["endpoints:"]);
    let mut dev = Dev::start(&bench, &agent, &["--data", "data"]);
    let before = endpoints(&mut dev);
    dev.line_with(&["started", "data-1"]);
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.ended(), Some(0));
    let mut dev = Dev::start(&bench, &agent, &["--data", "data"]);
    assert_eq!(endpoints(&mut dev), before);
    drop(dev);
    let agent = agent.display().to_string();
    bench
        .run(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent, "--data", "data", "--name", "other"])
        .assert(7, "holds the fleet \"example\", but \"other\" is asked for");
}

#[test]
fn the_plugin_of_kubectl_looks_on_kubernetes() {
    let bench = Bench::new();
    let plugin = bench.path("kubectl-robeing");
    symlink(env!("CARGO_BIN_EXE_robeing"), &plugin).expect("the directory can be written to");
    let run = |line: &[&str]| Ended::of(bench.command_of(&plugin, line).output().expect("the program can be started"));
    run(&["status"]).assert(7, &format!("no kubeconfig at {}/.kube/config; name one with", bench.dir.path().display()));
    run(&["status", "--endpoint", "127.0.0.1:1"]).assert(5, "no fleet answers at http://127.0.0.1:1 ");
    bench.run(&["status", "--cluster", "c"]).assert(7, "no kubeconfig at ");
    bench.run(&["status", "--cluster", "c", "--fleet", "f"]).assert(2, "cannot be used with");
}

#[test]
fn a_kubeconfig_is_looked_for_in_all_files_that_are_named() {
    let bench = Bench::new();
    let kubeconfig = "
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: c, cluster: {server: 'http://127.0.0.1:1'}}]
contexts: [{name: here, context: {cluster: c, user: u}}]
";
    let file = bench.write("kubeconfig", kubeconfig);
    let missing = bench.path("missing");
    let run = |files: &[&Path]| {
        let files = std::env::join_paths(files).expect("no name has a colon");
        let mut command = bench.command(&["status", "-n", "default"]);
        Ended::of(command.env("KUBECONFIG", files).output().expect("the program can be started"))
    };
    run(&[&missing, &file]).assert(5, "the API server of Kubernetes at http://127.0.0.1:1 does not answer");
    run(&[&missing, &missing]).assert(7, &format!("no kubeconfig at {}", missing.display()));
}

#[test]
fn other_commands_find_the_running_fleet() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let mut dev = Dev::start(&bench, &agent, &[]);
    let line = dev.line_with(&["endpoints:"]);
    let endpoint = line.rsplit(' ').next().expect("the line names it").to_owned();
    // The stand-in does not listen, so the sentence says where the fleet was looked for.
    bench.run(&["status"]).assert(5, &format!("no fleet answers at {endpoint} "));
    bench.run(&["status", "--fleet", "example"]).assert(5, &endpoint);
    bench.run(&["status", "--fleet", "other"]).assert(4, "these do: example");
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.ended(), Some(0));
    bench.run(&["status", "--fleet", "example"]).assert(4, "none does at all");
}

#[test]
fn a_suspended_fleet_has_no_agents() {
    let bench = Bench::new();
    bench.write("manifest.yaml", &format!("{MANIFEST}  suspend: true\n"));
    let agent = bench.agent(PATIENT_AGENT);
    let mut dev = Dev::start(&bench, &agent, &[]);
    dev.line_with(&["1 coordinator, no agents (the manifest says suspend: true)"]);
    dev.line_with(&["started", "coordinator-0"]);
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.ended(), Some(0));
    while let Ok(line) = dev.lines.recv_timeout(PATIENCE) {
        assert!(!line.contains("started data"), "{line}");
    }
}

#[test]
fn a_manifest_may_come_from_standard_input() {
    let bench = Bench::new();
    let mut child = bench
        .command(&["dev", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program can be started");
    child.stdin.take().expect("it is piped").write_all(b"kind: Pod\n").expect("it reads");
    Ended::of(child.wait_with_output().expect("it ends")).assert(2, "the manifest on standard input can't be used:");
}
