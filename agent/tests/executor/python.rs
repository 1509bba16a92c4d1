//! The `http` executor against Python's own HTTP server, which many users build on.

use std::{
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use robeing_agent::executor::{
    Attempt, ERROR_BODY_WITHIN, Executor, ExecutorError, FailureKind, Health, HttpConfig, HttpExecutor, Limits, Outcome,
};
use tokio::time::Instant;

use crate::fixture::{SOON, attempt, failure, output, run};

/// The role this process plays; unset in an ordinary run of the tests.
const PART: &str = "ROBEING_TEST_PART";
/// The server's address.
const ADDRESS: &str = "ROBEING_TEST_ADDRESS";

/// The start of every server's program. It prints its port once it listens.
const BEGINNING: &str = r#"
import http.server, ssl, sys, time, threading
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *args): pass
    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in headers: self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))
"#;
const END: &str = r#"
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2], sys.argv[3])
    if len(sys.argv) > 4:
        context.minimum_version = context.maximum_version = ssl.TLSVersion[sys.argv[4]]
        context.load_verify_locations(sys.argv[2])
        context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// A server that ends with the test.
struct Server {
    process: Child,
    address: String,
}

impl Server {
    /// Starts a server that answers each POST with the indented lines `post`.
    fn start(post: &str) -> Self {
        Self::start_with(post, &["0"])
    }

    fn start_with(post: &str, arguments: &[&str]) -> Self {
        let script = format!("{BEGINNING}    def do_POST(self):\n{post}\n{END}");
        let mut process = Command::new("python3")
            .args(["-c", &script])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("it is piped")).read_line(&mut line).expect("it says its port");
        Self { process, address: format!("127.0.0.1:{}", line.trim()) }
    }

    fn executor(&self) -> HttpExecutor {
        executor(&format!("http://{}/run", self.address), &[])
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn executor(url: &str, headers: &[(&str, &str)]) -> HttpExecutor {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let config = HttpConfig { url: url.into(), headers, ..HttpConfig::default() };
    HttpExecutor::new(config).expect("a good configuration")
}

#[tokio::test]
async fn an_empty_input_has_a_length() {
    let server = Server::start(
        r#"
        if self.headers["Content-Length"] is None: return self.answer(411)
        self.answer(200, b"%d bytes" % len(self.body()))
"#,
    );
    assert_eq!(output(&server.executor(), attempt("")).await, "0 bytes");
    assert_eq!(output(&server.executor(), attempt("four")).await, "4 bytes");
}

#[tokio::test]
async fn headers_are_sent_as_they_are_set() {
    let server = Server::start(
        r#"
        if self.headers["Content-Type"] != "application/json": return self.answer(415)
        names = ["Authorization", "X-Own", "Host", "Robeing-Kind"]
        self.answer(200, " ".join(str(self.headers.get_all(name)) for name in names).encode())
"#,
    );
    assert_eq!(failure(&server.executor(), attempt("{}")).await.code, Some(415));
    let url = format!("http://{}/", server.address);
    let headers = [
        ("Content-Type", "application/json"),
        ("authorization", "Bearer s3cret"),
        ("X-Own", "this"),
        ("Host", "virtual.example"),
    ];
    assert_eq!(
        output(&executor(&url, &headers), attempt("{}")).await,
        "['Bearer s3cret'] ['this'] ['virtual.example'] ['test']"
    );
}

#[tokio::test]
async fn headers_that_can_not_be_sent_are_refused() {
    for (name, value, reason) in [
        ("x-one", "two", "it is set twice"),
        ("a b", "", "its name may only contain letters"),
        ("", "", "its name may only contain letters"),
        ("X", "two\nlines", "its value has a control character"),
        ("Content-Length", "3", "the agent sets it itself"),
        ("Transfer-Encoding", "chunked", "the agent sets it itself"),
        ("Robeing-Attempt", "9", "the agent sets it itself"),
    ] {
        let config = HttpConfig {
            url: "http://127.0.0.1/".into(),
            headers: vec![("X-One".into(), "one".into()), (name.into(), value.into())],
            ..HttpConfig::default()
        };
        match HttpExecutor::new(config) {
            Err(error @ ExecutorError::BadHeader { .. }) => assert!(error.to_string().contains(reason), "{error}"),
            other => panic!("{name}: {:?}", other.err()),
        }
    }
}

#[tokio::test]
async fn credentials_of_the_url_are_sent_and_never_told() {
    let server = Server::start(
        r#"
        self.body()
        if self.path.startswith("/moved"):
            return self.answer(302, headers=[("Location", "http://user:hunter2@127.0.0.1/?token=hunter2")])
        if self.path.startswith("/odd"):
            return self.answer(302, headers=[("Location", "http:///user:hunter2/hunter2@127.0.0.1/")])
        body = "%s %s" % (self.headers["Authorization"], self.path)
        self.answer(200 if self.path.startswith("/ok") else 500, body.encode() if self.path.startswith("/ok") else b"")
"#,
    );
    let at = |path: &str| executor(&format!("http://us%40er:hunter2@{}{path}", server.address), &[]);
    // "us@er:hunter2"
    assert_eq!(output(&at("/ok?token=hunter2"), attempt("")).await, "Basic dXNAZXI6aHVudGVyMg== /ok?token=hunter2");
    let failed = failure(&at("/fails?token=hunter2"), attempt("")).await;
    assert_eq!(failed.message, format!("http://{}/fails?… answered 500 Internal Server Error", server.address));
    let moved = failure(&at("/moved?token=hunter2"), attempt("")).await;
    assert!(!format!("{moved:?}").contains("hunter2"), "{moved:?}");
    assert!(moved.message.contains("a redirect to \"http://127.0.0.1/?…\""), "{}", moved.message);
    let moved = failure(&at("/odd"), attempt("")).await;
    assert!(moved.message.contains("a redirect to \"http:///…@127.0.0.1/\""), "{}", moved.message);
    let large = HttpConfig {
        url: format!("http://u:hunter2@{}/ok?hunter2", server.address),
        limits: Limits { max_output: 3, ..Limits::default() },
        ..HttpConfig::default()
    };
    let large = failure(&HttpExecutor::new(large).expect("good"), attempt("")).await;
    assert_eq!(large.kind, FailureKind::OutputTooLarge);
    assert!(!large.message.contains("hunter2"), "{}", large.message);
    for bad in ["health?hunter2", "/ health?hunter2"] {
        let (url, health_path) = ("http://u:hunter2@a/?hunter2".into(), Some(bad.into()));
        let refused = HttpExecutor::new(HttpConfig { url, health_path, ..HttpConfig::default() }).err();
        let said = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(said.contains("healthPath") && !said.contains("hunter2"), "{said}");
    }
    for bad in [
        "ftp://u:hunter2@a/?hunter2",
        "http://u:hunter2@a b/",
        "http://u:hunter2@/?hunter2",
        "https://u:hunter2/hunter2@a/",
        "https://u:hunter2/hunter2 hunter2@a/",
        "https://u:hunter2?hunter2@a/",
        "https:/u:hunter2@a/",
        "http:///u:hunter2@a/",
    ] {
        let refused = HttpExecutor::new(HttpConfig { url: bad.into(), ..HttpConfig::default() }).err();
        let said = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(!said.is_empty() && !said.contains("hunter2"), "{said}");
    }
}

#[tokio::test]
async fn when_to_come_again_is_heard() {
    let server = Server::start(
        r#"
        kind, after = self.body().decode().split(" ", 1)
        headers = [("Retry-After", after)] if after else []
        self.answer(int(kind), headers=headers)
"#,
    );
    for (asked, told) in [
        ("503 17", Some(Duration::from_secs(17))),
        ("429 0", Some(Duration::ZERO)),
        ("503 Fri, 31 Dec 1999 23:59:59 GMT", Some(Duration::ZERO)),
        ("503 ", None),
        ("503 nonsense", None),
        ("404 17", None),
    ] {
        let failed = failure(&server.executor(), attempt(asked)).await;
        assert_eq!(failed.retry_after, told, "{asked}");
    }
}

#[tokio::test]
async fn the_status_of_an_error_counts_however_long_its_body_takes() {
    let server = Server::start(
        r#"
        self.send_response(int(self.body()))
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"the beginning")
        self.wfile.flush()
        time.sleep(600)
"#,
    );
    let failed = failure(&server.executor(), attempt("404")).await;
    assert_eq!((failed.code, failed.retryable, &*failed.stderr_tail), (Some(404), false, "the beginning"));
    let limited = Attempt { time_limit: Some(ERROR_BODY_WITHIN / 5), ..attempt("422") };
    let failed = failure(&server.executor(), limited).await;
    assert_eq!((failed.kind, failed.code, failed.retryable), (FailureKind::Http, Some(422), false));
}

#[tokio::test]
async fn hundreds_of_headers_are_taken_and_thousands_are_a_final_failure() {
    let server = Server::start(
        r#"
        self.answer(200, b"ok", headers=[("X-%d" % n, "v") for n in range(int(self.body()))])
"#,
    );
    for few in ["0", "101", "900"] {
        assert_eq!(output(&server.executor(), attempt(few)).await, "ok", "{few}");
    }
    let failed = failure(&server.executor(), attempt("2000")).await;
    assert_eq!((failed.kind, failed.retryable), (FailureKind::OutputTooLarge, false));
    assert!(failed.message.contains("more than 1000 headers"), "{}", failed.message);
}

#[tokio::test]
async fn an_attempt_that_no_server_has_begun_is_given_back_and_taken_again_once_one_is_there() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let executor = executor(&format!("http://user:hunter2@{free}/run"), &[]);
    let mut presence = executor.presence().expect("it says whether it can");
    assert!(*presence.borrow_and_update());
    assert_eq!(run(&executor, attempt("input")).await, Outcome::NotBegun);
    assert!(!*presence.borrow_and_update(), "the agent is to leave");
    // The same for an attempt whose time limit is shorter than the wait for a server.
    let limited = Attempt { time_limit: Some(Duration::from_millis(100)), ..attempt("input") };
    assert_eq!(run(&executor, limited).await, Outcome::NotBegun);
    let began = Instant::now();
    let late = tokio::task::spawn_blocking(move || {
        Server::start_with("        self.answer(200, self.body())", &[&free.port().to_string()])
    });
    let _server = late.await.expect("it starts");
    let returned = tokio::time::timeout(crate::fixture::SOON, presence.wait_for(|present| *present)).await;
    returned.expect("it comes back").expect("it is there");
    assert!(began.elapsed() < crate::fixture::SOON);
    assert_eq!(output(&executor, attempt("input")).await, "input");
}

#[tokio::test]
async fn a_name_that_nobody_has_is_no_fault_of_the_task() {
    let executor = executor("http://no-such-host.invalid/", &[]);
    assert_eq!(run(&executor, attempt("")).await, Outcome::NotBegun);
    let Health::Silent(why) = executor.health(SOON).await else { panic!("it can't be reached") };
    assert!(why.ends_with("; is its name right, and does this machine's DNS know it?"), "{why}");
}

/// Creates a certificate as many guides do, starts a server with it, and runs a part with SSL_CERT_FILE.
fn with_certificate(openssl: &[&str], part: &str) {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| Path::join(directory.path(), name).display().to_string();
    let (certificate, key) = (at("cert.pem"), at("key.pem"));
    make_certificate(&certificate, &key, openssl);
    let server = Server::start_with("        self.answer(200, self.body())", &["0", &certificate, &key]);
    let trusted = if part == "stranger" { "/etc/ssl/certs/ca-certificates.crt".into() } else { certificate.into() };
    play(part, server.address.rsplit(':').next().expect("a port"), &[("SSL_CERT_FILE", trusted)]);
}

fn make_certificate(certificate: &str, key: &str, openssl: &[&str]) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key, "-out", certificate])
        .args(openssl)
        .stderr(Stdio::null())
        .status();
    assert!(made.expect("openssl runs").success());
}

#[test]
fn a_servers_certificate_that_is_named_is_trusted_whoever_issued_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| Path::join(directory.path(), name).display().to_string();
    make_certificate(&at("ca.pem"), &at("ca.key"), &["-subj", "/CN=Example CA"]);
    for (name, part) in [("localhost", "friend"), ("elsewhere.example", "stranger-of-another-name")] {
        let (subject, name) = (format!("/CN={name}"), format!("subjectAltName=DNS:{name}"));
        let (ca, ca_key, certificate, key) = (at("ca.pem"), at("ca.key"), at("cert.pem"), at("cert.key"));
        let issued = ["-subj", &subject, "-addext", &name, "-addext", "basicConstraints=critical,CA:FALSE"];
        let issued = [&issued[..], &["-CA", &ca, "-CAkey", &ca_key]].concat();
        make_certificate(&certificate, &key, &issued);
        let server = Server::start_with("        self.answer(200, self.body())", &["0", &certificate, &key]);
        let port = server.address.rsplit(':').next().expect("a port");
        play(part, port, &[("SSL_CERT_FILE", certificate.into())]);
        if part == "friend" {
            play(part, port, &[("SSL_CERT_FILE", ca.into())]);
        }
    }
}

#[test]
fn an_empty_variable_for_certificates_counts_as_unset() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| Path::join(directory.path(), name).display().to_string();
    let (certificate, key) = (at("cert.pem"), at("key.pem"));
    make_certificate(&certificate, &key, &["-subj", "/CN=localhost"]);
    let server = Server::start_with("        self.answer(200, self.body())", &["0", &certificate, &key]);
    let port = server.address.rsplit(':').next().expect("a port");
    let beside = [("SSL_CERT_FILE", "".into()), ("SSL_CERT_DIR", directory.path().into())];
    play("friend", port, &beside);
    if Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        play("stranger", port, &[("SSL_CERT_FILE", "".into()), ("SSL_CERT_DIR", "".into())]);
    }
}

#[test]
fn a_server_that_wants_a_certificate_begins_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| Path::join(directory.path(), name).display().to_string();
    let (certificate, key) = (at("cert.pem"), at("key.pem"));
    make_certificate(&certificate, &key, &["-subj", "/CN=localhost"]);
    for version in ["TLSv1_3", "TLSv1_2"] {
        let arguments = ["0", &certificate, &key, version];
        let server = Server::start_with("        self.answer(200, self.body())", &arguments);
        let port = server.address.rsplit(':').next().expect("a port");
        play("uncertified", port, &[("SSL_CERT_FILE", certificate.clone().into())]);
    }
}

/// Runs a part against a server at this port.
fn play(part: &str, port: &str, environment: &[(&str, PathBuf)]) {
    let ran = Command::new(env::current_exe().expect("this binary"))
        .args(["--exact", "python::plays_an_agent_with_certificates", "--nocapture"])
        .envs([(PART, part), (ADDRESS, port)])
        .envs(environment.iter().cloned())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{part} {environment:?}: {said}");
}

#[test]
fn a_self_signed_certificate_that_is_named_is_trusted() {
    let by_name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"];
    with_certificate(&by_name, "friend");
    let leaf = [&by_name[..], &["-addext", "basicConstraints=critical,CA:FALSE"]].concat();
    with_certificate(&leaf, "friend");
    with_certificate(&["-subj", "/O=Example/CN=localhost"], "friend");
}

/// As Python's servers do: the end of the connection, which TLS does not announce, is the end of the answer.
#[test]
fn an_answer_over_tls_that_ends_with_its_connection_is_whole_unless_its_length_says_otherwise() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| Path::join(directory.path(), name).display().to_string();
    let (certificate, key) = (at("cert.pem"), at("key.pem"));
    make_certificate(&certificate, &key, &["-subj", "/CN=localhost"]);
    for (head, part) in [("", "friend"), ("Content-Length: 6\\r\\n", "cut")] {
        let post = format!(
            r#"        self.wfile.write(b"HTTP/1.0 200 OK\r\n{head}\r\n" + self.body()); self.close_connection = True"#
        );
        let server = Server::start_with(&post, &["0", &certificate, &key]);
        let port = server.address.rsplit(':').next().expect("a port");
        play(part, port, &[("SSL_CERT_FILE", certificate.clone().into())]);
    }
}

#[test]
fn one_that_is_not_named_or_is_of_another_server_is_not() {
    let by_name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"];
    if Path::new("/etc/ssl/certs/ca-certificates.crt").exists() {
        with_certificate(&by_name, "stranger");
    }
    let of_another = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:elsewhere.example"];
    with_certificate(&of_another, "stranger-of-another-name");
    with_certificate(&["-subj", "/CN=elsewhere.example"], "stranger-of-another-name");
}

/// Not a test, but an agent's process, when a test requests it.
#[tokio::test]
async fn plays_an_agent_with_certificates() {
    let Ok(part) = env::var(PART) else { return };
    let port = env::var(ADDRESS).expect("an address");
    let url = format!("https://localhost:{port}/");
    if part == "none" {
        let refused = HttpExecutor::new(HttpConfig { url, ..HttpConfig::default() }).err().expect("it is refused");
        let named = format!(
            "SSL_CERT_FILE names {:?}, which has no readable certificate",
            env::var("SSL_CERT_FILE").expect("it is set")
        );
        assert!(refused.to_string().contains(&named), "{refused}");
        return;
    }
    let executor = executor(&url, &[]);
    if part == "friend" {
        assert_eq!(output(&executor, attempt("input")).await, "input");
        assert_eq!(executor.health(SOON).await, Health::Healthy);
    } else if part == "cut" {
        let Outcome::Failed(failure) = run(&executor, attempt("input")).await else { panic!("a byte is missing") };
        assert!(failure.retryable && failure.message.contains("broke before the answer was complete"), "{failure:?}");
    } else {
        assert_eq!(run(&executor, attempt("input")).await, Outcome::NotBegun);
        assert!(!*executor.presence().expect("it says whether it can").borrow(), "the agent is to leave");
        let Health::Silent(why) = executor.health(SOON).await else { panic!("it can't be spoken with") };
        let words = match &*part {
            "uncertified" => "a client certificate",
            "stranger-of-another-name" => "; its certificate is for another name",
            _ => "; its certificate has no trusted issuer",
        };
        assert!(
            why.contains(words) || part == "stranger" && why.contains("; its certificate is a CA certificate"),
            "{why}"
        );
    }
}

#[test]
fn a_file_of_certificates_that_has_none_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name);
    std::fs::write(at("empty.pem"), "").expect("written");
    std::fs::write(at("other.pem"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("written");
    for file in ["missing.pem", "empty.pem", "other.pem"] {
        // Other trusted certificates do not make up for it.
        let environment = [("SSL_CERT_FILE", at(file)), ("SSL_CERT_DIR", "/etc/ssl/certs".into())];
        play("none", "1", &environment);
    }
}
