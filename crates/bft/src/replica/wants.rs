//! What a replica has no use for, so that a host need not verify it.

use super::Replica;
use crate::{application::Application, certificate::Seq, clients::Freshness, message::Message};

impl<A: Application> Replica<A> {
    /// Returns whether a message could change anything if it is valid. Cheap, and only a matter of speed: a host may
    /// drop what is not wanted before it verifies it. Most of what is repeated, and all votes beyond a quorum, are not.
    pub fn wants(&self, message: &Message) -> bool {
        let within = |seq: Seq| seq > self.stable.seq && seq <= self.high();
        let slot = |seq: Seq| self.log.get(&seq);
        match message {
            Message::Request(request) => {
                let fresh = self.clients.freshness(&request.client, request.id) == Freshness::Fresh;
                !fresh || !self.pending.contains(&(request.client, request.id))
            }
            Message::PrePrepare(message) => {
                let proposal = &message.proposal;
                let early = !self.active || proposal.seq >= self.next;
                proposal.view == self.view && within(proposal.seq) && early
            }
            Message::Prepare(vote) => {
                let (seq, view) = (vote.proposal.seq, vote.proposal.view);
                within(seq) && view >= self.view && !slot(seq).is_some_and(|slot| slot.is_prepared_in(view))
            }
            Message::Commit(vote) => {
                within(vote.proposal.seq) && slot(vote.proposal.seq).is_none_or(|slot| slot.decided.is_none())
            }
            Message::Decision(decision) => within(decision.seq()) && decision.seq() > self.executed,
            Message::Checkpoint(vote) => vote.checkpoint.seq > self.stable.seq,
            Message::Stable(stable) => {
                let ahead = self.ahead.as_ref().map(|ahead| ahead.checkpoint.seq);
                stable.checkpoint.seq > self.stable.seq && Some(stable.checkpoint.seq) > ahead
            }
            Message::ViewChange(message) => {
                let known = self.view_changes.get(&message.replica).is_some_and(|known| known.view >= message.view);
                !known && (message.view > self.view || message.view == self.view && !self.active)
            }
            Message::NewView(message) => message.view > self.view || message.view == self.view && !self.active,
            Message::Body(body) => slot(body.seq).is_some_and(|slot| slot.lacks(&body.batch.digest())),
            Message::Manifest(_) | Message::Chunk(_) => self.transfer.is_some(),
            Message::Status(_) | Message::Query(_) => true,
        }
    }
}
