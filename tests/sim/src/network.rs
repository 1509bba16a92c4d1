//! The simulated network, clock and machine behind the interfaces that the shipped code uses.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
};

use robeing_platform::{Clock, Connection, Host, Listener, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    time,
    wire::{self, HostId, Port, Socket, Wire},
};

/// The sockets of one machine.
pub struct SimulatedNetwork {
    wire: Wire,
    host: HostId,
}

impl SimulatedNetwork {
    /// Creates the sockets of the machine with this name.
    ///
    /// # Panics
    /// If the network has no such machine.
    pub fn new(wire: Wire, name: &str) -> Self {
        let host = wire.host(name).unwrap_or_else(|| panic!("the simulation has no machine {name}"));
        Self { wire, host }
    }
}

fn split(address: &str) -> io::Result<(&str, u16)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is not host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    Ok((host, port.parse().map_err(|_| bad())?))
}

fn unknown(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("no machine is called {name}"))
}

#[async_trait::async_trait]
impl Network for SimulatedNetwork {
    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let (name, port) = split(address)?;
        let to = self.wire.host(name).ok_or_else(|| unknown(name))?;
        let socket = self.wire.connect(self.host, to, port).await?;
        let peer = socket.peer_addr();
        Ok(Connection::new(Stream(socket), peer))
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        let (name, port) = split(address)?;
        let host = self.wire.host(name).ok_or_else(|| unknown(name))?;
        Ok(vec![wire::address(host, port)])
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let (_, port) = split(address)?;
        Ok(Box::new(SimulatedListener(self.wire.listen(self.host, port)?)))
    }
}

struct SimulatedListener(Port);

#[async_trait::async_trait]
impl Listener for SimulatedListener {
    async fn accept(&mut self) -> io::Result<Connection> {
        let (socket, peer) = self.0.accept().await;
        Ok(Connection::new(Stream(socket), Some(peer)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.0.local_addr())
    }
}

struct Stream(Socket);

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let data = ready!(self.0.poll_read(cx, buf.remaining()))?;
        buf.put_slice(&data);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shut_down();
        Poll::Ready(Ok(()))
    }
}

/// The simulated time, on a machine whose clock is slightly wrong.
pub struct SimulatedClock {
    /// The error of the clock in milliseconds; it is ahead.
    pub ahead: u64,
}

impl Clock for SimulatedClock {
    fn unix_millis(&self) -> u64 {
        time::now().as_millis() as u64 + self.ahead
    }
}

/// A machine whose properties are the same in every run.
pub struct SimulatedHost;

impl Host for SimulatedHost {
    fn free_share(&self) -> f64 {
        0.5
    }

    fn pid(&self) -> u32 {
        1
    }
}
