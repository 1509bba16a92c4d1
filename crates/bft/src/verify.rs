//! The checks of messages that need no state but the epoch: limits, senders, signatures and proofs. They cost by far the
//! most, and a host can make them on many threads. [`Replica::step`](crate::replica::Replica::step) takes nothing that
//! has not passed them, by its types.

use std::{cell::RefCell, collections::BTreeSet};

use crate::{
    certificate::{Kind, Proposal},
    crypto::{Context, Digest, PublicKey, Signature, Verifier},
    epoch::Epoch,
    error::Invalid,
    limits::STATE_CHUNK_BYTES,
    message::{Batch, Message, NewView, PrePrepare, ViewChange, Vote},
    new_view::select,
    sabotage::{Mistake, planted},
};

/// A message that was checked against the epoch with this domain. There is no other way to make one.
#[derive(Clone, Debug)]
pub struct Verified {
    message: Message,
    domain: Digest,
}

impl Verified {
    /// Checks everything about a message that can be checked without a replica's state.
    ///
    /// # Errors
    /// If the message proves that its sender is faulty or no member. It must be dropped.
    pub fn check(message: Message, epoch: &Epoch, verifier: &dyn Verifier) -> Result<Self, Invalid> {
        check(&message, epoch, verifier)?;
        Ok(Self { message, domain: *epoch.domain() })
    }

    /// The message.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Returns the message, if it was checked against this epoch.
    pub(crate) fn for_epoch(self, epoch: &Epoch) -> Option<Message> {
        (self.domain == *epoch.domain()).then_some(self.message)
    }
}

fn check(message: &Message, epoch: &Epoch, verifier: &dyn Verifier) -> Result<(), Invalid> {
    match message {
        Message::Request(request) => request.check(epoch, verifier),
        Message::PrePrepare(message) => pre_prepare(message, epoch, verifier),
        Message::Prepare(vote) => {
            if vote.replica == epoch.primary(vote.proposal.view) {
                let view = vote.proposal.view;
                return Err(Invalid::WrongRole { from: vote.replica, what: "a prepare", view });
            }
            check_vote(Context::Prepare, vote, epoch, verifier)
        }
        Message::Commit(vote) => check_vote(Context::Commit, vote, epoch, verifier),
        Message::Checkpoint(vote) => {
            if vote.checkpoint.seq <= epoch.start().seq {
                return Err(Invalid::Range("the sequence number of a checkpoint"));
            }
            epoch.check_signature(Context::Checkpoint, vote.replica, &vote.checkpoint, &vote.signature, verifier)
        }
        Message::ViewChange(message) => view_change(message, epoch, &Memo::new(verifier)),
        Message::NewView(message) => new_view(message, epoch, &Memo::new(verifier)),
        Message::Status(signed) => {
            epoch.check_signature(Context::Status, signed.replica, &signed.body, &signed.signature, verifier)
        }
        Message::Decision(decision) => {
            check_proposal(&decision.certificate.proposal, epoch)?;
            decision.check(epoch, verifier)
        }
        Message::Stable(stable) => {
            if stable.checkpoint.seq <= epoch.start().seq {
                return Err(Invalid::Range("the sequence number of a checkpoint"));
            }
            stable.check(epoch, verifier)
        }
        Message::Query(signed) => {
            epoch.check_signature(Context::Query, signed.replica, &signed.body, &signed.signature, verifier)
        }
        Message::Manifest(manifest) => {
            if manifest.is_consistent() {
                Ok(())
            } else {
                Err(Invalid::Range("the size of a state"))
            }
        }
        Message::Chunk(chunk) => {
            if chunk.data.len() <= STATE_CHUNK_BYTES {
                Ok(())
            } else {
                Err(Invalid::Range("the size of a chunk"))
            }
        }
        Message::Body(body) => body.batch.check(epoch, verifier),
    }
}

fn check_proposal(proposal: &Proposal, epoch: &Epoch) -> Result<(), Invalid> {
    let null = Batch::null().digest();
    if proposal.seq <= epoch.start().seq || proposal.seq.0 == u64::MAX || proposal.view.0 == u64::MAX {
        return Err(Invalid::Range("the sequence number or view of a proposal"));
    }
    if (proposal.kind == Kind::Null) == (proposal.digest == null) {
        Ok(())
    } else {
        Err(Invalid::WrongBatch(proposal.seq))
    }
}

fn pre_prepare(message: &PrePrepare, epoch: &Epoch, verifier: &dyn Verifier) -> Result<(), Invalid> {
    let PrePrepare { proposal, signature, batch } = message;
    check_proposal(proposal, epoch)?;
    if proposal.kind == Kind::Null {
        // Only a new view fills gaps.
        return Err(Invalid::WrongBatch(proposal.seq));
    }
    batch.check_matches(proposal)?;
    epoch.check_signature(Context::PrePrepare, epoch.primary(proposal.view), proposal, signature, verifier)?;
    batch.check(epoch, verifier)
}

fn check_vote(context: Context, vote: &Vote, epoch: &Epoch, verifier: &dyn Verifier) -> Result<(), Invalid> {
    check_proposal(&vote.proposal, epoch)?;
    epoch.check_signature(context, vote.replica, &vote.proposal, &vote.signature, verifier)
}

/// Checks a view change in full (1999, section 4.4): C proves n; P is in order, between the watermarks that follow
/// from n, of earlier views, and each of its certificates proves what it claims.
fn view_change(message: &ViewChange, epoch: &Epoch, verifier: &dyn Verifier) -> Result<(), Invalid> {
    if message.view.0 == 0 || message.view.0 == u64::MAX {
        return Err(Invalid::Range("the view of a view change"));
    }
    if message.prepared.len() as u64 > epoch.parameters.window {
        return Err(Invalid::Range("the number of proofs in a view change"));
    }
    let digest = message.digest();
    epoch.check_signature(Context::ViewChange, message.replica, &digest, &message.signature, verifier)?;
    if let Some(stable) = &message.stable {
        if stable.checkpoint.seq <= epoch.start().seq {
            return Err(Invalid::Range("the checkpoint of a view change"));
        }
        stable.check(epoch, verifier)?;
    }
    let mut last = message.stable_seq(epoch);
    let high = last.plus(epoch.parameters.window);
    for prepared in &message.prepared {
        let proposal = &prepared.proposal;
        if proposal.seq <= last {
            return Err(Invalid::Order("the proofs of a view change"));
        }
        if proposal.seq > high || proposal.view >= message.view {
            return Err(Invalid::Range("a proof of a view change"));
        }
        check_proposal(proposal, epoch)?;
        prepared.check(epoch, verifier)?;
        last = proposal.seq;
    }
    Ok(())
}

/// Checks a new view in full (1999, section 4.4): V is from a quorum and valid, and O is what follows from V.
fn new_view(message: &NewView, epoch: &Epoch, verifier: &dyn Verifier) -> Result<(), Invalid> {
    let primary = epoch.primary(message.view);
    epoch.check_signature(Context::NewView, primary, &message.digest(), &message.signature, verifier)?;
    for one in &message.proposals {
        epoch.check_signature(Context::PrePrepare, primary, &one.proposal, &one.signature, verifier)?;
    }
    if planted(Mistake::NewViewUnchecked) {
        return Ok(());
    }
    let need = epoch.quorums().quorum();
    if message.view_changes.len() != need {
        return Err(Invalid::Quorum { what: "a new view", have: message.view_changes.len(), need });
    }
    if !message.view_changes.is_sorted_by(|a, b| a.replica < b.replica) {
        return Err(Invalid::Order("the view changes of a new view"));
    }
    for one in &message.view_changes {
        if one.view != message.view {
            return Err(Invalid::Range("a view change of a new view"));
        }
        view_change(one, epoch, verifier)?;
    }
    let selection = select(epoch, message.view, &message.view_changes);
    let same = selection.proposals.iter().eq(message.proposals.iter().map(|one| &one.proposal));
    if same { Ok(()) } else { Err(Invalid::NotDerived(message.view)) }
}

/// Verifies each signature once: the view changes of a new view contain the same ones many times.
struct Memo<'a> {
    verifier: &'a dyn Verifier,
    good: RefCell<BTreeSet<Digest>>,
}

impl<'a> Memo<'a> {
    fn new(verifier: &'a dyn Verifier) -> Self {
        Self { verifier, good: RefCell::default() }
    }
}

impl Verifier for Memo<'_> {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        let of = Digest::of_bytes(&[&key.0[..], &signature.0[..], message].concat());
        if self.good.borrow().contains(&of) {
            return true;
        }
        let good = self.verifier.verify(key, message, signature);
        if good {
            self.good.borrow_mut().insert(of);
        }
        good
    }
}
