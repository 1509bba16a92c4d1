//! How requests travel: over connections that are kept, or over a new one where a kept one turns out to be closed.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{
    CaptureConnection, Connected, Connection, HttpConnector, capture_connection,
};
use hyper_util::client::legacy::{Client, Error};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::BoxError;
use tower::timeout::Timeout;
use tower::timeout::error::Elapsed;
use tower::util::{BoxCloneSyncService, ServiceExt};

use super::{CONNECT_WITHIN, MAX_HEADERS, SECURED_WITHIN, tls};

/// How long a connection is kept for the next attempt. Shorter than the keep-alive of common servers, so that it is
/// rarely the server that closes it, just as a request is sent.
const KEEP_IDLE: Duration = Duration::from_secs(4);
/// How long a connection is silent before the other side's machine is asked whether it is still there, then the pause between
/// two such questions, and how many may go unanswered. So a server that vanished silently holds no slot for ever.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
/// How long what was sent may go without the other side's machine having it.
const DELIVER_WITHIN: Duration = Duration::from_secs(30);
/// A connection that was closed before the request came is seen to be by then: about as long as a way there and back takes. One
/// that breaks later may be that of a server that died of the request.
pub const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// Bytes read from a connection at once.
const READ_AT_ONCE: usize = 8 * 1024;

type Secured = MaybeHttpsStream<TokioIo<TcpStream>>;
type Connector = BoxCloneSyncService<Uri, Noted, BoxError>;

/// Sends requests to one server.
pub(super) struct Transport {
    connector: Connector,
    kept: Client<Connector, Full<Bytes>>,
    /// Uses each connection once.
    fresh: Client<Connector, Full<Bytes>>,
}

impl Transport {
    /// # Errors
    /// When the trusted certificates, which https needs, can't be read.
    pub(super) fn new(is_https: bool) -> Result<Self, tls::CertificatesError> {
        let (silent, between, unanswered) = PROBES;
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_WITHIN));
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(silent));
        tcp.set_keepalive_interval(Some(between));
        tcp.set_keepalive_retries(Some(unanswered));
        tcp.set_tcp_user_timeout(Some(DELIVER_WITHIN));
        tcp.enforce_http(false);
        // Plain connections need no certificates, which a small image may not have.
        let tls = if is_https { tls::config()? } else { tls::trusting_nobody()? };
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
        let connector = connector.wrap_connector(tcp).map_response(Noted::new);
        let connector = Connector::new(Timeout::new(connector, SECURED_WITHIN).map_err(late));
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).pool_idle_timeout(KEEP_IDLE).http1_max_headers(MAX_HEADERS);
        let kept = builder.build(connector.clone());
        let fresh = builder.pool_max_idle_per_host(0).build(connector.clone());
        Ok(Self { connector, kept, fresh })
    }

    /// Sends a request, and hands on the connection that it goes over.
    ///
    /// A server may close a kept connection just as a request is on its way to it (RFC 9112, 9.3.1). Then it goes over a new one,
    /// once, though it is a POST (RFC 9110, 9.2.2): it has the same `Robeing-Task-Id` and `Robeing-Attempt`, by which a server
    /// can tell that it is the same; and a failure would only have the fleet send it again, as the next attempt.
    pub(super) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
        tell: impl FnOnce(CaptureConnection),
    ) -> Result<Response<Incoming>, Error> {
        let again = request.clone();
        let connection = capture_connection(&mut request);
        tell(connection.clone());
        let sent = Instant::now();
        match self.kept.request(request).await {
            Ok(answer) => {
                if let Some(note) = answer.extensions().get::<Arc<Note>>() {
                    note.has_served.store(true, Ordering::Relaxed);
                }
                Ok(answer)
            }
            Err(error) if sent.elapsed() < CLOSED_WITHIN && was_closed(&connection) => {
                match self.fresh.request(again).await {
                    // The first may have reached it.
                    Err(unreached) if unreached.is_connect() => Err(error),
                    answer => answer,
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Looks whether the server can be connected to, TLS included.
    pub(super) async fn connect(&self, uri: &Uri) -> Result<(), BoxError> {
        let mut stream = self.connector.clone().oneshot(uri.clone()).await?;
        // Most servers log it when it is merely dropped. What they make of the end is no matter.
        let _ = poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
        Ok(())
    }
}

/// Says what was waited for when making a connection took too long.
fn late(error: BoxError) -> BoxError {
    if !error.is::<Elapsed>() {
        return error;
    }
    let within = humantime::format_duration(SECURED_WITHIN);
    format!("looking up its name, connecting to it and agreeing on TLS took more than {within}").into()
}

/// Whether an answer has come over a connection before, and none of its bytes to the last request.
fn was_closed(connection: &CaptureConnection) -> bool {
    let mut extras = Extensions::new();
    if let Some(connected) = &*connection.connection_metadata() {
        connected.get_extras(&mut extras);
    }
    let note = extras.get::<Arc<Note>>();
    note.is_some_and(|note| note.has_served.load(Ordering::Relaxed) && !note.is_heard.load(Ordering::Relaxed))
}

/// What is known of a connection.
#[derive(Default)]
struct Note {
    /// A request was answered.
    has_served: AtomicBool,
    /// Something was read since something was written.
    is_heard: AtomicBool,
}

/// A connection that takes note.
struct Noted {
    stream: Secured,
    note: Arc<Note>,
}

impl Noted {
    fn new(stream: Secured) -> Self {
        Self { stream, note: Arc::default() }
    }
}

impl Connection for Noted {
    fn connected(&self) -> Connected {
        self.stream.connected().extra(Arc::clone(&self.note))
    }
}

impl Read for Noted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [const { MaybeUninit::uninit() }; READ_AT_ONCE];
        let room = bytes.len().min(into.remaining());
        let mut read = ReadBuf::uninit(&mut bytes[..room]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, read.unfilled()))?;
        if !read.filled().is_empty() {
            self.note.is_heard.store(true, Ordering::Relaxed);
        }
        into.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Noted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.note.is_heard.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.note.is_heard.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
}
