//! The packets that an agent has received and not handled yet. Pure: the caller passes in the time, in milliseconds on
//! a monotonic clock, and what arrived.
//!
//! Each peer has a lane for each priority. A lane hands its packets to the handler one after another, in the order in
//! which they were sent, so different lanes are handled at the same time and one lane is not. The packets of a lane
//! that wait have a limited cost: the peer is granted no more than that, and one that sends more violates the protocol.
//! So a slow handler slows down those who send to it, each by itself, and nothing else that they send.

mod departed;
mod lane;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, sync::Arc};

use ahash::HashMap;

use self::{
    departed::Departed,
    lane::{Lane, Queued},
};
pub use self::{departed::MAX_DEPARTED, lane::Frame};
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
/// Once the frames that the waiting packets of a lane keep in memory have this size, in bytes, further ones get a copy of
/// their payload.
pub const LANE_FRAMES: usize = LANE_WINDOW as usize;
/// A payload of this part of its frame, or a larger one, is not copied: it keeps little else in memory.
pub const WHOLE_SHARE: usize = 4;
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

#[derive(Default)]
struct Peer {
    lanes: [Lane; LANES],
    is_connected: bool,
    /// None of its packets is handed out.
    is_held: bool,
    /// Its link to this agent.
    incarnation: u64,
    /// It has another incarnation whenever its packets are numbered anew.
    is_of_link: bool,
}

/// The packets that an agent has received and not handled yet.
pub struct Inbox {
    peers: HashMap<Arc<str>, Peer>,
    departed: Departed,
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
        let (peers, departed, ready) = (HashMap::default(), Departed::default(), Default::default());
        Self { peers, departed, ready, handling: 0, max_handling, memory }
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

    /// Sets which link of the peer the stream belongs to, in which run of its process. Another one numbers its packets from
    /// 1 again. `is_of_link`: no two links of the peer have the same incarnation, as those of an earlier version have.
    pub fn identify(&mut self, peer: &Arc<str>, incarnation: u64, is_of_link: bool) {
        let Some(known) = self.peers.get_mut(peer) else { return };
        known.is_of_link = is_of_link;
        if std::mem::replace(&mut known.incarnation, incarnation) != incarnation {
            let handed = self.departed.take(peer, incarnation);
            known.lanes.iter_mut().zip(handed).for_each(|(lane, handed)| lane.handed = handed);
        }
    }

    /// Hands out none of a peer's packets until [`Inbox::resume`], or the end of the stream, because there is no room for
    /// their outcomes.
    pub fn hold(&mut self, peer: &Arc<str>) {
        if let Some(known) = self.peers.get_mut(peer) {
            known.is_held = true;
            self.ready.iter_mut().for_each(|ready| ready.retain(|name| name != peer));
        }
    }

    /// Hands out a peer's packets again.
    pub fn resume(&mut self, peer: &Arc<str>) {
        if let Some(known) = self.peers.get_mut(peer)
            && std::mem::take(&mut known.is_held)
        {
            let lanes = known.lanes.iter().zip(&mut self.ready);
            lanes.filter(|(lane, _)| lane.is_ready()).for_each(|(_, ready)| ready.push_back(Arc::clone(peer)));
        }
    }

    /// Ends the stream with a peer. Packets that have arrived are handled nevertheless.
    pub fn disconnect(&mut self, peer: &Arc<str>) {
        self.resume(peer);
        if let Some(known) = self.peers.get_mut(peer) {
            known.is_connected = false;
            self.tidy(peer);
        }
    }

    /// Takes a packet that `peer` has sent, and whose payload is its own.
    ///
    /// # Errors
    /// [`Violation`] if the peer was not granted so much, or its packets are out of order.
    pub fn receive(&mut self, now: u64, peer: &Arc<str>, packet: Packet) -> Result<Received, Violation> {
        self.receive_of(now, peer, packet, Frame::default())
    }

    /// Takes a packet that `peer` has sent in this frame, which the payload is a part of. If it has to wait, and the frames
    /// of other packets that wait in its lane are large, it gets a copy of its payload.
    ///
    /// # Errors
    /// [`Violation`] if the peer was not granted so much, or its packets are out of order.
    pub fn receive_of(
        &mut self,
        now: u64,
        peer: &Arc<str>,
        packet: Packet,
        frame: Frame,
    ) -> Result<Received, Violation> {
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
        let (deadline, incarnation) = (now.saturating_add(packet.deadline_in_ms), known.incarnation);
        lane.push(Queued { packet: Box::new(packet), deadline, incarnation, frame: None }, frame);
        if !was_ready && lane.is_ready() && !known.is_held {
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
            let Some(Queued { packet, deadline, incarnation, .. }) = lane.pop() else { continue };
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
        if lane.is_ready() && !known.is_held {
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

    /// Returns the maximum number of packets that are being handled at once.
    pub fn max_handling(&self) -> usize {
        self.max_handling
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

    /// Forgets a peer without a stream of which nothing is left, but how far it had got.
    fn tidy(&mut self, peer: &Arc<str>) {
        let is_over = self.peers.get(peer).is_some_and(|known| !known.is_connected) && !self.is_busy_with(peer);
        if is_over
            && let Some(known) = self.peers.remove(peer)
            && known.is_of_link
        {
            self.departed.note(peer, known.incarnation, known.lanes.map(|lane| lane.handed));
        }
    }
}
