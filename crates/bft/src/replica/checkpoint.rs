//! Checkpoints and garbage collection (1999, section 4.3).

use std::sync::Arc;

use super::{Anchor, Cx, Event, Fault, Replica, Sync};
use crate::{
    application::Application,
    certificate::{Checkpoint, Decision, Endorsement, Seq, Stable},
    crypto::Context,
    epoch::Handover,
    limits::CHECKPOINTS_PER_MEMBER,
    message::{CheckpointVote, Message},
    record::{KeptBody, Record, StableState},
    state::{Content, State},
};

impl<A: Application> Replica<A> {
    /// Keeps the state after the last executed decision, and tells the others its digest.
    pub(super) fn take_checkpoint(&mut self, cx: &mut Cx<'_>) {
        let seq = self.executed;
        let content = Content {
            seq,
            history: self.history,
            next_epoch: self.next_epoch.clone(),
            clients: self.clients.clone(),
            snapshot: self.application.snapshot(),
        };
        let Some(state) = State::new(content) else { return self.halt(Fault::StateTooLarge(seq), cx) };
        let checkpoint = state.checkpoint();
        self.own_states.insert(seq, Arc::new(state));
        let signature = Context::Checkpoint.sign(self.epoch.domain(), &checkpoint, cx.signer);
        let vote = CheckpointVote { replica: self.me, checkpoint, signature };
        cx.broadcast(Message::Checkpoint(vote));
        self.keep_checkpoint(&vote);
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.checkpoint.seq <= seq) {
            self.on_proven(ahead, cx);
        }
        self.collect_stable(checkpoint, cx);
    }

    /// Takes a member's checkpoint message.
    pub(super) fn on_checkpoint(&mut self, vote: &CheckpointVote, cx: &mut Cx<'_>) {
        if vote.checkpoint.seq > self.stable.seq && vote.replica != self.me {
            self.keep_checkpoint(vote);
            self.collect_stable(vote.checkpoint, cx);
        }
    }

    /// Keeps the first vote of a member for each sequence number, and of each member those of the highest numbers.
    fn keep_checkpoint(&mut self, vote: &CheckpointVote) {
        let of_member = self.checkpoint_votes.entry(vote.replica).or_default();
        of_member.entry(vote.checkpoint.seq).or_insert((vote.checkpoint, vote.signature));
        if of_member.len() > CHECKPOINTS_PER_MEMBER {
            of_member.pop_first();
        }
    }

    fn collect_stable(&mut self, checkpoint: Checkpoint, cx: &mut Cx<'_>) {
        let need = self.epoch.quorums().quorum();
        let votes = self.checkpoint_votes.iter().filter_map(|(replica, votes)| {
            let (voted, signature) = votes.get(&checkpoint.seq)?;
            (*voted == checkpoint).then_some(Endorsement { replica: *replica, signature: *signature })
        });
        let votes: Vec<Endorsement> = votes.take(need).collect();
        if votes.len() == need {
            self.on_proven(Stable { checkpoint, votes }, cx);
        }
    }

    /// Takes the proof that a checkpoint is stable. If this replica has no state for it yet, it gets there by executing,
    /// or by getting the state from others.
    pub(super) fn on_proven(&mut self, stable: Stable, cx: &mut Cx<'_>) {
        let Checkpoint { seq, .. } = stable.checkpoint;
        if seq <= self.stable.seq || self.halted {
            return;
        }
        if let Some(own) = self.own_states.get(&seq).cloned() {
            if own.checkpoint() != stable.checkpoint {
                return self.halt(Fault::Diverged(seq), cx);
            }
            return self.stabilize(stable, own, cx);
        }
        let latest = self.ahead.as_ref().is_none_or(|ahead| ahead.checkpoint.seq < seq);
        if seq > self.executed && latest && !self.has_ended() {
            self.ahead = Some(stable);
            if seq > self.high() {
                self.start_transfer(cx);
            }
        }
    }

    /// Makes a checkpoint the low watermark, and forgets everything up to it, on disk as well.
    pub(super) fn stabilize(&mut self, certificate: Stable, state: Arc<State>, cx: &mut Cx<'_>) {
        let checkpoint = certificate.checkpoint;
        let seq = checkpoint.seq;
        self.stable = Anchor { certificate: Some(certificate), state, seq };
        self.log = self.log.split_off(&seq.next());
        self.own_states = self.own_states.split_off(&seq.next());
        for votes in self.checkpoint_votes.values_mut() {
            *votes = votes.split_off(&seq.next());
        }
        self.ahead.take_if(|ahead| ahead.checkpoint.seq <= seq);
        self.transfer.take_if(|transfer| transfer.seq() <= seq);
        self.next = self.next.max(self.executed.next());
        self.accept_rest(cx);
        cx.out.sync.push(Sync::Replace(self.records()));
        cx.event(Event::Stable(checkpoint));
        self.hand_over(cx);
        self.propose(cx);
    }

    /// Outputs what starts the next epoch, once it is proven.
    pub(super) fn hand_over(&self, cx: &mut Cx<'_>) {
        let at_the_end = self.has_ended() && self.stable.seq == self.executed;
        if at_the_end && let (Some(decision), Some(stable)) = (&self.last_decision, &self.stable.certificate) {
            let (decision, stable, state) = (decision.clone(), stable.clone(), State::clone(&self.stable.state));
            cx.out.handover = Some(Box::new(Handover { decision, stable, state }));
        }
    }

    /// Returns records from which this replica can be recovered, in their order.
    fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Identity(self.incarnation), Record::Started(*self.epoch.domain())];
        let Anchor { certificate, state, .. } = &self.stable;
        let state = StableState { certificate: certificate.clone(), state: State::clone(state) };
        records.push(Record::Stable(Box::new(state)));
        let end = self.last_decision.iter().filter(|decision| decision.seq() == self.stable.seq);
        records.extend(end.map(|decision| Record::Decided(Box::new(decision.clone()))));
        match &self.new_view {
            Some(new_view) if self.active => records.push(Record::NewView(new_view.clone())),
            _ if !self.active => records.push(Record::ViewChange(self.view)),
            _ => {}
        }
        for (seq, slot) in &self.log {
            let kept =
                slot.bodies().iter().map(|(view, batch)| KeptBody { seq: *seq, view: *view, batch: batch.clone() });
            records.extend(kept.map(Record::Body));
            let accepted = slot.accepted_in(self.view).filter(|_| self.active);
            records.extend(accepted.map(|accepted| Record::Accepted(*accepted)));
            records.extend(slot.prepared.clone().map(Record::Prepared));
            records.extend(self.decided_record(*seq, slot));
        }
        records
    }

    fn decided_record(&self, seq: Seq, slot: &super::Slot) -> Option<Record> {
        let certificate = slot.decided.clone().filter(|_| seq <= self.executed)?;
        let batch = slot.body(&certificate.proposal.digest)?.clone();
        Some(Record::Decided(Box::new(Decision { certificate, batch })))
    }
}
