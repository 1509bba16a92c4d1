//! The agent binary as users and operators see it: settings, exit codes, probes and shutdown.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

const DEADLINE: Duration = Duration::from_secs(30);

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_robeing-agent"));
    command.args(args).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn refused(args: &[&str]) -> (Option<i32>, String) {
    let output = program(args).output().expect("it starts");
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

/// A process that is killed when the test ends, and the lines of its log.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.spawn().expect("it starts");
        let log = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::channel();
        // Ends with the process's stderr.
        thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines }
    }

    /// The next line that contains `what`.
    fn line(&self, what: &str) -> String {
        let until = Instant::now() + DEADLINE;
        let mut seen = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            if line.contains(what) {
                return line;
            }
            seen.push(line);
        }
        panic!("expected a line with {what:?}, got {seen:#?}");
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).expect("it lives");
    }

    fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        loop {
            match self.child.try_wait().expect("it is a child") {
                Some(status) => return status,
                None if Instant::now() > until => panic!("it did not end"),
                None => thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Flags of an agent that can't reach a coordinator.
fn lonely(more: &[&str]) -> Command {
    let mut command = program(&["--role=worker", "--name=w-0", "--cluster-id=f", "--listen=127.0.0.1:0"]);
    command.args(["--coordinators=127.0.0.1:9", r#"--executor={"echo":{}}"#]).args(more);
    command
}

#[test]
fn wrong_settings_are_one_sentence_and_exit_code_2() {
    for (args, expected) in [
        (&[][..], "robeing-agent: the role of this process is missing: give --role or set ROLE\n"),
        (
            &["--role", "boss"],
            "robeing-agent: --role is \"boss\": give coordinator, worker, specialist, messenger or guardian\n",
        ),
    ] {
        assert_eq!(refused(args), (Some(2), expected.to_owned()));
    }
    let (code, said) = refused(&["--colour=red"]);
    assert!(code == Some(2) && said.contains("--colour"), "{code:?} {said}");
    let executor = r#"--executor={"command":{"argv":[]}}"#;
    let args = ["--role=worker", "--name=w", "--cluster-id=f", "--listen=127.0.0.1:0", "--coordinators=a:1", executor];
    let (code, said) = refused(&args);
    assert!(code == Some(2) && said.contains("no program to run"), "{code:?} {said}");
    for (program, expected) in [
        ("no-such-program-anywhere", "does not exist on this agent"),
        ("/no/such/program", "does not exist on this agent"),
        ("/", "does not exist on this agent"),
        ("/etc/passwd", "may not be executed by this agent"),
    ] {
        let executor = format!(r#"--executor={{"command":{{"argv":["{program}"]}}}}"#);
        let args =
            ["--role=worker", "--name=w", "--cluster-id=f", "--listen=127.0.0.1:0", "--coordinators=a:1", &executor];
        let (code, said) = refused(&args);
        assert!(code == Some(2) && said.contains(&format!("{program:?} {expected}")), "{code:?} {said}");
    }
    let output = lonely(&[]).env("RUST_LOG", "=loud=").output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("RUST_LOG is not a filter"), "{said}");
}

#[test]
fn a_file_of_rights_that_can_not_be_used_is_a_wrong_setting() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let rights = dir.path().join("rights.yaml");
    let start = |data: &str| {
        let args = ["--role=coordinator", "--name=c-0", "--cluster-id=f", "--listen=127.0.0.1:0", "--advertise=c:1"];
        let files = [format!("--data={}", dir.path().join(data).display()), format!("--rights={}", rights.display())];
        let output = program(&args).args(files).output().expect("it starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = start("one");
    assert!(code == Some(2) && said.contains("the file with the rights of clients can't be read"), "{code:?} {said}");
    std::fs::write(&rights, "clients: [{name: ann, rights: [everything]}]").expect("it can be written");
    let (code, said) = start("two");
    assert!(code == Some(2) && said.contains(r#"the right "everything""#), "{code:?} {said}");
}

#[test]
fn help_and_version_are_no_failure() {
    for (flag, expected) in [
        ("--help", "--initial-coordinators"),
        ("--help", "\n  install  Copies this program"),
        ("--help", "\n  health   Queries a process's probe"),
        ("--version", env!("CARGO_PKG_VERSION")),
    ] {
        let output = program(&[flag]).output().expect("it starts");
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains(expected));
    }
}

#[test]
fn a_busy_port_is_told_with_what_to_change() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it is bound").to_string();
    for flag in ["--metrics-listen", "--listen"] {
        let mut command = program(&["--role=worker", "--name=w-0", "--cluster-id=f", "--coordinators=127.0.0.1:9"]);
        command.args([r#"--executor={"echo":{}}"#, &format!("{flag}={address}")]);
        if flag != "--listen" {
            command.arg("--listen=127.0.0.1:0");
        }
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("cannot listen on {address}")) && said.contains(&format!("change {flag}")),
            "{said}"
        );
    }
}

#[test]
fn an_agent_serves_probes_and_ends_in_order_when_asked() {
    let mut agent = Running::start(lonely(&["--metrics-listen=127.0.0.1:0", "--log-format=json"]));
    let line = agent.line("metrics and probes are served");
    let (_, rest) = line.split_once(r#""local":""#).expect("the address is a field of the JSON line");
    let address = rest.split('"').next().expect("it ends");
    let get = |path: &str| {
        let mut stream = TcpStream::connect(address).expect("it listens");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("it answers");
        text
    };
    assert!(get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(get("/readyz").starts_with("HTTP/1.1 503"), "it has no session");
    agent.line("no certificate for this process yet");
    assert!(get("/metrics").contains("robeing_agent_slots 1\n"));
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.ended().code(), Some(0));
}

#[test]
fn an_agent_tied_to_its_parent_ends_when_stdin_does() {
    let mut command = lonely(&["--exit-with-parent"]);
    command.stdin(Stdio::piped());
    let mut agent = Running::start(command);
    agent.line("listening");
    drop(agent.child.stdin.take());
    assert_eq!(agent.ended().code(), Some(0));
}

#[test]
fn what_its_parent_ignored_and_blocked_of_signals_does_not_matter() {
    let agent = lonely(&[]);
    let mut perl = Command::new("perl");
    let script = "$SIG{CHLD} = 'IGNORE'; sigprocmask(SIG_BLOCK, POSIX::SigSet->new(SIGTERM, SIGHUP)); exec @ARGV";
    perl.args(["-MPOSIX", "-e", script]).arg(agent.get_program()).args(agent.get_args());
    perl.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut agent = Running::start(perl);
    agent.line("listening");
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.child.id())).expect("it lives");
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says it");
        u64::from_str_radix(line.trim(), 16).expect("a mask")
    };
    assert_eq!(mask("SigIgn:") & 1 << (Signal::SIGCHLD as u64 - 1), 0, "the ends of commands would not be learned");
    assert_eq!(mask("SigBlk:"), 0, "commands would inherit it");
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.ended().code(), Some(0));
}

#[test]
fn a_frozen_agent_tied_to_its_parent_dies_with_it() {
    let agent = env!("CARGO_BIN_EXE_robeing-agent");
    let flags =
        "--role=worker --name=w --cluster-id=f --listen=127.0.0.1:0 --coordinators=127.0.0.1:9 --exit-with-parent";
    let script = format!(r#"{agent} {flags} --executor='{{"echo":{{}}}}' <&3 & echo "agent $!" >&2; wait"#);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec 3<&0; {script}")]);
    shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut parent = Running::start(shell);
    let line = parent.line("agent ");
    let pid: i32 = line.trim_start_matches("agent ").trim().parse().expect("its pid");
    parent.line("listening");
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it lives");
    parent.signal(Signal::SIGKILL);
    parent.ended();
    let until = Instant::now() + DEADLINE;
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < until, "the agent is still there");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn it_installs_a_copy_of_itself_that_runs_in_place_of_what_was_there() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("robeing-agent");
    let text = path.to_str().expect("the path is text");
    for before in [None, Some("what was there")] {
        if let Some(content) = before {
            std::fs::write(&path, content).expect("it can be written");
        }
        let output = program(&["install", text]).output().expect("it starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let meta = std::fs::metadata(&path).expect("it is there");
        assert_eq!(meta.permissions().mode() & 0o7777, 0o755);
        let version = Command::new(&path).arg("--version").output().expect("the copy starts");
        assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
    }
    // It can also be replaced while it runs.
    let output = Command::new(&path).args(["install", text]).output().expect("the copy starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("it is there").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["robeing-agent"], "nothing is left aside");
}

#[test]
fn what_can_not_be_installed_is_told_and_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let missing = dir.path().join("no/such/robeing-agent");
    let (code, said) = refused(&["install", missing.to_str().expect("text")]);
    assert!(code == Some(1) && said.contains("can't be created: No such file or directory"), "{code:?} {said}");
    let (code, said) = refused(&["install", dir.path().to_str().expect("text")]);
    assert!(code == Some(2) && said.contains("is not the path of a file"), "{code:?} {said}");
    let (code, said) = refused(&["install"]);
    assert!(code == Some(2) && said.contains("<PATH>"), "{code:?} {said}");
    let help = program(&["install", "--help"]).output().expect("it starts");
    assert!(help.status.success() && String::from_utf8_lossy(&help.stdout).contains("Exit codes"));
    assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 0);
}

#[test]
fn it_ends_when_asked_to_while_it_starts() {
    for _ in 0..5 {
        let mut agent = Running::start(lonely(&[]));
        // Its first log line, long before it has reached a coordinator.
        agent.line("starting an agent");
        agent.signal(Signal::SIGTERM);
        assert_eq!(agent.ended().code(), Some(0));
    }
}

/// Runs an agent whose log goes nowhere, and requires that it serves its probe often, and ends in order.
fn serves_and_ends(mut command: Command, probes: usize) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound").to_string();
    drop(listener);
    command.env("RUST_LOG", "trace").env("ROBEING_METRICS_LISTEN", &address);
    let child = command.spawn().expect("it starts");
    let mut agent = Running { child, lines: mpsc::channel().1 };
    let until = Instant::now() + DEADLINE;
    let mut served = 0;
    while served < probes {
        assert!(agent.child.try_wait().expect("it is a child").is_none(), "it ended");
        assert!(Instant::now() < until, "it has served {served} probes");
        let Ok(mut stream) = TcpStream::connect(&address) else {
            thread::sleep(Duration::from_millis(5));
            continue;
        };
        stream.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        served += 1;
    }
    agent.signal(Signal::SIGTERM);
    assert_eq!(agent.ended().code(), Some(0));
}

/// A terminal that was stopped, or a pipe that nobody reads, takes a few lines and then blocks.
#[test]
fn it_runs_and_ends_in_order_where_nobody_reads_stderr() {
    // A pipe that is full.
    let full = || {
        let (reader, mut writer) = std::io::pipe().expect("a pipe");
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4_096)).expect("Linux");
        writer.write_all(&[b'x'; 4_096]).expect("it has room");
        (reader, writer)
    };
    let (reader, writer) = full();
    let mut command = lonely(&[]);
    command.stderr(writer);
    serves_and_ends(command, 10);
    drop(reader);
    // The last words do not keep it, either.
    let (reader, writer) = full();
    let child = program(&["--role=boss"]).stderr(writer).spawn().expect("it starts");
    let mut ended = Running { child, lines: mpsc::channel().1 };
    assert_eq!(ended.ended().code(), Some(2));
    drop(reader);
}

/// Output that can't be written is lost, and has no other effect.
#[test]
fn it_runs_and_ends_in_order_where_stderr_can_not_be_written() {
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").expect("it is there");
    for format in ["text", "json"] {
        let mut command = lonely(&[&format!("--log-format={format}")]);
        command.stderr(full());
        serves_and_ends(command, 1);
    }
    // A file that may not grow.
    let log = tempfile::NamedTempFile::new().expect("a file");
    let mut limited = Command::new("/bin/sh");
    limited.args(["-c", r#"ulimit -f 0; exec "$@""#, "sh"]);
    let agent = lonely(&[]);
    limited.arg(agent.get_program()).args(agent.get_args());
    limited.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.reopen().expect("it is there"));
    serves_and_ends(limited, 1);
    for (args, code) in [
        (&["--role=boss"][..], 2),
        (&["--colour=red"], 2),
        (&["health", "nonsense"], 2),
        (&["health", "http://127.0.0.1:9/"], 1),
        (&["install", "/no/such/robeing-agent"], 1),
    ] {
        let ended = program(args).stdout(full()).stderr(full()).status().expect("it starts");
        assert_eq!(ended.code(), Some(code), "{args:?}");
    }
    // Nothing reads the pipe any more.
    let mut command = program(&["--role=boss"]);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    assert_eq!(command.stderr(writer).status().expect("it starts").code(), Some(2));
}
