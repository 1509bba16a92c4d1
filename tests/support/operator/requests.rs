//! A plain HTTP proxy in front of the API server. It records requests and fails on demand: it returns errors, closes
//! connections or never responds; or it holds everything from the N-th write on, right before or right after the API
//! server gets it, so that the caller can be killed at that point.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
};

/// The type of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// It watches.
    Watch,
    /// It gets or changes a Lease.
    Lease,
    /// It gets or lists.
    Read,
    /// It changes something other than a Lease.
    Write,
}

/// A recorded request.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it arrived.
    pub at: Instant,
    /// `GET`, `PATCH`, …
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// Its type.
    pub sort: Sort,
    /// The status code of the API server's response; none if there was no response.
    pub status: Option<u16>,
}

/// How the proxy fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It does not.
    None,
    /// Every request gets a 503, and watches end.
    Unavailable,
    /// Connections are closed at their first request, and watches end.
    Closed,
    /// Nothing gets a response, and nothing is closed.
    Silent,
}

/// The side of a write at which the caller is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The API server never gets the write.
    Before,
    /// The API server applies the write, but the caller gets no response.
    After,
}

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    /// The future write at which everything stops, counted from 1.
    stop: Option<(usize, When)>,
    /// A part of the path of the write whose response is lost, once.
    lost: Option<&'static str>,
}

#[derive(Debug)]
struct Shared {
    book: Mutex<Book>,
    failure: watch::Sender<Failure>,
    stopped: watch::Sender<bool>,
}

/// A proxy to the API server. It closes, with its connections, when this is dropped.
#[derive(Debug)]
pub struct Requests {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

impl Requests {
    /// Opens a port on the loopback address whose requests are forwarded through `client`.
    ///
    /// # Panics
    /// If no port is free.
    pub async fn to(client: Client) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port of the loopback address");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared {
            book: Mutex::default(),
            failure: watch::Sender::new(Failure::None),
            stopped: watch::Sender::new(false),
        });
        let serving = tokio::spawn(serve(listener, client, Arc::clone(&shared)));
        Self { address, shared, serving }
    }

    /// Returns its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn book<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        self.shared.book(look)
    }

    /// Returns the number of requests so far, for [`Requests::since`].
    pub fn mark(&self) -> usize {
        self.book(|book| book.calls.len())
    }

    /// Returns the requests since a mark.
    pub fn since(&self, mark: usize) -> Vec<Call> {
        self.book(|book| book.calls[mark..].to_vec())
    }

    /// Returns the requests of a type since a mark, as lines.
    pub fn lines(&self, mark: usize, sort: Sort) -> Vec<String> {
        let calls = self.since(mark);
        calls.iter().filter(|call| call.sort == sort).map(Call::line).collect()
    }

    /// Starts to fail, or stops failing.
    pub fn fail(&self, failure: Failure) {
        self.shared.failure.send_replace(failure);
    }

    /// Stops responding at the `nth` write from now on, counted from 1; writes of Leases do not count.
    pub fn stop_at(&self, nth: usize, when: When) {
        self.shared.stopped.send_replace(false);
        self.book(|book| book.stop = Some((nth, when)));
    }

    /// Returns whether that write has arrived.
    pub fn has_stopped(&self) -> bool {
        *self.shared.stopped.borrow()
    }

    /// Works normally again, and cancels a stop that has not yet happened.
    pub fn resume(&self) {
        self.book(|book| book.stop = None);
        self.fail(Failure::None);
    }

    /// Loses the response to the next write whose path contains `part`, and nothing else.
    pub fn lose(&self, part: &'static str) {
        self.book(|book| book.lost = Some(part));
    }

    /// Returns whether that write has not yet arrived.
    pub fn has_yet_to_lose(&self) -> bool {
        self.book(|book| book.lost.is_some())
    }
}

impl Call {
    /// Returns whether it acquired or renewed a Lease.
    pub fn is_renewal(&self) -> bool {
        self.sort == Sort::Lease && self.method != Method::GET && matches!(self.status, Some(200 | 201))
    }

    /// Returns the method, path and status code.
    pub fn line(&self) -> String {
        let status = self.status.map_or_else(|| "-".to_owned(), |status| status.to_string());
        format!("{} {} {status}", self.method, self.path)
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Shared {
    fn book<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.book.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records a request; returns its number, its type, and where the caller is to be stopped at it.
    fn write_down(&self, request: &Request<Incoming>) -> (usize, Sort, Option<When>) {
        let path = request.uri().path_and_query().map_or_else(String::new, ToString::to_string);
        let sort = sort(request.method(), &path);
        let call = Call { at: Instant::now(), method: request.method().clone(), path, sort, status: None };
        self.book(|book| {
            book.calls.push(call);
            let mut now = None;
            if let (Sort::Write, Some((left, when))) = (sort, &mut book.stop) {
                *left -= 1;
                if *left == 0 {
                    now = Some(*when);
                    book.stop = None;
                }
            }
            (book.calls.len() - 1, sort, now)
        })
    }

    fn stop(&self) {
        self.failure.send_replace(Failure::Silent);
        self.stopped.send_replace(true);
    }
}

fn sort(method: &Method, path: &str) -> Sort {
    if path.contains("/leases") {
        Sort::Lease
    } else if method != Method::GET {
        Sort::Write
    } else if path.contains("watch=true") {
        Sort::Watch
    } else {
        Sort::Read
    }
}

async fn serve(listener: TcpListener, client: Client, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    // Accepting on the loopback address either always works or has failed for good.
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, client.clone(), Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, client: Client, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(request, client.clone(), Arc::clone(&shared)));
    // The caller sees how the connection ends.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

/// An error closes the connection.
async fn answer(request: Request<Incoming>, client: Client, shared: Arc<Shared>) -> std::io::Result<Answer> {
    let (number, sort, stop) = shared.write_down(&request);
    if stop == Some(When::Before) {
        shared.stop();
    }
    let mut failure = shared.failure.subscribe();
    pass(&mut failure).await?;
    if *failure.borrow() == Failure::Unavailable {
        let body =
            r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":503,"message":"the test makes it fail"}"#;
        let body = Full::new(Bytes::from(body)).map_err(|never: Infallible| match never {}).boxed_unsync();
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    let lost = shared.book(|book| {
        let path = &book.calls[number].path;
        book.lost.take_if(|part| sort == Sort::Write && path.contains(*part)).is_some()
    });
    let response = forward(request, &client).await?;
    shared.book(|book| book.calls[number].status = Some(response.status().as_u16()));
    if stop == Some(When::After) {
        shared.stop();
    }
    if lost {
        std::future::pending::<()>().await;
    }
    pass(&mut failure).await?;
    let (head, body) = response.into_parts();
    Ok(Response::from_parts(head, watched(body, failure)))
}

/// Waits while the failure is `Silent`.
async fn pass(failure: &mut watch::Receiver<Failure>) -> std::io::Result<()> {
    let seen = failure.wait_for(|failure| *failure != Failure::Silent).await.map(|seen| *seen);
    match seen {
        Ok(Failure::Closed) | Err(_) => Err(std::io::ErrorKind::ConnectionAborted.into()),
        Ok(_) => Ok(()),
    }
}

async fn forward(request: Request<Incoming>, client: &Client) -> std::io::Result<Response<Body>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    // These headers are about the connection to this proxy.
    for name in [http::header::HOST, http::header::CONNECTION, http::header::CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    client.send(Request::from_parts(head, Body::from(body))).await.map_err(std::io::Error::other)
}

/// Returns a body that ends or stalls when the proxy fails.
fn watched(body: Body, failure: watch::Receiver<Failure>) -> UnsyncBoxBody<Bytes, std::io::Error> {
    let parts = stream::unfold((body.into_data_stream(), failure), |(mut body, mut failure)| async move {
        let broken = async {
            let seen = failure.wait_for(|failure| *failure != Failure::None).await.map(|seen| *seen);
            if matches!(seen, Ok(Failure::Silent)) {
                // What was lost while the proxy was silent is not sent later: the body ends.
                let _ = failure.wait_for(|failure| *failure != Failure::Silent).await;
            }
        };
        let part = tokio::select! {
            biased;
            () = broken => Err(std::io::ErrorKind::ConnectionAborted.into()),
            part = body.next() => part?.map(Frame::data).map_err(std::io::Error::other),
        };
        Some((part, (body, failure)))
    });
    UnsyncBoxBody::new(StreamBody::new(parts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        for (method, path, expected) in [
            (Method::GET, "/api/v1/pods?watch=true&labelSelector=a", Sort::Watch),
            (Method::GET, "/api/v1/pods?limit=500", Sort::Read),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b?", Sort::Lease),
            (Method::GET, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", Sort::Lease),
            (Method::PATCH, "/api/v1/namespaces/a/services/b?force=true", Sort::Write),
            (Method::DELETE, "/api/v1/namespaces/a/services/b", Sort::Write),
        ] {
            assert_eq!(sort(&method, path), expected, "{method} {path}");
        }
    }
}
