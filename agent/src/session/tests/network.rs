//! A network within the process, so that tests run on paused time.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use robeing_platform::{Connection, Listener, Network};
use tokio::sync::mpsc;

const BACKLOG: usize = 64;
const PIPE: usize = 64 * 1024;
const FIRST_FREE_PORT: u16 = 30_000;

#[derive(Clone, Default)]
pub struct MemoryNetwork(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    listeners: BTreeMap<SocketAddr, mpsc::Sender<Connection>>,
    black_holes: BTreeSet<SocketAddr>,
    bound: u16,
}

impl MemoryNetwork {
    /// Connections to this address get no answer.
    pub fn black_hole(&self, address: &str) {
        self.0.lock().unwrap().black_holes.insert(address.parse().unwrap());
    }

    /// Connections to this address are answered again.
    pub fn fill_black_hole(&self, address: &str) {
        self.0.lock().unwrap().black_holes.remove(&address.parse().unwrap());
    }
}

#[async_trait]
impl Network for MemoryNetwork {
    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        if self.0.lock().unwrap().black_holes.contains(&address) {
            std::future::pending::<()>().await;
        }
        let listener = self.0.lock().unwrap().listeners.get(&address).cloned();
        let (ours, theirs) = tokio::io::duplex(PIPE);
        match listener {
            Some(listener) if listener.send(Connection::new(theirs, None)).await.is_ok() => {
                Ok(Connection::new(ours, None))
            }
            _ => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(vec![address.parse().map_err(io::Error::other)?])
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let mut state = self.0.lock().unwrap();
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
