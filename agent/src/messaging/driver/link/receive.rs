//! What becomes of the packets that arrive over a stream.

use std::sync::Arc;

use tracing::warn;

use super::Task;
use crate::messaging::{
    driver::{copies::Passed, replies::Report},
    frame::{Charge, Malformed},
    inbox::{Frame, Inbox, Received, Violation},
    outcome::Outcome,
    packet::{Packet, PacketId},
    routing::Role,
};

/// Is in the names of senders that are no agents (`client:ann`), and in no agent's name.
const NO_AGENT: char = ':';

/// What became of a packet at once.
enum Arrived {
    /// It waits for the handler.
    Queued,
    /// The handler does not get it. This is reported to the peer.
    Ended(Option<(PacketId, Report)>),
}

impl Task {
    /// Passes the packets of a frame to the inbox. What is refused or known already gets its outcome at once.
    pub(super) fn receive(&mut self, packets: Vec<Result<Packet, Malformed>>, frame: Frame) -> Result<(), Violation> {
        let now = self.shared.now();
        let (mut reports, mut is_done) = (Vec::new(), false);
        let mut inbox = self.shared.inbox();
        let received = packets.into_iter().try_for_each(|packet| {
            if let Arrived::Ended(report) = self.receive_one(&mut inbox, now, packet, frame)? {
                is_done = true;
                reports.extend(report);
            }
            Ok(())
        });
        drop(inbox);
        if is_done {
            // There are outcomes to report, or credits to grant.
            let mut state = self.link.lock();
            self.shared.add_reports(&self.link, &mut state, reports);
            self.link.rouse(state);
        }
        self.shared.work.notify_one();
        received
    }

    /// Passes a packet to the inbox.
    fn receive_one(
        &self,
        inbox: &mut Inbox,
        now: u64,
        packet: Result<Packet, Malformed>,
        frame: Frame,
    ) -> Result<Arrived, Violation> {
        let (charge, refused) = match packet {
            Ok(mut packet) => {
                let charge = Charge::of(&packet);
                if packet.sender == self.link.peer {
                    // What is remembered for long shares one name.
                    packet.sender = Arc::clone(&self.link.peer);
                }
                match self.objection(&packet) {
                    Some(reason) => (charge, Outcome::refused(reason)),
                    None => {
                        let copy = Passed::of(&self.link.peer, &packet);
                        let received = inbox.receive_of(now, &self.link.peer, packet, frame)?;
                        return Ok(self.received(inbox, received, &charge, copy));
                    }
                }
            }
            Err(Malformed { charge, error }) => {
                self.shared.metrics.rejected("malformed");
                (charge, Outcome::refused(error))
            }
        };
        inbox.charge(&self.link.peer, charge.priority, charge.seq, charge.cost)?;
        Ok(Arrived::Ended(charge.requires_ack.then(|| (charge.id, refused.into()))))
    }

    /// Returns what became of a packet that the inbox has taken. `copy`: it has passed a messenger.
    fn received(&self, inbox: &Inbox, received: Received, charge: &Charge, copy: Option<Passed>) -> Arrived {
        let report = match received {
            Received::Queued => return Arrived::Queued,
            Received::Pending => {
                // The packet is concluded under the lock of the inbox, and so after this.
                let copy = copy.filter(|_| charge.requires_ack);
                copy.into_iter().for_each(|copy| self.shared.copies().note_again(copy));
                None
            }
            Received::Repeated(outcome) => {
                charge.requires_ack.then(|| (charge.id, self.shared.repeated(inbox, copy, outcome)))
            }
        };
        self.shared.metrics.repeated.inc();
        Arrived::Ended(report)
    }

    /// Returns why a packet of the peer is refused, if it is. A messenger passes on what other agents have sent, and is
    /// believed who that is; but clients and other members send through the coordinators alone.
    fn objection(&self, packet: &Packet) -> Option<String> {
        let is_messenger = self.stream.as_ref().is_some_and(|stream| stream.peer.role == Role::Messenger);
        if packet.sender != self.link.peer && !is_messenger {
            self.shared.metrics.rejected("spoofed_sender");
            warn!(agent = %self.link.peer, sender = %packet.sender, "refused a message that claims to be from another agent");
            return Some(format!(
                "the message claims to be from {:?}, but the stream is that of {:?}, which is no messenger",
                packet.sender, self.link.peer
            ));
        }
        if packet.sender.contains(NO_AGENT) {
            self.shared.metrics.rejected("spoofed_sender");
            warn!(agent = %self.link.peer, sender = %packet.sender, "refused a message that claims to be from no agent");
            return Some(format!(
                "the message claims to be from {:?}, which is no agent; what others send comes from the coordinators",
                packet.sender
            ));
        }
        if packet.agent != self.shared.me {
            self.shared.metrics.rejected("wrong_agent");
            return Some(format!("the message is for {:?}, but this is {:?}", packet.agent, self.shared.me));
        }
        None
    }
}
