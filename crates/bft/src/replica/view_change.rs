//! View changes (1999, section 4.4, and its liveness rules in section 4.5.2).

use super::{Cx, Event, Replica};
use crate::{
    application::Application,
    certificate::{Kind, Seq, View},
    epoch::ReplicaId,
    message::{Batch, Message, NewView, Reproposal, ViewChange},
    new_view::{Selection, select},
    record::Record,
};

impl<A: Application> Replica<A> {
    /// Moves to a higher view: from now on this replica accepts nothing in lower ones. That is on disk before the
    /// others learn of it.
    pub(super) fn start_view_change(&mut self, view: View, cx: &mut Cx<'_>) {
        if view <= self.view || self.has_ended() {
            return;
        }
        self.leave_view(view);
        self.active = false;
        self.new_view = None;
        cx.append(Record::ViewChange(view));
        cx.event(Event::ViewChange(view));
        self.send_view_change(cx);
        self.try_new_view(cx);
    }

    /// Forgets what was only for the view, or lower ones, that the replica leaves. Certificates and votes stay.
    pub(super) fn leave_view(&mut self, view: View) {
        self.view = view;
        self.closed = false;
        self.pending.new_view();
        self.view_changes.retain(|_, message| message.view >= view);
        for slot in self.log.values_mut() {
            slot.waiting.take_if(|message| message.proposal.view < view);
        }
    }

    /// Makes and sends the view change: the last stable checkpoint with its proof, and the prepared certificates after
    /// it.
    pub(super) fn send_view_change(&mut self, cx: &mut Cx<'_>) {
        let message = self.make_view_change(cx);
        self.view_changes.insert(self.me, message.clone());
        cx.broadcast(Message::ViewChange(Box::new(message)));
    }

    pub(super) fn make_view_change(&self, cx: &Cx<'_>) -> ViewChange {
        let stable = self.stable.certificate.clone();
        let prepared = self.log.values().filter_map(|slot| slot.prepared.clone()).collect();
        ViewChange::sign(self.epoch.domain(), (self.me, self.view), stable, prepared, cx.signer)
    }

    /// Takes a member's view change. If f + 1 members are in higher views, one honest member is, and this one follows
    /// to the lowest of these views.
    pub(super) fn on_view_change(&mut self, message: ViewChange, cx: &mut Cx<'_>) {
        let replica = message.replica;
        let stale = message.view < self.view || message.view == self.view && self.active;
        let known = self.view_changes.get(&replica).is_some_and(|known| known.view >= message.view);
        if stale || known || replica == self.me || self.has_ended() {
            return;
        }
        self.view_changes.insert(replica, message);
        let higher = self.view_changes.values().map(|message| message.view).filter(|view| *view > self.view);
        let higher: Vec<View> = higher.collect();
        if higher.len() >= self.epoch.quorums().weak()
            && let Some(lowest) = higher.into_iter().min()
        {
            return self.start_view_change(lowest, cx);
        }
        self.try_new_view(cx);
    }

    /// Returns whether a quorum, with this replica, moves to its view or higher ones: then it waits for the new view
    /// with a timeout.
    pub(super) fn has_company(&self) -> bool {
        let count = self.view_changes.values().filter(|message| message.view >= self.view).count();
        count >= self.epoch.quorums().quorum()
    }

    /// Begins the view as its primary, if a quorum moves to it.
    fn try_new_view(&mut self, cx: &mut Cx<'_>) {
        if self.active || !self.is_primary() {
            return;
        }
        let (me, view, need) = (self.me, self.view, self.epoch.quorums().quorum());
        let of_view = self.view_changes.iter().filter(|(_, message)| message.view == view);
        let others = of_view.clone().filter(|(replica, _)| **replica != me).take(need.saturating_sub(1));
        let mut chosen: Vec<(ReplicaId, ViewChange)> =
            of_view.filter(|(replica, _)| **replica == me).chain(others).map(|(id, one)| (*id, one.clone())).collect();
        if chosen.len() < need {
            return;
        }
        chosen.sort_by_key(|(replica, _)| *replica);
        let view_changes: Vec<ViewChange> = chosen.into_iter().map(|(_, message)| message).collect();
        let proposals = select(&self.epoch, view, &view_changes).proposals;
        let message = NewView::sign(self.epoch.domain(), view, view_changes, proposals, cx.signer);
        let message = Box::new(message);
        cx.append(Record::NewView(message.clone()));
        cx.broadcast(Message::NewView(message.clone()));
        self.install(message, cx);
        self.after_install(cx);
    }

    /// Takes a new view, whose proofs are checked.
    pub(super) fn on_new_view(&mut self, message: Box<NewView>, cx: &mut Cx<'_>) {
        let stale = message.view < self.view || message.view == self.view && self.active;
        if stale || self.epoch.primary(message.view) == self.me || self.has_ended() {
            return;
        }
        cx.append(Record::NewView(message.clone()));
        self.install(message, cx);
        self.after_install(cx);
    }

    /// Accepts a view with all its proposals, and votes for them.
    pub(super) fn install(&mut self, message: Box<NewView>, cx: &mut Cx<'_>) {
        let view = message.view;
        let Selection { low, stable, .. } = select(&self.epoch, view, &message.view_changes);
        let proposals = message.proposals.clone();
        self.leave_view(view);
        self.active = true;
        self.new_view = Some(message);
        cx.event(Event::NewView(view));
        self.next = low.next();
        for one in proposals {
            self.accept(one, null_batch(&one), cx);
        }
        self.next = self.next.max(self.executed.next());
        self.view_changes.retain(|_, message| message.view > view);
        self.mark_proposed_again();
        // Only now, since a checkpoint that becomes stable lets the primary propose.
        if let Some(stable) = stable {
            self.on_proven(stable, cx);
        }
    }

    /// Accepts those proposals of the new view that were beyond the high watermark until now.
    pub(super) fn accept_rest(&mut self, cx: &mut Cx<'_>) {
        let (view, next, stable, high) = (self.view, self.next, self.stable.seq, self.high());
        let Some(new_view) = self.new_view.as_ref().filter(|_| self.active && !self.has_ended()) else { return };
        let is_new = |one: &&Reproposal| {
            let seq = one.proposal.seq;
            let accepted = self.log.get(&seq).is_some_and(|slot| slot.accepted_in(view).is_some());
            seq > stable && seq <= high && !accepted
        };
        let rest: Vec<Reproposal> = new_view.proposals.iter().filter(is_new).copied().collect();
        for one in rest {
            self.accept(one, null_batch(&one), cx);
        }
        self.next = self.next.max(next);
    }

    /// Goes on in a new view: with what came early, with what its proposals make possible, and with the requests that
    /// wait.
    fn after_install(&mut self, cx: &mut Cx<'_>) {
        self.accept_waiting(cx);
        let seqs: Vec<Seq> = self.log.range(self.stable.seq.next()..).map(|(seq, _)| *seq).collect();
        for seq in seqs {
            self.advance(seq, cx);
        }
        self.ask_for_bodies(cx);
        self.forward(cx);
        self.propose(cx);
    }

    /// Notes which requests the new view proposes again.
    fn mark_proposed_again(&mut self) {
        for slot in self.log.values() {
            if let Some(accepted) = slot.accepted_in(self.view)
                && let Some(batch) = slot.body(&accepted.proposal.digest)
            {
                self.pending.mark_proposed(batch);
            }
        }
    }
}

/// Returns the batch that fills a gap, which everyone knows.
fn null_batch(one: &Reproposal) -> Option<Batch> {
    (one.proposal.kind == Kind::Null).then(Batch::null)
}
