//! The calls of a group's ledger. What is none, a member that lies has made up, and all honest members ignore it alike.

use bytes::Bytes;
use robeing_bft::{crypto::Digest, wire::Wire};

use crate::{
    Proposal, Signed,
    ballot::{MAX_OPENING_BYTES, MemberVote, Opening},
};

/// Begins the opening of a ballot. A signed statement can't begin like that: it would be too long.
const OPEN: &[u8; 8] = b"RB-open1";
/// Begins a vote.
const VOTE: &[u8; 8] = b"RB-vote1";
/// Begins what a member says about a deadline.
const EXPIRE: &[u8; 8] = b"RB-over1";

/// A call of a group's ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// To decide a proposal.
    Propose(Signed, Proposal),
    /// To open a ballot.
    Open(Signed, Opening),
    /// The vote of the member that calls.
    Vote(MemberVote),
    /// By the clock of the member that calls, the deadline of this ballot is over.
    Expire(Digest),
}

fn after(kind: &[u8; 8], rest: &[u8]) -> Bytes {
    [&kind[..], rest].concat().into()
}

impl Call {
    /// Reads a call; `None` if it is none.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        if let Some(opening) = bytes.strip_prefix(OPEN) {
            if opening.len() > MAX_OPENING_BYTES {
                return None;
            }
            let signed = Signed::decoded(opening).ok()?;
            let opening = Opening::read(&signed).ok()?;
            return Some(Self::Open(signed, opening));
        }
        if let Some(vote) = bytes.strip_prefix(VOTE) {
            return MemberVote::decoded(vote).ok().map(Self::Vote);
        }
        if let Some(ballot) = bytes.strip_prefix(EXPIRE) {
            return Digest::decoded(ballot).ok().map(Self::Expire);
        }
        let signed = Signed::decoded(bytes).ok()?;
        let proposal = Proposal::read(&signed).ok()?;
        Some(Self::Propose(signed, proposal))
    }

    /// Returns the call that has a proposal decided.
    pub fn propose(proposal: &Signed) -> Bytes {
        proposal.encoded().into()
    }

    /// Returns the call that opens a ballot.
    pub fn open(opening: &Signed) -> Bytes {
        after(OPEN, &opening.encoded())
    }

    /// Returns the call that is a vote.
    pub fn vote(vote: &MemberVote) -> Bytes {
        after(VOTE, &vote.encoded())
    }

    /// Returns the call that says that the deadline of a ballot is over.
    pub fn expire(ballot: &Digest) -> Bytes {
        after(EXPIRE, &ballot.encoded())
    }
}
