//! What a receiver remembers of the packets that it has seen, so that none is handled twice. Pure.
//!
//! The window: an id is recognized for [`WINDOW_MS`] after its packet was handled, which is longer than any deadline,
//! but only while its sender has sent fewer than [`WINDOW_PER_SENDER`] others since, and all senders together fewer
//! than [`WINDOW`]. A sender has fewer messages without outcome than [`WINDOW_PER_SENDER`], so its own traffic never
//! pushes out an id that it may still repeat. An id that is not handled yet is always recognized.

use std::{collections::VecDeque, sync::Arc};

use ahash::HashMap;

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
/// Maximum number of peers that wait for the outcome of one packet: its sender, and messengers that pass it on.
pub const MAX_WAITING: usize = 8;

/// The id comes first, because it is the part that differs.
type Key = (PacketId, Arc<str>);

/// What is known of a packet.
enum Seen {
    /// It waits or is being handled. These peers have sent it and wait for its outcome.
    Pending { waiting: Vec<Arc<str>> },
    /// It was handled.
    Done(Outcome),
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

/// What a receiver remembers of packets.
#[derive(Default)]
pub struct Memory {
    seen: HashMap<Key, Seen>,
    /// Handled ids, oldest first; some may be forgotten already.
    order: VecDeque<(u64, Key)>,
    /// The same for each sender, without forgotten ones.
    senders: HashMap<Arc<str>, VecDeque<PacketId>>,
    done: usize,
    /// Kept replies, oldest first, with their sizes.
    replies: VecDeque<(Key, usize)>,
    reply_bytes: usize,
}

impl Memory {
    /// Looks up a packet that `peer` has sent, and remembers it as pending if it is new. `waits`: the peer waits for
    /// the outcome.
    pub fn recognize(&mut self, now: u64, sender: &Arc<str>, id: PacketId, peer: &Arc<str>, waits: bool) -> Recognized {
        self.forget(now);
        let seen = self.seen.get_mut(&(id, Arc::clone(sender)));
        match seen.filter(|seen| matches!(seen, Seen::Pending { .. }) || !planted(Mistake::DedupForgets)) {
            Some(Seen::Done(outcome)) => Recognized::Done(outcome.clone()),
            Some(Seen::Pending { waiting }) => {
                if waits && !waiting.contains(peer) && waiting.len() < MAX_WAITING {
                    waiting.push(Arc::clone(peer));
                }
                Recognized::Pending
            }
            None => {
                let waiting = if waits { vec![Arc::clone(peer)] } else { Vec::new() };
                self.seen.insert((id, Arc::clone(sender)), Seen::Pending { waiting });
                Recognized::New
            }
        }
    }

    /// Records the outcome of a packet. Returns the peers that wait for it. A reply of more than [`KEPT_REPLY`] bytes
    /// is not kept.
    pub fn done(&mut self, now: u64, sender: &Arc<str>, id: PacketId, outcome: &Outcome) -> Vec<Arc<str>> {
        let key = (id, Arc::clone(sender));
        if let Some(Seen::Done(_)) = self.seen.get(&key) {
            return Vec::new();
        }
        let kept = self.kept(&key, outcome);
        let waiting = match self.seen.insert(key.clone(), Seen::Done(kept)) {
            Some(Seen::Pending { waiting }) => waiting,
            _ => Vec::new(),
        };
        self.done += 1;
        self.order.push_back((now, key));
        self.senders.entry(Arc::clone(sender)).or_default().push_back(id);
        self.shrink(sender);
        waiting
    }

    /// Forgets a pending packet, which was not handled and may be handled later. Returns the peers that wait for it.
    pub fn release(&mut self, sender: &Arc<str>, id: PacketId) -> Vec<Arc<str>> {
        let key = (id, Arc::clone(sender));
        match self.seen.remove(&key) {
            Some(Seen::Pending { waiting }) => waiting,
            Some(done @ Seen::Done(_)) => {
                self.seen.insert(key, done);
                Vec::new()
            }
            None => Vec::new(),
        }
    }

    /// Returns the handled packets, oldest first, as sender, id and outcome.
    pub fn handled(&self) -> impl Iterator<Item = (&Arc<str>, PacketId, &Outcome)> {
        self.order.iter().filter_map(|(_, key)| match self.seen.get(key) {
            Some(Seen::Done(outcome)) => Some((&key.1, key.0, outcome)),
            _ => None,
        })
    }

    /// Returns the number of handled packets that are recognized.
    pub fn len(&self) -> usize {
        self.done
    }

    /// Returns whether no handled packet is recognized.
    pub fn is_empty(&self) -> bool {
        self.done == 0
    }

    /// Returns the outcome to keep, and makes room for its reply.
    fn kept(&mut self, key: &Key, outcome: &Outcome) -> Outcome {
        let Outcome::Accepted { reply: Some(reply), .. } = outcome else { return outcome.clone() };
        if reply.len() > KEPT_REPLY {
            return Outcome::Accepted { reply: None, reply_forgotten: true };
        }
        self.replies.push_back((key.clone(), reply.len()));
        self.reply_bytes += reply.len();
        while self.reply_bytes > KEPT_REPLIES
            && let Some((oldest, len)) = self.replies.pop_front()
        {
            self.reply_bytes -= len;
            if let Some(Seen::Done(outcome)) = self.seen.get_mut(&oldest) {
                *outcome = Outcome::Accepted { reply: None, reply_forgotten: true };
            }
        }
        outcome.clone()
    }

    /// Forgets what is older than the window.
    fn forget(&mut self, now: u64) {
        while self.order.front().is_some_and(|(at, _)| at.saturating_add(WINDOW_MS) <= now) {
            self.forget_oldest();
        }
    }

    /// Enforces the limits after an id of this sender was added.
    fn shrink(&mut self, sender: &Arc<str>) {
        if let Some(ids) = self.senders.get_mut(sender).filter(|ids| ids.len() > WINDOW_PER_SENDER)
            && let Some(id) = ids.pop_front()
        {
            self.seen.remove(&(id, Arc::clone(sender)));
            self.done -= 1;
        }
        while self.done > WINDOW && !self.order.is_empty() {
            self.forget_oldest();
        }
        if self.order.len() > 2 * WINDOW {
            let seen = &self.seen;
            self.order.retain(|(_, key)| matches!(seen.get(key), Some(Seen::Done(_))));
        }
        if self.replies.len() > 2 * WINDOW {
            let seen = &self.seen;
            self.replies.retain(|(key, _)| seen.contains_key(key));
            self.reply_bytes = self.replies.iter().map(|(_, len)| len).sum();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((_, key)) = self.order.pop_front() else { return };
        let Some(ids) = self.senders.get_mut(&key.1) else { return };
        // If it is not its sender's oldest, it was forgotten before.
        if ids.front() == Some(&key.0) {
            ids.pop_front();
            if ids.is_empty() {
                self.senders.remove(&key.1);
            }
            self.seen.remove(&key);
            self.done -= 1;
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
        assert_eq!(memory.done(now, &sender, id, outcome), [sender]);
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
        assert!(memory.is_empty() && memory.senders.is_empty());
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
    fn replies_are_kept_within_limits() {
        let mut memory = Memory::default();
        let reply = |len| Outcome::accepted(Some(Bytes::from(vec![7; len])));
        handle(&mut memory, 0, "a", 1, &reply(KEPT_REPLY + 1));
        let forgotten = || Recognized::Done(Outcome::Accepted { reply: None, reply_forgotten: true });
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
        let waiting = memory.done(0, &sender, id, &Outcome::accepted(None));
        assert_eq!((waiting.len(), &*waiting[0]), (MAX_WAITING, "messenger-0"));
        assert_eq!(memory.done(0, &sender, id, &Outcome::Sent), Vec::<Arc<str>>::new(), "it has its outcome");
    }
}
