//! Whether a ballot's file is right.

use std::{collections::BTreeSet, slice};

use robeing_identity::{TrustBundle, digest};

use super::{BallotFile, FileEvidence, FileOutcome, FileVote};
use crate::{Choice, Evidence, Expect, hex, verify};

/// What was found in a ballot's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Whether the recorded digest is that of the ballot's content.
    pub digest_matches: bool,
    /// The votes, in the order of the file.
    pub votes: Vec<CheckedVote>,
    /// The count of the votes that are not wrong.
    pub tally: Tally,
    /// What these votes decide: approved, rejected, or open, which becomes expired at the deadline.
    pub decided: FileOutcome,
    /// The number of the option that they approve, from 1; 0: none.
    pub decided_option: u32,
    /// Whether the recorded outcome follows from these votes.
    pub outcome_follows: bool,
    /// Which of the recorded times contradict each other, if any do.
    pub contradiction: Option<String>,
    /// The SHA-256 digests of the authorities' certificates, in the order of the file.
    pub authorities: Vec<[u8; 32]>,
}

impl Report {
    /// Returns whether nothing is wrong: neither the digest nor a vote nor a time, and the recorded outcome follows.
    /// Votes that are only attested are not wrong, but nothing proves them: the writer of the file may have
    /// invented them.
    pub fn is_right(&self) -> bool {
        let wrong = |vote: &CheckedVote| matches!(vote.standing, Standing::Wrong(_));
        let is_wrong = !self.digest_matches || self.contradiction.is_some() || self.votes.iter().any(wrong);
        self.outcome_follows && !is_wrong
    }

    /// Returns whether everything is right and each vote is signed.
    pub fn is_proved(&self) -> bool {
        self.is_right() && self.votes.iter().all(|vote| vote.standing == Standing::Signed)
    }
}

/// A vote, and what it is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedVote {
    /// Who voted.
    pub member: String,
    /// What.
    pub choice: Choice,
    /// The number of the approved option, from 1; 0: none.
    pub option: u32,
    /// The member's weight; 0 if it is not in the electorate.
    pub weight: u64,
    /// Whether the vote is proved.
    pub standing: Standing,
}

/// Whether a vote is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is proved.
    Signed,
    /// A coordinator says so.
    Attested {
        /// The coordinator.
        by: String,
    },
    /// It does not count. The text says why.
    Wrong(String),
}

/// The count of a ballot's votes, by weight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The weight of those who approve, whichever option.
    pub approve: u64,
    /// The weight of those who reject.
    pub reject: u64,
    /// The weight of those who abstain.
    pub abstain: u64,
    /// The weight of the whole electorate.
    pub total: u64,
    /// The weight of those who approve each option, in the options' order.
    pub per_option: Vec<u64>,
}

impl Tally {
    /// Counts a vote of this weight: what it chooses, and the option's number, from 1; 0: none.
    pub fn count(&mut self, choice: Choice, option: u32, weight: u64) {
        match choice {
            Choice::Approve => self.approve += weight,
            Choice::Reject => self.reject += weight,
            Choice::Abstain => self.abstain += weight,
        }
        let chosen = usize::try_from(option).ok().and_then(|option| self.per_option.get_mut(option.checked_sub(1)?));
        if let (Choice::Approve, Some(chosen)) = (choice, chosen) {
            *chosen += weight;
        }
    }

    /// Returns what the votes decide with this threshold: approved, rejected, or open, which becomes expired at the
    /// deadline; and the number of the approved option, from 1; 0: none.
    pub fn decide(&self, numerator: u32, denominator: u32) -> (FileOutcome, u32) {
        let needed = u128::from(numerator) * u128::from(self.total);
        let reaches = |weight: u64| u128::from(weight) * u128::from(denominator) >= needed;
        let missing = self.total.saturating_sub(self.approve + self.reject + self.abstain);
        let options = if self.per_option.is_empty() { slice::from_ref(&self.approve) } else { &self.per_option[..] };
        if let Some(chosen) = options.iter().position(|weight| reaches(*weight)) {
            let option = if self.per_option.is_empty() { 0 } else { chosen + 1 };
            return (FileOutcome::Approved, u32::try_from(option).unwrap_or(u32::MAX));
        }
        let open = options.iter().any(|weight| reaches(weight + missing));
        (if open { FileOutcome::Open } else { FileOutcome::Rejected }, 0)
    }
}

impl BallotFile {
    /// Verifies the votes, the outcome and the times. With `trusted`, only certificates of its authorities prove a vote, and one
    /// that is not signed is wrong; without, those of any authority in the file do, and [`Report::authorities`] are to
    /// be compared with the fleet's.
    pub fn verify(&self, trusted: Option<&TrustBundle>) -> Report {
        let id = self.number();
        let content = id.map(|id| (id, self.content(id).digest()));
        let weights = self.electorate.iter().map(|elector| u64::from(elector.weight));
        let per_option = vec![0; self.options.len()];
        let mut tally = Tally { total: weights.sum(), per_option, ..Tally::default() };
        let decide = |tally: &Tally| tally.decide(self.threshold.numerator, self.threshold.denominator);
        let mut votes = Vec::with_capacity(self.votes.len());
        let mut counted: BTreeSet<&str> = BTreeSet::new();
        for vote in &self.votes {
            let is_decided = decide(&tally).0 != FileOutcome::Open;
            let standing = if is_decided {
                Standing::Wrong("the ballot was decided before it".to_owned())
            } else if counted.contains(vote.member.as_str()) {
                Standing::Wrong("it is the member's second vote".to_owned())
            } else {
                self.standing(vote, content, trusted)
            };
            let weight = self.weight(&vote.member).unwrap_or_default();
            if !matches!(standing, Standing::Wrong(_)) {
                counted.insert(&vote.member);
                tally.count(vote.choice, vote.option, weight);
            }
            let FileVote { member, choice, option, .. } = vote.clone();
            votes.push(CheckedVote { member, choice, option, weight, standing });
        }
        let (decided, decided_option) = decide(&tally);
        Report {
            digest_matches: content.is_some_and(|(_, digest)| self.digest == hex(&digest)),
            votes,
            tally,
            decided,
            decided_option,
            outcome_follows: self.follows(decided, decided_option),
            contradiction: self.contradiction(),
            authorities: self.authorities.iter().map(|authority| digest(&authority.0)).collect(),
        }
    }

    fn weight(&self, member: &str) -> Option<u64> {
        let elector = self.electorate.iter().find(|elector| elector.name == member)?;
        Some(u64::from(elector.weight))
    }

    /// Returns whether the recorded outcome is what the votes decide.
    fn follows(&self, decided: FileOutcome, option: u32) -> bool {
        let expired = decided == FileOutcome::Open && self.outcome == FileOutcome::Expired;
        let is_closed = self.outcome != FileOutcome::Open;
        (decided == self.outcome || expired) && option == self.option && is_closed == self.closed_at_ms.is_some()
    }

    /// Returns what a vote is worth by itself. `content` is the ballot's id and digest.
    fn standing(&self, vote: &FileVote, content: Option<(u128, [u8; 32])>, trusted: Option<&TrustBundle>) -> Standing {
        let options = u32::try_from(self.options.len()).unwrap_or(u32::MAX);
        let is_choice = options > 0 && vote.choice == Choice::Approve;
        let allowed = if is_choice { 1..=options } else { 0..=0 };
        let wrong = |problem: &str| Standing::Wrong(problem.to_owned());
        if self.weight(&vote.member).is_none() {
            return wrong("the member is not in the electorate");
        }
        if !allowed.contains(&vote.option) {
            return wrong("the ballot has no such option");
        }
        let Some(found) = &vote.evidence else {
            return match trusted {
                Some(_) => wrong("it is not signed, so no authority that is trusted proves it"),
                None => Standing::Attested { by: vote.attested_by.clone() },
            };
        };
        let Some((ballot, digest)) = content else { return wrong("the ballot's id is no UUID") };
        let Some(authority) = self.authorities.get(found.authority) else {
            return wrong("the authority that issued the certificate is not in the file");
        };
        let is_of = |bundle: &TrustBundle| bundle.authorities().iter().any(|known| known[..] == authority.0[..]);
        if trusted.is_some_and(|bundle| !is_of(bundle)) {
            return wrong("the authority that issued the certificate is not one of those that are trusted");
        }
        let FileEvidence { envelope, binding, certificate, .. } = found.clone();
        let (envelope, binding, certificate) = (envelope.0, binding.0, certificate.0);
        let evidence = Evidence { envelope, binding, certificate, authority: authority.0.clone() };
        let FileVote { member, choice, option, reason, at_ms, .. } = vote;
        let expect = Expect {
            fleet: &self.fleet,
            member,
            ballot,
            digest,
            choice: choice.number(),
            option: *option,
            reason,
            at_unix_ms: *at_ms,
        };
        verify(&evidence, &expect).map_or_else(|error| Standing::Wrong(error.to_string()), |()| Standing::Signed)
    }
}
