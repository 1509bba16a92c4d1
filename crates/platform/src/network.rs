//! Sockets. Addresses are strings (`host:port`) that are resolved on each connect, because pods come back with other
//! addresses.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tonic::transport::server::Connected;

use super::{ending::Ending, names::Names};

/// A bidirectional byte stream.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// Opens connections and listeners.
#[async_trait]
pub trait Network: Send + Sync + 'static {
    /// Connects to `host:port`. Has no timeout of its own.
    async fn connect(&self, address: &str) -> io::Result<Connection>;
    /// Resolves `host:port` to its current addresses. Has no timeout of its own.
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>>;
    /// Listens on `host:port`; port 0 picks a free one.
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>>;
}

/// Accepts connections.
#[async_trait]
pub trait Listener: Send + Sync + 'static {
    /// Accepts the next connection. Cancellation-safe.
    async fn accept(&mut self) -> io::Result<Connection>;
    /// Returns the local address, with the port that was actually bound.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// One established connection.
pub struct Connection {
    io: Box<dyn Io>,
    /// The peer's address, if known.
    pub peer: Option<SocketAddr>,
    ending: Ending,
}

impl Connection {
    /// Wraps a stream.
    pub fn new(io: impl Io, peer: Option<SocketAddr>) -> Self {
        Self { io: Box::new(io), peer, ending: Ending::default() }
    }

    fn noted<T>(&self, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &written {
            self.ending.write_failed(error);
        }
        written
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.ending.dropped();
    }
}

/// What a request handler can learn about the connection that a request arrived on.
#[derive(Clone, Debug, Default)]
pub struct ConnectInfo {
    /// The peer's address, if known.
    pub peer: Option<SocketAddr>,
    /// How the connection ended, once it has.
    pub ending: Ending,
}

impl Connected for Connection {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        ConnectInfo { peer: self.peer, ending: self.ending.clone() }
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining() > 0);
        let read = Pin::new(&mut *self.io).poll_read(cx, buf);
        match &read {
            Poll::Ready(Ok(())) if room && buf.filled().len() == before => self.ending.read_end(),
            Poll::Ready(Err(_)) => self.ending.read_failed(),
            _ => {}
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.io).poll_write(cx, buf);
        self.noted(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.io).poll_write_vectored(cx, bufs);
        self.noted(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// Shared by the whole process, so that the limit on look-up threads holds for the process.
static NAMES: LazyLock<Names> = LazyLock::new(Names::default);

/// TCP with `TCP_NODELAY`.
pub struct TcpNetwork;

#[async_trait]
impl Network for TcpNetwork {
    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
        for address in self.resolve(address).await? {
            match TcpStream::connect(address).await {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    let peer = stream.peer_addr().ok();
                    return Ok(Connection::new(stream, peer));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        NAMES.resolve(address).await
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(address).await?))
    }
}

#[async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<Connection> {
        let (stream, peer) = TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok(Connection::new(stream, Some(peer)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}
