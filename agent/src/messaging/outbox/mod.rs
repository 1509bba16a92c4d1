//! The messages to one agent that have no outcome yet. Pure: the caller passes in the time, in milliseconds on a
//! monotonic clock, and what happened on the stream.
//!
//! A message stays here until it has an outcome. Each priority is a lane with a bounded queue of its own, so that a
//! backlog never keeps an urgent message out. Within a lane messages are sent in the order of their sequence numbers;
//! of several lanes the most urgent one goes first. What a stream has carried is sent again only over a later stream,
//! because a stream loses nothing before it ends: after a reconnect, sending resumes at the oldest message of each lane
//! that has no outcome.

mod lane;

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use ahash::HashMap;

use self::lane::{Entry, Lane, SPARE};
use super::{
    inbox::is_handled,
    outcome::Outcome,
    packet::{LANES, MAX_COST, Packet, PacketId, Priority},
};

/// Maximum number of messages in a lane.
pub const LANE_PACKETS: usize = 1_536;
/// Maximum cost of the messages in a lane, in bytes: 8 MiB.
pub const LANE_BYTES: u64 = 8 << 20;
const _: () = assert!(MAX_COST < LANE_BYTES);
/// Maximum number of packets in a frame. Few, so that the receiver handles one frame while the sender writes the next: with
/// frames of all that waits, both take turns.
pub const BATCH_PACKETS: usize = 32;
/// A frame gets no further packet once its packets have this cost, in bytes.
pub const BATCH_BYTES: u64 = 256 << 10;

/// Why a message is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotTaken {
    /// The lane is full.
    #[error(
        "the queue of priority {} to {agent:?} is full with {packets} messages of {bytes} bytes; send more slowly, or \
         wait for outcomes",
        .priority.get()
    )]
    Full {
        /// The agent.
        agent: String,
        /// The lane.
        priority: Priority,
        /// Messages in it.
        packets: usize,
        /// Their cost, in bytes.
        bytes: u64,
    },
    /// A message with the same id has no outcome yet.
    #[error("a message with the id {0} is being sent already; give each message its own id")]
    SameId(PacketId),
}

/// The receiver violated the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the other side granted less than before in the lane of priority {}: {granted} after {before} bytes", .priority.get())]
pub struct CreditTaken {
    /// The lane.
    pub priority: Priority,
    /// The limit it granted.
    pub granted: u64,
    /// The limit before.
    pub before: u64,
}

/// The messages to one agent that have no outcome yet. With each, the caller keeps a value of type `T`.
pub struct Outbox<T = ()> {
    lanes: [Lane<T>; LANES],
    by_id: HashMap<PacketId, (usize, u64)>,
    /// The deadlines of messages, also of some that have their outcome.
    deadlines: BinaryHeap<Reverse<(u64, usize, u64)>>,
    connected: bool,
    /// Why there is no stream.
    trouble: Option<String>,
    settled: Vec<(PacketId, Outcome, T)>,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Self {
            lanes: Default::default(),
            by_id: HashMap::default(),
            deadlines: BinaryHeap::new(),
            connected: false,
            trouble: None,
            settled: Vec::new(),
        }
    }
}

impl Outbox {
    /// Takes a message to send before its deadline. Its outcome will be among [`Outbox::take_settled`].
    ///
    /// # Errors
    /// [`NotTaken`] if its lane is full, or its id is in use.
    pub fn offer(&mut self, now: u64, packet: Packet) -> Result<(), NotTaken> {
        self.offer_with(now, packet, ())
    }

    /// Returns the outcomes since the last call.
    pub fn take_settled(&mut self) -> Vec<(PacketId, Outcome)> {
        self.take_settled_with().into_iter().map(|(id, outcome, ())| (id, outcome)).collect()
    }
}

impl<T> Outbox<T> {
    /// Takes a message to send before its deadline, and keeps a value with it. Both its outcome and the value will be
    /// among [`Outbox::take_settled_with`].
    ///
    /// # Errors
    /// [`NotTaken`] if its lane is full, or its id is in use.
    pub fn offer_with(&mut self, now: u64, mut packet: Packet, kept: T) -> Result<(), NotTaken> {
        if self.by_id.contains_key(&packet.id) {
            return Err(NotTaken::SameId(packet.id));
        }
        let (index, cost) = (packet.priority.lane(), packet.cost());
        let lane = &mut self.lanes[index];
        if lane.bytes + cost > LANE_BYTES || lane.len >= LANE_PACKETS {
            return Err(NotTaken::Full {
                agent: (*packet.agent).into(),
                priority: packet.priority,
                packets: lane.len,
                bytes: lane.bytes,
            });
        }
        lane.latest += 1;
        lane.bytes += cost;
        packet.seq = lane.latest;
        let deadline = now.saturating_add(packet.deadline_in_ms);
        self.by_id.insert(packet.id, (index, packet.seq));
        self.deadlines.push(Reverse((deadline, index, packet.seq)));
        lane.len += 1;
        let entry = Entry { packet: Arc::new(packet), cost, deadline, was_sent: false, kept };
        lane.places.push_back((entry.packet.seq, Some(entry)));
        Ok(())
    }

    /// Starts a stream, with the initial limit of each lane, in bytes of cost. All messages are to be sent over it.
    pub fn connected(&mut self, limits: [u64; LANES]) {
        (self.connected, self.trouble) = (true, None);
        for (lane, limit) in self.lanes.iter_mut().zip(limits) {
            (lane.written, lane.spent, lane.limit) = (0, 0, limit);
        }
    }

    /// Ends the stream, or records why none could be made.
    pub fn disconnected(&mut self, why: impl Into<String>) {
        (self.connected, self.trouble) = (false, Some(why.into()));
    }

    /// Raises the limit of a lane.
    ///
    /// # Errors
    /// [`CreditTaken`] if it is lower than before.
    pub fn credit(&mut self, priority: Priority, limit: u64) -> Result<(), CreditTaken> {
        let lane = &mut self.lanes[priority.lane()];
        if limit < lane.limit {
            return Err(CreditTaken { priority, granted: limit, before: lane.limit });
        }
        lane.limit = limit;
        Ok(())
    }

    /// Returns whether [`Outbox::next_batch`] would return any message.
    pub fn can_send(&self) -> bool {
        self.connected && self.lanes.iter().any(|lane| lane.next().is_some())
    }

    /// Returns the next messages to write to the stream, each with the time left until its deadline, in milliseconds.
    /// At most [`BATCH_PACKETS`], of [`BATCH_BYTES`] and one message more. Those without acknowledgement are `Sent`.
    pub fn next_batch(&mut self, now: u64) -> Vec<(Arc<Packet>, u64)> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        if !self.connected {
            return batch;
        }
        self.expire(now);
        for index in (0..LANES).rev() {
            while batch.len() < BATCH_PACKETS && bytes < BATCH_BYTES {
                let lane = &mut self.lanes[index];
                let Some(seq) = lane.next() else { break };
                lane.written = seq;
                let Some(entry) = lane.get_mut(seq) else { break };
                if std::mem::replace(&mut entry.was_sent, true) {
                    Arc::make_mut(&mut entry.packet).resent = true;
                }
                let (packet, left) = (Arc::clone(&entry.packet), entry.deadline.saturating_sub(now));
                let cost = entry.cost;
                lane.spent += cost;
                bytes += cost;
                if !packet.requires_ack {
                    self.settle(index, seq, Outcome::Sent);
                }
                batch.push((packet, left));
            }
        }
        batch
    }

    /// Records the receiver's outcome of a message. Returns whether the message was waiting for it: after its deadline
    /// it is not. A receiver that has not handled a message which was sent before does not know what became of the
    /// earlier delivery, if it has been restarted: the message counts as maybe handled.
    pub fn outcome(&mut self, id: PacketId, outcome: Outcome) -> bool {
        let Some(&(index, seq)) = self.by_id.get(&id) else { return false };
        let Some(entry) = self.lanes[index].get(seq).filter(|entry| entry.was_sent) else { return false };
        let is_known = is_handled(&outcome) || !entry.packet.resent;
        self.settle(index, seq, if is_known { outcome } else { Outcome::DeadlinePassed { maybe_handled: true } });
        true
    }

    /// Notes that a message may arrive by another way first, so that it is marked as resent from now on.
    pub fn goes_another_way(&mut self, id: PacketId) {
        if let Some(&(index, seq)) = self.by_id.get(&id)
            && let Some(entry) = self.lanes[index].get_mut(seq)
        {
            Arc::make_mut(&mut entry.packet).resent = true;
        }
    }

    /// Settles a message whose outcome is known from another way, so that it is not sent any more.
    pub fn withdraw(&mut self, id: PacketId, outcome: Outcome) {
        if let Some(&(index, seq)) = self.by_id.get(&id) {
            self.settle(index, seq, outcome);
        }
    }

    /// Settles the messages whose deadline has passed.
    pub fn expire(&mut self, now: u64) {
        while let Some(&Reverse((deadline, index, seq))) = self.deadlines.peek()
            && deadline <= now
        {
            self.deadlines.pop();
            let was_sent = self.lanes[index].get(seq).is_some_and(|entry| entry.was_sent);
            let outcome = match &self.trouble {
                Some(why) if !was_sent => Outcome::away(why),
                _ => Outcome::DeadlinePassed { maybe_handled: was_sent },
            };
            self.settle(index, seq, outcome);
        }
    }

    /// Settles all messages, because the agent is gone: those that no stream has carried with `outcome`, the others as
    /// maybe handled.
    pub fn give_up(&mut self, outcome: &Outcome) {
        while let Some(Reverse((_, index, seq))) = self.deadlines.pop() {
            let was_sent = self.lanes[index].get(seq).is_some_and(|entry| entry.was_sent);
            let outcome = if was_sent { Outcome::DeadlinePassed { maybe_handled: true } } else { outcome.clone() };
            self.settle(index, seq, outcome);
        }
    }

    /// Returns the outcomes since the last call, with what was kept with the messages.
    pub fn take_settled_with(&mut self) -> Vec<(PacketId, Outcome, T)> {
        std::mem::take(&mut self.settled)
    }

    /// Returns the messages without outcome, each with when its deadline passes and with what is kept with it.
    pub fn waiting_mut(&mut self) -> impl Iterator<Item = (&Packet, u64, &mut T)> {
        let entries = self.lanes.iter_mut().flat_map(|lane| &mut lane.places).filter_map(|(_, entry)| entry.as_mut());
        entries.map(|entry| (&*entry.packet, entry.deadline, &mut entry.kept))
    }

    /// Returns when [`Outbox::expire`] has to be called next, at the latest. `None`: every message has its outcome.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.peek().filter(|_| !self.is_empty()).map(|Reverse((deadline, ..))| *deadline)
    }

    /// Returns the number of messages without outcome.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns whether every message has its outcome.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Returns the cost of the messages without outcome, in bytes.
    pub fn bytes(&self) -> u64 {
        self.lanes.iter().map(|lane| lane.bytes).sum()
    }

    /// Removes a message and records its outcome, which is thus its only one.
    fn settle(&mut self, index: usize, seq: u64, outcome: Outcome) {
        let Some(entry) = self.lanes[index].remove(seq) else { return };
        self.by_id.remove(&entry.packet.id);
        self.settled.push((entry.packet.id, outcome, entry.kept));
        if self.deadlines.len() > 2 * self.by_id.len() + SPARE {
            let lanes = &self.lanes;
            self.deadlines.retain(|Reverse((_, index, seq))| lanes[*index].get(*seq).is_some());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::{packet::MAX_PAYLOAD, tests::fixture::packet};

    const PLENTY: [u64; LANES] = [u64::MAX / 2; LANES];

    fn of_priority(id: u128, priority: u32) -> Packet {
        Packet { priority: Priority::new(priority).unwrap(), ..packet(id) }
    }

    fn ids(batch: &[(Arc<Packet>, u64)]) -> Vec<u128> {
        batch.iter().map(|(packet, _)| packet.id.0).collect()
    }

    #[test]
    fn urgent_messages_overtake_and_the_others_keep_their_order() {
        let mut outbox = Outbox::default();
        for (id, priority) in [(1, 5), (2, 5), (3, 10), (4, 1), (5, 10)] {
            outbox.offer(0, of_priority(id, priority)).unwrap();
        }
        assert_eq!(outbox.next_batch(0), [], "there is no stream");
        outbox.connected(PLENTY);
        assert_eq!(ids(&outbox.next_batch(0)), [3, 5, 1, 2, 4]);
        assert_eq!(outbox.next_batch(0), []);
    }

    #[test]
    fn a_later_stream_carries_exactly_what_has_no_outcome() {
        let mut outbox = Outbox::default();
        (1..=4).for_each(|id| outbox.offer(0, packet(id)).unwrap());
        outbox.connected(PLENTY);
        assert!(outbox.next_batch(0).iter().all(|(packet, _)| !packet.resent));
        assert!(outbox.outcome(PacketId(1), Outcome::accepted(None)));
        outbox.disconnected("cut");
        outbox.offer(0, packet(5)).unwrap();
        outbox.connected(PLENTY);
        let again = outbox.next_batch(10);
        assert_eq!(ids(&again), [2, 3, 4, 5]);
        let marks: Vec<_> = again.iter().map(|(packet, _)| (packet.seq, packet.resent)).collect();
        assert_eq!(marks, [(2, true), (3, true), (4, true), (5, false)]);
        assert!(!outbox.outcome(PacketId(1), Outcome::Sent), "it has its outcome");
        assert_eq!(outbox.take_settled(), [(PacketId(1), Outcome::accepted(None))]);
    }

    #[test]
    fn a_message_that_may_have_arrived_another_way_is_marked_from_the_first_time_on() {
        let mut outbox = Outbox::default();
        outbox.offer(0, packet(1)).unwrap();
        outbox.offer(0, Packet { resent: true, ..packet(2) }).unwrap();
        outbox.offer(0, packet(3)).unwrap();
        outbox.goes_another_way(PacketId(1));
        outbox.goes_another_way(PacketId(9));
        outbox.connected(PLENTY);
        let marks: Vec<_> = outbox.next_batch(0).iter().map(|(packet, _)| packet.resent).collect();
        assert_eq!(marks, [true, true, false]);
    }

    #[test]
    fn a_message_that_is_withdrawn_takes_up_no_room_and_is_not_sent() {
        let mut outbox = Outbox::default();
        (1..=3).for_each(|id| outbox.offer(0, packet(id)).unwrap());
        outbox.withdraw(PacketId(2), Outcome::accepted(None));
        outbox.withdraw(PacketId(2), Outcome::Sent);
        assert_eq!((outbox.len(), outbox.bytes()), (2, 2 * packet(0).cost()));
        assert_eq!(outbox.take_settled(), [(PacketId(2), Outcome::accepted(None))]);
        outbox.connected(PLENTY);
        assert_eq!(ids(&outbox.next_batch(0)), [1, 3]);
    }

    #[test]
    fn a_receiver_that_was_restarted_does_not_know_whether_a_message_was_handled() {
        let mut outbox = Outbox::default();
        outbox.offer(0, packet(1)).unwrap();
        outbox.connected(PLENTY);
        outbox.next_batch(0);
        outbox.disconnected("it has died");
        outbox.connected(PLENTY);
        outbox.offer(0, packet(2)).unwrap();
        assert_eq!(ids(&outbox.next_batch(0)), [1, 2]);
        let waiting = [1, 2].map(|id| outbox.outcome(PacketId(id), Outcome::overloaded("it has just started")));
        assert_eq!(waiting, [true, true]);
        let maybe = Outcome::DeadlinePassed { maybe_handled: true };
        let settled = [(PacketId(1), maybe), (PacketId(2), Outcome::overloaded("it has just started"))];
        assert_eq!(outbox.take_settled(), settled);
    }

    #[test]
    fn a_full_lane_takes_nothing_and_the_others_do() {
        let mut outbox = Outbox::default();
        (0..LANE_PACKETS as u128).for_each(|id| outbox.offer(0, packet(id)).unwrap());
        let refused = outbox.offer(0, packet(99_999)).unwrap_err();
        assert!(refused.to_string().contains("priority 5 to \"b\" is full with 1536 messages"), "{refused}");
        outbox.offer(0, of_priority(99_999, 6)).unwrap();
        assert_eq!(outbox.offer(0, packet(7)), Err(NotTaken::SameId(PacketId(7))));

        let mut outbox = Outbox::default();
        let large = |id| Packet { payload: vec![0; MAX_PAYLOAD].into(), ..packet(id) };
        let fitting = u128::from(LANE_BYTES / large(0).cost());
        (0..fitting).for_each(|id| outbox.offer(0, large(id)).unwrap());
        assert!(matches!(outbox.offer(0, large(fitting)), Err(NotTaken::Full { .. })));
    }

    #[test]
    fn only_what_was_granted_is_sent() {
        let mut outbox = Outbox::default();
        let cost = packet(0).cost();
        (1..=3).for_each(|id| outbox.offer(0, packet(id)).unwrap());
        outbox.connected([2 * cost; LANES]);
        assert_eq!(ids(&outbox.next_batch(0)), [1, 2]);
        assert!(!outbox.can_send());
        outbox.credit(Priority::default(), 3 * cost - 1).unwrap();
        assert_eq!(outbox.next_batch(0), []);
        outbox.credit(Priority::default(), 3 * cost).unwrap();
        assert_eq!(ids(&outbox.next_batch(0)), [3]);
        let taken = outbox.credit(Priority::default(), cost).unwrap_err();
        assert!(taken.to_string().contains("granted less than before"));
    }

    #[test]
    fn a_deadline_that_passes_says_whether_the_message_may_have_been_handled() {
        let mut outbox = Outbox::default();
        let soon = |id| Packet { deadline_in_ms: 10, ..packet(id) };
        outbox.connected([soon(1).cost(); LANES]);
        (1..=2).for_each(|id| outbox.offer(0, soon(id)).unwrap());
        assert_eq!(outbox.next_batch(3), [(Arc::new(Packet { seq: 1, ..soon(1) }), 7)]);
        assert_eq!(outbox.next_deadline(), Some(10));
        outbox.expire(9);
        assert_eq!(outbox.len(), 2);
        outbox.expire(10);
        outbox.disconnected("the name does not resolve");
        outbox.offer(20, soon(3)).unwrap();
        outbox.expire(30);
        assert_eq!(
            outbox.take_settled(),
            [
                (PacketId(1), Outcome::DeadlinePassed { maybe_handled: true }),
                (PacketId(2), Outcome::DeadlinePassed { maybe_handled: false }),
                (PacketId(3), Outcome::away("the name does not resolve")),
            ]
        );
        assert_eq!((outbox.is_empty(), outbox.bytes(), outbox.next_deadline()), (true, 0, None));
    }

    #[test]
    fn a_batch_has_a_limit() {
        let mut outbox = Outbox::default();
        (0..=BATCH_PACKETS as u128).for_each(|id| outbox.offer(0, packet(id)).unwrap());
        outbox.connected(PLENTY);
        assert_eq!(outbox.next_batch(0).len(), BATCH_PACKETS);
        assert_eq!(outbox.next_batch(0).len(), 1);
        let mut outbox = Outbox::default();
        let half = |id| Packet { payload: vec![0; BATCH_BYTES as usize / 2].into(), ..packet(id) };
        (0..4).for_each(|id| outbox.offer(0, half(id)).unwrap());
        outbox.connected(PLENTY);
        assert_eq!(ids(&outbox.next_batch(0)), [0, 1], "the second one exceeds the limit");
    }

    #[test]
    fn messages_without_acknowledgement_are_sent_once() {
        let mut outbox = Outbox::default();
        outbox.offer(0, Packet { requires_ack: false, ..packet(1) }).unwrap();
        outbox.offer(0, packet(2)).unwrap();
        outbox.connected(PLENTY);
        assert_eq!(ids(&outbox.next_batch(0)), [1, 2]);
        assert_eq!(outbox.take_settled(), [(PacketId(1), Outcome::Sent)]);
        outbox.connected(PLENTY);
        assert_eq!(ids(&outbox.next_batch(0)), [2]);
        outbox.offer(0, packet(3)).unwrap();
        outbox.give_up(&Outcome::away("lost"));
        assert_eq!(
            outbox.take_settled(),
            [(PacketId(2), Outcome::DeadlinePassed { maybe_handled: true }), (PacketId(3), Outcome::away("lost")),]
        );
    }
    #[test]
    fn a_message_that_waits_for_long_does_not_make_those_after_it_take_up_room() {
        let mut outbox = Outbox::default();
        outbox.connected(PLENTY);
        outbox.offer(0, packet(0)).unwrap();
        for id in 1..10 * SPARE as u128 {
            outbox.offer(0, packet(id)).unwrap();
            outbox.next_batch(0);
            assert!(outbox.outcome(PacketId(id), Outcome::accepted(None)));
            let lane = &outbox.lanes[Priority::default().lane()];
            assert!(lane.places.len() <= 2 * lane.len + SPARE && outbox.deadlines.len() <= 2 * lane.len + SPARE);
        }
        outbox.offer(0, packet(1)).unwrap();
        outbox.connected(PLENTY);
        let again = outbox.next_batch(0);
        let seqs: Vec<_> = again.iter().map(|(packet, _)| (packet.id.0, packet.seq)).collect();
        assert_eq!(seqs, [(0, 1), (1, 10 * SPARE as u64 + 1)], "a place is found although others are missing");
        assert!(outbox.outcome(PacketId(0), Outcome::Sent) && outbox.outcome(PacketId(1), Outcome::Sent));
        assert_eq!((outbox.next_deadline(), outbox.bytes()), (None, 0));
    }
}
