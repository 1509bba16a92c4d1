//! The `http` executor against real servers on loopback.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use robeing_agent::executor::{
    Attempt, CLOSED_WITHIN, EchoExecutor, Executor, ExecutorError, FailureKind, Health, HttpConfig, HttpExecutor,
    Limits, Outcome, SECURED_WITHIN,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::fixture::{DEADLINE, SOON, attempt, failure, logged, output, run};

pub type Answer = Response<BoxBody<Bytes, Infallible>>;

/// A server that ends with the test.
pub struct Server {
    pub address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Server {
    /// Passes each connection to `serve`.
    pub async fn raw<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                served.spawn(serve(connection));
            }
        });
        Self { address, connections, task: task.abort_handle() }
    }

    /// Answers each request with `answer`.
    pub async fn new<F>(answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self::raw(move |connection| {
            let answer = answer.clone();
            async move {
                let service = service_fn(move |request| {
                    let answer = answer(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
            }
        })
        .await
    }

    pub async fn always(status: u16, body: &'static str) -> Self {
        Self::new(move |_| async move { answer(status, body) }).await
    }

    pub fn executor(&self) -> HttpExecutor {
        let url = format!("http://{}/run?x=1", self.address);
        HttpExecutor::new(HttpConfig { url, ..HttpConfig::default() }).expect("a good configuration")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()).boxed());
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    answer
}

#[tokio::test]
async fn the_input_is_posted_and_the_body_of_the_answer_is_the_output() {
    let server = Server::new(|request: Request<Incoming>| async move {
        let (head, body) = request.into_parts();
        let header = |name: &str| head.headers.get(name).map_or("unset", |v| v.to_str().expect("text")).to_owned();
        let body = body.collect().await.expect("a body").to_bytes();
        let names = ["robeing-task-id", "robeing-attempt", "robeing-kind", "robeing-deadline"];
        let headers = names.map(header).join(" ");
        answer(201, format!("{} {} {headers} {}", head.method, head.uri, String::from_utf8_lossy(&body)))
    })
    .await;
    let base = Attempt { task_id: "t-1".into(), attempt: 7, kind: "count".into(), ..attempt("input") };
    assert_eq!(output(&server.executor(), base.clone()).await, "POST /run?x=1 t-1 7 count unset input");
    let with_deadline = Attempt { deadline: Some(DEADLINE), ..base };
    let answered = output(&server.executor(), with_deadline).await;
    assert_eq!(answered, "POST /run?x=1 t-1 7 count 2026-11-23T10:00:00.123Z input");
    assert_eq!(server.executor().name(), "http");
}

#[tokio::test]
async fn what_a_server_answers_is_progress_of_the_attempt() {
    let server = Server::always(200, "ok").await;
    let (task, log) = logged(attempt("input"));
    assert_eq!((log.said(), output(&server.executor(), task).await.as_str(), log.said()), (0, "ok", 1));
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = Server::always(200, "ok").await;
    let executor = server.executor();
    for _ in 0..20 {
        assert_eq!(output(&executor, attempt("input")).await, "ok");
    }
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_server_gives_up_with_408_costs_no_attempt() {
    let made = Arc::new(AtomicUsize::new(0));
    let server = Server::raw(move |mut connection| {
        let number = made.fetch_add(1, Ordering::Relaxed);
        async move {
            let ok = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n";
            let late = "HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned();
            // The first connection is given up when it is used again, the third at once.
            let answers = match number {
                0 => vec![format!("{ok}a"), late],
                1 => vec![format!("{ok}b")],
                _ => vec![late],
            };
            for answer in answers {
                if connection.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                    connection.write_all(answer.as_bytes()).await.expect("it is read");
                }
            }
        }
    })
    .await;
    let executor = server.executor();
    assert_eq!(output(&executor, attempt("input")).await, "a");
    assert_eq!(output(&executor, attempt("input")).await, "b");
    let failed = failure(&server.executor(), attempt("input")).await;
    assert_eq!((failed.code, failed.retryable), (Some(408), true), "nothing was kept: {failed:?}");
}

#[tokio::test]
async fn the_status_says_whether_another_attempt_is_worth_it() {
    let cases =
        [(300, false), (400, false), (404, false), (422, false), (408, true), (429, true), (500, true), (503, true)];
    for (status, retryable) in cases {
        let server = Server::always(status, "what went wrong").await;
        let failed = failure(&server.executor(), attempt("input")).await;
        let got = (failed.kind, failed.code, failed.retryable);
        assert_eq!(got, (FailureKind::Http, Some(i32::from(status)), retryable), "status {status}");
        assert_eq!(failed.stderr_tail, "what went wrong", "status {status}");
        assert!(failed.message.contains(&format!("answered {status}")), "{}", failed.message);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_but_told() {
    let server = Server::new(|_| async {
        let mut answer = answer(307, "");
        answer.headers_mut().insert("location", "http://127.0.0.1:1/elsewhere".parse().expect("a header"));
        answer
    })
    .await;
    let failed = failure(&server.executor(), attempt("")).await;
    assert_eq!((failed.code, failed.retryable), (Some(307), false));
    assert!(failed.message.contains(r#"a redirect to "http://127.0.0.1:1/elsewhere""#), "{}", failed.message);
    assert_eq!(server.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn an_answer_is_allowed_up_to_its_limit_and_not_a_byte_more() {
    let limits = Limits { max_output: 10, stderr_tail: 4, ..Limits::default() };
    // With and without a Content-Length, for a client that trusts the length and for one that counts.
    for chunked in [false, true] {
        let server = Server::new(move |request: Request<Incoming>| async move {
            let body = request.into_body().collect().await.expect("a body").to_bytes();
            if !chunked {
                return answer(200, body);
            }
            let chunks: Vec<_> = body.chunks(3).map(|c| Ok(Frame::data(Bytes::copy_from_slice(c)))).collect();
            Response::new(BodyExt::boxed(StreamBody::new(stream::iter(chunks))))
        })
        .await;
        let url = format!("http://{}/", server.address);
        let executor =
            HttpExecutor::new(HttpConfig { url, limits: limits.clone(), ..HttpConfig::default() }).expect("good");
        assert_eq!(output(&executor, attempt("0123456789")).await, "0123456789", "chunked: {chunked}");
        let failed = failure(&executor, attempt("0123456789a")).await;
        assert_eq!((failed.kind, failed.retryable), (FailureKind::OutputTooLarge, false), "chunked: {chunked}");
    }
    let server = Server::always(500, "0123456789").await;
    let url = format!("http://{}/", server.address);
    let executor = HttpExecutor::new(HttpConfig { url, limits, ..HttpConfig::default() }).expect("good");
    assert_eq!(failure(&executor, attempt("")).await.stderr_tail, "0123");
}

#[tokio::test]
async fn an_answer_without_end_is_cut() {
    let server = Server::new(|_| async {
        let endless = stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[0; 8192]))));
        Response::new(BodyExt::boxed(StreamBody::new(endless)))
    })
    .await;
    assert_eq!(failure(&server.executor(), attempt("")).await.kind, FailureKind::OutputTooLarge);
}

#[tokio::test]
async fn a_connection_that_breaks_is_worth_another_attempt() {
    let beginnings =
        ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n12345", "garbage\r\n\r\n"];
    for beginning in beginnings {
        let server = Server::raw(move |mut connection| async move {
            let _ = connection.read(&mut [0; 4096]).await;
            let _ = connection.write_all(beginning.as_bytes()).await;
        })
        .await;
        let failed = failure(&server.executor(), attempt("input")).await;
        assert_eq!((failed.kind, failed.retryable), (FailureKind::Unreachable, true), "{beginning:?}");
    }
}

#[tokio::test]
async fn what_is_not_http_is_told_as_such_also_where_it_comes_first_or_late() {
    for (greeting, beginning) in [
        (&b"SSH-2.0-OpenSSH_9.6\r\n"[..], &b""[..]),
        (b"220 mail.example ESMTP\r\n", b""),
        (b"", b"SSH-2.0-OpenSSH_9.6\r\n\r\n"),
        (b"", b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnot hex\r\nx"),
    ] {
        let server = Server::raw(move |mut connection| async move {
            let _ = connection.write_all(greeting).await;
            let _ = connection.read(&mut [0; 4096]).await;
            let _ = connection.write_all(beginning).await;
            while connection.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
        })
        .await;
        let failed = failure(&server.executor(), attempt("input")).await;
        assert!(failed.message.contains("did not answer with HTTP"), "{}", failed.message);
        assert_eq!((failed.kind, failed.retryable), (FailureKind::Unreachable, true));
    }
}

#[tokio::test]
async fn a_server_that_closed_a_kept_connection_is_called_anew() {
    // The close may still be on its way when the next request is sent.
    let server = Server::raw(|mut connection| async move {
        let _ = connection.read(&mut [0; 4096]).await;
        let _ = connection.write_all(OK).await;
    })
    .await;
    let executor = server.executor();
    for _ in 0..20 {
        assert_eq!(output(&executor, attempt("")).await, "ok");
    }
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that answers the first request of a connection, and after the second one waits for `pause`, sends
/// `beginning` and closes.
async fn breaks_off(pause: Duration, beginning: &'static [u8]) -> Server {
    Server::raw(move |mut connection| async move {
        let mut buffer = [0; 4096];
        let _ = connection.read(&mut buffer).await;
        let _ = connection.write_all(OK).await;
        let _ = connection.read(&mut buffer).await;
        tokio::time::sleep(pause).await;
        let _ = connection.write_all(beginning).await;
    })
    .await
}

#[tokio::test]
async fn a_request_goes_again_over_a_new_connection_only_where_a_kept_one_was_closed_before_it() {
    let server = breaks_off(Duration::ZERO, b"").await;
    let executor = server.executor();
    for connections in 1..=2 {
        assert_eq!(output(&executor, attempt("")).await, "ok");
        assert_eq!(server.connections.load(Ordering::Relaxed), connections);
    }
    // Not if the answer had begun, or the server had the request for long.
    for (pause, beginning) in [(Duration::ZERO, &b"HTTP/1.1 2"[..]), (CLOSED_WITHIN, b"")] {
        let server = breaks_off(pause, beginning).await;
        let executor = server.executor();
        assert_eq!(output(&executor, attempt("")).await, "ok");
        assert_eq!(failure(&executor, attempt("")).await.kind, FailureKind::Unreachable, "{pause:?}");
        assert_eq!(server.connections.load(Ordering::Relaxed), 1, "{pause:?}");
    }
}

#[tokio::test]
async fn a_request_whose_server_is_gone_after_it_is_a_failure_and_not_unbegun() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("its address"));
    let serve = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.expect("a connection");
        drop(listener);
        let mut buffer = [0; 4096];
        let _ = connection.read(&mut buffer).await;
        let _ = connection.write_all(OK).await;
        let _ = connection.read(&mut buffer).await;
    });
    let executor = HttpExecutor::new(HttpConfig { url, ..HttpConfig::default() }).expect("good");
    assert_eq!(output(&executor, attempt("")).await, "ok");
    assert_eq!(failure(&executor, attempt("")).await.kind, FailureKind::Unreachable);
    serve.await.expect("no panic");
}

#[tokio::test]
async fn past_its_time_limit_a_call_is_given_up() {
    let silent = Server::new(|_| std::future::pending()).await;
    let slow = Server::new(|_| async {
        Response::new(BodyExt::boxed(StreamBody::new(stream::pending::<Result<Frame<Bytes>, Infallible>>())))
    })
    .await;
    for server in [silent, slow] {
        let task = Attempt { time_limit: Some(Duration::from_millis(100)), ..attempt("") };
        let failed = failure(&server.executor(), task).await;
        assert_eq!((failed.kind, failed.retryable), (FailureKind::TimedOut, true));
    }
}

#[tokio::test]
async fn a_cancelled_call_is_hung_up() {
    let (seen, mut events) = mpsc::channel(2);
    let server = Server::raw(move |mut connection| {
        let seen = seen.clone();
        async move {
            let mut buffer = [0; 4096];
            let _ = connection.read(&mut buffer).await;
            let _ = seen.send("called").await;
            while connection.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            let _ = seen.send("hung up").await;
        }
    })
    .await;
    let cancel = CancellationToken::new();
    let (executor, token) = (server.executor(), cancel.clone());
    let outcome = tokio::spawn(async move { (executor.run(attempt(""), token).await, executor) });
    assert_eq!(events.recv().await, Some("called"));
    cancel.cancel();
    let (outcome, _executor) = outcome.await.expect("no panic");
    assert_eq!(outcome, Outcome::Cancelled);
    let hung_up = tokio::time::timeout(SOON, events.recv()).await.expect("the connection must be closed");
    assert_eq!(hung_up, Some("hung up"));
}

#[tokio::test]
async fn a_task_that_no_header_can_carry_is_refused() {
    let server = Server::always(200, "ok").await;
    let failed = failure(&server.executor(), Attempt { kind: "a\nb".into(), ..attempt("") }).await;
    assert_eq!((failed.kind, failed.retryable), (FailureKind::InvalidAttempt, false));
    assert!(failed.message.contains("robeing-kind"), "{}", failed.message);
    let umlaut = Attempt { kind: "zähl".into(), ..attempt("") };
    assert_eq!(output(&server.executor(), umlaut).await, "ok");
}

#[tokio::test]
async fn https_is_spoken_where_the_url_says_so_and_who_does_not_speak_it_begins_nothing() {
    let server = Server::always(200, "ok").await;
    let url = format!("https://{}/", server.address);
    let executor = match HttpExecutor::new(HttpConfig { url, ..HttpConfig::default() }) {
        Ok(executor) => executor,
        Err(ExecutorError::Certificates { .. }) => return,
        Err(other) => panic!("got {other}"),
    };
    assert_eq!(run(&executor, attempt("")).await, Outcome::NotBegun);
    assert!(!*executor.presence().expect("it says whether it can").borrow(), "the agent is to leave");
    let Health::Silent(why) = executor.health(SOON).await else { panic!("it can't be reached") };
    assert!(why.contains("does not speak TLS there: write http://"), "{why}");
}

#[tokio::test]
async fn a_server_that_never_agrees_on_tls_holds_no_slot() {
    let server = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("https://{}/", server.local_addr().expect("an address"));
    let executor = match HttpExecutor::new(HttpConfig { url, ..HttpConfig::default() }) {
        Ok(executor) => executor,
        Err(ExecutorError::Certificates { .. }) => return,
        Err(other) => panic!("got {other}"),
    };
    let began = Instant::now();
    assert_eq!(run(&executor, Attempt { time_limit: None, ..attempt("") }).await, Outcome::NotBegun);
    assert!(began.elapsed() >= SECURED_WITHIN, "a slow one may still agree: {:?}", began.elapsed());
    let Health::Silent(why) = executor.health(SOON).await else { panic!("it can't be reached") };
    assert!(why.contains("the TLS handshake took more than 10s; is the server up?"), "{why}");
}

#[tokio::test]
async fn what_answers_over_plain_http_with_something_else_may_speak_tls() {
    let server = Server::raw(|mut connection| async move {
        let _ = connection.read(&mut [0; 4096]).await;
        // A TLS alert, meaning that it received a message that is not TLS.
        let _ = connection.write_all(&[21, 3, 1, 0, 2, 2, 10]).await;
    })
    .await;
    let failed = failure(&server.executor(), attempt("")).await;
    assert!(failed.retryable && failed.message.contains("write https://"), "{failed:?}");
}

#[tokio::test]
async fn a_path_that_is_not_ascii_is_percent_encoded() {
    let server = Server::new(|request: Request<Incoming>| async move { answer(200, request.uri().to_string()) }).await;
    let url = format!("http://{}/zählen?ä", server.address);
    let executor = HttpExecutor::new(HttpConfig { url, ..HttpConfig::default() }).expect("good");
    assert_eq!(output(&executor, attempt("")).await, "/z%C3%A4hlen?%C3%A4");
}

#[test]
fn a_url_that_can_not_be_called_is_refused() {
    for url in ["", "/run", "127.0.0.1:9000/run", "ftp://host/", "http://", "http:///run", "http://a b/"] {
        let refused = HttpExecutor::new(HttpConfig { url: url.into(), ..HttpConfig::default() });
        assert!(matches!(refused, Err(ExecutorError::BadUrl { .. })), "{url:?} must be refused");
    }
}

#[tokio::test]
async fn echo_returns_its_input() {
    assert_eq!(output(&EchoExecutor, attempt("input")).await, "input");
    assert_eq!(EchoExecutor.name(), "echo");
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert_eq!(EchoExecutor.run(attempt(""), cancel).await, Outcome::Cancelled);
}
