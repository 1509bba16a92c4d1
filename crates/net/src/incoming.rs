//! Accepts connections, with a limit on their number, and closes those whose client sends nothing. With TLS, a
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

/// How long a new connection may wait for its first byte.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Turns a listener into the stream of connections that tonic expects, of which at most `connections` are open at once.
pub(crate) fn accepted(
    listener: Box<dyn Listener>,
    tls: Option<Tls>,
    connections: usize,
) -> impl Stream<Item = io::Result<Accepted>> {
    let room = Arc::new(Semaphore::new(connections));
    let (limits, handshakes) = (PeerLimits::default(), FuturesUnordered::new());
    futures::stream::unfold((listener, room, tls, limits, handshakes), |mut state| async move {
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
                        None => return Some((Ok(Accepted::plain(connection, permit)), state)),
                        Some(tls) => handshakes.push(greet(tls.clone(), connection, limits.clone(), permit)),
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

async fn greet(tls: Tls, connection: Connection, limits: PeerLimits, permit: OwnedSemaphorePermit) -> Option<Accepted> {
    // Its own task, so that handshakes run on all threads, and also while the next connection is not asked for.
    let handshake = tokio::spawn(async move { tls.accept(connection, limits).await });
    let greeted = tokio_util::task::AbortOnDropHandle::new(handshake).await.ok()??;
    let peer = greeted.info.peer;
    let info =
        ConnectInfo { peer, ending: greeted.info.ending, identity: greeted.identity, encrypted: greeted.encrypted };
    Some(Accepted {
        connection: greeted.connection,
        info,
        silent_until: Some(Box::pin(tokio::time::sleep(FIRST_BYTE_TIMEOUT))),
        _permit: permit,
        _counted: greeted.counted,
        _open: Some(greeted.open),
    })
}

/// A connection that counts against its listener's limit, and fails with `TimedOut` if the client sends nothing within
/// [`FIRST_BYTE_TIMEOUT`].
pub(crate) struct Accepted {
    connection: Connection,
    info: ConnectInfo,
    silent_until: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
    _counted: Option<Counted>,
    _open: Option<Open>,
}

impl Accepted {
    fn plain(connection: Connection, permit: OwnedSemaphorePermit) -> Self {
        let robeing_platform::ConnectInfo { peer, ending } = connection.connect_info();
        Self {
            connection,
            info: ConnectInfo { peer, ending, identity: None, encrypted: false },
            silent_until: Some(Box::pin(tokio::time::sleep(FIRST_BYTE_TIMEOUT))),
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
        let read = Pin::new(&mut self.connection).poll_read(cx, buf);
        if read.is_ready() {
            self.silent_until = None;
        } else if let Some(timer) = &mut self.silent_until
            && timer.as_mut().poll(cx).is_ready()
        {
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
