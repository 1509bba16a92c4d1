//! Normal-case operation (1999, section 4.2; batching: 2002, section 5.1.3): request, pre-prepare, prepare, commit.

use super::{Cx, Event, Outcome, Refusal, Replica};
use crate::{
    application::Application,
    certificate::{Kind, Proposal, Seq},
    clients::Freshness,
    crypto::Context,
    message::{Batch, Message, PrePrepare, Reproposal, Request, Vote},
    pending::Added,
    record::{KeptBody, Record},
    sabotage::{Mistake, planted},
};

impl<A: Application> Replica<A> {
    /// Takes a client's request: repeats its result, or has it wait for its execution. A backup forwards it to the
    /// primary, and suspects the primary if it is not executed in time.
    pub(super) fn on_request(&mut self, request: Request, cx: &mut Cx<'_>) {
        let (client, id) = (request.client, request.id);
        match self.clients.freshness(&client, id) {
            Freshness::Executed(Some(result)) => return cx.out.outcomes.push(Outcome { client, id, result }),
            Freshness::Executed(None) | Freshness::TooOld => {
                return cx.event(Event::Refused { client, id, why: Refusal::TooOld });
            }
            Freshness::Fresh => {}
        }
        if self.has_ended() {
            return cx.event(Event::Refused { client, id, why: Refusal::Ended });
        }
        match self.pending.add(request.clone()) {
            Added::Full => cx.event(Event::Refused { client, id, why: Refusal::Full }),
            Added::Known => {}
            Added::New if self.active && !self.is_primary() => {
                cx.send(self.epoch.primary(self.view), Message::Request(request));
            }
            Added::New => self.propose(cx),
        }
    }

    /// Proposes waiting requests, as primary. At most `in_flight` batches are not executed yet; while they are that
    /// many, requests collect.
    pub(super) fn propose(&mut self, cx: &mut Cx<'_>) {
        while self.active && self.is_primary() && !self.closed && !self.has_ended() {
            let in_flight = self.next.0.saturating_sub(self.executed.next().0);
            let own_high = self.stable.seq.plus(self.epoch.parameters.window);
            if in_flight >= self.epoch.parameters.in_flight || self.next > own_high {
                return;
            }
            let Some(batch) = self.pending.next_batch(&self.epoch) else { return };
            let at = (self.view, self.next);
            let message = PrePrepare::sign(self.epoch.domain(), at, batch, cx.signer);
            self.accept_new(&message, cx);
            cx.broadcast(Message::PrePrepare(message));
        }
    }

    /// Takes the primary's pre-prepare. It is accepted in the order of sequence numbers; one that comes early waits.
    pub(super) fn on_pre_prepare(&mut self, message: PrePrepare, cx: &mut Cx<'_>) {
        let Proposal { view, seq, .. } = message.proposal;
        if view != self.view || self.is_primary() || self.has_ended() {
            return;
        }
        let (next, active) = (self.next, self.active);
        let Some(slot) = self.slot(seq) else { return };
        if planted(Mistake::SequenceReused) && active && seq < next && slot.accepted_in(view).is_some() {
            slot.prepares = Default::default();
            slot.commits = Default::default();
            self.next = seq;
            self.accept_new(&message, cx);
            self.next = next;
            return self.advance(seq, cx);
        }
        if active && seq < next {
            // It has been accepted, or another one for the same number.
            return;
        }
        slot.waiting.get_or_insert(message);
        self.accept_waiting(cx);
    }

    /// Accepts the pre-prepares whose turn it is.
    pub(super) fn accept_waiting(&mut self, cx: &mut Cx<'_>) {
        while self.active && !self.closed && !self.has_ended() {
            let seq = self.next;
            let waiting = self.log.get_mut(&seq).and_then(|slot| slot.waiting.take());
            let Some(message) = waiting.filter(|message| message.proposal.view == self.view) else { return };
            self.accept_new(&message, cx);
            self.advance(seq, cx);
        }
    }

    /// Accepts a proposal of this view, as backup or as primary, and records that before the vote is sent.
    fn accept_new(&mut self, message: &PrePrepare, cx: &mut Cx<'_>) {
        let PrePrepare { proposal, signature, batch } = message;
        let accepted = Reproposal { proposal: *proposal, signature: *signature };
        cx.append(Record::Body(KeptBody { seq: proposal.seq, view: proposal.view, batch: batch.clone() }));
        cx.append(Record::Accepted(accepted));
        self.accept(accepted, Some(batch.clone()), cx);
    }

    /// Accepts a proposal whose record is written, and votes for it as backup.
    pub(super) fn accept(&mut self, accepted: Reproposal, batch: Option<Batch>, cx: &mut Cx<'_>) {
        let proposal = accepted.proposal;
        self.next = proposal.seq.next();
        self.closed |= proposal.kind == Kind::Epoch;
        if let Some(batch) = &batch {
            self.pending.mark_proposed(batch);
        }
        let (me, domain) = (self.me, *self.epoch.domain());
        let is_backup = self.epoch.primary(proposal.view) != me;
        let Some(slot) = self.slot(proposal.seq) else { return };
        slot.waiting = None;
        slot.accepted = Some(accepted);
        if let Some(batch) = batch {
            slot.keep(proposal.view, batch);
        }
        if is_backup {
            let vote = Vote::sign(Context::Prepare, &domain, me, proposal, cx.signer);
            slot.prepares.add(&vote);
            cx.broadcast(Message::Prepare(vote));
        }
    }

    /// Takes a backup's prepare, of this view or a later one.
    pub(super) fn on_prepare(&mut self, vote: &Vote, cx: &mut Cx<'_>) {
        let Proposal { view, seq, .. } = vote.proposal;
        if view >= self.view && vote.replica != self.me && self.slot(seq).is_some_and(|slot| slot.prepares.add(vote)) {
            self.advance(seq, cx);
        }
    }

    /// Takes a commit, of any view: a quorum of them proves a decision whatever this replica knows.
    pub(super) fn on_commit(&mut self, vote: &Vote, cx: &mut Cx<'_>) {
        let seq = vote.proposal.seq;
        if vote.replica != self.me && self.slot(seq).is_some_and(|slot| slot.commits.add(vote)) {
            self.advance(seq, cx);
        }
    }

    /// Does what has become possible at a sequence number, and so at those after it. Then executes.
    pub(super) fn advance(&mut self, seq: Seq, cx: &mut Cx<'_>) {
        let mut at = seq;
        while self.advance_one(at, cx) {
            at = at.next();
        }
        self.execute(cx);
    }

    fn advance_one(&mut self, seq: Seq, cx: &mut Cx<'_>) -> bool {
        let (view, active, me) = (self.view, self.active && !self.has_ended(), self.me);
        let in_order = self.precedes_safely(seq);
        let scope = self.epoch.scope().clone();
        let Some(slot) = self.log.get_mut(&seq) else { return false };
        let mut changed = false;
        if active
            && !slot.is_prepared_in(view)
            && let Some(prepared) = slot.collect_prepared(view, &scope)
        {
            cx.append(Record::Prepared(prepared.clone()));
            slot.prepared = Some(prepared);
            changed = true;
        }
        let committed = slot.commits.of(me).is_some_and(|vote| vote.proposal.view >= view);
        if active
            && in_order
            && !committed
            && let Some(prepared) = slot.prepared.as_ref().filter(|prepared| prepared.proposal.view == view)
        {
            let vote = Vote::sign(Context::Commit, scope.domain(), me, prepared.proposal, cx.signer);
            slot.commits.add(&vote);
            cx.broadcast(Message::Commit(vote));
            changed = true;
        }
        if slot.decided.is_none()
            && let Some(certificate) = slot.collect_decided(&scope)
        {
            slot.decided = Some(certificate);
            changed = true;
        }
        changed
    }

    /// Returns whether a commit may be sent for a sequence number: the one before it is decided, or this replica
    /// committed to it in this view, and it is not the end of the epoch.
    fn precedes_safely(&self, seq: Seq) -> bool {
        let before = seq.before();
        if before <= self.executed {
            return true;
        }
        let Some(slot) = self.log.get(&before) else { return false };
        let own = slot.commits.of(self.me).map(|vote| vote.proposal).filter(|proposal| proposal.view == self.view);
        let decided = slot.decided.as_ref().map(|certificate| certificate.proposal);
        decided.or(own).is_some_and(|proposal| proposal.kind != Kind::Epoch)
    }
}
