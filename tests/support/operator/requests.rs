//! A plain HTTP proxy before the API server. It records what is asked, and fails on demand: as a server that refuses, that
//! closes connections, or that never answers; or by holding everything from the N-th write on, right before or right after the
//! API server gets it, so that the caller can be killed there.

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

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// It waits for changes.
    Watch,
    /// It is about a Lease, whatever it does.
    Lease,
    /// It gets or lists.
    Read,
    /// It changes something other than a Lease.
    Write,
}

/// A request that was made.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it came.
    pub at: Instant,
    /// `GET`, `PATCH`, …
    pub method: Method,
    /// Path and query.
    pub path: String,
    /// What for.
    pub sort: Sort,
    /// What the API server answered; none when it did not.
    pub status: Option<u16>,
}

/// How the way to the API server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// As it should be.
    None,
    /// Every request is answered with 503, and watches end.
    Unavailable,
    /// Connections are closed at their first request, and watches end.
    Closed,
    /// Nothing is answered any more, and nothing is closed.
    Silent,
}

/// On which side of a write the caller is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The API server never gets it.
    Before,
    /// The API server did it, and the caller never learns of it.
    After,
}

#[derive(Debug, Default)]
struct Book {
    calls: Vec<Call>,
    /// At which of the writes still to come, counted from 1, everything stops.
    stop: Option<(usize, When)>,
    /// A part of the path of a request that is never answered, once.
    lost: Option<&'static str>,
}

#[derive(Debug)]
struct Shared {
    book: Mutex<Book>,
    failure: watch::Sender<Failure>,
    stopped: watch::Sender<bool>,
}

/// A way to the API server. It closes, with its connections, when this is dropped.
#[derive(Debug)]
pub struct Requests {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

type Answer = Response<UnsyncBoxBody<Bytes, std::io::Error>>;

impl Requests {
    /// Opens a port of the loopback address whose requests `client` passes on.
    ///
    /// # Panics
    /// When no port can be had.
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

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn book<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        self.shared.book(look)
    }

    /// How many requests were made so far, for [`Requests::since`].
    pub fn mark(&self) -> usize {
        self.book(|book| book.calls.len())
    }

    /// The requests since a mark.
    pub fn since(&self, mark: usize) -> Vec<Call> {
        self.book(|book| book.calls[mark..].to_vec())
    }

    /// The requests of some sort since a mark, as lines.
    pub fn lines(&self, mark: usize, sort: Sort) -> Vec<String> {
        let calls = self.since(mark);
        calls.iter().filter(|call| call.sort == sort).map(Call::line).collect()
    }

    /// Fails from now on, or works again.
    pub fn fail(&self, failure: Failure) {
        self.shared.failure.send_replace(failure);
    }

    /// Falls silent at the `nth` write from now on, counted from 1, leases not counted.
    pub fn stop_at(&self, nth: usize, when: When) {
        self.shared.stopped.send_replace(false);
        self.book(|book| book.stop = Some((nth, when)));
    }

    /// Whether that write came.
    pub fn has_stopped(&self) -> bool {
        *self.shared.stopped.borrow()
    }

    /// Works again, with no stop ahead.
    pub fn resume(&self) {
        self.book(|book| book.stop = None);
        self.fail(Failure::None);
    }

    /// Loses the answer to the next write whose path has this in it, and nothing else.
    pub fn lose(&self, part: &'static str) {
        self.book(|book| book.lost = Some(part));
    }

    /// Whether such a write is still awaited.
    pub fn has_yet_to_lose(&self) -> bool {
        self.book(|book| book.lost.is_some())
    }
}

impl Call {
    /// Whether it took or renewed a Lease.
    pub fn is_renewal(&self) -> bool {
        self.sort == Sort::Lease && self.method != Method::GET && matches!(self.status, Some(200 | 201))
    }

    /// Method, path and answer.
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

    /// Writes a request down; gives its number, and where the caller is to be stopped at it.
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
    // A listener of the loopback address fails for good or not at all.
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, client.clone(), Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, client: Client, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|request| answer(request, client.clone(), Arc::clone(&shared)));
    // How it ends is the caller's to find out.
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
            r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":503,"message":"it is made to fail"}"#;
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

/// Waits while nothing is to be answered.
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
    // They are about the connection to this proxy.
    for name in [http::header::HOST, http::header::CONNECTION, http::header::CONTENT_LENGTH] {
        head.headers.remove(name);
    }
    client.send(Request::from_parts(head, Body::from(body))).await.map_err(std::io::Error::other)
}

/// A body that ends or falls silent when the way fails.
fn watched(body: Body, failure: watch::Receiver<Failure>) -> UnsyncBoxBody<Bytes, std::io::Error> {
    let parts = stream::unfold((body.into_data_stream(), failure), |(mut body, mut failure)| async move {
        let broken = async {
            let seen = failure.wait_for(|failure| *failure != Failure::None).await.map(|seen| *seen);
            if matches!(seen, Ok(Failure::Silent)) {
                // What was lost on a silent way stays lost.
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
