//! What simplex decides: batches of the same requests, of which every replica verifies every signature once and which it
//! keeps on its disk before it votes to finalize them, as in a group of robeing-bft. The replicas share the requests
//! that wait, so that, unlike in a real group, the leader has them at once.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc::Sender},
    time::Duration,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use commonware_actor::Feedback;
use commonware_consensus::{
    Automaton, CertifiableAutomaton, Relay, Reporter,
    simplex::{
        Plan,
        scheme::ed25519::Scheme,
        types::{Activity, Context},
    },
    types::Round,
};
use commonware_cryptography::{Hasher, Sha256, ed25519::PublicKey, sha256::Digest};
use commonware_utils::channel::oneshot;
use robeing_bft::{
    Verified,
    crypto::{Ed25519, PublicKey as Client},
    epoch::Epoch,
    message::{Message, Request},
};
use tokio::sync::{Notify, OnceCell};

use crate::{
    common::Report,
    disk::keeper,
    wire::{Wire, wire},
};

/// What the replicas share.
pub struct Shared {
    /// Against which requests are checked.
    epoch: Epoch,
    /// Most requests of a batch.
    batch: usize,
    waiting: Mutex<VecDeque<Request>>,
    /// Wakes who waits for requests.
    more: Notify,
    /// The batches of each replica.
    stores: Vec<Arc<Store>>,
    /// Carry batches to each replica.
    wires: Vec<Wire<(Digest, Bytes)>>,
    ledger: Mutex<Ledger>,
}

/// What was proposed, and what is decided.
struct Ledger {
    proposed: HashMap<Digest, Proposed>,
    decided: HashSet<Digest>,
    reports: Sender<Report>,
}

struct Proposed {
    parent: Digest,
    requests: Vec<(Client, u64)>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Creates what the replicas of a group share. Their batches are kept in this folder, and take this long from one to
    /// another.
    pub fn new(epoch: Epoch, batch: u32, reports: Sender<Report>, folder: &Path, delay: Duration) -> Self {
        let store = |replica: usize| Arc::new(Store::create(&folder.join(format!("batches-{replica}"))));
        let stores: Vec<Arc<Store>> = (0..epoch.members.len()).map(store).collect();
        let to = |store: &Arc<Store>| {
            let store = Arc::clone(store);
            wire(delay, move |(digest, batch)| store.put(digest, batch))
        };
        let wires = stores.iter().map(to).collect();
        let ledger = Ledger { proposed: HashMap::new(), decided: HashSet::new(), reports };
        let batch = usize::try_from(batch).expect("batches are small");
        let (waiting, more, ledger) = (Mutex::default(), Notify::new(), Mutex::new(ledger));
        Self { epoch, batch, waiting, more, stores, wires, ledger }
    }

    /// Has a request wait for a leader.
    pub fn submit(&self, request: Request) {
        locked(&self.waiting).push_back(request);
        self.more.notify_one();
    }

    /// Takes the requests of a batch, as soon as one waits.
    async fn take(&self) -> Vec<Request> {
        loop {
            let taken = {
                let mut waiting = locked(&self.waiting);
                let count = waiting.len().min(self.batch);
                let taken: Vec<Request> = waiting.drain(..count).collect();
                if !waiting.is_empty() {
                    self.more.notify_one();
                }
                taken
            };
            if !taken.is_empty() {
                return taken;
            }
            self.more.notified().await;
        }
    }

    /// Takes requests back that were not proposed.
    fn put_back(&self, requests: Vec<Request>) {
        let mut waiting = locked(&self.waiting);
        requests.into_iter().rev().for_each(|request| waiting.push_front(request));
        self.more.notify_one();
    }

    fn is_right(&self, request: Request) -> bool {
        Verified::check(Message::Request(request), &self.epoch, &Ed25519).is_ok()
    }

    /// Returns whether a batch is the one with this digest, and all its requests are right.
    fn is_right_batch(&self, digest: Digest, mut batch: Bytes) -> bool {
        if Sha256::hash(&[&batch]) != digest {
            return false;
        }
        while batch.remaining() >= 4 {
            let length = batch.get_u32() as usize;
            if length > batch.remaining() {
                return false;
            }
            match Message::decode(&batch.split_to(length)) {
                Ok(Message::Request(request)) if self.is_right(request.clone()) => {}
                _ => return false,
            }
        }
        batch.is_empty()
    }

    /// Reports a batch that is decided, and its ancestors, once.
    fn decide(&self, digest: Digest) {
        let (mut next, mut chain) = (digest, Vec::new());
        let mut ledger = locked(&self.ledger);
        while ledger.decided.insert(next) {
            // The first batch has a parent that was never proposed.
            let Some(proposed) = ledger.proposed.remove(&next) else { break };
            next = proposed.parent;
            chain.push(proposed);
        }
        for Proposed { requests, .. } in chain.into_iter().rev() {
            let _ = ledger.reports.send(Report::Decided);
            for (client, id) in requests {
                let _ = ledger.reports.send(Report::Done(client, id));
            }
        }
    }
}

fn encode(requests: &[Request]) -> Bytes {
    let mut batch = BytesMut::new();
    for request in requests {
        let request = Message::Request(request.clone()).encode();
        batch.put_u32(u32::try_from(request.len()).expect("requests are small"));
        batch.put_slice(&request);
    }
    batch.freeze()
}

/// The batches of a replica: those that have arrived, those that it waits for, and which of them are on its disk.
struct Store {
    batches: Mutex<HashMap<Digest, Slot>>,
    kept: Mutex<HashMap<Digest, Arc<OnceCell<()>>>>,
    keeper: Sender<(Bytes, oneshot::Sender<()>)>,
}

enum Slot {
    Here(Bytes),
    Awaited(Vec<oneshot::Sender<Bytes>>),
}

impl Store {
    fn create(path: &Path) -> Self {
        Self { batches: Mutex::default(), kept: Mutex::default(), keeper: keeper(path) }
    }

    fn put(&self, digest: Digest, batch: Bytes) {
        if let Some(Slot::Awaited(waiting)) = locked(&self.batches).insert(digest, Slot::Here(batch.clone())) {
            waiting.into_iter().for_each(|one| drop(one.send(batch.clone())));
        }
    }

    fn here(&self, digest: &Digest) -> Option<Bytes> {
        match locked(&self.batches).get(digest) {
            Some(Slot::Here(batch)) => Some(batch.clone()),
            _ => None,
        }
    }

    /// Waits until a batch has arrived; `None` if the group ends before.
    async fn get(&self, digest: Digest) -> Option<Bytes> {
        let awaited = match locked(&self.batches).entry(digest).or_insert_with(|| Slot::Awaited(Vec::new())) {
            Slot::Here(batch) => return Some(batch.clone()),
            Slot::Awaited(waiting) => {
                let (sender, receiver) = oneshot::channel();
                waiting.push(sender);
                receiver
            }
        };
        awaited.await.ok()
    }

    /// Waits until a batch is on the disk, to which it is written once.
    async fn keep(&self, digest: Digest, batch: Bytes) {
        let cell = Arc::clone(locked(&self.kept).entry(digest).or_default());
        let write = || async move {
            let (written, waits) = oneshot::channel();
            let _ = self.keeper.send((batch, written));
            let _ = waits.await;
        };
        cell.get_or_init(write).await;
    }
}

/// The application at one replica.
#[derive(Clone)]
pub struct Replica {
    /// What all replicas share.
    pub shared: Arc<Shared>,
    /// Its place among them.
    pub me: usize,
}

impl Replica {
    fn store(&self) -> &Arc<Store> {
        &self.shared.stores[self.me]
    }

    /// Begins to write a batch to the disk.
    fn begin_to_keep(&self, digest: Digest, batch: Bytes) {
        let store = Arc::clone(self.store());
        tokio::spawn(async move { store.keep(digest, batch).await });
    }

    /// Builds a batch upon another one, unless nobody waits for it any more.
    async fn build(self, parent: Digest, mut response: oneshot::Sender<Digest>) {
        let shared = &self.shared;
        let requests = tokio::select! {
            requests = shared.take() => requests,
            () = response.closed() => return,
        };
        assert!(requests.iter().all(|request| shared.is_right(request.clone())), "clients sign their requests");
        let batch = encode(&requests);
        let digest = Sha256::hash(&[&batch]);
        let names = requests.iter().map(|request| (request.client, request.id)).collect();
        locked(&shared.ledger).proposed.insert(digest, Proposed { parent, requests: names });
        self.store().put(digest, batch.clone());
        self.begin_to_keep(digest, batch);
        if response.send(digest).is_err() {
            shared.put_back(requests);
        }
    }
}

impl Automaton for Replica {
    type Context = Context<Digest, PublicKey>;
    type Digest = Digest;

    async fn propose(&mut self, context: Self::Context) -> oneshot::Receiver<Digest> {
        let (response, receiver) = oneshot::channel();
        tokio::spawn(self.clone().build(context.parent.1, response));
        receiver
    }

    async fn verify(&mut self, _: Self::Context, payload: Digest) -> oneshot::Receiver<bool> {
        let (response, receiver) = oneshot::channel();
        let replica = self.clone();
        tokio::spawn(async move {
            if let Some(batch) = replica.store().get(payload).await {
                // It is verified meanwhile.
                replica.begin_to_keep(payload, batch.clone());
                let _ = response.send(replica.shared.is_right_batch(payload, batch));
            }
        });
        receiver
    }
}

impl CertifiableAutomaton for Replica {
    /// Waits for the disk, as commonware's own marshal does: a batch is written while votes are under way.
    async fn certify(&mut self, _: Round, payload: Digest) -> oneshot::Receiver<bool> {
        let (response, receiver) = oneshot::channel();
        let store = Arc::clone(self.store());
        tokio::spawn(async move {
            if let Some(batch) = store.get(payload).await {
                store.keep(payload, batch).await;
                let _ = response.send(true);
            }
        });
        receiver
    }
}

impl Relay for Replica {
    type Digest = Digest;
    type Plan = Plan<PublicKey>;
    type PublicKey = PublicKey;

    fn broadcast(&mut self, payload: Digest, plan: Plan<PublicKey>) -> Feedback {
        // Nothing else is asked for without handoffs and forwarding.
        if let (Plan::Propose { .. }, Some(batch)) = (plan, self.store().here(&payload)) {
            let others = self.shared.wires.iter().enumerate().filter(|(other, _)| *other != self.me);
            others.for_each(|(_, wire)| wire((payload, batch.clone())));
        }
        Feedback::Ok
    }
}

impl Reporter for Replica {
    type Activity = Activity<Scheme, Digest>;

    fn report(&mut self, activity: Self::Activity) -> Feedback {
        if let Activity::Finalization(finalization) = activity {
            self.shared.decide(finalization.proposal.payload);
        }
        Feedback::Ok
    }
}
