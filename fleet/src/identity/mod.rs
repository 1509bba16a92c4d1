//! Who may be in the fleet: what an administrator trusts, which key each agent was enrolled with, which proofs were
//! used, and which agents are barred. Coordinators verify proofs and certificates; what they find is decided upon here,
//! in one order for all of them.

pub(crate) mod audit;
mod bars;
pub(crate) mod command;
mod enrolment;
pub(crate) mod indexes;
mod query;
pub(crate) mod state;

use std::sync::Arc;

use bilrost::{Enumeration, Message};

use crate::{
    Role, Stamp, UnixMillis,
    limits::SPENT_PROOF_GRACE_MS,
    numbered::Entry,
    snapshot::{Rest, Untaken},
};

/// How an agent proved who it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum ProofKind {
    /// By a token of a Kubernetes service account.
    ServiceAccount = 0,
    /// By the join secret of its pool.
    PoolSecret = 1,
    /// By a join token, which can be used once.
    JoinToken = 2,
    /// Not at all: the fleet enrols agents without a proof.
    Open = 3,
}

impl ProofKind {
    /// Returns the kind in words, for messages.
    pub fn name(self) -> &'static str {
        match self {
            ProofKind::ServiceAccount => "service account",
            ProofKind::PoolSecret => "pool secret",
            ProofKind::JoinToken => "join token",
            ProofKind::Open => "no proof",
        }
    }
}

/// What identifies a proof that can be used once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct SingleUse {
    /// The proof's id, such as the digest of a token.
    #[bilrost(tag(1), encoding(plainbytes))]
    pub id: [u8; 32],
    /// The wall time at which the proof expires.
    #[bilrost(2)]
    pub expires: UnixMillis,
}

impl SingleUse {
    /// Returns the wall time from which the fleet does not remember that the proof was used.
    pub(crate) fn forgotten_at(self) -> UnixMillis {
        self.expires.saturating_add(SPENT_PROOF_GRACE_MS)
    }
}

/// The key with which an agent was enrolled. An agent has one at most.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Enrolment {
    /// The enrolment's number. A later enrolment, of whichever agent, has a higher one.
    #[bilrost(1)]
    pub epoch: u64,
    /// The agent's name.
    #[bilrost(2)]
    pub agent: Arc<str>,
    /// The agent's role.
    #[bilrost(3)]
    pub role: Role,
    /// The agent's pool.
    #[bilrost(4)]
    pub pool: Option<String>,
    /// The digest of the agent's public key.
    #[bilrost(tag(5), encoding(plainbytes))]
    pub key: [u8; 32],
    /// When the agent was enrolled.
    #[bilrost(6)]
    pub at: Stamp,
    /// How the agent proved who it is.
    #[bilrost(7)]
    pub proof: ProofKind,
    /// The proof, if it can be used once.
    #[bilrost(8)]
    pub single_use: Option<SingleUse>,
}

impl Entry for Enrolment {
    const FIELD: u32 = 6;
    const NAME: &str = "enrolments";

    fn number(&self) -> u64 {
        self.epoch
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.enrolments
    }
}

/// Why an agent is barred.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum BarKind {
    /// It does not belong to the fleet any more.
    Removed = 0,
    /// It is suspected, and kept out until this is settled.
    Quarantined = 1,
}

impl BarKind {
    /// Returns what was done to the agent, for messages.
    pub fn past(self) -> &'static str {
        match self {
            BarKind::Removed => "removed",
            BarKind::Quarantined => "quarantined",
        }
    }
}

/// An agent that may not be in the fleet.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Bar {
    /// The bar's number. A later one has a higher number.
    #[bilrost(1)]
    pub number: u64,
    /// The agent's name.
    #[bilrost(2)]
    pub agent: Arc<str>,
    /// Why the agent is barred.
    #[bilrost(3)]
    pub kind: BarKind,
    /// When the agent was barred.
    #[bilrost(4)]
    pub at: Stamp,
    /// The reason as text.
    #[bilrost(5)]
    pub reason: String,
    /// Who barred the agent.
    #[bilrost(6)]
    pub by: String,
}

impl Entry for Bar {
    const FIELD: u32 = 7;
    const NAME: &str = "bars";

    fn number(&self) -> u64 {
        self.number
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.bars
    }
}

/// A proof that was used and must not be used again.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(crate) struct SpentProof {
    /// The number in the order of use.
    #[bilrost(1)]
    pub number: u64,
    #[bilrost(2)]
    pub proof: SingleUse,
}

impl Entry for SpentProof {
    const FIELD: u32 = 8;
    const NAME: &str = "used proofs";

    fn number(&self) -> u64 {
        self.number
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.spent
    }
}
