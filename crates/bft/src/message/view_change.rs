//! View changes and new views (1999, section 4.4).

use crate::{
    certificate::{Prepared, Proposal, Seq, Stable, View},
    crypto::{Context, Digest, Signature, Signer},
    epoch::{Epoch, ReplicaId},
    error::DecodeError,
    wire::{Reader, Wire, wire_struct},
};

/// A view-change message: ⟨VIEW-CHANGE, v, n, C, P, i⟩.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ViewChange {
    /// The sender, i.
    pub replica: ReplicaId,
    /// The view that it moves to, v.
    pub view: View,
    /// The last stable checkpoint with its proof, n and C. Nothing stands for the epoch's start.
    pub stable: Option<Stable>,
    /// P: for each sequence number above n at which the sender has a prepared certificate, the one of the highest
    /// view. In increasing order.
    pub prepared: Vec<Prepared>,
    /// The sender's signature of the above.
    pub signature: Signature,
}

wire_struct!(ViewChange { replica, view, stable, prepared, signature });

struct Unsigned<'a>(&'a ViewChange);

impl Wire for Unsigned<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.replica.put(out);
        self.0.view.put(out);
        self.0.stable.put(out);
        self.0.prepared.put(out);
    }

    fn take(_: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // It is only signed.
        Err(DecodeError::Truncated)
    }
}

impl ViewChange {
    /// Signs a view change. The signature covers a digest of everything else.
    pub fn sign(
        domain: &Digest,
        (replica, view): (ReplicaId, View),
        stable: Option<Stable>,
        prepared: Vec<Prepared>,
        signer: &dyn Signer,
    ) -> Self {
        let mut message = Self { replica, view, stable, prepared, signature: Signature([0; 64]) };
        message.signature = Context::ViewChange.sign(domain, &message.digest(), signer);
        message
    }

    /// The digest that is signed.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(Context::ViewChange.name(), &Unsigned(self))
    }

    /// The sequence number of the last stable checkpoint, n.
    pub fn stable_seq(&self, epoch: &Epoch) -> Seq {
        self.stable.as_ref().map_or(epoch.start().seq, |stable| stable.checkpoint.seq)
    }
}

/// A proposal of a new view, with the new primary's signature as a pre-prepare.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reproposal {
    /// What is proposed again.
    pub proposal: Proposal,
    /// The signature.
    pub signature: Signature,
}

wire_struct!(Reproposal { proposal, signature });

/// A new-view message: ⟨NEW-VIEW, v, V, O⟩. Batches are not in it; a replica asks for those that it lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewView {
    /// The view, v. Its primary is the sender.
    pub view: View,
    /// V: the view changes of a quorum, by replica.
    pub view_changes: Vec<ViewChange>,
    /// O: the proposals that follow from V.
    pub proposals: Vec<Reproposal>,
    /// The primary's signature of the above.
    pub signature: Signature,
}

wire_struct!(NewView { view, view_changes, proposals, signature });

struct UnsignedNewView<'a>(&'a NewView);

impl Wire for UnsignedNewView<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.view.put(out);
        self.0.view_changes.put(out);
        self.0.proposals.put(out);
    }

    fn take(_: &mut Reader<'_>) -> Result<Self, DecodeError> {
        // It is only signed.
        Err(DecodeError::Truncated)
    }
}

impl NewView {
    /// Signs a new view with these proposals.
    pub fn sign(
        domain: &Digest,
        view: View,
        view_changes: Vec<ViewChange>,
        proposals: Vec<Proposal>,
        signer: &dyn Signer,
    ) -> Self {
        let propose = |proposal| {
            let signature = Context::PrePrepare.sign(domain, &proposal, signer);
            Reproposal { proposal, signature }
        };
        let proposals = proposals.into_iter().map(propose).collect();
        let mut message = Self { view, view_changes, proposals, signature: Signature([0; 64]) };
        message.signature = Context::NewView.sign(domain, &message.digest(), signer);
        message
    }

    /// The digest that is signed.
    pub(crate) fn digest(&self) -> Digest {
        Digest::of(Context::NewView.name(), &UnsignedNewView(self))
    }
}
