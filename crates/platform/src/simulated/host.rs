//! One host's view of the network, until the host is gone: then all its connections break, and it opens no new ones.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::MemoryNetwork;
use crate::{Connection, Listener, Network};

/// The source port of a host's connections.
const PORT: u16 = 50_000;

/// One host's view of a network. Cheap to clone.
#[derive(Clone)]
pub struct HostNetwork {
    network: MemoryNetwork,
    address: Option<IpAddr>,
    gone: CancellationToken,
}

impl HostNetwork {
    /// Creates the network of a host that exists until `gone` is cancelled, and whose address others do not see.
    pub fn new(network: MemoryNetwork, gone: CancellationToken) -> Self {
        Self { network, address: None, gone }
    }

    /// Sets the address that others see as the source of this host's connections.
    pub fn at(self, address: impl Into<IpAddr>) -> Self {
        Self { address: Some(address.into()), ..self }
    }
}

fn is_gone() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "the host is gone")
}

#[async_trait]
impl Network for HostNetwork {
    async fn connect(&self, address: &str) -> io::Result<Connection> {
        if self.gone.is_cancelled() {
            return Err(is_gone());
        }
        let from = self.address.map(|own| SocketAddr::new(own, PORT));
        let connection = self.network.connect_from(from, address).await?;
        Ok(Connection::new(Wire::new(connection, &self.gone), None))
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        self.network.resolve(address).await
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let listener = self.network.listen(address).await?;
        Ok(Box::new(HostListener { listener, gone: self.gone.clone() }))
    }
}

struct HostListener {
    listener: Box<dyn Listener>,
    gone: CancellationToken,
}

#[async_trait]
impl Listener for HostListener {
    async fn accept(&mut self) -> io::Result<Connection> {
        let connection = self.listener.accept().await?;
        let peer = connection.peer;
        Ok(Connection::new(Wire::new(connection, &self.gone), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

struct Wire {
    connection: Connection,
    gone: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Wire {
    fn new(connection: Connection, gone: &CancellationToken) -> Self {
        Self { connection, gone: Box::pin(gone.clone().cancelled_owned()) }
    }

    /// Fails once the host is gone.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.gone.as_mut().poll(cx) {
            Poll::Ready(()) => Err(is_gone()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.connection).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.connection).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.connection).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(cx)
    }
}
