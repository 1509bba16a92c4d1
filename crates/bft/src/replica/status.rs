//! Repetition of what may have been lost (2002, section 5.2): replicas tell each other what they have, and send what
//! the other lacks.

use super::{Cx, Replica};
use crate::{
    application::Application,
    certificate::{Decision, Kind, Seq},
    crypto::Context,
    epoch::ReplicaId,
    limits::{COST_OF_STATUS, DECISIONS_PER_STATUS, FORWARDED_AT_ONCE, VOTES_PER_STATUS},
    message::{CheckpointVote, Message, PrePrepare, Request, Signed, StatusBody, Vote},
};

impl<A: Application> Replica<A> {
    /// Repeats what others may have missed, and asks for what this replica misses.
    pub(super) fn tick(&mut self, cx: &mut Cx<'_>) {
        self.answers.clear();
        self.unpin();
        self.send_status(cx);
        if !self.active {
            self.send_view_change(cx);
        }
        self.retry_transfer(cx);
        self.ask_for_bodies(cx);
        self.forward(cx);
    }

    pub(super) fn send_status(&self, cx: &mut Cx<'_>) {
        let body =
            StatusBody { view: self.view, active: self.active, stable: self.stable.seq, executed: self.executed };
        let signed = Signed::sign(Context::Status, self.epoch.domain(), self.me, body, cx.signer);
        cx.broadcast(Message::Status(signed));
    }

    /// Sends waiting requests to the primary again, and those of this member to all: it is their client, and a client
    /// whose request is not executed in time sends it to all, so that they suspect the primary as well (1999, section
    /// 4.1). All of its own: other clients could send this member alone so many that its own are not among the first.
    pub(super) fn forward(&self, cx: &mut Cx<'_>) {
        if self.has_ended() || self.active && self.is_primary() {
            return;
        }
        let me = cx.signer.public_key();
        let own: Vec<Request> = self.pending.of(&me).cloned().collect();
        own.into_iter().for_each(|request| cx.broadcast(Message::Request(request)));
        if !self.active {
            return;
        }
        let first = self.pending.first(FORWARDED_AT_ONCE).filter(|request| request.client != me);
        let others: Vec<Request> = first.cloned().collect();
        for request in others {
            cx.send(self.epoch.primary(self.view), Message::Request(request));
        }
    }

    /// Takes what another member has, and sends what it lacks.
    pub(super) fn on_status(&mut self, from: ReplicaId, status: &StatusBody, cx: &mut Cx<'_>) {
        if !self.may_answer(from, COST_OF_STATUS) {
            return;
        }
        if status.stable < self.stable.seq
            && let Some(stable) = &self.stable.certificate
        {
            cx.send(from, Message::Stable(stable.clone()));
        }
        let stands_still = self.note_status(from, status);
        if stands_still {
            self.send_decisions(from, status.executed, cx);
        }
        let behind = status.view < self.view || status.view == self.view && !status.active;
        if behind
            && self.active
            && let Some(new_view) = &self.new_view
        {
            cx.send(from, Message::NewView(new_view.clone()));
        }
        if stands_still && self.active && status.view == self.view && status.active {
            self.send_votes(from, status.executed.max(self.executed).next(), cx);
        }
        let own = self.checkpoint_votes.get(&self.me).into_iter().flatten();
        for (_, (checkpoint, signature)) in own.filter(|(seq, _)| **seq > status.stable) {
            let (checkpoint, signature) = (*checkpoint, *signature);
            cx.send(from, Message::Checkpoint(CheckpointVote { replica: self.me, checkpoint, signature }));
        }
    }

    /// Keeps a member's status. Returns whether the member needs help: it has executed nothing since its status before,
    /// and it is the turn of this replica, of f + 1 at a time. A member that is only slow would otherwise get the same
    /// from everyone, and be slower.
    fn note_status(&mut self, from: ReplicaId, status: &StatusBody) -> bool {
        let (before, count) = self.heard.get(&from).copied().unwrap_or((*status, 0));
        self.heard.insert(from, (*status, count.wrapping_add(1)));
        let sizes = self.epoch.quorums();
        let turn = count.wrapping_add(u64::from(self.me.0)).checked_rem(sizes.members() as u64).unwrap_or_default();
        before.executed == status.executed && turn < sizes.weak() as u64
    }

    fn send_decisions(&self, to: ReplicaId, executed: Seq, cx: &mut Cx<'_>) {
        let lacks = self.log.range(executed.next()..).take(DECISIONS_PER_STATUS);
        for slot in lacks.map(|(_, slot)| slot) {
            if let Some(certificate) = slot.decided.clone()
                && let Some(batch) = slot.body(&certificate.proposal.digest).cloned()
            {
                cx.send(to, Message::Decision(Box::new(Decision { certificate, batch })));
            }
        }
    }

    /// Repeats the own votes of this view, and the proposals as its primary.
    fn send_votes(&self, to: ReplicaId, from: Seq, cx: &mut Cx<'_>) {
        for (_, slot) in self.log.range(from..).take(VOTES_PER_STATUS) {
            let accepted = slot.accepted_in(self.view).filter(|accepted| accepted.proposal.kind != Kind::Null);
            if self.is_primary()
                && let Some(accepted) = accepted
                && let Some(batch) = slot.body(&accepted.proposal.digest).cloned()
            {
                let (proposal, signature) = (accepted.proposal, accepted.signature);
                cx.send(to, Message::PrePrepare(PrePrepare { proposal, signature, batch }));
            }
            let of_view = |vote: &Vote| vote.proposal.view == self.view;
            let prepare = slot.prepares.of(self.me).filter(of_view).map(Message::Prepare);
            let commit = slot.commits.of(self.me).filter(of_view).map(Message::Commit);
            for message in prepare.into_iter().chain(commit) {
                cx.send(to, message);
            }
        }
    }
}
