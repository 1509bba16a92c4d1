//! The ballots of a group, as a part of its replicated state.
//!
//! **A ballot is opened once.** Whoever has its opening could otherwise have it opened again when it is closed and
//! forgotten, and it could come to something else, also signed by a quorum. So the ids of forgotten ballots are kept
//! until their deadlines are over, and no ballot is opened whose deadline is. The log's time, by which that is judged,
//! is what f + 1 members have reached by what they said of deadlines: one of them does not lie.
//!
//! **A ballot is kept by each member through which it was opened**, and forgotten when all have forgotten it. So a
//! member that lies, and is the first to have somebody's ballot opened, can't have it forgotten.

use std::{cmp::Reverse, collections::BTreeMap};

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
use crate::{MAX_CLOSED_BALLOTS, MAX_FORGOTTEN_BALLOTS, MAX_GROUP_MEMBERS, MAX_OPEN_BALLOTS, Signed};

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
    /// Its deadline is over by the clocks of f + 1 members.
    #[error("the deadline of the ballot is over")]
    Over,
    /// Too many ballots that were opened through the member were closed before their deadlines.
    #[error(
        "{MAX_FORGOTTEN_BALLOTS} ballots that were opened through this member were closed before their deadlines, \
         which are not over yet; ask another member"
    )]
    Many,
}

impl Refusal {
    const ALL: [Self; 8] = [
        Self::OtherGroup,
        Self::Full,
        Self::Unknown,
        Self::Closed,
        Self::VotedBefore,
        Self::NoOption,
        Self::Over,
        Self::Many,
    ];

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

fn put_count(count: usize, out: &mut Vec<u8>) {
    u32::try_from(count).unwrap_or(u32::MAX).put(out);
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
    /// The members through which it was opened, and which keep it.
    through: Vec<PublicKey>,
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

/// A ballot that was closed and forgotten before its deadline, so that it is not opened again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Forgotten {
    ballot: Digest,
    deadline_ms: u64,
    /// The member that has kept it for longest.
    through: PublicKey,
}

impl Wire for Forgotten {
    fn put(&self, out: &mut Vec<u8>) {
        self.ballot.put(out);
        self.deadline_ms.put(out);
        self.through.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { ballot: Wire::take(input)?, deadline_ms: Wire::take(input)?, through: Wire::take(input)? })
    }
}

/// The ballots of a group, in the order of their openings. Each member has an equal share of the room, so that one that
/// lies can't fill it, and can't have the closed ballots of others forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ballots {
    all: Vec<GroupBallot>,
    forgotten: Vec<Forgotten>,
    /// The latest deadline of which each member has said that it is over, Unix milliseconds.
    clocks: BTreeMap<PublicKey, u64>,
}

impl Ballots {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.forgotten.is_empty() && self.clocks.is_empty()
    }

    pub(crate) fn put(&self, electorate: &Electorate, out: &mut Vec<u8>) {
        electorate.domain.put(out);
        self.all.put(out);
        put_count(self.forgotten.len(), out);
        self.forgotten.iter().for_each(|one| one.put(out));
        put_count(self.clocks.len(), out);
        for (member, time) in &self.clocks {
            member.put(out);
            time.put(out);
        }
    }

    /// Reads ballots. Those of another epoch have ended with it, and are left out.
    pub(crate) fn take(input: &mut Reader<'_>, electorate: &Electorate) -> Result<Self, DecodeError> {
        let domain = Digest::take(input)?;
        let all = Wire::take(input)?;
        let count = input.length(MAX_GROUP_MEMBERS * MAX_FORGOTTEN_BALLOTS)?;
        let forgotten = (0..count).map(|_| Forgotten::take(input)).collect::<Result<_, _>>()?;
        let count = input.length(MAX_GROUP_MEMBERS)?;
        let clock = |_| Ok((PublicKey::take(input)?, u64::take(input)?));
        let clocks = (0..count).map(clock).collect::<Result<_, DecodeError>>()?;
        Ok(if domain == electorate.domain { Self { all, forgotten, clocks } } else { Self::default() })
    }

    /// Returns the ballots that are known, in the order of their openings.
    pub fn all(&self) -> impl Iterator<Item = &GroupBallot> {
        self.all.iter()
    }

    /// Returns a ballot.
    pub fn get(&self, id: &Digest) -> Option<&GroupBallot> {
        self.all.iter().find(|ballot| ballot.record.ballot == *id)
    }

    /// Returns a forgotten ballot, with its deadline, Unix milliseconds, of which a member should say when it is over:
    /// room for more of them is short, and the member has not said that of a later one. It is the next one of those.
    pub fn awaited(&self, member: &PublicKey) -> Option<(Digest, u64)> {
        let mut counts: BTreeMap<&PublicKey, usize> = BTreeMap::new();
        self.forgotten.iter().for_each(|one| *counts.entry(&one.through).or_default() += 1);
        let said = self.clocks.get(member).copied().unwrap_or_default();
        let many = MAX_FORGOTTEN_BALLOTS / 2;
        let is_short = |through: &PublicKey| counts.get(through).is_some_and(|count| *count > many);
        let awaited = self.forgotten.iter().filter(|one| one.deadline_ms > said && is_short(&one.through));
        awaited.min_by_key(|one| one.deadline_ms).map(|one| (one.ballot, one.deadline_ms))
    }

    /// Returns the log's time: the latest deadline that is over by the clock of a member that does not lie, Unix
    /// milliseconds.
    fn time(&self, electorate: &Electorate) -> u64 {
        let mut said: Vec<u64> = self.clocks.values().copied().collect();
        said.sort_unstable_by_key(|time| Reverse(*time));
        said.get(electorate.weak().saturating_sub(1)).copied().unwrap_or_default()
    }

    fn is_forgotten(&self, id: &Digest) -> bool {
        self.forgotten.iter().any(|one| one.ballot == *id)
    }

    fn still_open(&mut self, id: &Digest) -> Result<&mut GroupBallot, Refusal> {
        let unknown = if self.is_forgotten(id) { Refusal::Closed } else { Refusal::Unknown };
        let ballot = self.all.iter_mut().find(|ballot| ballot.record.ballot == *id).ok_or(unknown)?;
        if ballot.is_closed() { Err(Refusal::Closed) } else { Ok(ballot) }
    }

    /// Makes room for one more ballot that a member keeps: it forgets the oldest closed one if there are too many.
    fn make_room(&mut self, through: &PublicKey, time: u64) -> Result<(), Refusal> {
        self.forgotten.retain(|one| one.deadline_ms > time);
        let kept = self.all.iter().enumerate().filter(|(_, one)| one.through.contains(through));
        let (closed, open): (Vec<_>, Vec<_>) = kept.partition(|(_, one)| one.is_closed());
        if open.len() >= MAX_OPEN_BALLOTS {
            return Err(Refusal::Full);
        }
        let oldest = closed.first().filter(|_| closed.len() >= MAX_CLOSED_BALLOTS).map(|(index, _)| *index);
        let Some(oldest) = oldest else { return Ok(()) };
        let Some(ballot) = self.all.get_mut(oldest) else { return Ok(()) };
        if ballot.through.len() > 1 {
            ballot.through.retain(|one| one != through);
            return Ok(());
        }
        let (deadline_ms, ballot) = (ballot.opening.deadline_ms(), ballot.record.ballot);
        if deadline_ms > time {
            let of_member = self.forgotten.iter().filter(|one| one.through == *through).count();
            if of_member >= MAX_FORGOTTEN_BALLOTS {
                return Err(Refusal::Many);
            }
            self.forgotten.push(Forgotten { ballot, deadline_ms, through: *through });
        }
        self.all.remove(oldest);
        Ok(())
    }

    /// Has one more member keep a ballot, if it has room.
    fn keep(&mut self, id: &Digest, through: &PublicKey, time: u64) {
        let is_kept = self.get(id).is_none_or(|ballot| ballot.through.contains(through));
        if is_kept || self.make_room(through, time).is_err() {
            return;
        }
        if let Some(ballot) = self.all.iter_mut().find(|ballot| ballot.record.ballot == *id) {
            ballot.through.push(*through);
        }
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
        let (ballot, time) = (Digest::of_bytes(&signed), self.time(electorate));
        if let Some(opened) = self.get(&ballot).map(|known| known.record.opened) {
            self.keep(&ballot, through, time);
            return Ok(opened);
        }
        if self.is_forgotten(&ballot) {
            return Err(Refusal::Closed);
        }
        if opening.deadline_ms() <= time {
            return Err(Refusal::Over);
        }
        self.make_room(through, time)?;
        let (outcome, option, closed) = (FileOutcome::Open, 0, None);
        let (votes, expired) = (Vec::new(), Vec::new());
        let record = BallotRecord { ballot, opened: seq, closed, outcome, option, votes, expired };
        self.all.push(GroupBallot { signed, opening, through: vec![*through], record });
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

    /// Notes that a deadline is over by the clock of a member, also if the ballot is closed.
    pub(crate) fn expire(
        &mut self,
        (seq, by): (Seq, &PublicKey),
        electorate: &Electorate,
        id: &Digest,
    ) -> Result<Seq, Refusal> {
        let deadline = self.get(id).map(|ballot| ballot.opening.deadline_ms());
        let forgotten = || self.forgotten.iter().find(|one| one.ballot == *id).map(|one| one.deadline_ms);
        let deadline = deadline.or_else(forgotten).ok_or(Refusal::Unknown)?;
        let clock = self.clocks.entry(*by).or_default();
        *clock = deadline.max(*clock);
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
