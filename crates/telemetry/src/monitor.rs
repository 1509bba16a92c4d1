//! The HTTP listener for monitoring: `/metrics`, `/healthz` (the process responds) and `/readyz` (it can do its work).
//! HTTP/1.1, read-only, and not meant for an open network.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use robeing_net::Transport;
use robeing_platform::{Connection, Listener, TcpNetwork};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use super::Metrics;

/// Maximum number of concurrent connections; further ones wait to be accepted.
pub const MAX_MONITORS: usize = 64;
/// Timeout for receiving the head of each request on a connection, including the first.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Maximum lifetime of a connection.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(300);
/// Pause after a failed `accept`.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

const OPENMETRICS: HeaderValue = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Whether a process can do its work, as `/readyz` reports. Cheap to clone; initially not ready.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<AtomicBool>);

impl Readiness {
    /// Sets whether the process is ready.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }

    /// Returns whether the process is ready.
    pub fn is_ready(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a monitor serves.
pub trait Monitored: Clone + Send + 'static {
    /// Returns all metrics in the OpenMetrics text format.
    fn encode(&self) -> String;

    /// Returns whether `/readyz` answers 200.
    fn is_ready(&self) -> bool;
}

impl Monitored for Metrics {
    fn encode(&self) -> String {
        Metrics::encode(self)
    }

    fn is_ready(&self) -> bool {
        self.readiness().is_ready()
    }
}

/// The monitoring listener. It stops when dropped.
#[derive(Debug)]
pub struct Monitor {
    local: SocketAddr,
    _serving: AbortOnDropHandle<()>,
}

impl Monitor {
    /// Listens on `address` (`host:port`) and starts serving.
    ///
    /// # Errors
    /// The operating system's error, with the address.
    pub async fn start(transport: &Transport, address: &str, metrics: impl Monitored) -> io::Result<Self> {
        let bound = transport.bind(address).await?;
        let local = bound.local_addr()?;
        info!(%local, "metrics and probes are served");
        let serving = tokio::spawn(serve(bound.into_listener(), metrics));
        Ok(Self { local, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Like [`Monitor::start`], on the machine's own network.
    ///
    /// # Errors
    /// As for [`Monitor::start`].
    pub async fn start_on_tcp(address: &str, metrics: impl Monitored) -> io::Result<Self> {
        Self::start(&Transport::new(Arc::new(TcpNetwork)), address, metrics).await
    }

    /// The local address, with the port that was actually bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

async fn serve(mut listener: Box<dyn Listener>, metrics: impl Monitored) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_MONITORS => match accepted {
                Ok(connection) => {
                    connections.spawn(converse(connection, metrics.clone()));
                }
                Err(error) => {
                    debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            },
        }
    }
}

async fn converse(connection: Connection, metrics: impl Monitored) {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request.method(), request.uri().path(), &metrics);
        async move { Ok::<_, Infallible>(response) }
    });
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_WITHIN)
        .serve_connection(TokioIo::new(connection), service);
    if let Ok(Err(error)) = timeout(CONNECTION_LIFETIME, talk).await {
        debug!(%error, "a monitoring connection broke");
    }
}

fn answer(method: &Method, path: &str, metrics: &impl Monitored) -> Response<Full<Bytes>> {
    let (status, form, text) = match path {
        _ if !matches!(*method, Method::GET | Method::HEAD) => {
            (StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET and HEAD\n".into())
        }
        "/metrics" => (StatusCode::OK, OPENMETRICS, metrics.encode()),
        "/healthz" => (StatusCode::OK, TEXT, "ok\n".into()),
        "/readyz" if metrics.is_ready() => (StatusCode::OK, TEXT, "ready\n".into()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready\n".into()),
        _ => (StatusCode::NOT_FOUND, TEXT, "try /metrics, /healthz or /readyz\n".into()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, form);
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use robeing_platform::TcpNetwork;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn monitor(metrics: &Metrics) -> Monitor {
        metrics.counter("asked", "Times asked").inc();
        let transport = Transport::new(Arc::new(TcpNetwork));
        Monitor::start(&transport, "127.0.0.1:0", metrics.clone()).await.expect("a free port")
    }

    async fn ask(monitor: &Monitor, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(monitor.local_addr()).await.expect("it listens");
        stream.write_all(request).await.expect("it reads");
        let mut text = String::new();
        timeout(Duration::from_secs(10), stream.read_to_string(&mut text))
            .await
            .expect("it closes")
            .expect("it answers");
        text
    }

    async fn get(monitor: &Monitor, path: &str) -> String {
        ask(monitor, format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes()).await
    }

    #[tokio::test]
    async fn metrics_and_probes_are_answered() {
        let all = Metrics::default();
        let monitor = monitor(&all).await;
        let metrics = get(&monitor, "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
        assert!(metrics.contains("robeing_asked_total 1"), "{metrics}");
        assert!(get(&monitor, "/healthz").await.starts_with("HTTP/1.1 200"));
        assert!(get(&monitor, "/readyz").await.starts_with("HTTP/1.1 503"));
        all.readiness().set(true);
        assert!(get(&monitor, "/readyz").await.starts_with("HTTP/1.1 200"));
        assert!(get(&monitor, "/else").await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn garbage_and_other_methods_are_refused_and_it_lives_on() {
        let monitor = monitor(&Metrics::default()).await;
        let refused = ask(&monitor, b"\x00\x01\x02garbage\r\n\r\n").await;
        assert!(refused.starts_with("HTTP/1.1 400") || refused.is_empty(), "{refused}");
        let post = b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        assert!(ask(&monitor, post).await.starts_with("HTTP/1.1 405"));
        assert!(get(&monitor, "/healthz").await.starts_with("HTTP/1.1 200"));
    }

    #[tokio::test]
    async fn the_port_is_free_once_it_is_dropped() {
        let monitor = monitor(&Metrics::default()).await;
        let address = monitor.local_addr();
        drop(monitor);
        let closed = async { while TcpStream::connect(address).await.is_ok() {} };
        timeout(Duration::from_secs(10), closed).await.expect("the listener is closed");
    }
}
