//! How requests travel: over connections that are kept, or over a new one where a kept one turns out to be closed.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Extensions, Request, Response, Uri};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    rt::{Read, ReadBuf, ReadBufCursor, Write},
};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        Client, Error,
        connect::{CaptureConnection, Connected, Connection, HttpConnector, capture_connection},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use tokio::{net::TcpStream, time::Instant};
use tower::{
    BoxError,
    timeout::{Timeout, error::Elapsed},
    util::{BoxCloneSyncService, ServiceExt},
};

use super::{CONNECT_WITHIN, MAX_HEADERS, SECURED_WITHIN, tls, trouble};

/// How long a connection is kept for the next attempt. Shorter than the keep-alive of common servers, so that it is
/// rarely the server that closes it, just as a request is sent.
const KEEP_IDLE: Duration = Duration::from_secs(4);
/// How long a connection is silent before the other side's machine is asked whether it is still there, then the pause between
/// two such questions, and how many may go unanswered. So a server that vanished silently holds no slot for ever.
///
/// None is asked while something that was sent has not arrived. The kernel sends that again then, and gives up after a quarter of
/// an hour (`net.ipv4.tcp_retries2`). A limit of our own, `TCP_USER_TIMEOUT`, would also count the time in which a busy server that
/// is well has not accepted the connection, or does not read on.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
/// How long a look waits for the server's word that it does not take who calls. In TLS 1.3 it says so when the caller takes the
/// connection for made, so it is about as long as a way there and back.
const REFUSED_WITHIN: Duration = Duration::from_millis(300);
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
        if let Some(refusal) = stream.refusal().await {
            return Err(refusal.into());
        }
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
    note_of(connection).is_some_and(|note| note.has_served() && !note.is_heard())
}

/// What a connection that was made for a request has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing.
    Nothing,
    /// Something, though no answer.
    Something,
    /// Answers to earlier requests.
    Answers,
}

/// What a request's connection has brought before its answer. `None`: it has none.
pub(super) fn heard(connection: &CaptureConnection) -> Option<Heard> {
    Some(match note_of(connection)? {
        note if note.has_served() => Heard::Answers,
        note if note.is_heard() => Heard::Something,
        _ => Heard::Nothing,
    })
}

fn note_of(connection: &CaptureConnection) -> Option<Arc<Note>> {
    let mut extras = Extensions::new();
    connection.connection_metadata().as_ref()?.get_extras(&mut extras);
    extras.remove::<Arc<Note>>()
}

/// What is known of a connection.
#[derive(Default)]
struct Note {
    /// A request was answered.
    has_served: AtomicBool,
    /// Something was read since something was written.
    is_heard: AtomicBool,
}

impl Note {
    fn has_served(&self) -> bool {
        self.has_served.load(Ordering::Relaxed)
    }

    fn is_heard(&self) -> bool {
        self.is_heard.load(Ordering::Relaxed)
    }
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

    /// The server's word that it does not take who calls, if it comes soon.
    async fn refusal(&mut self) -> Option<io::Error> {
        if matches!(self.stream, MaybeHttpsStream::Http(_)) {
            return None;
        }
        let mut byte = [MaybeUninit::uninit()];
        let mut byte = ReadBuf::uninit(&mut byte);
        let read = poll_fn(|cx| Pin::new(&mut *self).poll_read(cx, byte.unfilled()));
        let read = tokio::time::timeout(REFUSED_WITHIN, read).await.ok()?;
        read.err().filter(|error| trouble::first::<rustls::Error>(error).is_some())
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

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_silent_server_is_asked_whether_it_is_there_and_a_busy_one_may_take_any_time() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url: Uri = format!("http://{}/", listener.local_addr().expect("an address")).parse().expect("a URL");
        let transport = Transport::new(false).expect("no certificates are needed");
        let Noted { stream: MaybeHttpsStream::Http(stream), .. } =
            transport.connector.clone().oneshot(url).await.expect("it accepts")
        else {
            panic!("no TLS is spoken");
        };
        let socket = SockRef::from(stream.inner());
        assert!(socket.keepalive().expect("it says"));
        assert_eq!(socket.tcp_keepalive_time().expect("it says"), PROBES.0);
        assert_eq!(socket.tcp_user_timeout().expect("it says").unwrap_or_default(), Duration::ZERO);
    }
}
