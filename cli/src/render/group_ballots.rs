//! Ballots that the members of a group count themselves, for people.

use std::fmt::Write;

use robeing_groups::{
    Group,
    ballot::{BallotRecord, BallotReport, Opening},
};
use robeing_votes::{FileOutcome, hex};
use serde::Serialize;

use super::{table::table, words::printable};

/// A ballot of a group, for documents.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupBallotDocument<'a> {
    id: String,
    group: &'a str,
    fingerprint: String,
    question: &'a str,
    options: &'a [String],
    threshold: String,
    /// What came of it; the number of the approved option, from 1, or 0.
    outcome: FileOutcome,
    option: u32,
    /// The numbers of the decisions that opened and closed it.
    opened: u64,
    closed: Option<u64>,
    /// Who opened it; left out if nobody provably did, or that was not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    opened_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_trusted: Option<bool>,
    /// The members whose signatures prove the outcome; none: it is what one member says.
    proved_by: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    told_by: Option<&'a str>,
    votes: Vec<MemberVoteDocument<'a>>,
    not_voted: Vec<&'a str>,
    /// Where the trusted authorities came from, if any were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_from: Option<&'a str>,
    /// The SHA-256 digests of the authorities that have certified the members, if they were verified.
    authorities: &'a [String],
}

/// A member's vote.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct MemberVoteDocument<'a> {
    member: &'a str,
    vote: &'static str,
    option: u32,
    decision: u64,
    reason: &'a str,
}

/// Writes lines of a name and a value; those without a value are left out.
struct Lines(String);

impl Lines {
    fn add(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(self.0, "{:<16}{}", format!("{name}:"), printable(value));
        }
    }
}

fn option_text(opening: &Opening, number: u32) -> String {
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    let text = index.and_then(|index| opening.options.get(index));
    text.map(|text| format!("{number} ({text})")).unwrap_or_default()
}

fn outcome_word(outcome: FileOutcome) -> &'static str {
    match outcome {
        FileOutcome::Open => "open",
        FileOutcome::Approved => "approved",
        FileOutcome::Rejected => "rejected",
        FileOutcome::Expired => "expired",
    }
}

fn heading(group: &Group, opening: &Opening, record: &BallotRecord) -> Lines {
    let mut lines = Lines(String::new());
    let options: Vec<String> = (1..).zip(&opening.options).map(|(number, one)| format!("{number} ({one})")).collect();
    lines.add("ID", &hex(&record.ballot.0));
    lines.add("Group", group.name());
    lines.add("Question", &opening.question);
    lines.add("Options", &options.join(", "));
    lines.add("Threshold", &format!("{}/{}", opening.threshold.0, opening.threshold.1));
    lines.add("Outcome", outcome_word(record.outcome));
    lines.add("Approved", &option_text(opening, record.option));
    let closed = record.closed.map(|seq| format!(" to {}", seq.0)).unwrap_or_default();
    lines.add("Decisions", &format!("{}{closed}", record.opened.0));
    lines
}

fn votes_table(group: &Group, opening: &Opening, record: &BallotRecord) -> String {
    let name = |key| group.name_of(key).unwrap_or("(no member)").to_owned();
    let voted = record.votes.iter().map(|vote| {
        let choice = vote.choice.as_str().to_owned();
        [name(&vote.by), choice, option_text(opening, vote.option), vote.seq.0.to_string(), vote.reason.clone()]
    });
    let has_voted = |member: &str| record.votes.iter().any(|vote| group.name_of(&vote.by) == Some(member));
    let silent = group.names().filter(|member| !has_voted(member));
    let silent = silent.map(|member| [member.to_owned(), String::new(), String::new(), String::new(), String::new()]);
    table(["MEMBER", "VOTE", "OPTION", "DECISION", "REASON"], voted.chain(silent))
}

/// Returns a ballot as one member has it, which nothing proves.
pub fn open_group_ballot_document<'a>(
    group: &'a Group,
    opening: &'a Opening,
    record: &'a BallotRecord,
    member: &'a str,
) -> GroupBallotDocument<'a> {
    GroupBallotDocument { told_by: Some(member), ..document(group, opening, record) }
}

/// Returns a closed ballot whose outcome is proved. `source`: where the trusted authorities are from, if that is known.
pub fn group_ballot_document<'a>(report: &'a BallotReport, source: Option<&'a str>) -> GroupBallotDocument<'a> {
    let BallotReport { group, opening, author, is_trusted, record, signers, authorities } = report;
    GroupBallotDocument {
        opened_by: author.as_deref().ok(),
        is_trusted: *is_trusted,
        proved_by: signers,
        trusted_from: source,
        authorities,
        ..document(group, opening, record)
    }
}

fn document<'a>(group: &'a Group, opening: &'a Opening, record: &'a BallotRecord) -> GroupBallotDocument<'a> {
    let votes = record.votes.iter().map(|vote| MemberVoteDocument {
        member: group.name_of(&vote.by).unwrap_or_default(),
        vote: vote.choice.as_str(),
        option: vote.option,
        decision: vote.seq.0,
        reason: &vote.reason,
    });
    let has_voted = |member: &str| record.votes.iter().any(|vote| group.name_of(&vote.by) == Some(member));
    GroupBallotDocument {
        id: hex(&record.ballot.0),
        group: group.name(),
        fingerprint: group.fingerprint(),
        question: &opening.question,
        options: &opening.options,
        threshold: format!("{}/{}", opening.threshold.0, opening.threshold.1),
        outcome: record.outcome,
        option: record.option,
        opened: record.opened.0,
        closed: record.closed.map(|seq| seq.0),
        opened_by: None,
        is_trusted: None,
        proved_by: &[],
        told_by: None,
        votes: votes.collect(),
        not_voted: group.names().filter(|member| !has_voted(member)).collect(),
        trusted_from: None,
        authorities: &[],
    }
}

/// Formats a closed ballot whose outcome is proved. `source`: where the trusted authorities are from, if that is known.
pub fn group_ballot_text(report: &BallotReport, source: Option<&str>) -> String {
    let BallotReport { group, opening, author, is_trusted, record, signers, authorities } = report;
    let mut lines = heading(group, opening, record);
    let opened_by = match (author, is_trusted) {
        (Ok(author), Some(false)) => format!("{author} (untrusted)"),
        (Ok(author), _) => author.clone(),
        (Err(_), _) => "(nobody)".to_owned(),
    };
    lines.add("Opened by", &opened_by);
    lines.add("Proved by", &signers.join(", "));
    lines.add("Fingerprint", &group.fingerprint());
    let authorities = match source {
        Some(source) => format!("trusted, from {source}"),
        None => format!("to be compared with the fleet's: sha256:{}", authorities.join(", sha256:")),
    };
    lines.add("Authorities", &authorities);
    lines.0 + "\n" + &votes_table(group, opening, record)
}

/// Formats a ballot that is not closed, or of which too few members have said what came of it, as one member has it.
pub fn open_group_ballot_text(group: &Group, opening: &Opening, record: &BallotRecord, member: &str) -> String {
    let mut lines = heading(group, opening, record);
    lines.add("Told by", &format!("{member}; nothing proves it before a quorum of members has signed its outcome"));
    lines.0 + "\n" + &votes_table(group, opening, record)
}
