//! Start and recovery. A replica is what follows from its records: it remembers every vote that it may have sent.

use std::{collections::BTreeMap, sync::Arc};

use super::{Anchor, Cx, Outputs, Replica, Timers};
use crate::{
    application::Application,
    certificate::{Seq, View},
    crypto::Signer,
    epoch::{Epoch, Incarnation, ReplicaId},
    error::StartError,
    pending::Pending,
    record::{Record, StableState},
    state::State,
};

impl<A: Application> Replica<A> {
    /// Starts a replica from its records, of which the first is the identity of its disk. `initial` is the state with
    /// which the epoch starts; `application` is replaced by it, or by a later one in the records. The outputs contain
    /// the decisions since the last stable checkpoint again.
    ///
    /// # Errors
    /// If this disk is no member's, or the records are not those of one replica in this epoch. In particular, a member
    /// that lost its disk does not start.
    pub fn start(
        epoch: &Epoch,
        application: A,
        initial: &State,
        records: Vec<Record>,
        signer: &dyn Signer,
    ) -> Result<(Self, Outputs), StartError> {
        let Some(Record::Identity(incarnation)) = records.first() else { return Err(StartError::NoIdentity) };
        let me = member(epoch, *incarnation, signer)?;
        if initial.checkpoint() != epoch.start() {
            return Err(StartError::WrongState);
        }
        let mut replica = Self::empty(epoch, me, *incarnation, application, initial);
        replica.load(initial).map_err(StartError::Snapshot)?;
        if replica.has_ended() {
            return Err(StartError::WrongState);
        }
        let mut scratch = Cx::new(signer);
        let is_first = records.len() == 1;
        for (index, record) in records.into_iter().enumerate().skip(1) {
            replica.replay(index, record, &mut scratch)?;
        }
        let mut cx = Cx::new(signer);
        cx.out.decided = scratch.out.decided;
        if is_first {
            cx.append(Record::Started(*epoch.domain()));
        }
        replica.resume(&mut cx);
        Ok((replica, cx.out))
    }

    fn empty(epoch: &Epoch, me: ReplicaId, incarnation: Incarnation, application: A, initial: &State) -> Self {
        let seq = epoch.start().seq;
        Self {
            epoch: epoch.clone(),
            me,
            incarnation,
            application,
            clients: Default::default(),
            history: Default::default(),
            executed: seq,
            next_epoch: None,
            last_decision: None,
            view: View(0),
            active: true,
            new_view: None,
            next: seq.next(),
            closed: false,
            good_view: View(0),
            log: BTreeMap::new(),
            stable: Anchor { certificate: None, state: Arc::new(initial.clone()), seq },
            ahead: None,
            own_states: BTreeMap::new(),
            checkpoint_votes: BTreeMap::new(),
            view_changes: BTreeMap::new(),
            pending: Pending::default(),
            transfer: None,
            pins: BTreeMap::new(),
            timers: Timers::default(),
            heard: BTreeMap::new(),
            answers: BTreeMap::new(),
            halted: false,
        }
    }

    /// Does what led to a record. Votes are signed again, which gives the same ones; nothing is sent.
    fn replay(&mut self, index: usize, record: Record, cx: &mut Cx<'_>) -> Result<(), StartError> {
        let damaged = StartError::Damaged(index);
        match record {
            Record::Started(domain) if index == 1 => {
                if domain == *self.epoch.domain() {
                    Ok(())
                } else {
                    Err(StartError::OtherEpoch)
                }
            }
            _ if index == 1 => Err(StartError::OtherEpoch),
            Record::Stable(stable) if index == 2 => self.replay_stable(*stable, damaged),
            Record::Identity(_) | Record::Started(_) | Record::Stable(_) => Err(damaged),
            Record::ViewChange(view) if view > self.view => {
                self.leave_view(view);
                self.active = false;
                self.new_view = None;
                Ok(())
            }
            Record::NewView(message) if message.view > self.view || message.view == self.view && !self.active => {
                self.install(message, cx);
                Ok(())
            }
            Record::Accepted(accepted) if self.active && accepted.proposal.view == self.view => {
                self.accept(accepted, None, cx);
                Ok(())
            }
            Record::ViewChange(_) | Record::NewView(_) | Record::Accepted(_) => Err(damaged),
            Record::Body(body) => {
                if let Some(slot) = self.slot(body.seq) {
                    slot.keep(body.view, body.batch);
                }
                Ok(())
            }
            Record::Prepared(prepared) => {
                if let Some(slot) = self.slot(prepared.proposal.seq) {
                    slot.prepared = Some(prepared);
                }
                Ok(())
            }
            Record::Decided(decision) if decision.seq() == self.executed && self.has_ended() => {
                self.last_decision = Some(*decision);
                Ok(())
            }
            Record::Decided(decision) if decision.seq() == self.executed.next() => {
                if let Some(slot) = self.slot(decision.seq()) {
                    slot.decided = Some(decision.certificate.clone());
                    slot.keep(decision.certificate.proposal.view, decision.batch.clone());
                }
                cx.out.decided.push((*decision).clone());
                self.apply(*decision, cx);
                self.next = self.next.max(self.executed.next());
                Ok(())
            }
            Record::Decided(_) => Err(damaged),
        }
    }

    fn replay_stable(&mut self, stable: StableState, damaged: StartError) -> Result<(), StartError> {
        let StableState { certificate, state } = stable;
        let checkpoint = certificate.as_ref().map_or(self.epoch.start(), |certificate| certificate.checkpoint);
        if state.checkpoint() != checkpoint {
            return Err(damaged);
        }
        self.load(&state).map_err(StartError::Snapshot)?;
        let seq: Seq = checkpoint.seq;
        self.stable = Anchor { certificate, state: Arc::new(state), seq };
        self.next = seq.next();
        Ok(())
    }

    /// Goes on after all records were replayed.
    fn resume(&mut self, cx: &mut Cx<'_>) {
        if self.active {
            let seqs: Vec<Seq> = self.log.keys().copied().collect();
            seqs.into_iter().for_each(|seq| self.advance(seq, cx));
        } else {
            self.send_view_change(cx);
        }
        self.hand_over(cx);
        self.send_status(cx);
        self.update_timers(cx);
    }
}

/// Finds the member whose disk this is.
fn member(epoch: &Epoch, incarnation: Incarnation, signer: &dyn Signer) -> Result<ReplicaId, StartError> {
    let mut members = epoch.replicas().zip(&epoch.members);
    let Some((me, member)) = members.find(|(_, member)| member.incarnation == incarnation) else {
        return Err(StartError::NotAMember(epoch.number));
    };
    if member.key == signer.public_key() { Ok(me) } else { Err(StartError::WrongKey) }
}
