//! What a ballot has come to.

use robeing_bft::{
    certificate::Seq,
    crypto::{Context, Digest, PublicKey, Signature, Signer},
    epoch::Scope,
    error::DecodeError,
    wire::{Reader, Wire},
};
use robeing_votes::{Choice, FileOutcome};

use super::vote::{put_reason, take_choice, take_reason};

/// A vote that was counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CountedVote {
    /// The key of the member.
    pub by: PublicKey,
    /// What it has voted.
    pub choice: Choice,
    /// The number of the approved option, from 1; 0: none.
    pub option: u32,
    /// Why.
    pub reason: String,
    /// The number of the decision that contains the vote.
    pub seq: Seq,
}

impl Wire for CountedVote {
    fn put(&self, out: &mut Vec<u8>) {
        self.by.put(out);
        self.choice.number().put(out);
        self.option.put(out);
        put_reason(&self.reason, out);
        self.seq.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            by: Wire::take(input)?,
            choice: take_choice(input)?,
            option: Wire::take(input)?,
            reason: take_reason(input)?,
            seq: Wire::take(input)?,
        })
    }
}

/// Returns the number of an outcome.
pub(super) fn number_of(outcome: FileOutcome) -> u8 {
    match outcome {
        FileOutcome::Open => 0,
        FileOutcome::Approved => 1,
        FileOutcome::Rejected => 2,
        FileOutcome::Expired => 3,
    }
}

/// Reads the number of an outcome.
pub(super) fn take_outcome(input: &mut Reader<'_>) -> Result<FileOutcome, DecodeError> {
    match u8::take(input)? {
        0 => Ok(FileOutcome::Open),
        1 => Ok(FileOutcome::Approved),
        2 => Ok(FileOutcome::Rejected),
        3 => Ok(FileOutcome::Expired),
        tag => Err(DecodeError::UnknownTag { what: "an outcome", tag }),
    }
}

/// What a ballot has come to. Once it is closed, the records of all honest members are equal, byte by byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BallotRecord {
    /// The ballot's id.
    pub ballot: Digest,
    /// The number of the decision that opened it.
    pub opened: Seq,
    /// The number of the decision that closed it; `None`: it is open.
    pub closed: Option<Seq>,
    /// What became of it.
    pub outcome: FileOutcome,
    /// The number of the approved option, from 1; 0: none.
    pub option: u32,
    /// The votes, in their order.
    pub votes: Vec<CountedVote>,
    /// The keys of the members that have said that the deadline is over, in their order.
    pub expired: Vec<PublicKey>,
}

impl Wire for BallotRecord {
    fn put(&self, out: &mut Vec<u8>) {
        self.ballot.put(out);
        self.opened.put(out);
        self.closed.put(out);
        number_of(self.outcome).put(out);
        self.option.put(out);
        self.votes.put(out);
        self.expired.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            ballot: Wire::take(input)?,
            opened: Wire::take(input)?,
            closed: Wire::take(input)?,
            outcome: take_outcome(input)?,
            option: Wire::take(input)?,
            votes: Wire::take(input)?,
            expired: Wire::take(input)?,
        })
    }
}

impl BallotRecord {
    /// Signs the record of a closed ballot as a member of the epoch; `None` if it is open, and so not final.
    pub fn sign(&self, scope: &Scope, signer: &dyn Signer) -> Option<Signature> {
        self.closed.is_some().then(|| Context::Attestation.sign(scope.domain(), self, signer))
    }
}
