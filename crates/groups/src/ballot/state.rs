//! The ballots of a group, as a part of its replicated state.

use bytes::Bytes;
use robeing_bft::{
    certificate::Seq,
    crypto::{Digest, PublicKey},
    epoch::Scope,
    error::DecodeError,
    quorum::Quorums,
    wire::{Reader, Wire},
};
use robeing_votes::{Choice, FileOutcome, Tally};

use super::{
    opening::{MAX_OPENING_BYTES, Opening},
    record::{BallotRecord, CountedVote},
    vote::MemberVote,
};
use crate::{MAX_CLOSED_BALLOTS, MAX_OPEN_BALLOTS, Signed};

/// Why a ballot is not opened, or a vote is not counted. It is a part of the replicated result, so each has a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is for another group, or for another epoch of this one.
    #[error("the ballot is of another group, or of another epoch of it")]
    OtherGroup,
    /// The member through which it is opened has no room.
    #[error("{MAX_OPEN_BALLOTS} ballots that were opened through this member are open; ask another member")]
    Full,
    /// There is no such ballot.
    #[error("the group has no such ballot")]
    Unknown,
    /// It is closed.
    #[error("the ballot is closed")]
    Closed,
    /// The member has voted.
    #[error("this member has voted in the ballot")]
    VotedBefore,
    /// The ballot has no such option.
    #[error("the ballot has no such option")]
    NoOption,
}

impl Refusal {
    const ALL: [Self; 6] =
        [Self::OtherGroup, Self::Full, Self::Unknown, Self::Closed, Self::VotedBefore, Self::NoOption];

    /// Returns the result of a call that is refused.
    pub(crate) fn to_bytes(self) -> Bytes {
        let number = Self::ALL.iter().zip(1_u8..).find(|(one, _)| **one == self).map_or(0, |(_, number)| number);
        Bytes::copy_from_slice(&[number])
    }

    /// Reads the result of a call; `None` if it is another one.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let [number] = bytes else { return None };
        Self::ALL.get(usize::from(*number).checked_sub(1)?).copied()
    }
}

/// Who votes: the members of the epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Electorate {
    pub domain: Digest,
    pub members: Vec<PublicKey>,
}

impl Electorate {
    /// Returns the members of an epoch.
    pub fn of(scope: &Scope) -> Self {
        Self { domain: *scope.domain(), members: scope.members.iter().map(|member| member.key).collect() }
    }

    /// Returns how many members have to say that a deadline is over: one of them does not lie.
    fn weak(&self) -> usize {
        Quorums::of(self.members.len()).map_or(usize::MAX, Quorums::weak)
    }
}

/// Returns the tally of no votes in a ballot of so many members.
pub(super) fn no_votes(opening: &Opening, members: usize) -> Tally {
    Tally { total: members as u64, per_option: vec![0; opening.options.len()], ..Tally::default() }
}

/// Returns whether a vote in a ballot may name this option.
pub(super) fn is_option(opening: &Opening, choice: Choice, option: u32) -> bool {
    let count = u32::try_from(opening.options.len()).unwrap_or(u32::MAX);
    if count > 0 && choice == Choice::Approve { (1..=count).contains(&option) } else { option == 0 }
}

/// A ballot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupBallot {
    /// The opening with its signature, encoded. Nobody has verified that.
    signed: Bytes,
    opening: Opening,
    /// The member through which it was opened.
    through: PublicKey,
    record: BallotRecord,
}

impl Wire for GroupBallot {
    fn put(&self, out: &mut Vec<u8>) {
        self.signed.put(out);
        self.through.put(out);
        self.record.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let signed = Bytes::take(input)?;
        // Only what was read before is written.
        let opening = Opening::read(&Signed::decoded(&signed)?).map_err(|_| DecodeError::Truncated)?;
        Ok(Self { signed, opening, through: Wire::take(input)?, record: Wire::take(input)? })
    }
}

impl GroupBallot {
    /// Returns the opening with its signature, encoded. Nobody has verified that.
    pub fn signed(&self) -> &Bytes {
        &self.signed
    }

    /// Returns what the ballot is about.
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// Returns what the ballot has come to.
    pub fn record(&self) -> &BallotRecord {
        &self.record
    }

    /// Returns whether a member has voted.
    pub fn has_voted(&self, member: &PublicKey) -> bool {
        self.record.votes.iter().any(|vote| vote.by == *member)
    }

    /// Returns whether a member has said that the deadline is over.
    pub fn has_expired_for(&self, member: &PublicKey) -> bool {
        self.record.expired.contains(member)
    }

    /// Returns whether no vote counts any more.
    pub fn is_closed(&self) -> bool {
        self.record.closed.is_some()
    }

    fn close(&mut self, seq: Seq, (outcome, option): (FileOutcome, u32)) {
        if outcome != FileOutcome::Open {
            (self.record.outcome, self.record.option, self.record.closed) = (outcome, option, Some(seq));
        }
    }

    fn decide(&self, members: usize) -> (FileOutcome, u32) {
        let mut tally = no_votes(&self.opening, members);
        for vote in &self.record.votes {
            tally.count(vote.choice, vote.option, 1);
        }
        let (numerator, denominator) = self.opening.threshold;
        tally.decide(numerator, denominator)
    }
}

/// The ballots of a group, in the order of their openings. Each member has an equal share of the room, so that one that
/// lies can't fill it, and can't have the closed ballots of others forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ballots(Vec<GroupBallot>);

impl Ballots {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    /// Reads ballots, and leaves out those of other epochs, which ended with them.
    pub(crate) fn take(input: &mut Reader<'_>, electorate: &Electorate) -> Result<Self, DecodeError> {
        let mut ballots: Vec<GroupBallot> = Wire::take(input)?;
        ballots.retain(|ballot| ballot.opening.group == electorate.domain);
        Ok(Self(ballots))
    }

    /// Returns the ballots that are known, in the order of their openings.
    pub fn all(&self) -> impl Iterator<Item = &GroupBallot> {
        self.0.iter()
    }

    /// Returns a ballot.
    pub fn get(&self, id: &Digest) -> Option<&GroupBallot> {
        self.0.iter().find(|ballot| ballot.record.ballot == *id)
    }

    fn still_open(&mut self, id: &Digest) -> Result<&mut GroupBallot, Refusal> {
        let ballot = self.0.iter_mut().find(|ballot| ballot.record.ballot == *id).ok_or(Refusal::Unknown)?;
        if ballot.is_closed() { Err(Refusal::Closed) } else { Ok(ballot) }
    }

    /// Opens a ballot, once. Returns the decision that opened it.
    pub(crate) fn open(
        &mut self,
        (seq, through): (Seq, &PublicKey),
        electorate: &Electorate,
        signed: Bytes,
        opening: Opening,
    ) -> Result<Seq, Refusal> {
        debug_assert!(signed.len() <= MAX_OPENING_BYTES);
        if opening.group != electorate.domain {
            return Err(Refusal::OtherGroup);
        }
        let ballot = Digest::of_bytes(&signed);
        if let Some(known) = self.get(&ballot) {
            return Ok(known.record.opened);
        }
        let of_member = |is_closed: bool| {
            let is_it = move |one: &&GroupBallot| one.through == *through && one.is_closed() == is_closed;
            self.0.iter().filter(is_it).count()
        };
        if of_member(false) >= MAX_OPEN_BALLOTS {
            return Err(Refusal::Full);
        }
        if of_member(true) >= MAX_CLOSED_BALLOTS
            && let Some(oldest) = self.0.iter().position(|one| one.through == *through && one.is_closed())
        {
            self.0.remove(oldest);
        }
        let (outcome, option, closed) = (FileOutcome::Open, 0, None);
        let (votes, expired) = (Vec::new(), Vec::new());
        let record = BallotRecord { ballot, opened: seq, closed, outcome, option, votes, expired };
        self.0.push(GroupBallot { signed, opening, through: *through, record });
        Ok(seq)
    }

    /// Counts the vote of a member, once. Returns the decision that contains it.
    pub(crate) fn vote(
        &mut self,
        (seq, by): (Seq, &PublicKey),
        electorate: &Electorate,
        vote: MemberVote,
    ) -> Result<Seq, Refusal> {
        let ballot = self.still_open(&vote.ballot)?;
        if ballot.has_voted(by) {
            return Err(Refusal::VotedBefore);
        }
        let MemberVote { choice, option, reason, .. } = vote;
        if !is_option(&ballot.opening, choice, option) {
            return Err(Refusal::NoOption);
        }
        ballot.record.votes.push(CountedVote { by: *by, choice, option, reason, seq });
        ballot.close(seq, ballot.decide(electorate.members.len()));
        Ok(seq)
    }

    /// Notes that a deadline is over by the clock of a member.
    pub(crate) fn expire(
        &mut self,
        (seq, by): (Seq, &PublicKey),
        electorate: &Electorate,
        id: &Digest,
    ) -> Result<Seq, Refusal> {
        let ballot = self.still_open(id)?;
        if !ballot.has_expired_for(by) {
            ballot.record.expired.push(*by);
        }
        if ballot.record.expired.len() >= electorate.weak() {
            ballot.close(seq, (FileOutcome::Expired, 0));
        }
        Ok(seq)
    }
}
