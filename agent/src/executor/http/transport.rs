//! Sends requests over kept-alive connections, or over a new one if a kept one turns out to be closed.

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
use http::{
    Extensions, Request, Response, StatusCode, Uri,
    header::{CONNECTION, RETRY_AFTER},
};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    rt::{Read, ReadBuf, ReadBufCursor, Write},
};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::{
        Client, Error,
        connect::{CaptureConnection, Connected, Connection, HttpConnector, capture_connection, dns},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use robeing_platform::{Network, TcpNetwork};
use tokio::{net::TcpStream, time::Instant};
use tower::{
    BoxError, service_fn,
    timeout::{Timeout, error::Elapsed},
    util::{BoxCloneSyncService, ServiceExt},
};

use super::{CONNECT_WITHIN, MAX_HEADERS, SECURED_WITHIN, tls, trouble};

/// How long an idle connection is kept for the next attempt. It is shorter than the keep-alive timeout of common
/// servers, so that a server rarely closes it just as a request is sent.
const KEEP_IDLE: Duration = Duration::from_secs(4);
/// TCP keepalive: how long a connection is idle before the first probe, the pause between two probes, and how many may
/// go unanswered. Without probes, a server that vanished silently would hold a slot forever.
///
/// No probe is sent while sent data is unacknowledged. The kernel then retransmits, and gives up after a quarter of an
/// hour (`net.ipv4.tcp_retries2`). Setting `TCP_USER_TIMEOUT` instead would also count the time in which a busy but
/// healthy server has not accepted the connection, or does not read.
const PROBES: (Duration, Duration, u32) = (Duration::from_secs(15), Duration::from_secs(5), 3);
/// How long a check waits for the server to reject the client. In TLS 1.3 the server does so when the client already
/// considers the connection established, so this is about one round trip.
const REFUSED_WITHIN: Duration = Duration::from_millis(300);
/// A connection that was closed before the request arrived is detected within this time, about one round trip. One that
/// breaks later may be that of a server that crashed because of the request.
pub const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// The maximum number of bytes per read from a connection.
const READ_AT_ONCE: usize = 8 * 1024;

type Secured = MaybeHttpsStream<TokioIo<TcpStream>>;
type Connector = BoxCloneSyncService<Uri, Noted, BoxError>;

/// Sends requests to one server.
pub(crate) struct Transport {
    connector: Connector,
    kept: Client<Connector, Full<Bytes>>,
    /// A client that uses each connection once.
    fresh: Client<Connector, Full<Bytes>>,
}

impl Transport {
    /// Creates the connector and its clients.
    ///
    /// # Errors
    /// When the trusted certificates, which https needs, can't be read.
    pub(crate) fn new(is_https: bool) -> Result<Self, tls::CertificatesError> {
        let (silent, between, unanswered) = PROBES;
        // Hyper's own resolver panics where no thread can be created.
        let names =
            service_fn(
                |name: dns::Name| async move { TcpNetwork.resolve(&format!("{name}:0")).await.map(Vec::into_iter) },
            );
        let mut tcp = HttpConnector::new_with_resolver(names);
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

    /// Sends a request, and passes the connection it uses to `tell`.
    ///
    /// A server may close a kept connection just as a request is on its way (RFC 9112, 9.3.1). The request is then sent
    /// once more over a new connection, although it is a POST (RFC 9110, 9.2.2): it has the same `Robeing-Task-Id` and
    /// `Robeing-Attempt`, by which a server can recognize it; and a failure would only make the fleet send it again, as
    /// the next attempt.
    pub(crate) async fn send(
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
                let note = answer.extensions().get::<Arc<Note>>();
                let is_kept = note.is_some_and(|note| note.has_served.swap(true, Ordering::Relaxed));
                // The server closes a connection that was idle for too long; the status only gives the reason (RFC
                // 9110, 15.5.9).
                if is_kept && is_idle_close(&answer) && sent.elapsed() < CLOSED_WITHIN {
                    return self.fresh.request(again).await.or(Ok(answer));
                }
                Ok(answer)
            }
            Err(error) if sent.elapsed() < CLOSED_WITHIN && was_closed(&connection) => {
                match self.fresh.request(again).await {
                    // The first request may have reached the server.
                    Err(unreached) if unreached.is_connect() => Err(error),
                    answer => answer,
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Checks whether the server accepts a connection, TLS included.
    pub(super) async fn connect(&self, uri: &Uri) -> Result<(), BoxError> {
        let mut stream = self.connector.clone().oneshot(uri.clone()).await?;
        if let Some(refusal) = stream.refusal().await {
            return Err(refusal.into());
        }
        // Shut down properly, because most servers log a dropped connection. The result does not matter.
        let _ = poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await;
        Ok(())
    }
}

/// Whether an answer only says why the server closes an idle connection. An application's own 408 keeps the connection, or
/// says when to come back.
fn is_idle_close(answer: &Response<Incoming>) -> bool {
    let closes = answer.headers().get(CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    answer.status() == StatusCode::REQUEST_TIMEOUT && closes && !answer.headers().contains_key(RETRY_AFTER)
}

/// Replaces a timeout error with one that lists the steps of setting up a connection.
fn late(error: BoxError) -> BoxError {
    if !error.is::<Elapsed>() {
        return error;
    }
    let within = humantime::format_duration(SECURED_WITHIN);
    format!("name resolution, connecting and the TLS handshake took more than {within}").into()
}

/// Whether a connection has served a request before, and nothing was received on it since the last one was sent.
fn was_closed(connection: &CaptureConnection) -> bool {
    note_of(connection).is_some_and(|note| note.has_served() && !note.is_heard())
}

/// What was received over the connection of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing was received.
    Nothing,
    /// Some bytes, but no answer.
    Something,
    /// Answers to earlier requests.
    Answers,
}

/// Returns what a request's connection has received before the request's answer. `None`: there is no connection.
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

/// The recorded activity of a connection.
#[derive(Default)]
struct Note {
    /// A request was answered.
    has_served: AtomicBool,
    /// Something was read since the last write.
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

/// A connection that records its activity.
struct Noted {
    stream: Secured,
    note: Arc<Note>,
}

impl Noted {
    fn new(stream: Secured) -> Self {
        Self { stream, note: Arc::default() }
    }

    /// Returns the server's TLS rejection of the client, if it arrives within [`REFUSED_WITHIN`].
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
        match ready!(Pin::new(&mut self.stream).poll_read(cx, read.unfilled())) {
            // Many servers close a TLS connection without a close_notify. As in curl and browsers, this ends an answer
            // without a declared length; one that is shorter than its declared length is still detected as broken.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof && self.note.is_heard() => {}
            read => read?,
        }
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
