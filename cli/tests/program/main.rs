//! Tests of the program as users run it, without a coordinator: exit codes, messages, and `dev` with fake agent
//! programs.

mod bench;
mod dev;
mod submit;

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::Path,
    process::Stdio,
    thread,
};

use bench::*;

#[test]
fn exit_codes_and_sentences() {
    let bench = Bench::new();
    let endpoint = format!("127.0.0.1:{}", closed_port());
    bench.run(&["status", "--endpoint", &endpoint]).assert(
        5,
        &format!("error: no fleet answers at http://{endpoint} (connection refused); start one with `robeing dev -f MANIFEST`"),
    );
    bench.run(&["status", "--endpoint", "ftp://x"]).assert(2, "\"ftp://x\" is not an endpoint");
    bench.run(&["status", "--endpoint", "https://x"]).assert(2, "an https endpoint must prove who it is: give --trust");
    bench.run(&["agents", "--fleet", "none"]).assert(4, "is named \"none\" (searched ");
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

#[test]
fn credentials_that_cannot_be_used_are_refused_before_anything_is_called() {
    let bench = Bench::new();
    let closed = format!("127.0.0.1:{}", closed_port());
    let refused = |more: &[&str], sentence: &str| {
        bench.run(&[&["status", "--endpoint", &closed], more].concat()).assert(2, sentence);
    };
    refused(&["--ca", "absent"], "error: can't read absent/ca.crt: No such file");
    refused(&["--trust", "absent"], "error: can't read absent: No such file");
    refused(&["--certificate", "c", "--private-key", "k"], "--certificate and --token-file need --trust");
    bench.write("trust.crt", "no certificate");
    refused(&["--trust", "trust.crt"], "the trust bundle has no certificate");
    // An empty variable counts as unset.
    let mut command = bench.command(&["status", "--endpoint", &closed]);
    command.env("ROBEING_CA", "").env("ROBEING_TRUST", "");
    Ended::of(command.output().expect("the program can be started")).assert(5, "no fleet answers at ");
}

#[test]
fn a_clients_files_are_not_overwritten() {
    let bench = Bench::new();
    let closed = format!("127.0.0.1:{}", closed_port());
    let create = ["client", "create", "ada", "--out", ".", "--endpoint", &closed];
    bench.write("ada.key", "precious");
    bench.run(&create).assert(2, "error: ./ada.key exists: give --force to replace it");
    bench.run(&[&create[..], &["--force"]].concat()).assert(5, "no fleet answers at ");
    assert_eq!(fs::read_to_string(bench.path("ada.key")).expect("it is there"), "precious");
}

/// Covers the exit codes that need no fleet; the others are tested with one.
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
        (2, "the command line", &["submit", "--kind", "k", "--object-store", "nowhere", "--endpoint", &closed]),
        (2, "the command line", &["submit", "--kind", "k", "--object-store", "file:///absent", "--endpoint", &closed]),
        (2, "a manifest", &["dev", "-f", "absent"]),
        (2, "a manifest", &["dev", "-f", "plain", "--agent-bin", &agent]),
        (2, "an input file is wrong or can't be read", &["submit", "--kind", "k", "--input", "absent"]),
        (2, "an input file is wrong or can't be read", &["submit", "--kind", "k", "--inputs", "plain"]),
        (3, "an input is over a limit", &["submit", "--kind", "k", "--input", "large"]),
        (3, "an input is over a limit", &["send", "data-0", "--file", "large"]),
        (4, "malformed ids included", &["task", "not-an-id", "--endpoint", &closed]),
        (4, "malformed ids included", &["cancel", "not-an-id", "--endpoint", &closed]),
        (4, "malformed ids included", &["message", "not-an-id", "--endpoint", &closed]),
        (4, "malformed ids included", &["vote", "show", "not-an-id", "--endpoint", &closed]),
        (4, "malformed ids included", &["vote", "cast", "not-an-id", "approve", "--endpoint", &closed]),
        (4, "malformed ids included", &["team", "show", "not-an-id", "--endpoint", &closed]),
        (4, "malformed ids included", &["team", "disband", "not-an-id", "--endpoint", &closed]),
        (4, "malformed ids included", &["resources", "show", "not-an-id", "--endpoint", &closed]),
        (4, "malformed ids included", &["resources", "release", "not-an-id", "--endpoint", &closed]),
        (4, "no such fleet", &["status", "--fleet", "none"]),
        (5, "no coordinator answers", &["task", task, "--endpoint", &closed]),
        (5, "no coordinator answers", &["quarantine", "data-0", "--reason", "r", "--endpoint", &closed]),
        (5, "no coordinator answers", &["token", "create", "--endpoint", &closed]),
        (5, "no coordinator answers", &["audit", "--follow", "--endpoint", &closed]),
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
    // Keep its standard input open until it has ended.
    let input = waiting.stdin.take();
    let ended = press_ctrl_c(waiting.id(), || waiting.wait().expect("it is our child"));
    assert_eq!(ended.code(), Some(130));
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
        (&["send", "data-0", "--file", "-"], "(1 MiB), which is the limit for a message: store it where the receiver"),
    ] {
        let zeros = fs::File::open("/dev/zero").expect("every Linux has it");
        let output = bench.command(line).stdin(zeros).output().expect("the program can be started");
        Ended::of(output).assert(3, sentence);
    }
    bench
        .run(&["dev", "-f", "/dev/zero"])
        .assert(2, "The manifest has more than 1 MiB, which is the most that is read");
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
    bench.run(&["status", "--endpoint", ""]).assert(2, "is not an endpoint");
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
    for line in [&["--help"][..], &["crd"], &["crd", "-o", "json"], &["completions", "zsh"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let ended = Ended::of(bench.command(line).stdout(writer).output().expect("the program can be started"));
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{line:?}");
    }
}

#[test]
fn output_that_cannot_be_written_is_an_error() {
    let bench = Bench::new();
    for line in [
        &["--help"][..],
        &["--version"],
        &["submit", "--help"],
        &["crd"],
        &["crd", "-o", "json"],
        &["completions", "zsh"],
    ] {
        let full = fs::File::options().write(true).open("/dev/full").expect("every Linux has it");
        let ended = Ended::of(bench.command(line).stdout(full).output().expect("the program can be started"));
        ended.assert(7, "error: can't write the output: No space left on device");
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
fn the_plugin_of_kubectl_looks_on_kubernetes() {
    let bench = Bench::new();
    let plugin = bench.path("kubectl-robeing");
    symlink(env!("CARGO_BIN_EXE_robeing"), &plugin).expect("the directory can be written to");
    let run = |line: &[&str]| Ended::of(bench.command_of(&plugin, line).output().expect("the program can be started"));
    run(&["status"]).assert(7, &format!("no kubeconfig at {}/.kube/config; name one with", bench.dir.path().display()));
    run(&["status", "--endpoint", "127.0.0.1:1"]).assert(5, "no fleet answers at http://127.0.0.1:1 ");
    run(&["dev", "-f", "fleet.yaml"]).assert(2, "or have Kubernetes run the manifest by `kubectl apply -f fleet.yaml`");
    bench.run(&["status", "--cluster", "c"]).assert(7, "no kubeconfig at ");
    bench.run(&["status", "--cluster", "c", "--fleet", "f"]).assert(2, "cannot be used with");
}

/// Starts an API server that returns this cluster but forbids everything else. It stops with the test's process.
fn api_server_of(cluster: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    let answer = move |stream: TcpStream| -> io::Result<()> {
        let mut reader = BufReader::new(&stream);
        let mut request = String::new();
        while reader.read_line(&mut request)? > 2 {}
        let (code, body) = match request.split(' ').nth(1) {
            Some(path) if path.contains("/robeingclusters/") => ("200 OK", cluster.to_owned()),
            _ => ("403 Forbidden", r#"{"kind": "Status", "message": "not for you", "code": 403}"#.to_owned()),
        };
        let head = format!("HTTP/1.1 {code}\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        write!(&stream, "{head}\r\nConnection: close\r\n\r\n{body}")
    };
    thread::spawn(move || listener.incoming().flatten().map_while(|stream| answer(stream).ok()).count());
    format!("http://{address}")
}

#[test]
fn who_may_only_look_at_the_resource_is_told_what_it_says() {
    let server = api_server_of(
        r#"{"metadata": {"name": "f", "namespace": "team"}, "spec": {"coordinators": {"replicas": 3}},
            "status": {"phase": "Degraded", "conditions": [{"type": "Degraded", "status": "True", "reason": "DiskLost",
            "message": "a disk is lost", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}"#,
    );
    let bench = Bench::new();
    let kubeconfig = format!(
        "{{apiVersion: v1, kind: Config, current-context: h, clusters: [{{name: c, cluster: {{server: '{server}'}}}}],
          contexts: [{{name: h, context: {{cluster: c, user: u}}}}], users: [{{name: u, user: {{token: t}}}}]}}"
    );
    let file = bench.write("kubeconfig", &kubeconfig);
    let run = |line: &[&str]| {
        let mut command = bench.command(line);
        Ended::of(command.env("KUBECONFIG", &file).output().expect("the program can be started"))
    };
    let ended = run(&["status", "-n", "team", "--cluster", "f"]);
    ended.assert(3, "permission to list pods in namespace \"team\" is missing (not for you)");
    assert!(ended.stdout.starts_with("RobeingCluster: team/f\nPhase:          Degraded\n"), "{}", ended.stdout);
    assert!(ended.stdout.contains("a disk is lost"), "{}", ended.stdout);
    // With -o json, a partial document would be invalid, so nothing is printed.
    assert_eq!(run(&["status", "-n", "team", "--cluster", "f", "-o", "json"]).stdout, "");
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
