//! What a replica knows about one sequence number. Each member's latest vote of each kind is kept, and a bounded number
//! of batches.

use std::collections::BTreeMap;

use crate::{
    certificate::{Certificate, Endorsement, Prepared, Proposal, View},
    crypto::{Digest, Signature},
    epoch::{ReplicaId, Scope},
    limits::BODIES_PER_SLOT,
    message::{Batch, PrePrepare, Reproposal, Vote},
    sabotage::{Mistake, planted},
};

/// The latest vote of each member.
#[derive(Clone, Debug, Default)]
pub(super) struct Votes(BTreeMap<ReplicaId, (Proposal, Signature)>);

impl Votes {
    /// Adds a vote, unless the member has voted in this view or a later one. So the first of two contradicting votes
    /// counts. Returns whether it was added.
    pub fn add(&mut self, vote: &Vote) -> bool {
        let known = self.0.get(&vote.replica);
        let again = planted(Mistake::SequenceReused);
        let is_newer = |known: View| known < vote.proposal.view || again && known == vote.proposal.view;
        let newer = known.is_none_or(|(proposal, _)| is_newer(proposal.view));
        if newer {
            self.0.insert(vote.replica, (vote.proposal, vote.signature));
        }
        newer
    }

    /// Returns a member's vote.
    pub fn of(&self, replica: ReplicaId) -> Option<Vote> {
        self.0.get(&replica).map(|(proposal, signature)| Vote { replica, proposal: *proposal, signature: *signature })
    }

    /// Returns the votes for a proposal, if there are at least `need`: exactly as many.
    pub fn endorsements(&self, proposal: &Proposal, need: usize) -> Option<Vec<Endorsement>> {
        let same = self.0.iter().filter(|(_, (voted, _))| voted == proposal);
        let first =
            same.take(need).map(|(replica, (_, signature))| Endorsement { replica: *replica, signature: *signature });
        let endorsements: Vec<Endorsement> = first.collect();
        (endorsements.len() == need).then_some(endorsements)
    }

    /// Returns each proposal that someone voted for, possibly more than once.
    pub fn proposals(&self) -> impl Iterator<Item = &Proposal> {
        self.0.values().map(|(proposal, _)| proposal)
    }
}

/// A sequence number.
#[derive(Clone, Debug, Default)]
pub(super) struct Slot {
    /// A pre-prepare of the current view that came before its turn.
    pub waiting: Option<PrePrepare>,
    /// The accepted proposal of the latest view.
    pub accepted: Option<Reproposal>,
    /// Batches, with the view in which they were accepted.
    bodies: Vec<(View, Batch)>,
    /// Prepares.
    pub prepares: Votes,
    /// Commits.
    pub commits: Votes,
    /// The prepared certificate of the highest view.
    pub prepared: Option<Prepared>,
    /// The certificate of the decision.
    pub decided: Option<Certificate>,
}

impl Slot {
    /// Returns what was accepted in this view.
    pub fn accepted_in(&self, view: View) -> Option<&Reproposal> {
        self.accepted.as_ref().filter(|accepted| accepted.proposal.view == view)
    }

    /// Returns whether there is a prepared certificate of this view.
    pub fn is_prepared_in(&self, view: View) -> bool {
        self.prepared.as_ref().is_some_and(|prepared| prepared.proposal.view == view)
    }

    /// Returns the batch with this digest.
    pub fn body(&self, digest: &Digest) -> Option<&Batch> {
        self.bodies.iter().map(|(_, batch)| batch).find(|batch| batch.digest() == *digest)
    }

    /// All batches.
    pub fn bodies(&self) -> &[(View, Batch)] {
        &self.bodies
    }

    /// Keeps a batch. If there are too many, the one of the lowest view goes that is neither accepted nor prepared nor
    /// decided.
    pub fn keep(&mut self, view: View, batch: Batch) {
        if let Some((known, _)) = self.bodies.iter_mut().find(|(_, one)| one.digest() == batch.digest()) {
            *known = view.max(*known);
            return;
        }
        self.bodies.push((view, batch));
        if self.bodies.len() > BODIES_PER_SLOT {
            let needed: Vec<Digest> = self.needed().map(|proposal| proposal.digest).collect();
            let others = self.bodies.iter().enumerate().filter(|(_, (_, batch))| !needed.contains(&batch.digest()));
            let lowest = others.min_by_key(|(_, (view, _))| *view).map(|(index, _)| index);
            if let Some(index) = lowest {
                self.bodies.remove(index);
            }
        }
    }

    fn needed(&self) -> impl Iterator<Item = &Proposal> {
        let accepted = self.accepted.iter().map(|accepted| &accepted.proposal);
        let prepared = self.prepared.iter().map(|prepared| &prepared.proposal);
        accepted.chain(prepared).chain(self.decided.iter().map(|decided| &decided.proposal))
    }

    /// Returns a digest that is accepted, prepared or decided, and whose batch is missing.
    pub fn missing(&self) -> Option<Digest> {
        self.needed().map(|proposal| proposal.digest).find(|digest| self.body(digest).is_none())
    }

    /// Returns whether a batch is missing here.
    pub fn lacks(&self, digest: &Digest) -> bool {
        self.needed().any(|proposal| proposal.digest == *digest) && self.body(digest).is_none()
    }

    /// Returns the prepared certificate of the accepted proposal, if enough backups voted for it (1999, section 4.2).
    pub fn collect_prepared(&self, view: View, scope: &Scope) -> Option<Prepared> {
        let accepted = self.accepted_in(view)?;
        let need = scope.quorums().quorum().saturating_sub(1);
        let prepares = self.prepares.endorsements(&accepted.proposal, need)?;
        Some(Prepared { proposal: accepted.proposal, primary: accepted.signature, prepares })
    }

    /// Returns the certificate of a decision, if a quorum committed to the same proposal (1999, section 4.2).
    pub fn collect_decided(&self, scope: &Scope) -> Option<Certificate> {
        let need = scope.quorums().quorum();
        self.commits.proposals().find_map(|proposal| {
            let commits = self.commits.endorsements(proposal, need)?;
            Some(Certificate { proposal: *proposal, commits })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        certificate::Seq,
        crypto::PublicKey,
        message::{Operation, Request},
    };

    fn batch(id: u64) -> Batch {
        let operation = Operation::Call(bytes::Bytes::new());
        Batch::new(vec![Request { client: PublicKey([0; 32]), id, operation, signature: Signature([0; 64]) }])
    }

    #[test]
    fn batches_are_bounded_and_the_needed_one_stays() {
        let mut slot = Slot::default();
        let proposal = Proposal { view: View(0), seq: Seq(1), kind: batch(0).kind(), digest: batch(0).digest() };
        slot.prepared = Some(Prepared { proposal, primary: Signature([0; 64]), prepares: Vec::new() });
        assert!(slot.lacks(&proposal.digest));
        for id in 0..100 {
            slot.keep(View(id), batch(id));
            assert!(slot.bodies.len() <= BODIES_PER_SLOT);
        }
        assert_eq!(slot.missing(), None);
        assert!(slot.body(&batch(99).digest()).is_some() && slot.body(&batch(50).digest()).is_none());
    }

    #[test]
    fn the_first_vote_of_a_view_counts() {
        let mut votes = Votes::default();
        let vote = |view, digest| Vote {
            replica: ReplicaId(1),
            proposal: Proposal { view: View(view), seq: Seq(1), kind: crate::certificate::Kind::Calls, digest },
            signature: Signature([0; 64]),
        };
        assert!(votes.add(&vote(1, Digest([1; 32]))));
        assert!(!votes.add(&vote(1, Digest([2; 32]))));
        assert!(!votes.add(&vote(0, Digest([2; 32]))));
        assert!(votes.add(&vote(2, Digest([3; 32]))));
        assert_eq!(votes.of(ReplicaId(1)).unwrap().proposal.view, View(2));
        assert_eq!(votes.proposals().count(), 1);
    }
}
