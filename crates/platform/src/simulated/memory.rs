//! An in-process network, so that tests can run on paused time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use crate::{Connection, Listener, Network};

/// Maximum number of connections waiting to be accepted.
const BACKLOG: usize = 64;
/// Maximum number of bytes in flight in one direction.
const PIPE: usize = 64 * 1024;
const FIRST_FREE_PORT: u16 = 30_000;

/// A network of the listeners in this process. Cheap to clone; clones are one network.
#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    listeners: BTreeMap<SocketAddr, mpsc::Sender<Connection>>,
    black_holes: BTreeSet<SocketAddr>,
    bound: u16,
}

impl MemoryNetwork {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes connection attempts to this address hang.
    pub fn black_hole(&self, address: SocketAddr) {
        self.state().black_holes.insert(address);
    }

    /// Lets connection attempts to this address proceed again.
    pub fn fill_black_hole(&self, address: SocketAddr) {
        self.state().black_holes.remove(&address);
    }
}

impl MemoryNetwork {
    /// Connects to `host:port`. The other side sees `from` as the peer's address, if given.
    pub(super) async fn connect_from(&self, from: Option<SocketAddr>, address: &str) -> io::Result<Connection> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        if self.state().black_holes.contains(&address) {
            std::future::pending::<()>().await;
        }
        let listener = self.state().listeners.get(&address).cloned();
        let (ours, theirs) = tokio::io::duplex(PIPE);
        match listener {
            Some(listener) if listener.send(Connection::new(theirs, from)).await.is_ok() => {
                Ok(Connection::new(ours, None))
            }
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

#[async_trait]
impl Network for MemoryNetwork {
    async fn connect(&self, address: &str) -> io::Result<Connection> {
        self.connect_from(None, address).await
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![address.parse().map_err(io::Error::other)?])
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let mut state = self.state();
        let mut address: SocketAddr = address.parse().map_err(io::Error::other)?;
        if address.port() == 0 {
            state.bound += 1;
            address.set_port(FIRST_FREE_PORT + state.bound);
        }
        if state.listeners.get(&address).is_some_and(|listener| !listener.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let (sender, accepted) = mpsc::channel(BACKLOG);
        state.listeners.insert(address, sender);
        Ok(Box::new(MemoryListener { address, accepted }))
    }
}

struct MemoryListener {
    address: SocketAddr,
    accepted: mpsc::Receiver<Connection>,
}

#[async_trait]
impl Listener for MemoryListener {
    async fn accept(&mut self) -> io::Result<Connection> {
        self.accepted.recv().await.ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
