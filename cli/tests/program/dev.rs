//! Tests of `robeing dev` with fake agent programs.

use std::{
    fs,
    io::{PipeReader, PipeWriter, Write, pipe},
    net::TcpListener,
    path::PathBuf,
    process::Stdio,
    sync::mpsc::sync_channel,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::bench::*;

#[test]
fn dev_refuses_what_it_cannot_run() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT).display().to_string();
    bench.run(&["dev", "-f", "absent.yaml"]).assert(2, "can't read the manifest absent.yaml: No such file");
    bench.write("even.yaml", &MANIFEST.replace("replicas: 1}\n  pools", "replicas: 2}\n  pools"));
    bench.run(&["dev", "-f", "even.yaml"]).assert(2, "the manifest even.yaml can't be used:\n");
    bench.run(&["dev", "-f", "manifest.yaml", "--agent-bin", "./absent"]).assert(7, "is not an executable program");
    bench.run(&["dev", "-f", "manifest.yaml", "--agent-bin", "manifest.yaml"]).assert(7, "it is not executable");
    bench.run(&["dev", "-f", "manifest.yaml", "--name", "../x", "--agent-bin", &agent]).assert(2, "can't be the name");
    let busy = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = busy.local_addr().expect("it is bound").port().to_string();
    bench
        .run(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent, "--port", &port])
        .assert(7, &format!("port {port} of 127.0.0.1 is busy; choose another --port"));
}

#[test]
fn a_manifest_is_read_as_kubectl_reads_it() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let other = r#"{"apiVersion": "v1", "kind": "ConfigMap"}"#;
    let cluster = r#"{"apiVersion": "robeing.io/v1alpha1", "kind": "RobeingCluster", "metadata": {"name": "example"},
        "spec": {"coordinators": {"replicas": 1}, "pools": [{"name": "data", "replicas": 1, "executor": {"echo": {}}}]}}"#;
    let utf16 = |text: &str| format!("\u{feff}{text}").encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    for manifest in [
        format!("{other}\n{cluster}").into_bytes(),
        format!("kind: ConfigMap\napiVersion: v1\n---\n\u{feff}{MANIFEST}").into_bytes(),
        utf16(MANIFEST),
    ] {
        fs::write(bench.path("manifest.yaml"), manifest).expect("the directory can be written to");
        let mut dev = Dev::start(&bench, &agent, &[]);
        dev.line_with(&["fleet example: 1 coordinator"]);
    }
    // A truncated manifest is not accepted as complete.
    let long = utf16(&format!("{MANIFEST}{}", "#\n".repeat(1024 * 1024 / 4)));
    fs::write(bench.path("manifest.yaml"), long).expect("the directory can be written to");
    bench.run(&["dev", "-f", "manifest.yaml"]).assert(2, "has more than 1 MiB, which is the most that is read");
}

#[test]
fn dev_refuses_a_program_that_is_no_agent() {
    let bench = Bench::new();
    let silent = bench.program("silent", "exit 0\n").display().to_string();
    for (program, problem) in [
        ("/bin/true", "for --version it printed \"true"),
        (silent.as_str(), "it printed nothing for --version"),
        (env!("CARGO_BIN_EXE_robeing"), "for --version it printed \"robeing 0"),
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
    let absent = refusal("command: {argv: [no-such-program]}");
    absent.assert(2, "spec.pools[0].executor.command.argv[0] (line 8, column ");
    absent.assert(2, "The program no-such-program is not in PATH");
    refusal("command: {argv: [/bin/absent, x]}").assert(2, "The program /bin/absent can't be run (No such file");
    refusal("command: {argv: [/etc/passwd]}").assert(2, "The program /etc/passwd can't be run (it is not executable)");
}

#[test]
fn secrets_in_the_manifest_are_used_and_what_is_no_header_is_refused() {
    let bench = Bench::new();
    let agent = bench.agent("echo \"$ROBEING_HTTP_HEADER_0\" >>told\nexec cat >/dev/null\n");
    let headers = "http: {url: 'http://a', headers: [{name: A, valueFrom: {secretKeyRef: {name: api, key: token}}}]}";
    let manifest = |rest: &str| {
        let text = format!("{}---\napiVersion: v1\n{rest}\n", MANIFEST.replace("echo: {}", headers));
        bench.write("manifest.yaml", &text);
    };
    manifest("kind: Secret\nmetadata: {name: api}\ndata: {token: aHVudGVyMg==}\n---\napiVersion: v1\nkind: ConfigMap");
    let mut dev = Dev::start_with_errors(&bench, &agent);
    let note = dev.line_with(&[
        "only the RobeingCluster is used, with the Secrets that its headers and webhooks refer to; ignored: ",
    ]);
    assert!(note.ends_with("ignored: document 3 (ConfigMap)"), "{note}");
    wait_until("an agent with the value", || {
        fs::read_to_string(bench.path("told")).is_ok_and(|told| told.contains("hunter2"))
    });
    drop(dev);
    let agent = agent.display().to_string();
    for (data, problem) in [
        ("data: {other: aHVudGVyMg==}", "does not exist: robeing dev takes it from a Secret in the manifest"),
        ("data: {token: hunter2}", "is not base64"),
        ("stringData: {token: 1234}", "is not text: put its value in quotes"),
        ("data: {token: //79}", "is not UTF-8"),
        ("stringData: {token: \"a\\nb\"}", "contains a control character, such as a line break"),
    ] {
        manifest(&format!("kind: Secret\nmetadata: {{name: api}}\n{data}"));
        let ended = bench.run(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent]);
        ended.assert(2, &format!("The key token of the Secret api {problem}"));
        ended.assert(2, "executor.http.headers[0].valueFrom.secretKeyRef (line 8, column ");
    }
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
    named.assert(2, "2 running `robeing dev` fleets are named \"example\"; choose one with --endpoint:");
    named.assert(2, &format!("--endpoint {older} "));
    named.assert(2, &format!("--endpoint {newer} "));
    let unnamed = bench.run(&["agents"]);
    unnamed.assert(5, &format!("note: using fleet example at {newer}, the newest of the fleets"));
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
    // A copy of the program, so that there is no agent program beside it.
    let alone = bench.path("robeing");
    fs::copy(env!("CARGO_BIN_EXE_robeing"), &alone).expect("copied");
    let mut command = bench.command_of(&alone, &["dev", "-f", "manifest.yaml"]);
    let ended = Ended::of(command.env("PATH", "/nowhere").output().expect("it can be started"));
    ended.assert(7, "robeing-agent is neither beside this program in");
}

#[test]
fn what_a_terminal_would_obey_is_not_in_the_name_of_the_data() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let mut dev = Dev::start(&bench, &agent, &["--data", "d\u{1b}[31ma\u{61c}ta"]);
    let line = dev.line_with(&["data:"]);
    assert!(line.contains("/d [31ma ta"), "{line:?}");
}

/// Returns the numbers of the signals in a line of `/proc/PID/status`, such as `SigBlk`.
fn signals(status: &str, line: &str) -> Vec<u32> {
    let status = fs::read_to_string(status).unwrap_or_else(|error| panic!("{status}: {error}"));
    let mask = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).expect("the kernel tells");
    (1..=64).filter(|signal| mask & (1 << (signal - 1)) != 0).collect()
}

/// With `stty tostop`, a write from the background would stop the whole process group, including a child that is just
/// being started, and the process that waits for that start.
#[test]
fn what_dev_writes_in_the_background_stops_no_child() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let mut dev = Dev::start(&bench, &agent, &[]);
    let child = dev.pid_of("data-1");
    let threads = fs::read_dir(format!("/proc/{}/task", dev.child.id())).expect("it runs");
    let threads: Vec<PathBuf> = threads.map(|thread| thread.expect("it runs").path()).collect();
    let screen = threads
        .iter()
        .find(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|name| name.trim_end() == "screen"));
    let screen = screen.expect("a thread writes").join("status").display().to_string();
    let stop = Signal::SIGTTOU as u32;
    assert!(signals(&screen, "SigBlk").contains(&stop), "the thread that writes is stopped by it");
    let child = format!("/proc/{child}/status");
    for line in ["SigBlk", "SigIgn"] {
        assert!(!signals(&child, line).contains(&stop), "agents have it in {line}");
    }
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
    dev.line_with(&["died", "data-0", "killed by SIGKILL", "restarting in", "logs/data-0.log"]);
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
fn a_coordinator_that_refuses_its_settings_ends_the_fleet_with_what_it_says() {
    let bench = Bench::new();
    let agent = bench.agent("echo 'error: --cluster-id is no name' >&2\nexit 2\n").display().to_string();
    let ended = bench.run(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent]);
    ended.assert(
        2,
        "error: coordinator-0 refuses its settings, so the fleet is stopped: error: --cluster-id is no name",
    );
    assert!(ended.stdout.contains("it refuses its settings and is not restarted"), "{ended:?}");
}

/// Returns a pipe that is full.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, writer) = pipe().expect("a pipe");
    let flags = |flags| fcntl(&writer, FcntlArg::F_SETFL(flags)).expect("it is our pipe");
    flags(OFlag::O_NONBLOCK);
    while (&writer).write(&[b'\n'; 4096]).is_ok() {}
    flags(OFlag::empty());
    (reader, writer)
}

#[test]
fn output_that_nobody_reads_holds_nothing_up() {
    let bench = Bench::new();
    let agent = bench.agent("echo \"$$\" >>pids\nexec cat >/dev/null\n").display().to_string();
    let pids = || -> Vec<Pid> {
        let text = fs::read_to_string(bench.path("pids")).unwrap_or_default();
        text.lines().map(|pid| Pid::from_raw(pid.parse().expect("a process id"))).collect()
    };
    // Includes standard error, as in `robeing dev 2>&1 | sleep 1000`.
    let (_reader, output) = full_pipe();
    let mut command = bench.command(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent]);
    command.stdout(output.try_clone().expect("a pipe can be shared")).stderr(output);
    let child = command.spawn().expect("the program can be started");
    let mut dev = Dev { child, lines: sync_channel(0).1, seen: vec![] };
    wait_until("the start of all processes", || pids().len() == 3);
    kill(pids()[2], Signal::SIGKILL).expect("it runs");
    wait_until("a start in its place", || pids().len() == 4);
    dev.signal(Signal::SIGTERM);
    wait_until("the end", || dev.child.try_wait().expect("it is our child").is_some());
    assert_eq!(dev.ended(), Some(0));
    assert!(pids().into_iter().all(has_ended), "a process outlived its fleet");
}

#[test]
fn a_reader_that_leaves_ends_the_fleet_with_a_sentence() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT).display().to_string();
    let (reader, output) = pipe().expect("a pipe");
    drop(reader);
    let mut command = bench.command(&["dev", "-f", "manifest.yaml", "--agent-bin", &agent]);
    let ended = Ended::of(command.stdout(output).output().expect("the program can be started"));
    ended.assert(0, "nobody reads the output any more, so the fleet is stopped; redirect it to a file or /dev/null");
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
    dev.line_with(&["stopping", "up to 4s", "after 5s", "Ctrl-C again kills everything at once"]);
    dev.signal(Signal::SIGINT);
    dev.line_with(&["killing everything at once"]);
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
    let pid = line.split(['(', ')']).find_map(|part| part.strip_prefix("pid ")).expect("the line names the process");
    let expected = format!("out\nboom: no such disk\nrobeing dev: process {pid} of data-1 ended: exit code 3\n");
    // The process is restarted, and may have printed the same again.
    let said = fs::read_to_string(log).expect("the log is there");
    assert!(said.starts_with(&expected), "expected {expected:?} in {said:?}");
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
        .assert(7, "holds the fleet \"example\", but \"other\" was requested");
}

#[test]
fn other_commands_find_the_running_fleet() {
    let bench = Bench::new();
    let agent = bench.agent(PATIENT_AGENT);
    let mut dev = Dev::start(&bench, &agent, &[]);
    let line = dev.line_with(&["endpoints:"]);
    let endpoint = line.rsplit(' ').next().expect("the line names it").to_owned();
    // The fake agent does not listen, so the error shows which endpoint was tried.
    bench.run(&["status"]).assert(5, &format!("no fleet answers at {endpoint} "));
    bench.run(&["status", "--fleet", "example"]).assert(5, &endpoint);
    bench.run(&["status", "--fleet", "other"]).assert(4, "; running: example; --endpoint reaches any fleet");
    dev.signal(Signal::SIGTERM);
    assert_eq!(dev.ended(), Some(0));
    bench.run(&["status", "--fleet", "example"]).assert(4, "; no other fleet is running; --endpoint reaches any fleet");
}

#[test]
fn a_suspended_fleet_has_no_agents() {
    let bench = Bench::new();
    bench.write("manifest.yaml", &format!("{MANIFEST}  suspend: true\n"));
    let agent = bench.agent(PATIENT_AGENT);
    let mut dev = Dev::start(&bench, &agent, &[]);
    dev.line_with(&["1 coordinator, no agents (the manifest sets suspend: true)"]);
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
