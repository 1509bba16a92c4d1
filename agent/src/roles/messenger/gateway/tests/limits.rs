//! The gateway at its limits.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::StreamBody;
use hyper::body::Frame;
use robeing_net::web::MAX_WEB_HEADERS;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    super::{MAX_BODY, MAX_DRAINED, server::Limits},
    client::{PATIENCE, get, over_http2, post, send},
    stub::{Plain, Stub},
};

/// A JSON task of exactly this many bytes.
fn of_size(bytes: usize) -> String {
    let empty = r#"{"kind":"k","input":""}"#;
    empty.replace(r#""""#, &format!(r#""{}""#, "x".repeat(bytes - empty.len())))
}

/// Sends bytes as they are, and returns what comes until the connection is closed.
async fn raw(at: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(at).await.expect("it listens");
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("in time").expect("it answers");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_body_is_as_large_as_the_limit() {
    let fleet = Plain::start().await;
    let at = fleet.gateway.local_addr();
    assert_eq!(send(at, post("/v1/tasks", &of_size(MAX_BODY))).await.status, StatusCode::ACCEPTED);
    let head = "POST /v1/tasks HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-type: application/json\r\n";
    let stated = raw(at, format!("{head}content-length: {}\r\n\r\n", MAX_BODY + 1).as_bytes()).await;
    assert!(stated.starts_with("HTTP/1.1 413"), "{stated}");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\n{:x}\r\n{}", MAX_BODY + 1, of_size(MAX_BODY + 1));
    let chunked = raw(at, chunked.as_bytes()).await;
    assert!(chunked.starts_with("HTTP/1.1 413"), "{chunked}");
    assert_eq!(fleet.coordinator.stub.tasks().len(), 1);
}

#[tokio::test]
async fn a_body_must_come_in_time_and_there_is_room_for_so_many() {
    let limits = Limits { bodies: 2 * 1_024, body_within: Duration::from_millis(300), parts: 1, ..Limits::default() };
    let fleet = Plain::with(Stub::default(), limits).await;
    let at = fleet.gateway.local_addr();
    assert_eq!(send(at, post("/v1/tasks", &of_size(2_048))).await.status, StatusCode::ACCEPTED);
    let busy = send(at, post("/v1/tasks", &of_size(2_049))).await;
    assert_eq!((busy.status, busy.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    let slow = "POST /v1/tasks HTTP/1.1\r\nhost: g\r\nconnection: close\r\ncontent-type: application/json\r\n\
                content-length: 100\r\n\r\n{";
    let slow = raw(at, slow.as_bytes()).await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
}

#[tokio::test]
async fn one_client_that_sends_slowly_leaves_room_for_others() {
    let fleet = Plain::with(Stub::default(), Limits { requests: 4, ..Limits::default() }).await;
    let at = fleet.gateway.local_addr();
    let slow = "POST /v1/tasks HTTP/1.1\r\nhost: g\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{";
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(at).await.expect("it listens");
        stream.write_all(slow.as_bytes()).await.expect("it reads");
        held.push(stream);
    }
    let refused = async {
        while send(at, get("/v1/tasks/a")).await.status != StatusCode::TOO_MANY_REQUESTS {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, refused).await.expect("two are its share");
    assert_eq!(send(at, get("/healthz")).await.status, StatusCode::OK);
    drop(held);
    let again = async {
        while send(at, get("/v1/tasks/a")).await.status == StatusCode::TOO_MANY_REQUESTS {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, again).await.expect("its share is free again");
}

#[tokio::test]
async fn so_many_requests_are_in_progress_and_so_many_wait() {
    let limits = Limits { requests: 0, ..Limits::default() };
    let full = Plain::with(Stub::default(), limits).await;
    let busy = send(full.gateway.local_addr(), get("/v1/tasks/a")).await;
    assert_eq!((busy.status, busy.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, "1"));
    assert_eq!(send(full.gateway.local_addr(), get("/healthz")).await.status, StatusCode::OK);
    // One request waits, and takes no room of those that are in progress.
    let limits = Limits { requests: 1, waits: 1, ..Limits::default() };
    let fleet = Plain::with(Stub::default(), limits).await;
    let at = fleet.gateway.local_addr();
    let waiting = tokio::spawn(send(at, post("/v1/tasks?wait=60s", r#"{"kind":"k"}"#)));
    let stub = &fleet.coordinator.stub;
    let watched = async {
        while !stub.calls().iter().any(|call| call.method == "WatchTasks") {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, watched).await.expect("it is watched");
    assert_eq!(send(at, post("/v1/tasks", r#"{"kind":"k"}"#)).await.status, StatusCode::ACCEPTED);
    let second = send(at, post("/v1/tasks?wait=60s", r#"{"kind":"k"}"#)).await;
    assert_eq!(second.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(second.json()["id"].is_string(), "its id is told");
    assert_eq!(stub.tasks().len(), 3, "it was submitted all the same");
    stub.finish();
    assert_eq!(waiting.await.expect("it ends").status, StatusCode::OK);
}

#[tokio::test]
async fn a_request_has_so_many_headers_and_no_more() {
    let fleet = Plain::start().await;
    let at = fleet.gateway.local_addr();
    let headers = |count: usize| {
        let more: String = (0..count).map(|number| format!("x-{number}: y\r\n")).collect();
        format!("GET /healthz HTTP/1.1\r\nhost: g\r\nconnection: close\r\n{more}\r\n")
    };
    let fits = raw(at, headers(MAX_WEB_HEADERS - 2).as_bytes()).await;
    assert!(fits.starts_with("HTTP/1.1 200"), "{fits}");
    let refused = raw(at, headers(MAX_WEB_HEADERS - 1).as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 431"), "{refused}");
}

#[tokio::test]
async fn over_http2_a_small_body_is_read_before_it_is_refused_and_a_large_one_is_not() {
    let fleet = Plain::start().await;
    for (length, is_read) in [(MAX_DRAINED, true), (MAX_DRAINED + 1, false)] {
        let ((sent, mut was_sent), (comes, may_come)) = (oneshot::channel(), oneshot::channel::<()>());
        let body = async_stream::stream! {
            let _ = may_come.await;
            yield Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b'x'; length])));
            let _ = sent.send(());
        };
        let request = Request::post("/v1/tasks").header("content-type", "text/html").header("content-length", length);
        let request = request.body(StreamBody::new(Box::pin(body))).expect("a request");
        let stream = TcpStream::connect(fleet.gateway.local_addr()).await.expect("it listens");
        // A body that is read comes when it could be refused already, and one that is not, never.
        let comes = match is_read {
            true => {
                tokio::spawn(async move {
                    sleep(Duration::from_millis(300)).await;
                    drop(comes);
                });
                None
            }
            false => Some(comes),
        };
        let answer = over_http2(stream, request).await.expect("it answers");
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{length}");
        match is_read {
            true => was_sent.await.expect("it was read to its end"),
            false => assert!(was_sent.try_recv().is_err(), "the answer came before the body"),
        }
        drop(comes);
    }
}
