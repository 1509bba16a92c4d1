//! Accepts connections, with a limit on their number, and closes those whose client does not begin to speak. With TLS, a
//! connection is passed on only after its handshake; handshakes run side by side, so that a slow client delays nobody.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, StreamExt, stream::FuturesUnordered};
use robeing_platform::{Connection, Ending, Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::transport::server::Connected;
use tracing::debug;

use crate::security::{Counted, Open, PeerIdentity, PeerLimits, Tls};

/// How long a new connection may wait for its first bytes: as many as its listener expects.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes with which every connection of HTTP/2 begins (RFC 9113, section 3.4). The server waits for all of them before it
/// checks whether the client is still there.
pub(crate) const HTTP2_PREFACE: usize = 24;
/// Pause after a failed `accept` (usually too many open files), to avoid a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// Maximum number of handshakes in progress at one listener; further connections wait to be accepted.
pub const MAX_HANDSHAKES: usize = 1_024;

/// What a request handler can learn about the connection that a request arrived on.
#[derive(Clone, Debug, Default)]
pub struct ConnectInfo {
    /// The peer's address, if known.
    pub peer: Option<SocketAddr>,
    /// How the connection ended, once it has.
    pub ending: Ending,
    /// Who the peer is, if it has a certificate of this fleet.
    pub identity: Option<Arc<PeerIdentity>>,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
}

/// Turns a listener into the stream of connections that tonic expects, of which at most `connections` are open at once. A
/// client must send `first` bytes within [`FIRST_BYTE_TIMEOUT`].
pub(crate) fn accepted(
    listener: Box<dyn Listener>,
    tls: Option<Tls>,
    connections: usize,
    first: usize,
) -> impl Stream<Item = io::Result<Accepted>> {
    let room = Arc::new(Semaphore::new(connections));
    let (limits, handshakes) = (PeerLimits::default(), FuturesUnordered::new());
    futures::stream::unfold((listener, room, tls, limits, handshakes), move |mut state| async move {
        loop {
            let (listener, room, tls, limits, handshakes) = &mut state;
            let next = async {
                let permit = Arc::clone(room).acquire_owned().await.ok()?;
                Some((accept(listener).await, permit))
            };
            tokio::select! {
                Some(greeted) = handshakes.next() => {
                    if let Some(accepted) = greeted {
                        return Some((Ok(accepted), state));
                    }
                }
                next = next, if handshakes.len() < MAX_HANDSHAKES => {
                    let (connection, permit) = next?;
                    match tls {
                        None => return Some((Ok(Accepted::plain(connection, permit, first)), state)),
                        Some(tls) => handshakes.push(greet(tls.clone(), connection, limits.clone(), permit, first)),
                    }
                }
            }
        }
    })
}

/// Accepts the next connection. Cancellation-safe.
async fn accept(listener: &mut Box<dyn Listener>) -> Connection {
    loop {
        match listener.accept().await {
            Ok(connection) => return connection,
            Err(error) => {
                debug!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

async fn greet(
    tls: Tls,
    connection: Connection,
    limits: PeerLimits,
    permit: OwnedSemaphorePermit,
    first: usize,
) -> Option<Accepted> {
    // Its own task, so that handshakes run on all threads, and also while the next connection is not asked for.
    let handshake = tokio::spawn(async move { tls.accept(connection, limits).await });
    let greeted = tokio_util::task::AbortOnDropHandle::new(handshake).await.ok()??;
    let peer = greeted.info.peer;
    let info =
        ConnectInfo { peer, ending: greeted.info.ending, identity: greeted.identity, encrypted: greeted.encrypted };
    Some(Accepted {
        connection: greeted.connection,
        info,
        beginning: Some(Beginning::new(first)),
        _permit: permit,
        _counted: greeted.counted,
        _open: Some(greeted.open),
    })
}

/// A connection whose client has not sent its first bytes yet.
struct Beginning {
    /// How many of them are missing.
    missing: usize,
    until: Pin<Box<Sleep>>,
}

impl Beginning {
    fn new(first: usize) -> Self {
        Self { missing: first, until: Box::pin(tokio::time::sleep(FIRST_BYTE_TIMEOUT)) }
    }
}

/// A connection that counts against its listener's limit, and fails with `TimedOut` if the client does not send its first
/// bytes within [`FIRST_BYTE_TIMEOUT`].
pub(crate) struct Accepted {
    connection: Connection,
    info: ConnectInfo,
    beginning: Option<Beginning>,
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
    _open: Option<Open>,
}

impl Accepted {
    fn plain(connection: Connection, permit: OwnedSemaphorePermit, first: usize) -> Self {
        let robeing_platform::ConnectInfo { peer, ending } = connection.connect_info();
        Self {
            connection,
            info: ConnectInfo { peer, ending, identity: None, encrypted: false },
            beginning: Some(Beginning::new(first)),
            _permit: permit,
            _counted: None,
            _open: None,
        }
    }
}

impl Connected for Accepted {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.connection).poll_read(cx, buf);
        let Some(beginning) = &mut self.beginning else { return read };
        if read.is_ready() {
            let arrived = buf.filled().len() - before;
            beginning.missing = beginning.missing.saturating_sub(arrived);
            // Nothing arrives at the end of a connection.
            if beginning.missing == 0 || arrived == 0 {
                self.beginning = None;
            }
        } else if beginning.until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::{Network, simulated::MemoryNetwork};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        time::Instant,
    };
    use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

    use super::*;
    use crate::{Transport, described_routes};

    const ADDRESS: &str = "10.0.0.1:80";
    const PREFACE: &[u8; HTTP2_PREFACE] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

    /// Sends each part a second before the time for the first bytes has passed once more, and returns how long the
    /// connection lasts.
    async fn lasts(parts: &[&[u8]]) -> Duration {
        let network = MemoryNetwork::default();
        let bound = Transport::new(Arc::new(network.clone())).bind(ADDRESS).await.unwrap();
        let serving = bound.serve(described_routes(&[]).unwrap(), CancellationToken::new());
        let _serving = AbortOnDropHandle::new(tokio::spawn(serving));
        let began = Instant::now();
        let mut connection = network.connect(ADDRESS).await.unwrap();
        for (n, part) in parts.iter().enumerate() {
            if n > 0 {
                tokio::time::sleep(FIRST_BYTE_TIMEOUT - Duration::from_secs(1)).await;
            }
            // It may have ended.
            let _ = connection.write_all(part).await;
        }
        let _ = connection.read_to_end(&mut Vec::new()).await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_send_all_of_the_preface_in_time_loses_its_connection() {
        for parts in [&[&b"P"[..]][..], &[&PREFACE[..HTTP2_PREFACE - 1]], &[], &[b"P", b"R"]] {
            assert_eq!(lasts(parts).await.as_secs(), FIRST_BYTE_TIMEOUT.as_secs(), "{parts:?}");
        }
        for parts in [&[&PREFACE[..]][..], &[&PREFACE[..1], &PREFACE[1..]]] {
            let lasted = lasts(parts).await;
            let most = FIRST_BYTE_TIMEOUT + crate::KEEPALIVE_INTERVAL + crate::KEEPALIVE_TIMEOUT;
            assert!(lasted <= most, "it is asked whether it is still there: {parts:?}: {lasted:?}");
        }
        let late = lasts(&[&PREFACE[..1], &PREFACE[1..]]).await;
        assert!(late > FIRST_BYTE_TIMEOUT, "it was in time: {late:?}");
    }
}
