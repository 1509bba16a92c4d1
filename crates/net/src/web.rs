//! Serves HTTP/1.1 and HTTP/2 to clients that are not gRPC's, such as browsers' programs and curl. One listener speaks
//! both. Connections are bounded, also in what a client that sends slowly, or nothing, can hold.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use http_body_util::Full;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{sync::watch, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{async_trait, transport::server::Connected};
use tracing::debug;

use crate::{
    Bound, ConnectInfo, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, MAX_HEADER_BYTES, SHUTDOWN_GRACE,
    incoming::{self, Accepted},
};

/// Maximum number of open connections of one listener; further ones wait to be accepted.
pub const MAX_WEB_CONNECTIONS: usize = 4_096;
/// Maximum number of concurrent requests on one HTTP/2 connection.
pub const MAX_WEB_STREAMS: u32 = 128;
/// How long a client may take to send the headers of a request; over HTTP/1.1, a connection is also closed when it has
/// been idle for so long.
pub const HEADERS_WITHIN: Duration = Duration::from_secs(15);
/// How long a connection is kept without a request in progress.
pub const WEB_IDLE: Duration = Duration::from_secs(60);
/// Maximum number of headers of a request over HTTP/1.1.
pub const MAX_WEB_HEADERS: usize = 100;

/// Answers requests.
#[async_trait]
pub trait WebService: Send + Sync + 'static {
    /// Answers one request that arrived on this connection. The future is dropped if the client goes away. It bounds how
    /// long it waits for the body: a connection is kept as long as a request is in progress.
    async fn respond(&self, request: Request<Incoming>, connection: ConnectInfo) -> Response<Full<Bytes>>;
}

/// Counts a request as in progress until it is dropped.
struct InProgress(watch::Sender<usize>);

impl InProgress {
    fn begin(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|count| *count += 1);
        Self(count.clone())
    }
}

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Bound {
    /// Serves HTTP until `stop` is cancelled and open requests have ended, or [`SHUTDOWN_GRACE`] has passed.
    pub async fn serve_web(self, service: Arc<dyn WebService>, stop: CancellationToken) {
        let tls = self.tls.map(|tls| tls.for_web());
        let mut incoming = pin!(incoming::accepted(self.listener, tls, MAX_WEB_CONNECTIONS, 1));
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = incoming.next() => match accepted {
                    Some(Ok(accepted)) => {
                        connections.spawn(serve(accepted, Arc::clone(&service), stop.clone()));
                    }
                    Some(Err(_)) => {}
                    None => break,
                }
            }
        }
        // Those that remain are aborted as the set is dropped.
        let _ = timeout(SHUTDOWN_GRACE, async { while connections.join_next().await.is_some() {} }).await;
    }
}

/// Serves one connection.
async fn serve(accepted: Accepted, service: Arc<dyn WebService>, stop: CancellationToken) {
    let info = accepted.connect_info();
    let (count, mut counted) = watch::channel(0_usize);
    let respond = service_fn(|request| {
        let (service, info, in_progress) = (Arc::clone(&service), info.clone(), InProgress::begin(&count));
        async move {
            let response = service.respond(request, info).await;
            drop(in_progress);
            Ok::<_, Infallible>(response)
        }
    });
    let builder = builder();
    let mut connection = pin!(builder.serve_connection(TokioIo::new(accepted), respond));
    tokio::select! {
        ended = connection.as_mut() => {
            if let Err(error) = ended {
                debug!(error = crate::innermost(&*error), "a connection ended");
            }
            return;
        }
        () = idle(&mut counted) => {}
        () = stop.cancelled() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(SHUTDOWN_GRACE, connection).await;
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_headers(MAX_WEB_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .max_concurrent_streams(MAX_WEB_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES);
    builder
}

/// Returns when no request has been in progress for [`WEB_IDLE`].
async fn idle(counted: &mut watch::Receiver<usize>) {
    loop {
        if counted.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        // Any change means that there was a request.
        if timeout(WEB_IDLE, counted.changed()).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::{Network, simulated::MemoryNetwork};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };
    use tokio_util::task::AbortOnDropHandle;

    use super::*;
    use crate::Transport;

    const ADDRESS: &str = "10.0.0.1:80";
    /// Time for what takes none here.
    const MARGIN: Duration = Duration::from_secs(1);

    /// Answers at once, or never.
    struct Echo;

    #[async_trait]
    impl WebService for Echo {
        async fn respond(&self, request: Request<Incoming>, _: ConnectInfo) -> Response<Full<Bytes>> {
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            Response::new(Full::new(Bytes::from_static(b"answered")))
        }
    }

    struct Served {
        network: MemoryNetwork,
        stop: CancellationToken,
        serving: AbortOnDropHandle<()>,
    }

    impl Served {
        async fn start() -> Self {
            let network = MemoryNetwork::default();
            let bound = Transport::new(Arc::new(network.clone())).bind(ADDRESS).await.unwrap();
            let stop = CancellationToken::new();
            let serving = tokio::spawn(bound.serve_web(Arc::new(Echo), stop.clone()));
            Self { network, stop, serving: AbortOnDropHandle::new(serving) }
        }

        /// Sends these bytes, and returns what comes until the connection ends, and how long that took.
        async fn exchange(&self, bytes: &[u8]) -> (String, Duration) {
            let began = Instant::now();
            let mut connection = self.network.connect(ADDRESS).await.unwrap();
            connection.write_all(bytes).await.unwrap();
            let mut answer = Vec::new();
            // A connection that is cut has an end, too.
            let _ = connection.read_to_end(&mut answer).await;
            (String::from_utf8_lossy(&answer).into_owned(), began.elapsed())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_headers_slowly_or_nothing_loses_its_connection() {
        let served = Served::start().await;
        for bytes in
            [&b"G"[..], b"GET / HTTP/1.1\r\nhost: ", b"PRI * HTTP/2.0\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
        {
            let (_, took) = served.exchange(bytes).await;
            assert!(took <= WEB_IDLE + SHUTDOWN_GRACE + MARGIN, "{bytes:?}: {took:?}");
        }
        let (_, took) = served.exchange(b"GET / HTTP/1.1\r\nhost: ").await;
        assert!(took <= HEADERS_WITHIN + MARGIN, "{took:?}");
        let (_, took) = served.exchange(b"").await;
        assert!(took <= incoming::FIRST_BYTE_TIMEOUT + MARGIN, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_kept_for_a_while_after_a_request_and_as_long_as_one_takes() {
        let served = Served::start().await;
        let (answer, took) = served.exchange(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("answered"), "{answer}");
        assert!((HEADERS_WITHIN..=WEB_IDLE + SHUTDOWN_GRACE + MARGIN).contains(&took), "{took:?}");
        let unanswered = served.exchange(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n");
        assert!(timeout(10 * WEB_IDLE, unanswered).await.is_err(), "the request is in progress");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_progress_ends_soon_after_the_listener_is_stopped() {
        let served = Served::start().await;
        let mut connection = served.network.connect(ADDRESS).await.unwrap();
        connection.write_all(b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        tokio::time::sleep(MARGIN).await;
        let began = Instant::now();
        served.stop.cancel();
        served.serving.await.unwrap();
        assert!(began.elapsed() <= 2 * SHUTDOWN_GRACE, "{:?}", began.elapsed());
    }
}
