//! Agents in one process, on an in-memory network whose connections can be cut.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
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
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Channel};

use crate::messaging::{
    Address, Directory, Entry, Messenger, NoPolicies, Outcome, Outgoing, Packet, Presence, Role, Snapshot,
    driver::{Authentication, Connect, Deps, MessagingMetrics, Plaintext},
    handlers::{Delivery, Handler, HandlerOutcome},
    sealing::OpeningKey,
    tests::fixture::entry,
};

/// A test that waits for longer has failed.
pub const WITHIN: Duration = Duration::from_secs(300);

/// A directory that the test changes.
#[derive(Default)]
pub struct Known {
    snapshot: RwLock<Arc<Snapshot>>,
    entries: Mutex<BTreeMap<String, Entry>>,
    /// If it is there, nobody is known until its number is above 0.
    changes: Mutex<Option<watch::Sender<u64>>>,
}

impl Directory for Known {
    fn snapshot(&self) -> Arc<Snapshot> {
        match self.changes().is_some_and(|changes| *changes.borrow() == 0) {
            true => Arc::default(),
            false => Arc::clone(&self.snapshot.read().unwrap()),
        }
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.changes.lock().unwrap().as_ref().map(watch::Sender::subscribe)
    }
}

impl Known {
    pub fn put(&self, entry: Entry) {
        let mut entries = self.entries.lock().unwrap();
        entries.insert((*entry.name).into(), entry);
        *self.snapshot.write().unwrap() = Arc::new(entries.values().cloned().collect());
    }

    /// Forgets an agent, as a fleet does that it is removed from.
    pub fn remove(&self, name: &str) {
        let mut entries = self.entries.lock().unwrap();
        entries.remove(name);
        *self.snapshot.write().unwrap() = Arc::new(entries.values().cloned().collect());
        if let Some(changes) = &*self.changes.lock().unwrap() {
            changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Lets nobody be known until the returned number is above 0.
    pub fn hide(&self) -> watch::Sender<u64> {
        let changes = watch::Sender::new(0);
        *self.changes.lock().unwrap() = Some(changes.clone());
        changes
    }
}

/// A network whose connections the test cuts, losing what is under way.
#[derive(Clone, Default)]
pub struct Cuttable {
    inner: MemoryNetwork,
    cut: Arc<Mutex<CancellationToken>>,
    /// Addresses that can't be reached from here.
    walled: Arc<Mutex<BTreeSet<String>>>,
    /// What was said on connections to each address, by both sides.
    tape: Tape,
}

type Tape = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// Copies bytes and what is said to the tape.
async fn taped(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, tape: Tape, address: String) {
    let mut bytes = vec![0; 16 << 10];
    while let Ok(len @ 1..) = from.read(&mut bytes).await {
        tape.lock().unwrap().entry(address.clone()).or_default().extend_from_slice(&bytes[..len]);
        if to.write_all(&bytes[..len]).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

impl Cuttable {
    pub fn cut_all(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }

    /// Returns the addresses on whose connections these bytes were said, by either side.
    pub fn heard(&self, bytes: &[u8]) -> Vec<String> {
        let tape = self.tape.lock().unwrap();
        let has = |said: &[u8]| said.windows(bytes.len()).any(|window| window == bytes);
        tape.iter().filter(|(_, said)| has(said)).map(|(address, _)| address.clone()).collect()
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
        let (their_end, our_end) = tokio::io::split(Network::connect(&self.inner, address).await?);
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        let (heard, said) = tokio::io::split(theirs);
        let cut = self.cut.lock().unwrap().clone();
        let (tapes, address) = ([Arc::clone(&self.tape), Arc::clone(&self.tape)], address.to_owned());
        tokio::spawn(async move {
            let [one, other] = tapes;
            let both = async {
                tokio::join!(
                    taped(their_end, said, one, address.clone()),
                    taped(heard, our_end, other, address.clone())
                )
            };
            tokio::select! {
                _ = both => {}
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
    /// The size of replies, in bytes; 0: they are what was sent.
    reply: Arc<AtomicUsize>,
}

impl Default for Recording {
    fn default() -> Self {
        let (handled, open) = (Arc::new(watch::Sender::new(Vec::new())), Arc::new(watch::Sender::new(true)));
        Self { handled, open, reply: Arc::default() }
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

    /// Makes the handler reply with so many bytes, 1 or more.
    pub fn reply_with(&self, bytes: usize) {
        self.reply.store(bytes, Ordering::Relaxed);
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
        let kind = Arc::clone(&delivery.packet.kind);
        let reply = match self.reply.load(Ordering::Relaxed) {
            0 => delivery.packet.payload.clone(),
            bytes => vec![0; bytes].into(),
        };
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

/// Connects as where nothing but TLS is spoken, as far as sealing is concerned.
struct Strict(Plaintext);

#[async_trait]
impl Connect for Strict {
    async fn connect(&self, to: &Entry) -> Result<Channel, String> {
        self.0.connect(to).await
    }

    fn must_seal(&self) -> bool {
        true
    }
}

/// Agents that know each other.
pub struct Fleet {
    pub network: Cuttable,
    pub directory: Arc<Known>,
    pub disk: SimulatedDisk,
    /// Whether payloads pass messengers sealed or not at all.
    pub is_strict: bool,
    seed: Mutex<u64>,
}

impl Fleet {
    pub fn new() -> Self {
        let (network, directory, disk) = (Cuttable::default(), Arc::default(), SimulatedDisk::new(1));
        Self { network, directory, disk, is_strict: false, seed: Mutex::new(1) }
    }

    /// Agents whose payloads pass messengers sealed or not at all.
    pub fn strict() -> Self {
        Self { is_strict: true, ..Self::new() }
    }

    /// Puts the keys of all agents into the directory.
    pub fn publish_keys(&self) {
        let entries = self.directory.entries.lock().unwrap().clone();
        for (name, entry) in entries {
            let sealing_key = keys(&name).first().map(|key| key.public().clone());
            self.directory.put(Entry { sealing_key, ..entry });
        }
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
            connect: if self.is_strict {
                Arc::new(Strict(Plaintext(transport)))
            } else {
                Arc::new(Plaintext(transport))
            },
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
