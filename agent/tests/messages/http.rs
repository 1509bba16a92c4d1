//! The `http` handler.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use robeing_agent::messaging::{
    Outcome, Outgoing,
    handlers::{HandlerError, HttpHandler},
};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::fixture::{accepted, outgoing, pair};

/// A server that answers each request by its number, from 0.
struct Server {
    url: String,
    requests: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Server {
    async fn new(answer: impl Fn(usize, String) -> (u16, String) + Clone + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/messages", listener.local_addr().expect("an address"));
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let serving = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (answer, counted) = (answer.clone(), Arc::clone(&counted));
                let service = service_fn(move |request| respond(answer.clone(), Arc::clone(&counted), request));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { url, requests, _serving: AbortOnDropHandle::new(serving) }
    }

    fn handler(&self) -> HttpHandler {
        HttpHandler::new(&self.url).expect("a handler")
    }
}

async fn respond(
    answer: impl Fn(usize, String) -> (u16, String),
    counted: Arc<AtomicUsize>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| {
        let value = request.headers().get(format!("x-robeing-message-{name}"));
        value.map_or("none", |value| value.to_str().expect("text")).to_owned()
    };
    let known = [header("sender"), header("type"), header("priority"), header("resent"), header("reply-to")].join(" ");
    let id = header("id").len();
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let said = format!("{known} {id} {}", String::from_utf8_lossy(&body));
    let (status, text) = answer(counted.fetch_add(1, Ordering::SeqCst), said);
    Ok(Response::builder().status(status).body(Full::new(text.into())).expect("a response"))
}

#[tokio::test]
async fn a_server_gets_the_message_and_its_answer_is_the_reply() {
    let server = Server::new(|_, said| (200, said)).await;
    let (sender, _receiver) = pair(server.handler()).await;
    assert_eq!(sender.send("receiver", "greeting", "hello").await, accepted("sender greeting 5 false none 36 hello"));
    let server = Server::new(|_, _| (204, String::new())).await;
    let (sender, _receiver) = pair(server.handler()).await;
    assert_eq!(sender.send("receiver", "greeting", "hello").await, Outcome::accepted(None));
}

#[tokio::test]
async fn a_status_of_the_client_refuses_and_one_of_the_server_is_tried_again() {
    let server = Server::new(|number, said| match number {
        0 => (503, "busy".to_owned()),
        1 => (429, "slower".to_owned()),
        2 => (200, said),
        _ => (422, format!("{:?}", "n".repeat(1_000))),
    })
    .await;
    let (sender, _receiver) = pair(server.handler()).await;
    assert_eq!(sender.send("receiver", "t", "x").await, accepted("sender t 5 true none 36 x"), "the third request");
    let refused = sender.send("receiver", "t", "x").await;
    assert!(matches!(&refused, Outcome::Refused { reason } if reason.len() == 512), "{refused}");
    assert_eq!(server.requests.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_server_that_is_down_is_called_until_the_deadline() {
    let server = Server::new(|_, said| (200, said)).await;
    let handler = server.handler();
    drop(server);
    let (sender, _receiver) = pair(handler).await;
    let message = Outgoing { deadline: Duration::from_millis(800), ..outgoing("receiver", "t", "") };
    assert_eq!(sender.messenger.send(message).await, Outcome::DeadlinePassed { maybe_handled: true });
}

#[test]
fn a_url_that_can_not_be_called_is_refused() {
    let Err(HandlerError::BadUrl { url, .. }) = HttpHandler::new("ftp://user:secret@host/") else { panic!("accepted") };
    assert!(!url.contains("secret"), "{url}");
}
