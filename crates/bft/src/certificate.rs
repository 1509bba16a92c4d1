//! What a quorum of signatures proves. A [`Decision`] can be verified by anyone who knows the epoch's membership.

use std::fmt;

use crate::{
    crypto::{Context, Digest, Signature, Verifier},
    epoch::{Membership, ReplicaId, Scope},
    error::Invalid,
    message::Batch,
    wire::{Reader, Wire, wire_newtype, wire_struct},
};

wire_newtype! {
    /// A sequence number: the place of a decision in the log. It goes on through epochs.
    Seq(u64)
}

wire_newtype! {
    /// A view. The primary of view v is the member v mod n.
    View(u64)
}

impl fmt::Debug for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "view {}", self.0)
    }
}

impl Seq {
    /// Returns the following number.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// Returns the preceding number.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }

    /// Returns the number that comes `distance` later.
    #[must_use]
    pub fn plus(self, distance: u64) -> Self {
        Self(self.0.saturating_add(distance))
    }
}

impl View {
    /// Returns the following view.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// What kind of batch is decided.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// The null request (1999, section 4.4): nothing is executed.
    Null,
    /// Calls of the application.
    Calls,
    /// The next epoch. It is the last decision of its epoch.
    Epoch,
}

impl Wire for Kind {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Self::Null => 0,
            Self::Calls => 1,
            Self::Epoch => 2,
        });
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, crate::error::DecodeError> {
        match u8::take(input)? {
            0 => Ok(Self::Null),
            1 => Ok(Self::Calls),
            2 => Ok(Self::Epoch),
            tag => Err(crate::error::DecodeError::UnknownTag { what: "a kind of batch", tag }),
        }
    }
}

/// What pre-prepares, prepares and commits are about: a batch at a sequence number in a view.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Proposal {
    /// The view.
    pub view: View,
    /// The sequence number.
    pub seq: Seq,
    /// The kind of batch, so that a replica without the batch knows whether the epoch ends.
    pub kind: Kind,
    /// The batch's digest.
    pub digest: Digest,
}

wire_struct!(Proposal { view, seq, kind, digest });

/// A member's signature in a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endorsement {
    /// The member.
    pub replica: ReplicaId,
    /// Its signature.
    pub signature: Signature,
}

wire_struct!(Endorsement { replica, signature });

/// Checks that exactly `need` different members signed a value.
pub(crate) fn check_endorsements<T: Wire>(
    scope: &Scope,
    (what, need): (&'static str, usize),
    context: Context,
    value: &T,
    endorsements: &[Endorsement],
    verifier: &dyn Verifier,
) -> Result<(), Invalid> {
    if endorsements.len() != need {
        return Err(Invalid::Quorum { what, have: endorsements.len(), need });
    }
    if !endorsements.is_sorted_by(|a, b| a.replica < b.replica) {
        return Err(Invalid::Order("the signers of a certificate"));
    }
    let statement = context.statement(scope.domain(), value);
    for Endorsement { replica, signature } in endorsements {
        let key = scope.key(*replica).ok_or(Invalid::NotAMember(*replica))?;
        if !verifier.verify(key, &statement, signature) {
            return Err(Invalid::Signature(what));
        }
    }
    Ok(())
}

/// The prepared certificate of a proposal (1999, section 4.2, in the form of P in section 4.4): the primary's
/// pre-prepare, and the prepares of as many backups as make a quorum with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Prepared {
    /// What was prepared.
    pub proposal: Proposal,
    /// The signature of the pre-prepare.
    pub primary: Signature,
    /// The prepares, by replica.
    pub prepares: Vec<Endorsement>,
}

wire_struct!(Prepared { proposal, primary, prepares });

impl Prepared {
    /// Checks that the certificate proves what it claims.
    pub(crate) fn check(&self, scope: &Scope, verifier: &dyn Verifier) -> Result<(), Invalid> {
        let primary = scope.primary(self.proposal.view);
        scope.check_signature(Context::PrePrepare, primary, &self.proposal, &self.primary, verifier)?;
        if self.prepares.iter().any(|one| one.replica == primary) {
            let view = self.proposal.view;
            return Err(Invalid::WrongRole { from: primary, what: "a prepare", view });
        }
        let need = scope.quorums().quorum().saturating_sub(1);
        let need = ("a prepared certificate", need);
        check_endorsements(scope, need, Context::Prepare, &self.proposal, &self.prepares, verifier)
    }
}

/// The certificate of a decision (1999, section 4.2, committed-local): a quorum of commits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// What was decided.
    pub proposal: Proposal,
    /// The commits, by replica.
    pub commits: Vec<Endorsement>,
}

wire_struct!(Certificate { proposal, commits });

impl Certificate {
    /// Checks that the certificate proves what it claims.
    pub(crate) fn check(&self, scope: &Scope, verifier: &dyn Verifier) -> Result<(), Invalid> {
        let need = ("a decision's certificate", scope.quorums().quorum());
        check_endorsements(scope, need, Context::Commit, &self.proposal, &self.commits, verifier)
    }
}

/// A decision of the group, with its proof.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The proof.
    pub certificate: Certificate,
    /// What was decided.
    pub batch: Batch,
}

wire_struct!(Decision { certificate, batch });

impl Decision {
    /// The decision's place in the log.
    pub fn seq(&self) -> Seq {
        self.certificate.proposal.seq
    }

    /// Verifies the decision with nothing but the membership of its epoch, which contains fleet, group and keys.
    ///
    /// # Errors
    /// If it proves nothing, with the reason.
    pub fn verify(&self, membership: &Membership, verifier: &dyn Verifier) -> Result<(), Invalid> {
        self.verify_in(&Scope::new(membership.clone())?, verifier)
    }

    /// Verifies the decision like [`verify`](Self::verify), for whoever verifies many of one epoch.
    ///
    /// # Errors
    /// If it proves nothing, with the reason.
    pub fn verify_in(&self, scope: &Scope, verifier: &dyn Verifier) -> Result<(), Invalid> {
        self.check(scope, verifier)
    }

    /// Checks that the decision is proven.
    pub(crate) fn check(&self, scope: &Scope, verifier: &dyn Verifier) -> Result<(), Invalid> {
        self.batch.check_matches(&self.certificate.proposal)?;
        self.certificate.check(scope, verifier)?;
        self.batch.check(scope, verifier)
    }
}

/// A replica's state after the execution of a sequence number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Checkpoint {
    /// The last executed sequence number.
    pub seq: Seq,
    /// The digest of the state.
    pub digest: Digest,
}

wire_struct!(Checkpoint { seq, digest });

/// The proof that a checkpoint is stable (1999, section 4.3): a quorum of checkpoint messages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stable {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The checkpoint messages, by replica.
    pub votes: Vec<Endorsement>,
}

wire_struct!(Stable { checkpoint, votes });

impl Stable {
    /// Checks that the certificate proves what it claims.
    pub(crate) fn check(&self, scope: &Scope, verifier: &dyn Verifier) -> Result<(), Invalid> {
        let need = ("a checkpoint's certificate", scope.quorums().quorum());
        check_endorsements(scope, need, Context::Checkpoint, &self.checkpoint, &self.votes, verifier)
    }
}
