//! Epochs. Members, their keys, the clients and the parameters are fixed for an epoch; the next epoch is the last
//! decision of the one before, and a quorum of its members must have approved it.

use std::{collections::BTreeSet, fmt, ops::Deref, sync::Arc};

use crate::{
    certificate::{Checkpoint, Decision, Endorsement, Kind, Stable, View, check_endorsements},
    crypto::{Context, Digest, PublicKey, Signature, Signer, Verifier},
    error::{EpochError, Invalid},
    limits::{
        MAX_BATCH_REQUESTS, MAX_CHECKPOINT_INTERVAL, MAX_CLIENTS, MAX_IN_FLIGHT, MAX_NAME_BYTES, MAX_TIMEOUT_MS,
        MAX_WINDOW,
    },
    message::Operation,
    quorum::Quorums,
    state::State,
    wire::{Wire, wire_newtype, wire_struct},
};

wire_newtype! {
    /// A replica: the index of a member of an epoch.
    ReplicaId(u16)
}

impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

wire_newtype! {
    /// The identity of a member's disk: 16 random bytes that are on the disk before the group admits the member, and
    /// never on another disk. A member that lost its disk has a new one.
    Incarnation([u8; 16])
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}", self.0[0], self.0[1])
    }
}

/// A member of an epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The name, 1 to 253 bytes.
    pub name: String,
    /// The identity of its disk.
    pub incarnation: Incarnation,
    /// The key with which it signs.
    pub key: PublicKey,
}

wire_struct!(Member { name, incarnation, key });

/// The parameters of an epoch, the same for all its members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parameters {
    /// Number of sequence numbers between checkpoints (K in 1999, section 4.3).
    pub checkpoint_interval: u64,
    /// Distance of the watermarks (L): at least twice the interval.
    pub window: u64,
    /// Maximum number of requests in a batch.
    pub batch_requests: u32,
    /// Maximum number of batches that the primary proposes before the first of them is executed. While it is reached,
    /// requests collect into larger batches.
    pub in_flight: u64,
    /// Timeout of a view in which the last request was executed, in milliseconds. It doubles with each view since.
    pub view_timeout_ms: u64,
    /// Time between repetitions while something is outstanding, in milliseconds.
    pub resend_ms: u64,
}

wire_struct!(Parameters { checkpoint_interval, window, batch_requests, in_flight, view_timeout_ms, resend_ms });

impl Default for Parameters {
    fn default() -> Self {
        Self {
            checkpoint_interval: 32,
            window: 64,
            batch_requests: 100,
            in_flight: 8,
            view_timeout_ms: 2_000,
            resend_ms: 500,
        }
    }
}

impl Parameters {
    fn check(&self) -> Result<(), EpochError> {
        let interval = self.checkpoint_interval;
        let bounds = [
            ("checkpoint_interval", (1..=MAX_CHECKPOINT_INTERVAL).contains(&interval)),
            ("window", self.window <= MAX_WINDOW && self.window >= interval.saturating_mul(2)),
            ("batch_requests", (1..=MAX_BATCH_REQUESTS).contains(&(self.batch_requests as usize))),
            ("in_flight", (1..=MAX_IN_FLIGHT).contains(&self.in_flight)),
            ("view_timeout_ms", (1..=MAX_TIMEOUT_MS).contains(&self.view_timeout_ms)),
            ("resend_ms", (1..=MAX_TIMEOUT_MS).contains(&self.resend_ms)),
        ];
        match bounds.into_iter().find(|(_, within)| !within) {
            Some((name, _)) => Err(EpochError::Parameter(name)),
            None => Ok(()),
        }
    }
}

/// Who decides in an epoch, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Membership {
    /// The fleet.
    pub fleet: String,
    /// The group within the fleet.
    pub group: String,
    /// The epoch's number. The first is 0.
    pub number: u64,
    /// The members; a replica's id is its index here.
    pub members: Vec<Member>,
    /// Keys of the clients that are not members, in increasing order. Members may make requests as well.
    pub clients: Vec<PublicKey>,
    /// The parameters.
    pub parameters: Parameters,
}

wire_struct!(Membership { fleet, group, number, members, clients, parameters });

impl Membership {
    /// Returns the digest that every signature of the epoch covers.
    pub fn domain(&self) -> Digest {
        Digest::of("robeing.bft.v1.membership", self)
    }

    /// Returns whether this key may make requests.
    pub fn is_client(&self, key: &PublicKey) -> bool {
        self.clients.binary_search(key).is_ok() || self.members.iter().any(|member| member.key == *key)
    }

    /// Checks the membership by itself.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn check(&self) -> Result<(), EpochError> {
        if Quorums::of(self.members.len()).is_none() {
            return Err(EpochError::Members(self.members.len()));
        }
        if self.clients.len() > MAX_CLIENTS {
            return Err(EpochError::Clients(self.clients.len()));
        }
        let names = self.members.iter().map(|member| &member.name);
        let is_bad = |name: &&String| name.is_empty() || name.len() > MAX_NAME_BYTES;
        if let Some(name) = [&self.fleet, &self.group].into_iter().chain(names).find(is_bad) {
            return Err(EpochError::Name(name.chars().take(MAX_NAME_BYTES).collect()));
        }
        let count = self.members.len();
        let keys: BTreeSet<_> = self.members.iter().map(|member| member.key).collect();
        let names: BTreeSet<_> = self.members.iter().map(|member| &member.name).collect();
        let incarnations: BTreeSet<_> = self.members.iter().map(|member| member.incarnation).collect();
        for (what, distinct) in [("key", keys.len()), ("name", names.len()), ("incarnation", incarnations.len())] {
            if distinct != count {
                return Err(EpochError::Duplicate(what));
            }
        }
        if !self.clients.is_sorted_by(|a, b| a < b) || self.clients.iter().any(|key| keys.contains(key)) {
            return Err(EpochError::ClientOrder);
        }
        self.parameters.check()
    }

    /// Checks that this membership may follow another one.
    ///
    /// # Errors
    /// If it may not.
    pub fn check_follows(&self, current: &Self) -> Result<(), EpochError> {
        self.check()?;
        let same = self.fleet == current.fleet && self.group == current.group;
        if same && current.number.checked_add(1) == Some(self.number) { Ok(()) } else { Err(EpochError::NotNext) }
    }

    /// Approves this membership as a member of the current epoch. The decision to call this is the member's own: no
    /// epoch follows that fewer than a quorum approved.
    pub fn approve(&self, current: &Scope, me: ReplicaId, signer: &dyn Signer) -> Endorsement {
        Endorsement { replica: me, signature: Context::Approval.sign(current.domain(), &self.domain(), signer) }
    }
}

/// The change to the next epoch: an operation of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochChange {
    /// The next epoch's membership.
    pub next: Membership,
    /// The approvals of a quorum of the current members, by replica.
    pub approvals: Vec<Endorsement>,
}

wire_struct!(EpochChange { next, approvals });

impl EpochChange {
    /// Checks that a quorum of the current epoch approved an allowed successor.
    pub(crate) fn check(&self, current: &Scope, verifier: &dyn Verifier) -> Result<(), Invalid> {
        self.next.check_follows(current)?;
        let need = ("a change of members", current.quorums().quorum());
        check_endorsements(current, need, Context::Approval, &self.next.domain(), &self.approvals, verifier)
    }
}

/// A checked membership, with what is derived from it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scope(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    membership: Membership,
    domain: Digest,
}

impl Deref for Scope {
    type Target = Membership;

    fn deref(&self) -> &Membership {
        &self.0.membership
    }
}

impl Scope {
    /// Checks a membership.
    ///
    /// # Errors
    /// If it is not allowed.
    pub fn new(membership: Membership) -> Result<Self, EpochError> {
        membership.check()?;
        let domain = membership.domain();
        Ok(Self(Arc::new(Inner { membership, domain })))
    }

    /// The digest that every signature of the epoch covers.
    pub fn domain(&self) -> &Digest {
        &self.0.domain
    }

    /// The sizes of the group.
    pub fn quorums(&self) -> Quorums {
        Quorums::of(self.members.len()).expect("the membership is checked")
    }

    /// The primary of a view.
    pub fn primary(&self, view: View) -> ReplicaId {
        // There are at most MAX_MEMBERS.
        let index = view.0.checked_rem(self.members.len() as u64).unwrap_or_default();
        ReplicaId(u16::try_from(index).unwrap_or_default())
    }

    /// All replicas.
    pub fn replicas(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        (0..u16::try_from(self.members.len()).unwrap_or_default()).map(ReplicaId)
    }

    /// The key of a replica, or nothing if it is no member.
    pub fn key(&self, replica: ReplicaId) -> Option<&PublicKey> {
        self.members.get(usize::from(replica.0)).map(|member| &member.key)
    }

    /// Checks a member's signature.
    pub(crate) fn check_signature<T: Wire>(
        &self,
        context: Context,
        replica: ReplicaId,
        value: &T,
        signature: &Signature,
        verifier: &dyn Verifier,
    ) -> Result<(), Invalid> {
        let key = self.key(replica).ok_or(Invalid::NotAMember(replica))?;
        let good = context.verify(self.domain(), value, key, signature, verifier);
        if good { Ok(()) } else { Err(Invalid::Signature(context.name())) }
    }
}

/// An epoch: who decides, and the state from which they start. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Epoch {
    scope: Scope,
    start: Checkpoint,
}

impl Deref for Epoch {
    type Target = Scope;

    fn deref(&self) -> &Scope {
        &self.scope
    }
}

impl Epoch {
    /// Makes the first epoch of a group, which starts from this state.
    ///
    /// # Errors
    /// If the membership is not allowed.
    pub fn first(membership: Membership, state: &State) -> Result<Self, EpochError> {
        Ok(Self { scope: Scope::new(membership)?, start: state.checkpoint() })
    }

    /// Returns the epoch that a decision of the one before begins. A quorum of that one proves which state it starts
    /// from; whether a state is that one, is checked when a replica starts with it.
    ///
    /// # Errors
    /// If it proves nothing, with the reason.
    pub fn following(
        ending: &Scope,
        decision: &Decision,
        stable: &Stable,
        verifier: &dyn Verifier,
    ) -> Result<Self, Invalid> {
        decision.check(ending, verifier)?;
        stable.check(ending, verifier)?;
        let change = match decision.batch.requests() {
            [request] if decision.certificate.proposal.kind == Kind::Epoch => match &request.operation {
                Operation::NewEpoch(change) => change,
                Operation::Call(_) => return Err(Invalid::Handover("decision")),
            },
            _ => return Err(Invalid::Handover("decision")),
        };
        if stable.checkpoint.seq != decision.seq() {
            return Err(Invalid::Handover("checkpoint"));
        }
        Ok(Self { scope: Scope::new(change.next.clone())?, start: stable.checkpoint })
    }

    /// The state from which the epoch starts.
    pub fn start(&self) -> Checkpoint {
        self.start
    }

    /// The membership, with what is derived from it.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }
}

/// What proves to a member of the next epoch where that epoch starts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Handover {
    /// The decision for the next epoch, which is the last one of its epoch.
    pub decision: Decision,
    /// The proof of the state after it.
    pub stable: Stable,
    /// The state.
    pub state: State,
}

wire_struct!(Handover { decision, stable, state });

impl Handover {
    /// Verifies the handover with the membership of the epoch that ends, and returns the epoch that begins.
    ///
    /// # Errors
    /// If it proves nothing, with the reason.
    pub fn verify(&self, ending: &Membership, verifier: &dyn Verifier) -> Result<Epoch, Invalid> {
        let epoch = Epoch::following(&Scope::new(ending.clone())?, &self.decision, &self.stable, verifier)?;
        let is_next = self.state.next_epoch() == Some(&epoch.scope.0.membership);
        if self.state.checkpoint() != self.stable.checkpoint || !is_next {
            return Err(Invalid::Handover("state"));
        }
        Ok(epoch)
    }
}
