//! What a receiver remembers of the packets that it has seen, so that none is handled twice. Pure.
//!
//! The window: an id is recognized for [`WINDOW_MS`] after its packet was handled, which is longer than any deadline,
//! but only while its sender has sent fewer than [`WINDOW_PER_SENDER`] others since, and all senders together fewer
//! than [`WINDOW`]. A sender has fewer messages without outcome than [`WINDOW_PER_SENDER`], so its own traffic never
//! pushes out an id that it may still repeat. An id that is not handled yet is always recognized.

use std::{
    collections::{VecDeque, hash_map::Entry},
    sync::Arc,
};

use ahash::{HashMap, RandomState};
use hashbrown::HashTable;
use robeing_fleet::sabotage::{Mistake, planted};

use super::{
    outcome::Outcome,
    packet::{MAX_DEADLINE_MS, PacketId},
};

/// How long an id is recognized after its packet was handled, in milliseconds: 15 minutes.
pub const WINDOW_MS: u64 = MAX_DEADLINE_MS + 300_000;
/// Maximum number of handled ids of one sender that are recognized.
pub const WINDOW_PER_SENDER: usize = 16_384;
/// Maximum number of handled ids that are recognized.
pub const WINDOW: usize = 65_536;
/// Maximum size of a reply that is kept for a repetition, in bytes: 64 KiB.
pub const KEPT_REPLY: usize = 64 << 10;
/// Maximum size of all kept replies, in bytes: 8 MiB.
pub const KEPT_REPLIES: usize = 8 << 20;
/// The memory for the ids of a sender is given back once it has room for four times as many, and for so many more.
const SPARE: usize = 64;
/// Maximum number of peers that wait for the outcome of one packet: its sender, and messengers that pass it on.
pub const MAX_WAITING: usize = 8;

/// The peers that wait for an outcome: mostly the sender alone, for which nothing is allocated.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Waiting {
    first: Option<Arc<str>>,
    others: Vec<Arc<str>>,
}

impl Waiting {
    /// Adds a peer, if it does not wait yet and fewer than [`MAX_WAITING`] do.
    fn add(&mut self, peer: &Arc<str>) {
        let Some(first) = &self.first else {
            self.first = Some(Arc::clone(peer));
            return;
        };
        if first != peer && !self.others.contains(peer) && self.others.len() + 1 < MAX_WAITING {
            self.others.push(Arc::clone(peer));
        }
    }

    /// Returns the peers, in the order in which they have sent the packet.
    pub fn peers(self) -> impl Iterator<Item = Arc<str>> {
        self.first.into_iter().chain(self.others)
    }
}

/// What a packet is to the receiver.
#[derive(Debug, PartialEq, Eq)]
pub enum Recognized {
    /// It was not seen before, and is pending from now on.
    New,
    /// It is pending already; the peer gets its outcome, too.
    Pending,
    /// It was handled, with this outcome.
    Done(Outcome),
}

/// What is remembered of the packets of one sender.
#[derive(Default)]
struct Sender {
    /// Packets that wait or are being handled, with the peers that have sent them and wait for their outcome.
    pending: HashMap<PacketId, Waiting>,
    order: Order,
    /// The number of the oldest. Numbers increase, also beyond the life of this value.
    first: u64,
    /// The lowest 32 bits of their numbers, by the hashes of their ids. It is small, so that it stays in the cache.
    numbers: HashTable<u32>,
}

/// Packets that were handled, oldest first. `None`: accepted without a reply, as most are.
type Order = VecDeque<(PacketId, Option<Box<Outcome>>)>;

/// Returns the hash of the id of the packet with this number, of those from `first` on.
fn hash_of(order: &Order, first: u32, number: u32, hashing: &RandomState) -> u64 {
    order.get(number.wrapping_sub(first) as usize).map_or(0, |(id, _)| hashing.hash_one(id))
}

impl Sender {
    /// Returns the place of a packet in the order.
    fn place(&self, hash: u64, id: PacketId) -> Option<usize> {
        let place = |number: &u32| number.wrapping_sub(self.first as u32) as usize;
        let is_it = |number: &u32| self.order.get(place(number)).is_some_and(|(known, _)| *known == id);
        self.numbers.find(hash, is_it).map(place)
    }

    /// Adds a packet that was handled. Returns its number.
    fn add(&mut self, hashing: &RandomState, hash: u64, id: PacketId, outcome: Option<Box<Outcome>>) -> u64 {
        let number = self.first + self.order.len() as u64;
        self.order.push_back((id, outcome));
        let (order, first) = (&self.order, self.first as u32);
        self.numbers.insert_unique(hash, number as u32, |number| hash_of(order, first, *number, hashing));
        number
    }

    fn forget_oldest(&mut self, hashing: &RandomState) {
        if let Some((id, _)) = self.order.pop_front() {
            let number = self.first as u32;
            if let Ok(found) = self.numbers.find_entry(hashing.hash_one(id), |known| *known == number) {
                found.remove();
            }
            self.first += 1;
            self.give_back(hashing);
        }
    }

    /// Gives memory back if little of it is used.
    fn give_back(&mut self, hashing: &RandomState) {
        let len = self.order.len();
        if self.order.capacity() > 4 * len + SPARE {
            self.order.shrink_to(2 * len);
        }
        if self.numbers.capacity() > 4 * len + SPARE {
            let (order, first) = (&self.order, self.first as u32);
            self.numbers.shrink_to(2 * len, |number| hash_of(order, first, *number, hashing));
        }
    }

    fn is_empty(&self) -> bool {
        self.pending.is_empty() && self.order.is_empty()
    }
}

/// Packets of one sender that were handled one after another, at the same time.
struct Run {
    at: u64,
    sender: Arc<str>,
    /// Their numbers are from this one up to, and without, the other.
    from: u64,
    until: u64,
}

const ACCEPTED: Outcome = Outcome::Accepted { reply: None, reply_forgotten: false, reply_is_sealed: false };
const REPLY_FORGOTTEN: Outcome = Outcome::reply_forgotten();

/// What a receiver remembers of packets.
#[derive(Default)]
pub struct Memory {
    hashing: RandomState,
    senders: HashMap<Arc<str>, Sender>,
    /// Handled packets, oldest first; some may be forgotten already.
    runs: VecDeque<Run>,
    /// Number of handled packets that are recognized, and of all that ever were.
    len: usize,
    total: u64,
    /// Kept replies, oldest first, with their sizes.
    replies: VecDeque<(Arc<str>, PacketId, usize)>,
    reply_bytes: usize,
}

impl Memory {
    /// Looks up a packet that `peer` has sent, and remembers it as pending if it is new. `waits`: the peer waits for
    /// the outcome.
    pub fn recognize(&mut self, now: u64, sender: &Arc<str>, id: PacketId, peer: &Arc<str>, waits: bool) -> Recognized {
        self.forget(now);
        let hash = self.hashing.hash_one(id);
        let known = self.sender(sender);
        if let Some(place) = known.place(hash, id).filter(|_| !planted(Mistake::DedupForgets)) {
            let outcome = known.order.get(place).and_then(|(_, outcome)| outcome.as_deref());
            return Recognized::Done(outcome.cloned().unwrap_or(ACCEPTED));
        }
        match known.pending.entry(id) {
            Entry::Occupied(mut pending) => {
                if waits {
                    pending.get_mut().add(peer);
                }
                Recognized::Pending
            }
            Entry::Vacant(new) => {
                new.insert(Waiting { first: waits.then(|| Arc::clone(peer)), others: Vec::new() });
                Recognized::New
            }
        }
    }

    /// Records the outcome of a packet. Returns the peers that wait for it. A reply of more than [`KEPT_REPLY`] bytes
    /// is not kept.
    pub fn done(&mut self, now: u64, sender: &Arc<str>, id: PacketId, outcome: &Outcome) -> Waiting {
        let (kept, reply) = match outcome {
            Outcome::Accepted { reply: Some(reply), .. } if reply.len() > KEPT_REPLY => (Some(REPLY_FORGOTTEN), 0),
            Outcome::Accepted { reply: Some(reply), .. } => (Some(outcome.clone()), reply.len()),
            Outcome::Accepted { reply: None, reply_forgotten: false, .. } => (None, 0),
            outcome => (Some(outcome.clone()), 0),
        };
        let (hashing, hash) = (self.hashing.clone(), self.hashing.hash_one(id));
        let known = self.sender(sender);
        let waiting = known.pending.remove(&id).unwrap_or_default();
        if known.place(hash, id).is_some() {
            return waiting;
        }
        let number = known.add(&hashing, hash, id, kept.map(Box::new));
        self.len += 1;
        self.total += 1;
        match self.runs.back_mut() {
            Some(run) if run.at == now && run.sender == *sender => run.until = number + 1,
            _ => self.runs.push_back(Run { at: now, sender: Arc::clone(sender), from: number, until: number + 1 }),
        }
        if reply > 0 {
            self.keep_reply(sender, id, reply);
        }
        self.shrink(sender);
        waiting
    }

    /// Forgets a pending packet, which was not handled and may be handled later. Returns the peers that wait for it.
    pub fn release(&mut self, sender: &Arc<str>, id: PacketId) -> Waiting {
        let Some(known) = self.senders.get_mut(&**sender) else { return Waiting::default() };
        let waiting = known.pending.remove(&id).unwrap_or_default();
        if known.is_empty() {
            self.senders.remove(&**sender);
        }
        waiting
    }

    /// Returns the handled packets, oldest first, as sender, id and outcome.
    pub fn handled(&self) -> impl Iterator<Item = (&Arc<str>, PacketId, &Outcome)> {
        self.runs.iter().flat_map(|run| {
            let known = self.senders.get(&*run.sender);
            known.into_iter().flat_map(move |known| {
                let remembered = run.from.max(known.first)..run.until;
                remembered.filter_map(move |number| {
                    let (id, outcome) = known.order.get(usize::try_from(number - known.first).ok()?)?;
                    Some((&run.sender, *id, outcome.as_deref().unwrap_or(&ACCEPTED)))
                })
            })
        })
    }

    /// Returns the number of a handled packet that is recognized, among those of its sender. No other one has it, also if
    /// it has the same id and was handled once this one was forgotten.
    pub fn number(&self, sender: &str, id: PacketId) -> Option<u64> {
        let known = self.senders.get(sender)?;
        known.place(self.hashing.hash_one(id), id).map(|place| known.first + place as u64)
    }

    /// Returns the number of handled packets that are recognized.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns whether no handled packet is recognized.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn sender(&mut self, name: &Arc<str>) -> &mut Sender {
        let first = self.total;
        if !self.senders.contains_key(&**name) {
            self.senders.insert(Arc::clone(name), Sender { first, ..Sender::default() });
        }
        self.senders.entry(Arc::clone(name)).or_default()
    }

    /// Counts a reply, and makes room for it.
    fn keep_reply(&mut self, sender: &Arc<str>, id: PacketId, len: usize) {
        self.replies.push_back((Arc::clone(sender), id, len));
        self.reply_bytes += len;
        while self.reply_bytes > KEPT_REPLIES
            && let Some((sender, oldest, len)) = self.replies.pop_front()
        {
            self.reply_bytes -= len;
            let hash = self.hashing.hash_one(oldest);
            if let Some(known) = self.senders.get_mut(&*sender)
                && let Some(place) = known.place(hash, oldest)
                && let Some((_, outcome)) = known.order.get_mut(place)
            {
                *outcome = Some(Box::new(REPLY_FORGOTTEN));
            }
        }
        if self.replies.len() > 2 * WINDOW {
            let (senders, hashing) = (&self.senders, &self.hashing);
            self.replies.retain(|(sender, id, _)| {
                senders.get(&**sender).is_some_and(|known| known.place(hashing.hash_one(id), *id).is_some())
            });
            self.reply_bytes = self.replies.iter().map(|(_, _, len)| len).sum();
        }
    }

    /// Forgets what is older than the window.
    fn forget(&mut self, now: u64) {
        while self.runs.front().is_some_and(|run| run.at.saturating_add(WINDOW_MS) <= now) {
            self.forget_oldest();
        }
    }

    /// Enforces the limits after an id of this sender was added.
    fn shrink(&mut self, sender: &Arc<str>) {
        if let Some(known) = self.senders.get_mut(&**sender).filter(|known| known.order.len() > WINDOW_PER_SENDER) {
            known.forget_oldest(&self.hashing);
            self.len -= 1;
            while self.runs.front().is_some_and(|run| run.until <= known.first && run.sender == *sender) {
                self.runs.pop_front();
            }
        }
        while self.len > WINDOW && !self.runs.is_empty() {
            self.forget_oldest();
        }
        if self.runs.len() > 2 * WINDOW {
            let senders = &self.senders;
            self.runs.retain(|run| senders.get(&*run.sender).is_some_and(|known| known.first < run.until));
        }
    }

    fn forget_oldest(&mut self) {
        let Some(run) = self.runs.front() else { return };
        let known = self.senders.get_mut(&*run.sender);
        let Some(known) = known.filter(|known| known.first < run.until && !known.order.is_empty()) else {
            // All of it was forgotten before.
            self.runs.pop_front();
            return;
        };
        known.forget_oldest(&self.hashing);
        self.len -= 1;
        if known.is_empty() {
            self.senders.remove(&*run.sender);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    fn handle(memory: &mut Memory, now: u64, sender: &str, id: u128, outcome: &Outcome) {
        let (sender, id) = (name(sender), PacketId(id));
        assert_eq!(memory.recognize(now, &sender, id, &sender, true), Recognized::New, "{id}");
        assert!(memory.done(now, &sender, id, outcome).peers().eq([sender]));
    }

    fn look(memory: &mut Memory, now: u64, sender: &str, id: u128) -> Recognized {
        memory.recognize(now, &name(sender), PacketId(id), &name(sender), true)
    }

    #[test]
    fn a_repetition_gets_the_first_outcome_until_the_window_ends() {
        let mut memory = Memory::default();
        handle(&mut memory, 5, "a", 1, &Outcome::refused("no"));
        assert_eq!(look(&mut memory, 5 + WINDOW_MS - 1, "a", 1), Recognized::Done(Outcome::refused("no")));
        assert_eq!(look(&mut memory, 5 + WINDOW_MS - 1, "b", 1), Recognized::New, "another sender's id is another");
        assert_eq!(look(&mut memory, 5 + WINDOW_MS, "a", 1), Recognized::New);
        assert_eq!(look(&mut memory, u64::MAX, "a", 1), Recognized::Pending, "until it is handled");
        assert!(
            memory.is_empty()
                && memory.senders.values().all(|known| known.order.is_empty() && known.numbers.is_empty())
        );
    }

    #[test]
    fn one_sender_pushes_out_only_its_own_ids() {
        let mut memory = Memory::default();
        handle(&mut memory, 0, "quiet", 1, &Outcome::Sent);
        for id in 0..=WINDOW_PER_SENDER as u128 {
            handle(&mut memory, 0, "loud", id, &Outcome::Sent);
        }
        assert_eq!(look(&mut memory, 0, "loud", 1), Recognized::Done(Outcome::Sent));
        assert_eq!(look(&mut memory, 0, "quiet", 1), Recognized::Done(Outcome::Sent));
        assert_eq!(memory.len(), WINDOW_PER_SENDER + 1);
        assert_eq!(look(&mut memory, 0, "loud", 0), Recognized::New);
    }

    #[test]
    fn all_senders_together_have_a_limit() {
        let mut memory = Memory::default();
        for id in 0..=WINDOW as u128 {
            handle(&mut memory, 0, &format!("agent-{}", id % 16), id, &Outcome::Sent);
        }
        assert_eq!((memory.len(), memory.handled().count()), (WINDOW, WINDOW));
        assert_eq!(look(&mut memory, 0, "agent-1", 1), Recognized::Done(Outcome::Sent));
        assert_eq!(look(&mut memory, 0, "agent-0", 0), Recognized::New);
    }

    #[test]
    fn the_memory_for_what_was_forgotten_is_given_back() {
        let mut memory = Memory::default();
        (0..WINDOW_PER_SENDER as u128).for_each(|id| handle(&mut memory, 0, "a", id, &Outcome::accepted(None)));
        let last = u128::MAX - 9;
        (0..10).for_each(|id| handle(&mut memory, 1, "a", last + id, &Outcome::accepted(None)));
        assert_eq!(look(&mut memory, WINDOW_MS, "a", last), Recognized::Done(Outcome::accepted(None)));
        let known = &memory.senders["a"];
        assert_eq!((known.order.len(), known.numbers.len()), (10, 10));
        let most = 4 * 10 + SPARE;
        assert!(known.order.capacity() <= most && known.numbers.capacity() <= most);
        for id in 0..10 {
            assert_eq!(look(&mut memory, WINDOW_MS, "a", last + id), Recognized::Done(Outcome::accepted(None)));
        }
    }

    #[test]
    fn replies_are_kept_within_limits() {
        let mut memory = Memory::default();
        let reply = |len| Outcome::accepted(Some(Bytes::from(vec![7; len])));
        handle(&mut memory, 0, "a", 1, &reply(KEPT_REPLY + 1));
        let forgotten = || Recognized::Done(Outcome::reply_forgotten());
        assert_eq!(look(&mut memory, 0, "a", 1), forgotten());
        let fitting = (KEPT_REPLIES / KEPT_REPLY) as u128;
        (2..2 + fitting).for_each(|id| handle(&mut memory, 0, "a", id, &reply(KEPT_REPLY)));
        assert_eq!(look(&mut memory, 0, "a", 2), Recognized::Done(reply(KEPT_REPLY)));
        handle(&mut memory, 0, "a", 99_999, &reply(1));
        assert_eq!(look(&mut memory, 0, "a", 2), forgotten());
        assert_eq!(look(&mut memory, 0, "a", 3), Recognized::Done(reply(KEPT_REPLY)));
    }

    #[test]
    fn everybody_who_sent_a_pending_packet_gets_its_outcome() {
        let mut memory = Memory::default();
        let (sender, id) = (name("a"), PacketId(1));
        memory.recognize(0, &sender, id, &sender, false);
        for messenger in 0..=MAX_WAITING {
            let messenger = name(&format!("messenger-{messenger}"));
            for _ in 0..2 {
                assert_eq!(memory.recognize(0, &sender, id, &messenger, true), Recognized::Pending);
            }
        }
        let waiting: Vec<_> = memory.done(0, &sender, id, &Outcome::accepted(None)).peers().collect();
        assert_eq!((waiting.len(), &*waiting[0]), (MAX_WAITING, "messenger-0"));
        assert_eq!(memory.done(0, &sender, id, &Outcome::Sent), Waiting::default(), "it has its outcome");
    }

    #[test]
    fn what_was_forgotten_takes_up_no_room_and_is_not_confused_with_what_came_later() {
        let mut memory = Memory::default();
        handle(&mut memory, 0, "quiet", 0, &Outcome::Sent);
        // Each at a time of its own, so that no run is shared.
        let times = 2 * WINDOW as u64 + 2 * WINDOW_PER_SENDER as u64;
        for time in 1..=times {
            handle(&mut memory, time, "loud", time.into(), &Outcome::refused("no"));
        }
        assert!(memory.runs.len() <= 2 * WINDOW && memory.len() == WINDOW_PER_SENDER + 1, "{}", memory.runs.len());
        let ids: Vec<_> = memory.handled().map(|(_, id, _)| id.0).collect();
        let first = u128::from(times) - WINDOW_PER_SENDER as u128 + 1;
        assert!(ids.iter().copied().eq(std::iter::once(0).chain(first..=times.into())));
        // A sender that was forgotten begins anew behind its earlier runs.
        assert_eq!(look(&mut memory, u64::MAX, "loud", 7), Recognized::New);
        assert_eq!(memory.release(&name("loud"), PacketId(7)).peers().count(), 1);
        assert!(memory.senders.is_empty() && memory.runs.is_empty());
        handle(&mut memory, u64::MAX, "loud", 8, &Outcome::Sent);
        assert_eq!(memory.handled().map(|(_, id, _)| id.0).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn a_packet_that_was_handled_has_a_number_that_no_other_one_ever_has() {
        let mut memory = Memory::default();
        let mut numbers = Vec::new();
        for round in 0..3 {
            let now = round * WINDOW_MS;
            for id in 1..=2 {
                assert_eq!(look(&mut memory, now, "a", id), Recognized::New);
                assert_eq!(memory.number("a", PacketId(id)), None, "it is not handled yet");
                memory.done(now, &name("a"), PacketId(id), &Outcome::Sent);
            }
            numbers.extend([1, 2].map(|id| memory.number("a", PacketId(id)).expect("a number")));
        }
        assert!(numbers.is_sorted_by(|before, next| before < next), "{numbers:?}");
        assert_eq!((memory.number("b", PacketId(1)), memory.number("a", PacketId(3))), (None, None));
    }
}
