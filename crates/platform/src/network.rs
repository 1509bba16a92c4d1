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
    net::{TcpListener, TcpSocket, TcpStream},
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

/// Number of connections that may wait to be accepted; Linux allows at most `net.core.somaxconn`, 4,096 by default. When
/// a coordinator dies, all its agents connect to another at once, and whoever finds the queue full tries again only
/// after a second.
const ACCEPT_QUEUE: u32 = 4096;

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
        let mut last = io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address"));
        for address in self.resolve(address).await? {
            match listen_at(address) {
                Ok(listener) => return Ok(Box::new(listener)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restarted process gets its port back although connections of the one before linger.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(ACCEPT_QUEUE)
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

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;

    #[tokio::test]
    async fn a_thousand_connections_may_wait_to_be_accepted() {
        let most = fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|most| most.trim().parse().ok());
        let waiting = 1000.min(most.unwrap_or(128));
        let listener = TcpNetwork.listen("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let mut open = Vec::new();
        for number in 0..waiting {
            let connected = tokio::time::timeout(Duration::from_secs(20), TcpStream::connect(address)).await;
            open.push(connected.unwrap_or_else(|_| panic!("connection {number} waits")).expect("a connection"));
        }
    }
}
