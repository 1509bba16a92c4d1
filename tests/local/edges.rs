//! Edge cases of `robeing dev` that users meet: terminals, nohup, servers that are slow to start, odd files and odd
//! names.

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use nix::sys::signal::Signal;
use robeing_tests::{
    processes::send,
    program::{CLI, program},
    terminal::{Dev, Terminal},
    wait::{check, eventually},
};
use serde_json::Value;

fn manifest(executor: &str) -> String {
    format!(
        "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {{name: edges}}\nspec:\n  coordinators: {{replicas: 1}}\n  \
         pools:\n  - {{name: work, replicas: 1, executor: {executor}}}\n"
    )
}

const SHELL: &str = "{command: {argv: [/bin/bash, -s]}}";

async fn fleet(terminal: &Terminal, executor: &str) -> Dev {
    terminal.write("manifest.yaml", &manifest(executor));
    let dev = terminal.dev(&["-f", "manifest.yaml"]);
    dev.line_with(&["ready"]).await;
    dev
}

/// A server in Python that ends with the test. `post` contains the Python lines that handle a request.
struct Server(Child);

impl Server {
    fn start(port: u16, post: &str) -> Self {
        let script = format!(
            "import http.server, time\nasked = []\nclass Handler(http.server.BaseHTTPRequestHandler):\n    \
             protocol_version = 'HTTP/1.1'\n    def do_POST(self):\n        \
             body = self.rfile.read(int(self.headers['Content-Length']))\n        headers = []\n        status = 200\n{post}\n        \
             self.send_response(status)\n        for header in headers: self.send_header(*header)\n        \
             self.send_header('Content-Length', str(len(body)))\n        self.end_headers()\n        self.wfile.write(body)\n\
             http.server.ThreadingHTTPServer(('127.0.0.1', {port}), Handler).serve_forever()\n"
        );
        let child = Command::new("python3").args(["-c", &script]).stderr(Stdio::null()).spawn();
        Self(child.expect("python3 runs"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|bound| bound.local_addr()).expect("a port is free").port()
}

async fn task(terminal: &Terminal, id: &str) -> Value {
    terminal.run(&["task", id, "-o", "json"]).await.json()
}

#[tokio::test]
async fn what_children_write_late_and_values_as_they_are_written_come_back() {
    let terminal = Terminal::default();
    let _dev = fleet(&terminal, SHELL).await;
    terminal.write("late", "exec > >(tee log); echo x; { sleep .2; echo late; } & exit 0");
    let line = ["submit", "--kind", "shell", "--input", "late", "--wait"];
    assert_eq!(terminal.run(&line).await.success(), "x\nlate\n");
    terminal.write("escapes", "printf 'a\\033[31mb\\n' >&2; exit 65");
    let failed = terminal.run(&["submit", "--kind", "shell", "--input", "escapes", "--wait"]).await;
    failed.assert_failed(1, "a [31mb");
    assert!(!failed.stderr.contains('\x1b'), "{failed:?}");
}

#[tokio::test]
async fn inputs_go_through_as_they_are_written() {
    let terminal = Terminal::default();
    let _dev = fleet(&terminal, "{echo: {}}").await;
    let values = ["18446744073709551616", "{\"z\": 1.10, \"a\": 2, \"a\": 3}", "[1e400, -0.0]"];
    terminal.write("in.jsonl", &format!("\u{feff}{}\n\"text\"\n", values.join("\r\n")));
    let tasks = terminal.run(&["submit", "--kind", "k", "--inputs", "in.jsonl", "--wait", "-o", "json"]).await.json();
    let outputs: Vec<_> = tasks.as_array().expect("a list").iter().map(|task| task["outputText"].clone()).collect();
    assert_eq!(outputs, [&values[..], &["text"]].concat());
    terminal.write(
        "tasks.jsonl",
        "{\"input\": {\"b\":1.0,\"a\":2}, \"kind\": \"own\", \"priority\": 9, \"maxAttempts\": 2}\n{}\n",
    );
    let tasks = terminal.run(&["submit", "--kind", "k", "--tasks", "tasks.jsonl", "--wait", "-o", "json"]).await.json();
    assert_eq!(tasks[0]["outputText"], "{\"b\":1.0,\"a\":2}");
    assert_eq!(
        (&tasks[0]["kind"], &tasks[0]["priority"], &tasks[0]["maxAttempts"]),
        (&"own".into(), &9.into(), &2.into())
    );
    assert_eq!(tasks[1]["kind"], "k");
}

#[tokio::test]
async fn a_server_that_is_slow_to_start_costs_no_attempt_and_one_that_is_busy_is_asked_later() {
    let terminal = Terminal::default();
    let port = free_port();
    let secret = format!("hunter{}", std::process::id());
    let header = format!("{{name: X-Key, value: {secret}}}");
    let url = format!("http://user:{secret}@127.0.0.1:{port}/?token={secret}");
    let dev = fleet(&terminal, &format!("{{http: {{url: '{url}', headers: [{header}]}}}}")).await;
    terminal.write("input", "hello");
    let line = ["submit", "--kind", "k", "--input", "input", "--max-attempts", "1"];
    let id = terminal.run(&line).await.success().trim().to_owned();
    dev.line_with(&["absent", "work-0", "can't be reached"]).await;
    let server = Server::start(port, "");
    terminal.run(&["task", &id, "--watch"]).await.success();
    assert_eq!(terminal.run(&["task", &id, "--result"]).await.success(), "hello");
    assert_eq!(task(&terminal, &id).await["attemptsUsed"], 1, "a hand-back does not count as an attempt");
    drop(server);

    let busy = "        asked.append(time.monotonic())\n        if len(asked) == 1: status, headers = 503, [('Retry-After', '3')]\n        \
                body = str(round(asked[-1] - asked[0], 1)).encode()";
    let server = Server::start(port, busy);
    let again = ["submit", "--kind", "k", "--input", "input", "--max-attempts", "2", "--wait"];
    let later: f64 = terminal.run(&again).await.success().parse().expect("seconds");
    assert!(later >= 2.9, "it was called again after {later} s");
    drop(server);

    let _server = Server::start(port, "        status = 404");
    let refused = terminal.run(&[&line[..], &["--wait"]].concat()).await;
    refused.assert_failed(1, &format!("http://127.0.0.1:{port}/?… answered 404"));
    assert!(!refused.stderr.contains(&secret), "{refused:?}");
    assert!(!dev.lines().iter().any(|line| line.contains(&secret)), "{:#?}", dev.lines());
    let shows = command_lines_with(&secret);
    assert!(shows.is_empty(), "every user of this machine can see {shows:?}");
    let logs = files(terminal.dir()).into_iter().filter(|path| !path.ends_with("manifest.yaml"));
    let logs: Vec<_> = logs.filter_map(|path| Some((fs::read(&path).ok()?, path))).collect();
    assert!(logs.iter().any(|(text, _)| String::from_utf8_lossy(text).contains("can't be reached")), "the agent's log");
    for (text, path) in logs {
        assert!(!String::from_utf8_lossy(&text).contains(&secret), "the secret is in {}", path.display());
    }
}

fn command_lines_with(words: &str) -> Vec<String> {
    let processes = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).filter(|line| line.contains(words)).collect()
}

/// Returns all files in a folder and its subfolders.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// Runs `robeing dev` in script(1): on a terminal at which nobody types.
#[tokio::test]
async fn a_task_that_asks_at_the_terminal_is_not_stopped() {
    let terminal = Terminal::default();
    terminal.write("manifest.yaml", &manifest(SHELL));
    let robeing = program(CLI).display().to_string();
    let mut at_terminal = Command::new("script")
        .args([
            "--quiet",
            "--flush",
            "--command",
            &format!("env --default-signal=HUP {robeing} dev --plain -f manifest.yaml"),
            "typescript",
        ])
        .current_dir(terminal.dir())
        .envs([("XDG_RUNTIME_DIR", terminal.dir()), ("TMPDIR", terminal.dir())])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("script(1) runs");
    eventually("the fleet at a terminal", async || {
        let said = fs::read_to_string(terminal.dir().join("typescript")).unwrap_or_default();
        check(said.contains("ready"), (), said)
    })
    .await;
    terminal.write("ask", "read x < /dev/tty; echo \"read: $?\"; ps -o tty= -p $$");
    let ended = terminal.run(&["submit", "--kind", "shell", "--input", "ask", "--wait", "--wait-timeout", "60s"]).await;
    assert_eq!(ended.success(), "read: 1\n?\n");
    // This closes the fleet's terminal, which ends the fleet, even if this test inherited an ignored SIGHUP.
    let _ = at_terminal.kill();
    let _ = at_terminal.wait();
}

#[tokio::test]
async fn under_nohup_a_fleet_outlives_the_terminal() {
    let terminal = Terminal::default();
    terminal.write("manifest.yaml", &manifest("{echo: {}}"));
    let robeing = program(CLI);
    let output = fs::File::create(terminal.dir().join("out")).expect("a file");
    let mut dev = Command::new("nohup")
        .arg(robeing)
        .args(["dev", "-f", "manifest.yaml"])
        .current_dir(terminal.dir())
        .envs([("XDG_RUNTIME_DIR", terminal.dir()), ("TMPDIR", terminal.dir())])
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(Stdio::null())
        .spawn()
        .expect("nohup runs");
    let ready = async || {
        let said = fs::read_to_string(terminal.dir().join("out")).unwrap_or_default();
        check(said.contains("ready"), (), said)
    };
    eventually("the fleet", ready).await;
    send(dev.id(), Signal::SIGHUP);
    terminal.write("input", "hello");
    let line = ["submit", "--kind", "k", "--input", "input", "--wait"];
    assert_eq!(terminal.run(&line).await.success(), "hello");
    assert!(dev.try_wait().expect("it is a child").is_none(), "it still runs");
    send(dev.id(), Signal::SIGTERM);
    assert!(dev.wait().expect("it ends").success());
}

#[tokio::test]
async fn a_data_directory_of_any_name_is_the_one_that_is_used() {
    let terminal = Terminal::default();
    let data = terminal.dir().join(OsStr::from_bytes(b"d\xFFta"));
    fs::create_dir(&data).expect("made");
    terminal.write("manifest.yaml", &manifest("{echo: {}}"));
    // A link with a plain name; the fleet uses the directory that it leads to.
    std::os::unix::fs::symlink(&data, terminal.dir().join("link")).expect("made");
    let mut dev = terminal.dev(&["-f", "manifest.yaml", "--data", "link"]);
    dev.line_with(&["ready"]).await;
    terminal.run(&["status"]).await.success();
    dev.signal(Signal::SIGTERM);
    assert!(dev.ended().await.success());
    assert!(data.join("coordinator-0").is_dir(), "its data is there");
    let others = fs::read_dir(terminal.dir()).expect("listed").flatten();
    // The link itself is not a directory.
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    let others: Vec<_> = others.filter(|entry| is_folder(entry) && entry.path() != data).collect();
    assert!(others.iter().all(|entry| !entry.path().join("coordinator-0").exists()), "{others:?}");
}

#[tokio::test]
async fn where_other_commands_can_not_find_a_fleet_that_is_said() {
    let terminal = Terminal::default();
    terminal.write("manifest.yaml", &manifest("{echo: {}}"));
    for name in ["robeing".to_owned(), format!("robeing-{}", nix::unistd::geteuid())] {
        let dir = terminal.dir().join(name);
        fs::create_dir(&dir).expect("made");
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o777)).expect("it is our directory");
    }
    let dev = terminal.dev(&["-f", "manifest.yaml"]);
    dev.line_with(&["ROBEING_ENDPOINT=", "other commands do not find this fleet automatically", "not this user's own"])
        .await;
    dev.line_with(&["ready"]).await;
    terminal.run(&["status"]).await.assert_failed(5, "");
}
