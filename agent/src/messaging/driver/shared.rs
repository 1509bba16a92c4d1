//! What the parts of the driver share: the links to other agents, what has arrived, and who waits for what.

use std::{
    collections::{BTreeMap, HashMap, btree_map},
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use robeing_platform::{
    Clock, Random,
    sync::{Mutex, MutexGuard},
};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connect::Connect,
    copies::{Copies, Passed},
    early::Early,
    letters::{Letters, is_letters},
    link,
    metrics::MessagingMetrics,
    replies::Report,
    state::{FAILURES, Link, LinkState, Settled, Waiting},
};
use crate::messaging::{
    inbox::{Inbox, MAX_DEPARTED, Received},
    outbox::NotTaken,
    outcome::Outcome,
    packet::{Packet, PacketId},
    policy::MessagePolicy,
    routing::{Address, Directory, Entry, Role},
    sealing::OpeningKey,
};

/// Maximum number of agents with which there is a stream, or to which messages wait.
pub const MAX_LINKS: usize = 1_024;
// All of their streams may break at once.
const _: () = assert!(MAX_DEPARTED >= MAX_LINKS);
/// Maximum cost of the messages to all agents that have no outcome yet, in bytes: 128 MiB.
pub const MAX_OUTGOING: u64 = 128 << 20;
/// Maximum number of asks that wait for their reply.
pub const MAX_ASKS: usize = 4_096;

/// A reply to an ask, which arrives as a packet of its own.
pub(super) type ReplyPacket = oneshot::Sender<Packet>;

/// What the parts of the driver share.
pub(super) struct Shared {
    pub me: Arc<str>,
    pub role: Role,
    pub journal: u64,
    pub directory: Arc<dyn Directory>,
    pub connect: Arc<dyn Connect>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub metrics: MessagingMetrics,
    pub stop: CancellationToken,
    pub tasks: TaskTracker,
    /// Wakes the dispatcher.
    pub work: Notify,
    pub started: Instant,
    pub policy: Arc<dyn MessagePolicy>,
    pub keys: Vec<OpeningKey>,
    /// Ordered, so that they are always woken in the same order: a seed of the simulator does the same again.
    links: Mutex<BTreeMap<Arc<str>, Arc<Link>>>,
    inbox: Mutex<Inbox>,
    asks: Mutex<HashMap<PacketId, (Arc<str>, ReplyPacket)>>,
    outgoing: AtomicU64,
    /// Who waits for messages of this agent to itself, and the number of the latest one.
    own: Mutex<(u64, HashMap<PacketId, oneshot::Sender<Report>>)>,
    letters: Mutex<Letters>,
    /// What messengers have brought.
    copies: Mutex<Copies>,
    /// Messages that wait until the fleet's agents are known.
    pub early: Early,
    /// The texts of the message that was sent before, which the next one mostly has, too.
    texts: Mutex<(Arc<str>, Arc<str>)>,
}

/// The parts that [`Shared`] is made of.
pub(super) struct Parts {
    pub me: Arc<str>,
    pub role: Role,
    pub journal: u64,
    pub directory: Arc<dyn Directory>,
    pub connect: Arc<dyn Connect>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub metrics: MessagingMetrics,
    pub stop: CancellationToken,
    pub started: Instant,
    pub policy: Arc<dyn MessagePolicy>,
    pub keys: Vec<OpeningKey>,
    pub inbox: Inbox,
}

impl Shared {
    pub fn new(parts: Parts) -> Self {
        let Parts { me, role, journal, directory, connect, clock, random, .. } = parts;
        let Parts { metrics, stop, started, policy, keys, mut inbox, .. } = parts;
        inbox.connect(&me);
        Self {
            me,
            role,
            journal,
            directory,
            connect,
            clock,
            random,
            metrics,
            stop,
            started,
            policy,
            keys,
            tasks: TaskTracker::new(),
            work: Notify::new(),
            links: Mutex::default(),
            inbox: Mutex::new(inbox),
            asks: Mutex::default(),
            outgoing: AtomicU64::new(0),
            own: Mutex::default(),
            letters: Mutex::default(),
            copies: Mutex::default(),
            early: Early::default(),
            texts: Mutex::default(),
        }
    }

    /// Returns the time of the pure parts: milliseconds since the start.
    pub fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Returns the instant of a time of the pure parts.
    pub fn instant(&self, at_ms: u64) -> Instant {
        self.started + Duration::from_millis(at_ms)
    }

    pub fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn letters(&self) -> MutexGuard<'_, Letters> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn copies(&self) -> MutexGuard<'_, Copies> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the directory has told this agent who is in the fleet.
    pub fn knows_fleet(&self) -> bool {
        self.directory.changes().is_none_or(|changes| *changes.borrow() > 0)
    }

    fn links(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Link>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the texts of a message to be sent: its address and kind.
    pub fn texts(&self, to: &Address, kind: &str) -> (Arc<str>, Arc<str>) {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if !to.is_written(&texts.0) {
            texts.0 = to.to_string().into();
        }
        if *texts.1 != *kind {
            texts.1 = kind.into();
        }
        (Arc::clone(&texts.0), Arc::clone(&texts.1))
    }

    /// Returns the link to an agent, and starts it if there is none. `None`: there are [`MAX_LINKS`].
    pub fn link(self: &Arc<Self>, peer: &Arc<str>) -> Option<Arc<Link>> {
        let mut links = self.links();
        let count = links.len();
        match links.entry(Arc::clone(peer)) {
            btree_map::Entry::Occupied(known) => Some(Arc::clone(known.get())),
            btree_map::Entry::Vacant(_) if count >= MAX_LINKS || self.stop.is_cancelled() => None,
            btree_map::Entry::Vacant(free) => {
                let link = Arc::new(Link::new(Arc::clone(peer)));
                free.insert(Arc::clone(&link));
                self.tasks.spawn(link::run(Arc::clone(self), Arc::clone(&link)));
                Some(link)
            }
        }
    }

    /// Returns the link to an agent, if there is one.
    pub fn existing_link(&self, peer: &str) -> Option<Arc<Link>> {
        self.links().get(peer).cloned()
    }

    /// Wakes the tasks of all links.
    pub fn wake_links(&self) {
        self.links().values().for_each(|link| link.wake.notify_one());
    }

    /// Returns the number of links.
    pub fn link_count(&self) -> usize {
        self.links().len()
    }

    /// Ends a link of which nothing is left. Returns false if something has come up.
    pub fn end_link(&self, link: &Arc<Link>) -> bool {
        let mut links = self.links();
        let mut state = link.lock();
        let is_idle = state.outbox.is_empty() && state.incoming.is_none();
        if is_idle || self.stop.is_cancelled() {
            state.is_over = true;
            drop(state);
            links.remove(&link.peer);
            return true;
        }
        false
    }

    /// Gives a packet, which is within the limits, to the link to its agent, another one than this. Returns what will
    /// receive its outcome, or the outcome at once. `has_detour`: it also receives once that the agent can't be reached.
    pub fn post(
        self: &Arc<Self>,
        to: &Entry,
        mut packet: Packet,
        has_detour: bool,
    ) -> Result<oneshot::Receiver<Settled>, Outcome> {
        packet.agent = Arc::clone(&to.name);
        let cost = packet.cost();
        if self.outgoing.fetch_add(cost, Ordering::Relaxed) + cost > MAX_OUTGOING {
            self.release(cost);
            return Err(Outcome::overloaded(format!(
                "messages of {MAX_OUTGOING} bytes wait for their outcome here; send more slowly"
            )));
        }
        let posted = self.post_to_link(packet, cost, has_detour);
        if posted.is_err() {
            self.release(cost);
        }
        posted
    }

    fn post_to_link(
        self: &Arc<Self>,
        packet: Packet,
        cost: u64,
        has_detour: bool,
    ) -> Result<oneshot::Receiver<Settled>, Outcome> {
        loop {
            let link = self.link(&packet.agent).ok_or_else(|| match self.stop.is_cancelled() {
                true => Outcome::away("this agent is shutting down"),
                false => Outcome::overloaded(format!(
                    "this agent has streams to {MAX_LINKS} others, the most; send through a messenger, or later"
                )),
            })?;
            let mut state = link.lock();
            if state.is_over {
                continue;
            }
            let (settled, awaited) = oneshot::channel();
            let (now, mut waiting) = (self.now(), Waiting { cost, settled, has_detour });
            if state.failures >= FAILURES {
                waiting.is_unreachable(&packet, now.saturating_add(packet.deadline_in_ms));
            }
            state.outbox.offer_with(now, packet, waiting).map_err(|not_taken| match not_taken {
                NotTaken::Full { .. } => Outcome::overloaded(not_taken),
                NotTaken::SameId(_) => Outcome::refused(not_taken),
            })?;
            link.rouse(state);
            return Ok(awaited);
        }
    }

    /// Passes the outcomes that the outbox of a link has, to those who wait for them.
    pub fn settle(&self, state: &mut LinkState) {
        let settled = state.outbox.take_settled_with();
        if settled.is_empty() {
            return;
        }
        state.has_several = settled.len() > 1;
        self.release(settled.iter().map(|(_, _, waiting)| waiting.cost).sum());
        for (_, outcome, waiting) in settled {
            self.metrics.sent(&outcome);
            // The sender may have stopped waiting.
            let _ = waiting.settled.send(Settled::Outcome(outcome));
        }
    }

    /// Takes a packet back from the link to its agent, because its outcome is known from another way.
    pub fn withdraw(&self, agent: &str, id: PacketId, outcome: &Outcome) {
        if let Some(link) = self.existing_link(agent) {
            let mut state = link.lock();
            state.outbox.withdraw(id, outcome.clone());
            self.settle(&mut state);
        }
    }

    fn release(&self, cost: u64) {
        let before = self.outgoing.fetch_sub(cost, Ordering::Relaxed);
        self.metrics.queued_bytes.set(i64::try_from(before - cost).unwrap_or(i64::MAX));
    }

    /// Gives a packet, which is within the limits, to the inbox of this agent. Returns what will receive what is reported of
    /// it, or the report at once. One of another agent has passed this one as a messenger, so its reply is to be sealed.
    pub fn post_to_self(&self, mut packet: Packet) -> Result<oneshot::Receiver<Report>, Report> {
        let (report, awaited) = oneshot::channel();
        let copy = Passed::of(&self.me, &packet);
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let (id, requires_ack) = (packet.id, packet.requires_ack);
        if own.1.contains_key(&id) {
            return Err(Outcome::refused(NotTaken::SameId(id)).into());
        }
        own.0 += 1;
        packet.seq = own.0;
        packet.requires_ack = true;
        let mut inbox = self.inbox();
        inbox.credits(&self.me);
        match inbox.receive(self.now(), &self.me, packet) {
            Err(_) => return Err(Outcome::overloaded("this agent's handler is behind with its own messages").into()),
            Ok(Received::Repeated(outcome)) => return Err(self.repeated(&inbox, copy, outcome)),
            // The packet is concluded under the lock of the inbox, and so after this.
            Ok(Received::Pending) => copy.into_iter().for_each(|copy| self.copies().note_again(copy)),
            Ok(Received::Queued) => {}
        }
        drop(inbox);
        if requires_ack {
            own.1.insert(id, report);
        } else {
            let _ = report.send(Outcome::Sent.into());
        }
        drop(own);
        self.work.notify_one();
        Ok(awaited)
    }

    /// Reports the outcomes of packets to a peer that waits for them.
    pub fn report(&self, peer: &Arc<str>, reports: Vec<(PacketId, Report)>) {
        if *peer == self.me {
            let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, report) in reports {
                if let Some(waiting) = own.1.remove(&id) {
                    let _ = waiting.send(report);
                }
            }
            return;
        }
        if is_letters(peer) {
            // They pass no messenger, and are sealed by the task that waits for them.
            self.letters().report(peer, reports.into_iter().map(|(id, report)| (id, report.outcome)));
            return;
        }
        // Without a link the peer has no stream, and asks again over the next one.
        if let Some(link) = self.existing_link(peer) {
            let mut state = link.lock();
            self.add_reports(&link, &mut state, reports);
            link.rouse(state);
        }
    }

    /// Adds outcomes to be sent to the peer of a link. Without room for more, no packets of the peer are handed out until
    /// some were written.
    pub fn add_reports<R: Into<Report>>(
        &self,
        link: &Link,
        state: &mut LinkState,
        reports: impl IntoIterator<Item = (PacketId, R)>,
    ) {
        reports.into_iter().for_each(|(id, report)| state.report(id, report));
        if !state.has_room() && !std::mem::replace(&mut state.is_held, true) {
            self.inbox().hold(&link.peer);
        }
    }

    /// Registers an ask of `peer`, whose reply may arrive as a packet. Returns the outcome of the ask if too many wait, or
    /// one with the same id does.
    pub fn expect_reply(&self, id: PacketId, peer: Arc<str>) -> Result<oneshot::Receiver<Packet>, Outcome> {
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        if asks.get(&id).is_some_and(|(_, reply)| !reply.is_closed()) {
            return Err(Outcome::refused(NotTaken::SameId(id)));
        }
        // An ask whose caller is gone makes room.
        if asks.len() >= MAX_ASKS {
            asks.retain(|_, (_, reply)| !reply.is_closed());
        }
        if asks.len() >= MAX_ASKS {
            return Err(Outcome::overloaded(format!("{MAX_ASKS} asks wait for their replies; ask more slowly")));
        }
        let (reply, awaited) = oneshot::channel();
        asks.insert(id, (peer, reply));
        Ok(awaited)
    }

    /// Ends an ask.
    pub fn forget_reply(&self, id: PacketId) {
        self.asks.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Passes a packet to the ask that it replies to. Returns the packet if there is none.
    pub fn take_reply(&self, packet: Packet) -> Option<Packet> {
        let Some(id) = packet.reply_to else { return Some(packet) };
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        match asks.get(&id) {
            Some((peer, _)) if *peer == packet.sender => {}
            _ => return Some(packet),
        }
        let (_, reply) = asks.remove(&id)?;
        reply.send(packet).err()
    }
}
