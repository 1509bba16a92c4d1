//! The commands for ballots, and their bounds.

use std::collections::BTreeSet;

use bilrost::{Message, Oneof};
use bytes::Bytes;

use super::{
    Ballot, BallotState, Choice, Elector, NOTICE_KIND, NOTICE_SENDER, fraction::Fraction, largest_vote,
    together::CastVotes,
};
use crate::{
    BallotId, Effect, Fleet, LetterId, PostLetter, Refusal, Reply, Stamp, UnixMillis,
    config::{check_length, check_name, invalid},
    limits::{
        ELECTOR_OVERHEAD, LEAST_BALLOT_BYTES, MAX_BALLOT_DURATION_MS, MAX_BALLOT_FLEET_BYTES, MAX_BALLOT_OPTIONS,
        MAX_BINDING_BYTES, MAX_ELECTORS, MAX_ENVELOPE_BYTES, MAX_LETTER_TTL_MS, MAX_NOTICE_BYTES, MAX_OPTION_BYTES,
        MAX_QUESTION_BYTES, MAX_SENDER_BYTES, MAX_VOTE_AUTHORITY_BYTES, MAX_VOTE_CERTIFICATE_BYTES,
        MAX_VOTE_REASON_BYTES, MAX_VOTE_WEIGHT, MIN_BALLOT_OPTIONS,
    },
    steps::Jobs,
    tasks::attempts::cut,
};

/// The priority of the letters that tell agents of a ballot: above the default, because a deadline runs.
const NOTICE_PRIORITY: u8 = 8;

/// A command for a ballot. All need [`Feature::Ballots`](crate::Feature::Ballots). All domains share one range of field
/// numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum BallotCommand {
    /// Opens a ballot, and posts the letters that tell the agents in its electorate.
    #[bilrost(28)]
    Open(OpenBallot),
    /// Casts a member's vote. Its first one counts.
    #[bilrost(29)]
    Cast(CastVote),
    /// Casts votes of one member, one after the other.
    #[bilrost(160)]
    CastAll(CastVotes),
}

/// A ballot as it is opened.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct OpenBallot {
    /// The ballot's id, drawn by whoever opens it: a second ballot with the same id and digest is the same ballot.
    #[bilrost(1)]
    pub id: BallotId,
    /// Who opens it; at most [`MAX_SENDER_BYTES`].
    #[bilrost(2)]
    pub opened_by: String,
    /// The question; at most [`MAX_QUESTION_BYTES`].
    #[bilrost(3)]
    pub question: String,
    /// The options: none, or [`MIN_BALLOT_OPTIONS`] to [`MAX_BALLOT_OPTIONS`] different ones of at most
    /// [`MAX_OPTION_BYTES`].
    #[bilrost(4)]
    pub options: Vec<String>,
    /// Who can vote: 1 to [`MAX_ELECTORS`], by name.
    #[bilrost(5)]
    pub electorate: Vec<Elector>,
    /// The share of the weight of the whole electorate that must approve.
    #[bilrost(6)]
    pub threshold: Fraction,
    /// How long it is open at most, ms of fleet time; 1 to [`MAX_BALLOT_DURATION_MS`].
    #[bilrost(7)]
    pub ttl: u64,
    /// The digest of its content. The coordinator that proposes the ballot computes it, because nothing that takes long
    /// may be done while the state is locked.
    #[bilrost(tag(8), encoding(plainbytes))]
    pub digest: [u8; 32],
    /// The payload of the letters to agents; at most [`MAX_NOTICE_BYTES`].
    #[bilrost(9)]
    pub notice: Bytes,
    /// The fleet, as the digest and the votes name it; at most [`MAX_BALLOT_FLEET_BYTES`].
    #[bilrost(10)]
    pub fleet: String,
    /// The digest of the addresses and the weights, as whoever opens it wrote them. The state keeps it, so that a
    /// coordinator can tell whether the same is asked again, although the addresses stand for others by then.
    #[bilrost(tag(11), encoding(plainbytes))]
    pub asked: [u8; 32],
}

/// A vote as it is cast.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct CastVote {
    /// The ballot.
    #[bilrost(1)]
    pub ballot: BallotId,
    /// The member's name in the electorate.
    #[bilrost(2)]
    pub member: String,
    /// What it says.
    #[bilrost(3)]
    pub choice: Choice,
    /// The number of the option that it approves, from 1; 0 if the ballot has none, or the vote does not approve.
    #[bilrost(4)]
    pub option: u32,
    /// Why; cut to [`MAX_VOTE_REASON_BYTES`].
    #[bilrost(5)]
    pub reason: String,
    /// The proof, which the coordinator has checked; `None` if the coordinator only attests to it.
    #[bilrost(6)]
    pub evidence: Option<VoteEvidence>,
    /// The name of the coordinator that checked who casts the vote.
    #[bilrost(7)]
    pub attested_by: String,
}

/// The proof of a vote.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct VoteEvidence {
    /// The signed vote; at most [`MAX_ENVELOPE_BYTES`].
    #[bilrost(1)]
    pub envelope: Bytes,
    /// What binds the key that signed it to the certificate; at most [`MAX_BINDING_BYTES`].
    #[bilrost(2)]
    pub binding: Bytes,
    /// The member's certificate, DER; at most [`MAX_VOTE_CERTIFICATE_BYTES`].
    #[bilrost(3)]
    pub certificate: Bytes,
    /// The certificate of the authority that issued it, DER; at most [`MAX_VOTE_AUTHORITY_BYTES`].
    #[bilrost(4)]
    pub authority: Bytes,
}

/// What is fixed when a ballot is opened.
pub(crate) struct Content<'a> {
    pub opened_by: &'a str,
    pub question: &'a str,
    pub options: &'a [String],
    pub electorate: &'a [Elector],
    pub threshold: Fraction,
    pub ttl: u64,
    pub fleet: &'a str,
}

impl Content<'_> {
    /// Refuses what is out of bounds.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        for (field, text, most) in [
            ("opened_by", self.opened_by, MAX_SENDER_BYTES),
            ("question", self.question, MAX_QUESTION_BYTES),
            ("fleet", self.fleet, MAX_BALLOT_FLEET_BYTES),
        ] {
            if text.is_empty() {
                return Err(invalid(field, "must not be empty"));
            }
            check_length(field, text, most)?;
        }
        self.check_options()?;
        self.check_electorate()?;
        self.threshold.check().map_err(|error| invalid("threshold", error.to_string()))?;
        if !(1..=MAX_BALLOT_DURATION_MS).contains(&self.ttl) {
            let problem = format!("is {} ms, must be 1 to {MAX_BALLOT_DURATION_MS} ms (30 days)", self.ttl);
            return Err(invalid("ttl", problem));
        }
        Ok(())
    }

    fn check_options(&self) -> Result<(), Refusal> {
        let count = self.options.len();
        if count != 0 && !(MIN_BALLOT_OPTIONS..=MAX_BALLOT_OPTIONS).contains(&count) {
            let problem =
                format!("has {count} entries, must have none or {MIN_BALLOT_OPTIONS} to {MAX_BALLOT_OPTIONS}");
            return Err(invalid("options", problem));
        }
        let mut known = BTreeSet::new();
        for option in self.options {
            if option.is_empty() {
                return Err(invalid("options", "an option must not be empty"));
            }
            check_length("options", option, MAX_OPTION_BYTES)?;
            if !known.insert(option) {
                return Err(invalid("options", format!("{option:?} is there twice")));
            }
        }
        Ok(())
    }

    fn check_electorate(&self) -> Result<(), Refusal> {
        let (field, count) = ("electorate", self.electorate.len());
        if !(1..=MAX_ELECTORS).contains(&count) {
            return Err(invalid(field, format!("has {count} members, must have 1 to {MAX_ELECTORS}")));
        }
        if !self.electorate.is_sorted_by(|one, next| one.name < next.name) {
            return Err(invalid(field, "must be in the order of the names, each once"));
        }
        let mut letters = BTreeSet::new();
        for Elector { name, weight, letter, signs: _ } in self.electorate {
            check_name("electorate.name", name)?;
            if !(1..=MAX_VOTE_WEIGHT).contains(weight) {
                let problem = format!("of {name} is {weight}, must be 1 to {MAX_VOTE_WEIGHT}");
                return Err(invalid("electorate.weight", problem));
            }
            if let Some(letter) = letter
                && !letters.insert(letter)
            {
                return Err(invalid(
                    "electorate.letter",
                    format!("{letter} is there twice; use an id for each member"),
                ));
            }
        }
        Ok(())
    }

    /// Returns the bytes of the content that count against [`MAX_BALLOT_BYTES`](crate::limits::MAX_BALLOT_BYTES).
    pub(crate) fn bytes(&self) -> u64 {
        let options: usize = self.options.iter().map(String::len).sum();
        let names: u64 = self.electorate.iter().map(|elector| elector.name.len() as u64 + ELECTOR_OVERHEAD).sum();
        (self.opened_by.len() + self.question.len() + self.fleet.len() + options) as u64 + names
    }

    /// Returns the bytes that the votes of all members count for at most.
    pub(crate) fn votes_bytes(&self) -> u64 {
        self.electorate.iter().map(|elector| largest_vote(&elector.name)).sum()
    }
}

impl OpenBallot {
    /// Returns the ballot as it is right after its opening, with this number.
    pub fn opened(self, seq: u64, now: Stamp) -> Ballot {
        Ballot {
            seq,
            id: self.id,
            opened_by: self.opened_by,
            question: self.question,
            options: self.options,
            electorate: self.electorate,
            threshold: self.threshold,
            opened: now,
            expires: now.fleet.saturating_add(self.ttl),
            ttl: self.ttl,
            digest: self.digest,
            votes: Vec::new(),
            state: BallotState::Open,
            fleet: self.fleet,
            asked: self.asked,
        }
    }

    /// Refuses a ballot that is out of bounds, whatever the fleet's state.
    ///
    /// # Errors
    /// Returns [`Refusal::Invalid`], which names the field.
    pub fn check(&self) -> Result<(), Refusal> {
        self.content().check()?;
        if self.notice.len() > MAX_NOTICE_BYTES {
            let problem = format!("has {} bytes, the most is {MAX_NOTICE_BYTES}", self.notice.len());
            return Err(invalid("notice", problem));
        }
        Ok(())
    }

    fn content(&self) -> Content<'_> {
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

    /// Returns the bytes that the ballot counts for while nobody has voted, with room for all votes.
    pub fn counted_bytes(&self) -> u64 {
        let content = self.content();
        (content.bytes() + content.votes_bytes()).max(LEAST_BALLOT_BYTES)
    }

    /// Returns the letters that tell the agents in the electorate of the ballot.
    pub(crate) fn notices(&self, sent: UnixMillis) -> Vec<PostLetter> {
        let agents = self.electorate.iter().filter_map(|elector| Some((elector.letter?, &elector.name)));
        let notice = |(id, name): (LetterId, &String)| PostLetter {
            id,
            sender: NOTICE_SENDER.to_owned(),
            receiver: name.clone(),
            kind: NOTICE_KIND.to_owned(),
            payload: self.notice.clone(),
            key_id: String::new(),
            priority: NOTICE_PRIORITY,
            sent,
            // It is compared only with what is posted later under the same id, which is another content.
            digest: self.digest,
            ttl: self.ttl.min(MAX_LETTER_TTL_MS),
            to: format!("agent:{name}"),
        };
        agents.map(notice).collect()
    }
}

impl VoteEvidence {
    /// Refuses evidence that is out of bounds.
    fn check(&self) -> Result<(), Refusal> {
        for (field, part, most) in [
            ("evidence.envelope", &self.envelope, MAX_ENVELOPE_BYTES),
            ("evidence.binding", &self.binding, MAX_BINDING_BYTES),
            ("evidence.certificate", &self.certificate, MAX_VOTE_CERTIFICATE_BYTES),
            ("evidence.authority", &self.authority, MAX_VOTE_AUTHORITY_BYTES),
        ] {
            if !(1..=most).contains(&part.len()) {
                return Err(invalid(field, format!("has {} bytes, must have 1 to {most}", part.len())));
            }
        }
        Ok(())
    }
}

impl CastVote {
    /// Refuses a vote that is out of bounds, whatever the fleet's state.
    ///
    /// # Errors
    /// Returns [`Refusal::Invalid`], which names the field.
    pub fn check(&self) -> Result<(), Refusal> {
        check_name("member", &self.member)?;
        check_name("attested_by", &self.attested_by)?;
        self.evidence.as_ref().map_or(Ok(()), VoteEvidence::check)
    }

    /// Cuts a reason that is too long. Coordinators do this before a vote enters the log, so that what is cut is not
    /// replicated.
    #[must_use]
    pub fn within_limits(mut self) -> Self {
        cut(&mut self.reason, MAX_VOTE_REASON_BYTES, false);
        self
    }
}

impl Fleet {
    pub(crate) fn run_ballots(&mut self, command: BallotCommand, jobs: &mut Jobs, effects: &mut Vec<Effect>) -> Reply {
        match command {
            BallotCommand::Open(ballot) => self.open_ballot(ballot, jobs, effects),
            BallotCommand::Cast(vote) => self.cast_vote(vote.within_limits(), effects),
            BallotCommand::CastAll(votes) => self.cast_votes(votes, effects),
        }
    }
}
