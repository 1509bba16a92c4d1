//! Ballots: questions that an electorate votes on. The electorate, the threshold and the deadline are fixed when a ballot
//! is opened. It is closed when enough of the weight of the whole electorate approves, when that can't happen any more,
//! or at its deadline. Each member's first vote counts, and every vote is kept with its evidence.
//!
//! The coordinators check signatures before they propose a vote; the state machine keeps the evidence, so that anyone can
//! check it again.

pub(crate) mod audit;
pub(crate) mod command;
pub(crate) mod fraction;
pub(crate) mod indexes;
mod opening;
pub(crate) mod query;
pub(crate) mod state;
#[cfg(test)]
mod tests;
pub(crate) mod together;
mod voting;

use bilrost::{Enumeration, Message, Oneof};
use bytes::Bytes;

use self::{
    command::{CastVote, Content},
    fraction::Fraction,
};
use crate::{
    BallotId, FleetMillis, LetterId, Refusal, Stamp,
    config::invalid,
    limits::{
        BALLOT_TTL_MS, MAX_BINDING_BYTES, MAX_ENVELOPE_BYTES, MAX_NAME_BYTES, MAX_VOTE_CERTIFICATE_BYTES,
        MAX_VOTE_REASON_BYTES, VOTE_OVERHEAD,
    },
    numbered::Entry,
    sabotage::{Mistake, planted},
    snapshot::{Rest, Untaken},
};

/// The sender of the letters that tell agents of a ballot.
pub const NOTICE_SENDER: &str = "coordinator:ballots";
/// The type of the letters that tell agents of a ballot.
pub const NOTICE_KIND: &str = "robeing.ballot.v1";

/// What a member of an electorate says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum Choice {
    /// It is for it, or for one of the options.
    Approve = 0,
    /// It is against it.
    Reject = 1,
    /// It has no opinion.
    Abstain = 2,
}

/// A member of an electorate.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Elector {
    /// An agent's name, or `client:NAME`.
    #[bilrost(1)]
    pub name: String,
    /// How much its vote weighs; 1 to [`MAX_VOTE_WEIGHT`](crate::limits::MAX_VOTE_WEIGHT).
    #[bilrost(2)]
    pub weight: u32,
    /// The letter that tells it of the ballot, if it is an agent.
    #[bilrost(3)]
    pub letter: Option<LetterId>,
    /// Whether only a vote with evidence counts for it: whoever opened the ballot knows that it has a certificate.
    #[bilrost(4)]
    pub signs: bool,
}

/// What became of a ballot.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Oneof, Message)]
#[bilrost(distinguished)]
pub enum BallotOutcome {
    /// The deadline passed before it was decided. Silence is not a no.
    #[bilrost(empty)]
    Expired,
    /// The threshold was reached.
    #[bilrost(tag(1), message)]
    Approved {
        /// The number of the option that reached it, from 1; 0 if the ballot has no options.
        #[bilrost(1)]
        option: u32,
    },
    /// The threshold could not be reached any more, whatever those say who had not voted.
    #[bilrost(tag(2), message)]
    Rejected,
}

/// The state of a ballot.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum BallotState {
    /// Members can vote.
    #[bilrost(empty)]
    Open,
    /// Final: the outcome is known.
    #[bilrost(tag(13), message)]
    Closed {
        /// What became of the ballot.
        #[bilrost(1)]
        outcome: BallotOutcome,
        /// When it was closed.
        #[bilrost(2)]
        at: Stamp,
    },
}

/// The proof of a vote, as it is kept.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct StoredEvidence {
    /// The signed vote.
    #[bilrost(1)]
    pub envelope: Bytes,
    /// What binds the key that signed it to the certificate.
    #[bilrost(2)]
    pub binding: Bytes,
    /// The member's certificate, DER.
    #[bilrost(3)]
    pub certificate: Bytes,
    /// The number of the authority that issued the certificate; see [`Fleet::authority`](crate::Fleet::authority).
    #[bilrost(4)]
    pub authority: u64,
}

/// A vote.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Vote {
    /// The member's name in the electorate.
    #[bilrost(1)]
    pub member: String,
    /// What it says.
    #[bilrost(2)]
    pub choice: Choice,
    /// The number of the option that it approves, from 1; 0 if it approves none.
    #[bilrost(3)]
    pub option: u32,
    /// Why; at most [`MAX_VOTE_REASON_BYTES`].
    #[bilrost(4)]
    pub reason: String,
    /// When the vote was cast.
    #[bilrost(5)]
    pub at: Stamp,
    /// The coordinator that checked who cast it.
    #[bilrost(6)]
    pub attested_by: String,
    /// The proof; `None` if the coordinator's word is all there is.
    #[bilrost(7)]
    pub evidence: Option<StoredEvidence>,
}

/// An authority that issued certificates of voters. It is kept while a kept vote refers to it.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct KnownAuthority {
    /// The authority's number. Numbers are never reused.
    #[bilrost(1)]
    pub number: u64,
    /// Its certificate, DER.
    #[bilrost(2)]
    pub der: Bytes,
    /// When the first of the votes that refer to it was cast.
    #[bilrost(3)]
    pub since: Stamp,
}

/// A question and the votes on it.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Ballot {
    /// The ballot's number in the order of opening.
    #[bilrost(1)]
    pub seq: u64,
    /// The ballot's id, drawn by whoever opened it.
    #[bilrost(2)]
    pub id: BallotId,
    /// Who opened it.
    #[bilrost(3)]
    pub opened_by: String,
    /// The question.
    #[bilrost(4)]
    pub question: String,
    /// The options to choose from; none if the question is answered by yes or no.
    #[bilrost(5)]
    pub options: Vec<String>,
    /// Who can vote, by name.
    #[bilrost(6)]
    pub electorate: Vec<Elector>,
    /// The share of the weight of the whole electorate that must approve.
    #[bilrost(7)]
    pub threshold: Fraction,
    /// When it was opened.
    #[bilrost(8)]
    pub opened: Stamp,
    /// When it is closed, if it is not decided before.
    #[bilrost(9)]
    pub expires: FleetMillis,
    /// How long it is open at most, ms of fleet time.
    #[bilrost(10)]
    pub ttl: u64,
    /// The digest of its content, which the votes are bound to.
    #[bilrost(tag(11), encoding(plainbytes))]
    pub digest: [u8; 32],
    /// The votes, in the order in which they were cast.
    #[bilrost(12)]
    pub votes: Vec<Vote>,
    /// Whether it is open, or what became of it.
    #[bilrost(oneof(13))]
    pub state: BallotState,
    /// The fleet, as its votes name it.
    #[bilrost(14)]
    pub fleet: String,
    /// The digest of the addresses and the weights, as whoever opened it wrote them.
    #[bilrost(tag(15), encoding(plainbytes))]
    pub asked: [u8; 32],
}

/// The weights of a ballot's votes. Whoever is in `total` and nowhere else has not voted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// The weight of the approving votes, whichever option they are for.
    pub approve: u64,
    /// The weight of the rejecting votes.
    pub reject: u64,
    /// The weight of the abstentions.
    pub abstain: u64,
    /// The weight of the whole electorate.
    pub total: u64,
    /// The weight of the approving votes for each option.
    pub per_option: Vec<u64>,
}

impl Tally {
    /// Returns the weight of those who have not voted.
    fn missing(&self) -> u64 {
        self.total.saturating_sub(self.approve + self.reject + self.abstain)
    }
}

/// Returns the bytes that the largest vote of this member counts for.
fn largest_vote(member: &str) -> u64 {
    let texts = member.len() + MAX_VOTE_REASON_BYTES + MAX_NAME_BYTES;
    let evidence = MAX_ENVELOPE_BYTES + MAX_BINDING_BYTES + MAX_VOTE_CERTIFICATE_BYTES;
    VOTE_OVERHEAD + (texts + evidence) as u64
}

impl Vote {
    /// Returns whether casting this would be the same vote again. What is signed may contain a time and be signed with
    /// another key the next time, so the same choice for the same reason is the same vote, whatever its evidence.
    fn is_same_as(&self, cast: &CastVote) -> bool {
        let envelope = self.evidence.as_ref().map(|evidence| &evidence.envelope);
        let cast_envelope = cast.evidence.as_ref().map(|evidence| &evidence.envelope);
        let is_same_choice = (self.choice, self.option) == (cast.choice, cast.option);
        is_same_choice && (envelope == cast_envelope || self.reason == cast.reason)
    }

    fn counted_bytes(&self) -> u64 {
        let texts = self.member.len() + self.reason.len() + self.attested_by.len();
        let evidence = self
            .evidence
            .as_ref()
            .map_or(0, |evidence| evidence.envelope.len() + evidence.binding.len() + evidence.certificate.len());
        VOTE_OVERHEAD + (texts + evidence) as u64
    }
}

impl Ballot {
    /// Returns whether members can vote.
    pub fn is_open(&self) -> bool {
        self.state == BallotState::Open
    }

    /// Returns what became of the ballot; `None` if it is open.
    pub fn outcome(&self) -> Option<BallotOutcome> {
        match &self.state {
            BallotState::Open => None,
            BallotState::Closed { outcome, .. } => Some(*outcome),
        }
    }

    /// Returns a member of the electorate; `None` if there is none of this name.
    pub fn elector(&self, name: &str) -> Option<&Elector> {
        let place = self.electorate.binary_search_by(|elector| elector.name.as_str().cmp(name)).ok()?;
        self.electorate.get(place)
    }

    /// Returns a member's vote; `None` if it has not voted.
    pub fn vote_of(&self, member: &str) -> Option<&Vote> {
        self.votes.iter().find(|vote| vote.member == member)
    }

    /// Adds up the votes.
    pub fn tally(&self) -> Tally {
        let total = self.electorate.iter().map(|elector| u64::from(elector.weight)).sum();
        let mut tally = Tally { total, per_option: vec![0; self.options.len()], ..Tally::default() };
        for vote in &self.votes {
            let weight = self.elector(&vote.member).map_or(0, |elector| u64::from(elector.weight));
            match vote.choice {
                Choice::Approve => tally.approve += weight,
                Choice::Reject => tally.reject += weight,
                Choice::Abstain => tally.abstain += weight,
            }
            if let Some(place) = (vote.option as usize).checked_sub(1)
                && let Some(of_option) = tally.per_option.get_mut(place)
            {
                *of_option += weight;
            }
        }
        tally
    }

    /// Returns what the votes decide; `None` as long as those who have not voted can make a difference.
    pub(crate) fn decided(&self) -> Option<BallotOutcome> {
        let tally = self.tally();
        let missing = tally.missing();
        let all = [tally.approve];
        // Each is numbered from 1; the number of a ballot without options is 0.
        let (candidates, first) = if self.options.is_empty() { (&all[..], 0) } else { (&tally.per_option[..], 1) };
        let of_voters = planted(Mistake::ShareOfVoters);
        let whole = if of_voters { tally.total.saturating_sub(missing).max(1) } else { tally.total };
        let is_reached = |weight: u64| self.threshold.is_reached_by(weight, whole);
        if let Some((option, _)) = (first..).zip(candidates).find(|(_, weight)| is_reached(**weight)) {
            return Some(BallotOutcome::Approved { option });
        }
        let is_possible = candidates.iter().any(|weight| is_reached(weight + missing));
        if is_possible { None } else { Some(BallotOutcome::Rejected) }
    }

    /// Refuses a vote that names no option although it must, one that there is none of, or one that it must not name.
    pub(crate) fn check_option(&self, choice: Choice, option: u32) -> Result<(), Refusal> {
        let most = self.options.len();
        match (choice, most) {
            (Choice::Approve, 1..) if !(1..=most).contains(&(option as usize)) => {
                Err(invalid("option", format!("is {option}, must be 1 to {most}: the number of the approved option")))
            }
            (Choice::Approve, 0) if option != 0 => {
                Err(invalid("option", format!("is {option}, must be 0: the ballot has no options")))
            }
            (Choice::Reject | Choice::Abstain, _) if option != 0 => {
                Err(invalid("option", format!("is {option}, must be 0: only an approval is for an option")))
            }
            _ => Ok(()),
        }
    }

    /// Returns what was fixed when the ballot was opened.
    pub(crate) fn content(&self) -> Content<'_> {
        Content {
            opened_by: &self.opened_by,
            question: &self.question,
            options: &self.options,
            electorate: &self.electorate,
            threshold: self.threshold,
            ttl: self.ttl,
            fleet: &self.fleet,
        }
    }

    /// Returns the bytes that are stored and count against [`MAX_BALLOT_BYTES`](crate::limits::MAX_BALLOT_BYTES).
    pub(crate) fn stored_bytes(&self) -> u64 {
        let votes: u64 = self.votes.iter().map(Vote::counted_bytes).sum();
        self.content().bytes() + votes
    }

    /// Returns the bytes that the votes of those who have not voted yet count for at most; none once it is closed.
    pub(crate) fn reserved_bytes(&self) -> u64 {
        if !self.is_open() {
            return 0;
        }
        let cast: u64 = self.votes.iter().map(|vote| largest_vote(&vote.member)).sum();
        self.content().votes_bytes().saturating_sub(cast)
    }

    /// Returns the numbers of the authorities that the votes refer to, once for each vote.
    pub(crate) fn authorities(&self) -> impl Iterator<Item = u64> {
        self.votes.iter().filter_map(|vote| Some(vote.evidence.as_ref()?.authority))
    }

    /// Returns when the ballot expires, or is forgotten if it is closed.
    pub(crate) fn due(&self) -> FleetMillis {
        match &self.state {
            BallotState::Open => self.expires,
            BallotState::Closed { at, .. } => at.fleet.saturating_add(BALLOT_TTL_MS),
        }
    }
}

impl Entry for Ballot {
    const FIELD: u32 = 12;
    const NAME: &str = "ballots";

    fn number(&self) -> u64 {
        self.seq
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.ballots
    }
}

impl Entry for KnownAuthority {
    const FIELD: u32 = 13;
    const NAME: &str = "authorities of votes";

    fn number(&self) -> u64 {
        self.number
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.authorities
    }
}
