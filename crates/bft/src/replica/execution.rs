//! Execution of decisions, in order (1999, section 4.2).

use super::{Cx, Outcome, Replica};
use crate::{
    application::Application,
    certificate::{Certificate, Decision, Proposal, Seq},
    clients::Freshness,
    crypto::{Context, Digest},
    limits::VOTES_PER_STATUS,
    message::{Batch, Body, BodyId, Message, Operation, Request, Signed, Wanted},
    record::{KeptBody, Record},
    wire::wire_struct,
};

impl<A: Application> Replica<A> {
    /// Executes all decisions whose turn it is and whose batch is there.
    pub(super) fn execute(&mut self, cx: &mut Cx<'_>) {
        let mut progress = false;
        while !self.has_ended() && !self.halted {
            let Some(slot) = self.log.get(&self.executed.next()) else { break };
            let Some(certificate) = slot.decided.clone() else { break };
            let Some(batch) = slot.body(&certificate.proposal.digest).cloned() else { break };
            let decision = Decision { certificate, batch };
            cx.append(Record::Decided(Box::new(decision.clone())));
            cx.out.decided.push(decision.clone());
            self.apply(decision, cx);
            progress = true;
        }
        if progress {
            self.next = self.next.max(self.executed.next());
            self.accept_waiting(cx);
            self.propose(cx);
        }
    }

    /// Executes the next decision.
    pub(super) fn apply(&mut self, decision: Decision, cx: &mut Cx<'_>) {
        let Decision { certificate: Certificate { proposal: Proposal { seq, view, digest, .. }, .. }, batch } =
            &decision;
        let (seq, view) = (*seq, *view);
        self.history = Digest::of("robeing.bft.v1.history", &Link { before: self.history, seq, digest: *digest });
        self.executed = seq;
        for request in batch.requests() {
            if self.execute_request(seq, request, cx) {
                self.good_view = self.good_view.max(view);
            }
        }
        if self.has_ended() {
            self.last_decision = Some(decision);
        }
        let interval = self.epoch.parameters.checkpoint_interval;
        if self.has_ended() || seq.0.is_multiple_of(interval) {
            self.take_checkpoint(cx);
        }
    }

    /// Executes a request, unless it was executed before. Returns whether it was new.
    fn execute_request(&mut self, seq: Seq, request: &Request, cx: &mut Cx<'_>) -> bool {
        let (client, id) = (request.client, request.id);
        let fresh = self.clients.freshness(&client, id) == Freshness::Fresh;
        let result = match &request.operation {
            Operation::Call(call) if fresh => self.application.execute(seq, &client, call),
            Operation::Call(_) => return false,
            // The end of the epoch takes effect whatever its id, because nothing was proposed after it.
            Operation::NewEpoch(change) => {
                self.next_epoch = Some(Box::new(change.next.clone()));
                change.next.domain().0.to_vec().into()
            }
        };
        if fresh {
            let result = self.clients.record(client, id, result);
            cx.out.outcomes.push(Outcome { client, id, result });
        }
        if let Some(next) = &self.next_epoch {
            self.clients.retain(next);
            self.pending.clear();
        }
        self.pending.settle(&client, &self.clients);
        fresh
    }

    /// Takes a proven decision that this replica missed.
    pub(super) fn on_decision(&mut self, decision: Decision, cx: &mut Cx<'_>) {
        let (seq, executed) = (decision.seq(), self.executed);
        let Decision { certificate, batch } = decision;
        let Some(slot) = self.slot(seq).filter(|_| seq > executed) else { return };
        let view = certificate.proposal.view;
        if slot.decided.is_none() {
            slot.decided = Some(certificate);
        }
        if slot.lacks(&batch.digest()) {
            slot.keep(view, batch);
        }
        self.advance(seq, cx);
    }

    /// Asks all members for the batches that are accepted, prepared or decided and missing.
    pub(super) fn ask_for_bodies(&mut self, cx: &mut Cx<'_>) {
        let missing = self.log.iter().filter_map(|(seq, slot)| Some((*seq, slot.missing()?)));
        let ids: Vec<(Seq, Digest)> = missing.take(VOTES_PER_STATUS).collect();
        for (seq, digest) in ids {
            let wanted = Wanted::Body(BodyId { seq, digest });
            let query = self.query(wanted, cx);
            cx.broadcast(query);
        }
    }

    /// Takes a batch that was missing.
    pub(super) fn on_body(&mut self, body: Body, cx: &mut Cx<'_>) {
        let Body { seq, batch } = body;
        if self.keep_missing(seq, &batch) {
            cx.append(Record::Body(KeptBody { seq, view: self.view, batch }));
            self.execute(cx);
        }
    }

    fn keep_missing(&mut self, seq: Seq, batch: &Batch) -> bool {
        let view = self.view;
        let slot = self.log.get_mut(&seq).filter(|slot| slot.lacks(&batch.digest()));
        let Some(slot) = slot else { return false };
        slot.keep(view, batch.clone());
        self.pending.mark_proposed(batch);
        true
    }

    /// Makes a signed question.
    pub(super) fn query(&self, wanted: Wanted, cx: &Cx<'_>) -> Message {
        let context = Context::Query;
        Message::Query(Signed::sign(context, self.epoch.domain(), self.me, wanted, cx.signer))
    }
}

/// A link of the chain of decisions.
struct Link {
    before: Digest,
    seq: Seq,
    digest: Digest,
}

wire_struct!(Link { before, seq, digest });
