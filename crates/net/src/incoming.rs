//! Accepts connections, with a limit on their number, and closes those whose client sends nothing.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use robeing_platform::{Connection, Listener};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tonic::transport::server::Connected;
use tracing::debug;

/// How long a new connection may wait for its first byte.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed `accept` (usually too many open files), to avoid a busy loop.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Turns a listener into the stream of connections that tonic expects.
pub fn accepted(listener: Box<dyn Listener>) -> impl Stream<Item = io::Result<Accepted>> {
    let room = Arc::new(Semaphore::new(super::MAX_CONNECTIONS));
    futures::stream::unfold((listener, room), |(mut listener, room)| async move {
        let permit = Arc::clone(&room).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok(connection) => {
                    let silent_until = Some(Box::pin(tokio::time::sleep(FIRST_BYTE_TIMEOUT)));
                    let accepted = Accepted { connection, silent_until, _permit: permit };
                    return Some((Ok(accepted), (listener, room)));
                }
                Err(error) => {
                    debug!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    })
}

/// A connection that counts against its listener's limit, and fails with `TimedOut` if the client sends nothing within
/// [`FIRST_BYTE_TIMEOUT`].
pub struct Accepted {
    connection: Connection,
    silent_until: Option<Pin<Box<Sleep>>>,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Accepted {
    type ConnectInfo = <Connection as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.connection.connect_info()
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
