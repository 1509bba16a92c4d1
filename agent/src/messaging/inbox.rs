//! The packets that an agent has received and not handled yet. Pure: the caller passes in the time, in milliseconds on
//! a monotonic clock, and what arrived.
//!
//! Each peer has a lane for each priority. A lane hands its packets to the handler one after another, in the order in
//! which they were sent, so different lanes are handled at the same time and one lane is not. The packets of a lane
//! that wait have a limited cost: the peer is granted no more than that, and one that sends more violates the protocol.
//! So a slow handler slows down those who send to it, each by itself, and nothing else that they send.

use std::{collections::VecDeque, sync::Arc};

use ahash::HashMap;

use super::{
    memory::{Memory, Recognized, Waiting},
    outcome::Outcome,
    packet::{LANES, MAX_COST, Packet, PacketId, Priority},
};

/// The cost of the packets of one lane that may wait, in bytes: one and a half packets of maximum size.
pub const LANE_WINDOW: u64 = MAX_COST / 2 * 3;
/// Credits are sent once they amount to this cost, in bytes. What is left of the window still fits every packet.
pub const CREDIT_STEP: u64 = LANE_WINDOW / 8;
const _: () = assert!(LANE_WINDOW - CREDIT_STEP >= MAX_COST);
/// Default of the maximum number of packets that are being handled at once.
pub const MAX_HANDLING: usize = 64;
/// Of the packets that are handled at once, one in this many is kept free for priorities above the default.
pub const URGENT_SHARE: usize = 8;

/// How a peer violated the protocol. Its stream is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// It sent more than it was granted.
    #[error("{peer:?} sent {sent} bytes in the lane of priority {}, but was granted {granted}", .priority.get())]
    Overrun {
        /// The peer.
        peer: String,
        /// The lane.
        priority: Priority,
        /// The cost of what it sent over this stream.
        sent: u64,
        /// What it was granted.
        granted: u64,
    },
    /// Its sequence numbers do not increase.
    #[error("{peer:?} sent number {seq} after number {latest} in the lane of priority {}", .priority.get())]
    OutOfOrder {
        /// The peer.
        peer: String,
        /// The lane.
        priority: Priority,
        /// The number of the packet.
        seq: u64,
        /// The highest number before.
        latest: u64,
    },
    /// There is no stream with it.
    #[error("{0:?} sent a packet before Hello")]
    NotConnected(String),
}

/// What happens to a packet that has arrived.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// It waits for its turn.
    Queued,
    /// The same packet waits or is being handled already, and its outcome is reported to this peer, too.
    Pending,
    /// The same packet was handled, with this outcome.
    Repeated(Outcome),
}

/// A packet for the handler. Each must be passed to [`Inbox::finish`] and
/// [`Inbox::conclude`] afterwards.
#[derive(Debug, PartialEq, Eq)]
pub struct Handed {
    /// The packet.
    pub packet: Box<Packet>,
    /// The peer whose stream it arrived on.
    pub peer: Arc<str>,
    /// When it must not be handled any more.
    pub deadline: u64,
}

/// Returns whether an outcome means that the packet was handled, or may have been, so that it must not be again.
pub fn is_handled(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Accepted { .. } | Outcome::Refused { .. } | Outcome::Sent => true,
        Outcome::DeadlinePassed { maybe_handled } => *maybe_handled,
        Outcome::NoSuchAgent { .. } | Outcome::Away { .. } | Outcome::Overloaded { .. } => false,
    }
}

struct Queued {
    /// Boxed, because it is moved several times until it is handled.
    packet: Box<Packet>,
    deadline: u64,
    /// The run of the peer that sent it.
    incarnation: u64,
}

#[derive(Default)]
struct Lane {
    queue: VecDeque<Queued>,
    bytes: u64,
    /// A packet of the lane is being handled.
    is_busy: bool,
    /// The cost of what arrived over the stream, what the peer was granted for it, and the latest number.
    received: u64,
    granted: u64,
    latest: u64,
    /// The highest number that was handed out, of this run of the peer.
    handed: u64,
}

impl Lane {
    fn is_ready(&self) -> bool {
        !self.is_busy && !self.queue.is_empty()
    }

    /// Returns what the peer may be granted: what arrived, and what still fits.
    fn due(&self) -> u64 {
        self.received + LANE_WINDOW.saturating_sub(self.bytes)
    }
}

#[derive(Default)]
struct Peer {
    lanes: [Lane; LANES],
    is_connected: bool,
    incarnation: u64,
}

/// The packets that an agent has received and not handled yet.
pub struct Inbox {
    peers: HashMap<Arc<str>, Peer>,
    /// For each priority, the peers whose lane can hand out a packet, in their turn.
    ready: [VecDeque<Arc<str>>; LANES],
    handling: usize,
    max_handling: usize,
    memory: Memory,
}

impl Inbox {
    /// Creates the inbox of a handler that handles at most `max_handling` packets at once, at least 1.
    pub fn new(memory: Memory, max_handling: usize) -> Self {
        let max_handling = max_handling.max(1);
        Self { peers: HashMap::default(), ready: Default::default(), handling: 0, max_handling, memory }
    }

    /// Begins a stream with a peer, which replaces an earlier one. Returns the limit to grant to each lane; packets
    /// that wait since an earlier stream count against it.
    pub fn connect(&mut self, peer: &Arc<str>) -> [u64; LANES] {
        let peer = self.peers.entry(Arc::clone(peer)).or_default();
        peer.is_connected = true;
        let mut limits = [0; LANES];
        for (lane, limit) in peer.lanes.iter_mut().zip(&mut limits) {
            (lane.received, lane.latest) = (0, 0);
            lane.granted = lane.due();
            *limit = lane.granted;
        }
        limits
    }

    /// Sets which run of the peer's process the stream belongs to. Another run numbers its packets from 1 again.
    pub fn identify(&mut self, peer: &Arc<str>, incarnation: u64) {
        let Some(peer) = self.peers.get_mut(peer) else { return };
        if std::mem::replace(&mut peer.incarnation, incarnation) != incarnation {
            peer.lanes.iter_mut().for_each(|lane| lane.handed = 0);
        }
    }

    /// Ends the stream with a peer. Packets that have arrived are handled nevertheless.
    pub fn disconnect(&mut self, peer: &Arc<str>) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.is_connected = false;
            self.tidy(peer);
        }
    }

    /// Takes a packet that `peer` has sent.
    ///
    /// # Errors
    /// [`Violation`] if the peer was not granted so much, or its packets are out of order.
    pub fn receive(&mut self, now: u64, peer: &Arc<str>, packet: Packet) -> Result<Received, Violation> {
        let (priority, cost) = (packet.priority, packet.cost());
        self.charge(peer, priority, packet.seq, cost)?;
        let recognized = self.memory.recognize(now, &packet.sender, packet.id, peer, packet.requires_ack);
        match recognized {
            Recognized::Done(outcome) => return Ok(Received::Repeated(outcome)),
            Recognized::Pending => return Ok(Received::Pending),
            Recognized::New => {}
        }
        let Some(known) = self.peers.get_mut(peer) else { return Ok(Received::Pending) };
        let lane = &mut known.lanes[priority.lane()];
        if packet.seq <= lane.handed {
            // An earlier copy was too late to be handled, and packets after it were handed out since: so is this one.
            self.memory.release(&packet.sender, packet.id);
            return Ok(Received::Repeated(Outcome::DeadlinePassed { maybe_handled: true }));
        }
        let was_ready = lane.is_ready();
        lane.bytes += cost;
        let (deadline, incarnation) = (now.saturating_add(packet.deadline_in_ms), known.incarnation);
        lane.queue.push_back(Queued { packet: Box::new(packet), deadline, incarnation });
        if !was_ready && lane.is_ready() {
            self.ready[priority.lane()].push_back(Arc::clone(peer));
        }
        Ok(Received::Queued)
    }

    /// Counts a packet that `peer` has sent against what it was granted, without taking it. For packets that are
    /// refused before the handler sees them.
    ///
    /// # Errors
    /// [`Violation`] if the peer was not granted so much, or its packets are out of order.
    pub fn charge(&mut self, peer: &Arc<str>, priority: Priority, seq: u64, cost: u64) -> Result<(), Violation> {
        let name = || String::from(&**peer);
        let known = self.peers.get_mut(peer).filter(|known| known.is_connected);
        let lane = &mut known.ok_or_else(|| Violation::NotConnected(name()))?.lanes[priority.lane()];
        if seq <= lane.latest {
            return Err(Violation::OutOfOrder { peer: name(), priority, seq, latest: lane.latest });
        }
        let sent = lane.received.saturating_add(cost);
        if sent > lane.granted {
            return Err(Violation::Overrun { peer: name(), priority, sent, granted: lane.granted });
        }
        (lane.received, lane.latest) = (sent, seq);
        Ok(())
    }

    /// Returns the next packet for the handler: the most urgent one, of the peer whose turn it is. `None`: nothing
    /// waits, or enough is being handled.
    pub fn hand_out(&mut self) -> Option<Handed> {
        for index in (0..LANES).rev() {
            let kept_free =
                if Priority::of_lane(index) <= Priority::default() { self.max_handling / URGENT_SHARE } else { 0 };
            if self.handling + kept_free >= self.max_handling {
                continue;
            }
            let Some(peer) = self.ready[index].pop_front() else { continue };
            let Some(known) = self.peers.get_mut(&peer) else { continue };
            let lane = &mut known.lanes[index];
            let Some(Queued { packet, deadline, incarnation }) = lane.queue.pop_front() else { continue };
            lane.bytes -= packet.cost();
            lane.is_busy = true;
            if incarnation == known.incarnation {
                lane.handed = packet.seq;
            }
            self.handling += 1;
            return Some(Handed { packet, peer, deadline });
        }
        None
    }

    /// Records that the handler is done with a packet that [`Inbox::hand_out`] returned, of this peer and priority, which
    /// makes its lane ready for the next one. A repetition still waits until [`Inbox::conclude`].
    pub fn finish(&mut self, peer: &Arc<str>, priority: Priority) {
        self.handling = self.handling.saturating_sub(1);
        let index = priority.lane();
        let Some(known) = self.peers.get_mut(peer) else { return };
        let lane = &mut known.lanes[index];
        lane.is_busy = false;
        if lane.is_ready() {
            self.ready[index].push_back(Arc::clone(peer));
        }
        if !known.is_connected {
            self.tidy(peer);
        }
    }

    /// Concludes a packet that the handler is done with, once its outcome is on record. Returns the peers that wait for
    /// the outcome. A packet that was not handled may come again.
    pub fn conclude(&mut self, now: u64, sender: &Arc<str>, id: PacketId, outcome: &Outcome) -> Waiting {
        if is_handled(outcome) { self.memory.done(now, sender, id, outcome) } else { self.memory.release(sender, id) }
    }

    /// Returns the limits of the lanes of a peer that can be raised by [`CREDIT_STEP`] or more.
    pub fn credits(&mut self, peer: &Arc<str>) -> Vec<(Priority, u64)> {
        let Some(peer) = self.peers.get_mut(peer).filter(|peer| peer.is_connected) else { return Vec::new() };
        let mut credits = Vec::new();
        for (index, lane) in peer.lanes.iter_mut().enumerate() {
            if lane.due() >= lane.granted + CREDIT_STEP {
                lane.granted = lane.due();
                credits.push((Priority::of_lane(index), lane.granted));
            }
        }
        credits
    }

    /// Returns whether any packet of a peer waits or is being handled.
    pub fn is_busy_with(&self, peer: &Arc<str>) -> bool {
        let is_busy = |peer: &Peer| peer.lanes.iter().any(|lane| lane.is_busy || !lane.queue.is_empty());
        self.peers.get(peer).is_some_and(is_busy)
    }

    /// Returns the number of packets that are being handled.
    pub fn handling(&self) -> usize {
        self.handling
    }

    /// Returns the number of packets that wait.
    pub fn waiting(&self) -> usize {
        self.peers.values().flat_map(|peer| &peer.lanes).map(|lane| lane.queue.len()).sum()
    }

    /// Returns what the agent remembers of packets.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Forgets a peer without a stream of which nothing is left.
    fn tidy(&mut self, peer: &Arc<str>) {
        let is_over = self.peers.get(peer).is_some_and(|known| !known.is_connected) && !self.is_busy_with(peer);
        if is_over {
            self.peers.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::{packet::MAX_PAYLOAD, tests::fixture::packet};

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    fn inbox(peers: &[&str]) -> Inbox {
        let mut inbox = Inbox::new(Memory::default(), MAX_HANDLING);
        for peer in peers {
            assert_eq!(inbox.connect(&name(peer)), [LANE_WINDOW; LANES]);
        }
        inbox
    }

    fn from(peer: &str, seq: u64, priority: u32) -> Packet {
        let priority = Priority::new(priority).unwrap();
        Packet { seq, priority, sender: name(peer), ..packet(u128::from(seq) << 8 | u128::from(priority.get())) }
    }

    fn receive(inbox: &mut Inbox, packet: &Packet) -> Result<Received, Violation> {
        inbox.receive(0, &Arc::clone(&packet.sender), packet.clone())
    }

    fn finish(inbox: &mut Inbox, handed: &Handed, outcome: &Outcome) -> Vec<Arc<str>> {
        inbox.finish(&handed.peer, handed.packet.priority);
        inbox.conclude(0, &handed.packet.sender, handed.packet.id, outcome).peers().collect()
    }

    #[test]
    fn a_lane_hands_out_one_packet_at_a_time_in_order_and_urgent_ones_first() {
        let mut inbox = inbox(&["a", "c"]);
        let packets = [from("a", 1, 5), from("a", 2, 5), from("c", 1, 5), from("c", 2, 5), from("c", 3, 9)];
        for packet in &packets {
            assert_eq!(receive(&mut inbox, packet), Ok(Received::Queued));
        }
        let handed: Vec<_> = std::iter::from_fn(|| inbox.hand_out()).collect();
        let of = |handed: &Handed| ((*handed.peer).to_owned(), handed.packet.seq);
        assert_eq!(handed.iter().map(of).collect::<Vec<_>>(), [("c".into(), 3), ("a".into(), 1), ("c".into(), 1)]);
        assert_eq!((inbox.handling(), inbox.waiting()), (3, 2));
        assert_eq!(finish(&mut inbox, &handed[2], &Outcome::accepted(None)), [name("c")]);
        let next = inbox.hand_out().unwrap();
        assert_eq!(of(&next), ("c".into(), 2));
        assert_eq!(inbox.hand_out(), None);
    }

    #[test]
    fn a_repetition_is_not_handled_again_and_gets_the_outcome() {
        let mut inbox = inbox(&["a", "m"]);
        let first = from("a", 1, 5);
        receive(&mut inbox, &first).unwrap();
        inbox.disconnect(&name("a"));
        inbox.connect(&name("a"));
        assert_eq!(receive(&mut inbox, &first), Ok(Received::Pending));
        assert_eq!(inbox.receive(0, &name("m"), first.clone()), Ok(Received::Pending), "by way of a messenger");
        let handed = inbox.hand_out().unwrap();
        assert_eq!(finish(&mut inbox, &handed, &Outcome::refused("no")), [name("a"), name("m")]);
        inbox.connect(&name("a"));
        assert_eq!(receive(&mut inbox, &first), Ok(Received::Repeated(Outcome::refused("no"))));
        assert_eq!(inbox.hand_out(), None);
    }

    #[test]
    fn a_repetition_waits_until_the_outcome_is_on_record() {
        let mut inbox = inbox(&["a"]);
        receive(&mut inbox, &from("a", 1, 5)).unwrap();
        let handed = inbox.hand_out().unwrap();
        inbox.finish(&handed.peer, handed.packet.priority);
        inbox.connect(&name("a"));
        assert_eq!(receive(&mut inbox, &from("a", 1, 5)), Ok(Received::Pending));
        let id = handed.packet.id;
        assert!(inbox.conclude(0, &name("a"), id, &Outcome::accepted(None)).peers().eq([name("a")]));
    }

    #[test]
    fn what_was_not_handled_may_come_again() {
        let mut inbox = inbox(&["a"]);
        receive(&mut inbox, &from("a", 1, 5)).unwrap();
        let handed = inbox.hand_out().unwrap();
        let passed = Outcome::DeadlinePassed { maybe_handled: false };
        assert_eq!(finish(&mut inbox, &handed, &passed), [name("a")]);
        inbox.connect(&name("m"));
        let relayed = Packet { seq: 9, ..from("a", 1, 5) };
        assert_eq!(inbox.receive(0, &name("m"), relayed), Ok(Received::Queued), "by way of a messenger");
    }

    #[test]
    fn what_came_too_late_is_not_handled_after_what_followed_it() {
        let mut inbox = inbox(&["a"]);
        inbox.identify(&name("a"), 1);
        receive(&mut inbox, &from("a", 1, 5)).unwrap();
        receive(&mut inbox, &from("a", 2, 5)).unwrap();
        let handed = inbox.hand_out().unwrap();
        finish(&mut inbox, &handed, &Outcome::DeadlinePassed { maybe_handled: false });
        assert_eq!(inbox.hand_out().unwrap().packet.seq, 2);
        inbox.connect(&name("a"));
        inbox.identify(&name("a"), 1);
        let late = Received::Repeated(Outcome::DeadlinePassed { maybe_handled: true });
        assert_eq!(receive(&mut inbox, &from("a", 1, 5)), Ok(late));
        inbox.connect(&name("a"));
        inbox.identify(&name("a"), 2);
        assert_eq!(receive(&mut inbox, &from("a", 1, 5)), Ok(Received::Queued), "another run begins again at 1");
    }

    #[test]
    fn a_peer_may_send_what_it_was_granted_and_no_more() {
        let mut inbox = inbox(&["a"]);
        let large = |seq| Packet { payload: vec![0; MAX_PAYLOAD / 2].into(), ..from("a", seq, 5) };
        let fitting = LANE_WINDOW / large(1).cost();
        for seq in 1..=fitting {
            assert_eq!(receive(&mut inbox, &large(seq)), Ok(Received::Queued));
        }
        assert_eq!(inbox.credits(&name("a")), [], "nothing was handled");
        let overrun = receive(&mut inbox, &large(fitting + 1)).unwrap_err();
        assert!(overrun.to_string().contains("but was granted"), "{overrun}");

        let limits = inbox.connect(&name("a"));
        assert_eq!(limits[4], LANE_WINDOW - fitting * large(1).cost(), "what waits counts against a new stream");
        assert_eq!(limits[5], LANE_WINDOW);
        inbox.hand_out().unwrap();
        let granted = limits[4] + large(1).cost();
        assert_eq!(inbox.credits(&name("a")), [(Priority::default(), granted)]);
        assert_eq!(inbox.credits(&name("a")), [], "credits are granted once");
    }

    #[test]
    fn numbers_increase_within_a_stream() {
        let mut inbox = inbox(&["a"]);
        receive(&mut inbox, &from("a", 3, 5)).unwrap();
        let violation = receive(&mut inbox, &from("a", 3, 5)).unwrap_err();
        assert_eq!(violation.to_string(), "\"a\" sent number 3 after number 3 in the lane of priority 5");
        receive(&mut inbox, &from("a", 1, 6)).unwrap();
        inbox.connect(&name("a"));
        assert_eq!(receive(&mut inbox, &from("a", 3, 5)), Ok(Received::Pending));
        inbox.disconnect(&name("a"));
        assert!(matches!(receive(&mut inbox, &from("a", 9, 5)), Err(Violation::NotConnected(_))));
    }

    #[test]
    fn a_few_packets_at_once_and_some_only_for_urgent_ones() {
        let names: Vec<String> = (0..MAX_HANDLING).map(|n| format!("agent-{n}")).collect();
        let mut inbox = inbox(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let kept_free = MAX_HANDLING / URGENT_SHARE;
        for name in &names {
            receive(&mut inbox, &from(name, 1, 5)).unwrap();
        }
        assert_eq!(std::iter::from_fn(|| inbox.hand_out()).count(), MAX_HANDLING - kept_free);
        for name in &names {
            receive(&mut inbox, &from(name, 1, 6)).unwrap();
        }
        assert_eq!(std::iter::from_fn(|| inbox.hand_out()).count(), kept_free);
        assert_eq!(inbox.handling(), MAX_HANDLING);
        let mut single = Inbox::new(Memory::default(), 0);
        single.connect(&name("a"));
        receive(&mut single, &from("a", 1, 1)).unwrap();
        assert!(single.hand_out().is_some(), "a handler of one packet at a time handles every priority");
    }

    #[test]
    fn nothing_is_left_of_a_peer_that_is_gone() {
        let mut inbox = inbox(&["a"]);
        receive(&mut inbox, &from("a", 1, 5)).unwrap();
        inbox.disconnect(&name("a"));
        let handed = inbox.hand_out().unwrap();
        assert!(inbox.is_busy_with(&name("a")));
        finish(&mut inbox, &handed, &Outcome::accepted(None));
        assert!(inbox.peers.is_empty() && inbox.ready.iter().all(VecDeque::is_empty));
    }
}
