//! Agents in one process, on an in-memory network whose connections can be cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use robeing_net::Transport;
use robeing_platform::{
    Connection, Listener, Network, Platform,
    simulated::{MemoryNetwork, SeededRandom, SimulatedDisk},
};
use robeing_telemetry::Metrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::messaging::{
    Address, Directory, Entry, Messenger, NoPolicies, Outcome, Outgoing, Packet, Presence, Role, Snapshot,
    driver::{Authentication, Deps, MessagingMetrics, Plaintext},
    handlers::{Delivery, Handler, HandlerOutcome},
    sealing::OpeningKey,
    tests::fixture::entry,
};

/// A test that waits for longer has failed.
pub const WITHIN: Duration = Duration::from_secs(300);

/// A directory that the test changes.
#[derive(Default)]
pub struct Known(RwLock<Arc<Snapshot>>, Mutex<BTreeMap<String, Entry>>);

impl Directory for Known {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.read().unwrap())
    }
}

impl Known {
    pub fn put(&self, entry: Entry) {
        let mut entries = self.1.lock().unwrap();
        entries.insert((*entry.name).into(), entry);
        *self.0.write().unwrap() = Arc::new(entries.values().cloned().collect());
    }
}

/// A network whose connections the test cuts, losing what is under way.
#[derive(Clone, Default)]
pub struct Cuttable {
    inner: MemoryNetwork,
    cut: Arc<Mutex<CancellationToken>>,
    /// Addresses that can't be reached from here.
    walled: Arc<Mutex<BTreeSet<String>>>,
}

impl Cuttable {
    pub fn cut_all(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }

    pub fn black_hole(&self, address: SocketAddr) {
        self.inner.black_hole(address);
    }
}

#[async_trait]
impl Network for Cuttable {
    async fn connect(&self, address: &str) -> io::Result<Connection> {
        if self.walled.lock().unwrap().contains(address) {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let mut inner = Network::connect(&self.inner, address).await?;
        let (ours, mut theirs) = tokio::io::duplex(16 << 10);
        let cut = self.cut.lock().unwrap().clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut inner, &mut theirs) => {}
                () = cut.cancelled() => {}
            }
        });
        Ok(Connection::new(ours, None))
    }
    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        self.inner.resolve(address).await
    }
    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        self.inner.listen(address).await
    }
}

/// A handler that records what it handled, and answers by the type of the message: `refuse`, `hang`, or otherwise with
/// its payload.
#[derive(Clone)]
pub struct Recording {
    handled: Arc<watch::Sender<Vec<Packet>>>,
    open: Arc<watch::Sender<bool>>,
}

impl Default for Recording {
    fn default() -> Self {
        Self { handled: Arc::new(watch::Sender::new(Vec::new())), open: Arc::new(watch::Sender::new(true)) }
    }
}

impl Recording {
    pub fn handled(&self) -> Vec<Packet> {
        self.handled.borrow().clone()
    }

    /// Waits until this many messages were handled.
    pub async fn wait_for(&self, count: usize) -> Vec<Packet> {
        let mut handled = self.handled.subscribe();
        let waited = tokio::time::timeout(WITHIN, handled.wait_for(|handled| handled.len() >= count)).await;
        waited.expect("the messages are handled in time").expect("the handler lives").clone()
    }

    /// Makes the handler take messages of the type `hang`, or take none.
    pub fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }
}

#[async_trait]
impl Handler for Recording {
    async fn deliver(&self, delivery: Delivery) -> HandlerOutcome {
        if &*delivery.packet.kind == "hang" {
            let mut open = self.open.subscribe();
            let _ = open.wait_for(|open| *open).await;
        }
        let (kind, reply) = (Arc::clone(&delivery.packet.kind), delivery.packet.payload.clone());
        self.handled.send_modify(|handled| handled.push(delivery.packet));
        match &*kind {
            "refuse" => HandlerOutcome::Refused { reason: "not today".into() },
            "silent" => HandlerOutcome::Accepted { reply: None },
            _ => HandlerOutcome::Accepted { reply: Some(reply) },
        }
    }

    fn name(&self) -> &'static str {
        "recording"
    }
}

/// An agent of a [`Fleet`].
pub struct Agent {
    pub messenger: Messenger,
    pub handler: Recording,
    pub metrics: MessagingMetrics,
    pub address: SocketAddr,
    network: Cuttable,
    stop: CancellationToken,
}

impl Agent {
    pub async fn send(&self, to: &str, kind: &str, payload: &'static str) -> Outcome {
        self.messenger.send(outgoing(to, kind, payload)).await
    }

    /// Makes another agent unreachable from this one, or reachable again.
    pub fn wall_off(&self, other: &Agent, is_walled: bool) {
        let mut walled = self.network.walled.lock().unwrap();
        match is_walled {
            true => walled.insert(other.address.to_string()),
            false => walled.remove(&other.address.to_string()),
        };
    }

    pub async fn stop(&self) {
        self.stop.cancel();
        self.messenger.stopped().await;
    }
}

/// Returns a message to this address.
pub fn outgoing(to: &str, kind: &str, payload: impl Into<Bytes>) -> Outgoing {
    Outgoing::new(to.parse::<Address>().expect("an address"), kind, payload)
}

/// Returns the keys of an agent: one, unless its name is that of an agent without.
pub fn keys(name: &str) -> Vec<OpeningKey> {
    let seed = name.bytes().fold(7, |seed, byte| seed * 31 + u64::from(byte));
    if name == "keyless" { Vec::new() } else { vec![OpeningKey::generate(&SeededRandom::new(seed))] }
}

/// Agents that know each other.
pub struct Fleet {
    pub network: Cuttable,
    pub directory: Arc<Known>,
    pub disk: SimulatedDisk,
    seed: Mutex<u64>,
}

impl Fleet {
    pub fn new() -> Self {
        let (network, directory, disk) = (Cuttable::default(), Arc::default(), SimulatedDisk::new(1));
        Self { network, directory, disk, seed: Mutex::new(1) }
    }

    pub fn transport(&self) -> Transport {
        Transport::new(Arc::new(self.network.clone()))
    }

    pub async fn agent(&self, name: &str) -> Agent {
        self.agent_with(name, Role::Worker, None, None).await
    }

    pub async fn messenger(&self, name: &str) -> Agent {
        self.agent_with(name, Role::Messenger, None, None).await
    }

    /// Starts an agent, at the address of an earlier one if it replaces it.
    pub async fn agent_with(&self, name: &str, role: Role, data: Option<PathBuf>, at: Option<SocketAddr>) -> Agent {
        let network = Cuttable { walled: Arc::default(), ..self.network.clone() };
        let transport = Transport::new(Arc::new(network.clone()));
        let (handler, stop) = (Recording::default(), CancellationToken::new());
        let bound = transport.bind(&at.map_or("127.0.0.1:0".into(), |at| at.to_string())).await.expect("an address");
        let address = bound.local_addr().expect("an address");
        let seed = {
            let mut seed = self.seed.lock().unwrap();
            *seed += 1;
            *seed
        };
        let platform = Platform {
            network: Arc::new(network.clone()),
            random: Arc::new(SeededRandom::new(seed)),
            disk: Arc::new(self.disk.clone()),
            ..Platform::real()
        };
        let metrics = MessagingMetrics::new(&Metrics::default());
        let deps = Deps {
            name: name.into(),
            role,
            directory: Arc::clone(&self.directory) as Arc<dyn Directory>,
            connect: Arc::new(Plaintext(transport)),
            platform,
            handler: Arc::new(handler.clone()),
            policy: Arc::new(NoPolicies),
            keys: keys(name),
            data,
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        let messenger = Messenger::start(deps).await.expect("a messenger");
        let routes = Routes::new(messenger.service(Authentication::Hello));
        tokio::spawn(bound.serve(routes, stop.clone()));
        self.directory.put(Entry { role, address: address.to_string().into(), ..entry(name, 0.5) });
        Agent { messenger, handler, metrics, address, network, stop }
    }

    /// Changes the presence of an agent in the directory.
    pub fn set_presence(&self, name: &str, presence: Presence) {
        let entry = self.directory.snapshot().get(name).cloned().expect("an agent");
        self.directory.put(Entry { presence, ..(*entry).clone() });
    }
}
