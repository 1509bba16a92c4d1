//! Groups that decide by Byzantine agreement, and their decisions, for people.

use std::{fmt::Write, path::Path};

use robeing_groups::{
    Call, CheckedDecision, CheckedEntry, Group, LogReport,
    ballot::{MemberVote, ballot_id},
};
use robeing_votes::{Base64, hex};
use serde::Serialize;

use super::{
    table::table,
    words::{plural, preview, printable},
};

/// Number of bytes of a ballot's id that are shown where it was shown in full before.
const BALLOT_SHOWN: usize = 8;

/// Formats a group that was formed.
pub fn group_text(group: &Group, file: &Path) -> String {
    let quorums = group.epoch().quorums();
    let mut text = String::new();
    // Writing to a string never fails.
    let _ = writeln!(text, "Group:        {}", printable(group.name()));
    let members: Vec<&str> = group.names().collect();
    let _ = writeln!(text, "Members:      {}", printable(&members.join(", ")));
    let _ = writeln!(text, "May lie:      {} of {}", quorums.faulty(), quorums.members());
    if group.before().is_some() {
        let (number, start) = (group.epoch().number, group.epoch().start().seq.0);
        let _ = writeln!(text, "Epoch:        {number}, after the decision {start}");
    }
    let _ = writeln!(text, "Fingerprint:  {}", group.fingerprint());
    let _ = writeln!(text, "Description:  {}", printable(&file.display().to_string()));
    text
}

fn author_of(entry: &CheckedEntry) -> String {
    match (&entry.author, entry.is_trusted) {
        (Ok(author), Some(false)) => format!("{author} (untrusted)"),
        (Ok(author), _) => author.clone(),
        (Err(_), _) => "(nobody)".to_owned(),
    }
}

/// Formats what a call does to a ballot.
fn ballot_text(call: &Call) -> String {
    let short = |id: &[u8; 32]| hex(&id[..BALLOT_SHOWN]);
    match call {
        Call::Open(signed, opening) => {
            let question = preview(opening.question.as_bytes());
            format!("(ballot {} opened: {question})", hex(&ballot_id(signed).0))
        }
        Call::Vote(MemberVote { ballot, choice, option, .. }) => {
            let option = if *option == 0 { String::new() } else { format!(" option {option}") };
            format!("({choice}{option} in ballot {}…)", short(&ballot.0))
        }
        Call::Expire(ballot) => format!("(deadline of ballot {}… is over)", short(&ballot.0)),
        Call::Propose(..) => String::new(),
    }
}

fn text_of(entry: &CheckedEntry) -> String {
    if let Some(call) = &entry.ballot {
        return ballot_text(call);
    }
    match &entry.proposal {
        Some(_) if entry.is_repeated => "(decided before)".to_owned(),
        Some(proposal) => preview(&proposal.text),
        None => "(no proposal)".to_owned(),
    }
}

/// A decision, for documents.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DecisionDocument<'a> {
    decision: u64,
    proved_by: &'a [String],
    proposals: Vec<ProposalDocument<'a>>,
}

/// What was proposed, for documents.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ProposalDocument<'a> {
    /// `None`: nobody provably did.
    author: Option<&'a str>,
    /// Whether an authority that is trusted certified the author; left out if it is not known which ones are.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_trusted: Option<bool>,
    proposed_by: &'a str,
    /// What is proposed, if it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    /// What is proposed, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<Base64>,
    /// What it does to a ballot.
    #[serde(skip_serializing_if = "Option::is_none")]
    ballot: Option<String>,
    /// Whether it was decided before, and counts for nothing here.
    is_repeated: bool,
}

/// Returns decisions for documents.
pub fn decisions_document(decisions: &[CheckedDecision]) -> Vec<DecisionDocument<'_>> {
    let documents = decisions.iter().map(|decision| DecisionDocument {
        decision: decision.seq,
        proved_by: &decision.signers,
        proposals: decision.entries.iter().map(ProposalDocument::of).collect(),
    });
    documents.collect()
}

impl<'a> ProposalDocument<'a> {
    fn of(entry: &'a CheckedEntry) -> Self {
        let bytes = entry.proposal.as_ref().map(|proposal| &proposal.text);
        let text = bytes.and_then(|bytes| str::from_utf8(bytes).ok());
        Self {
            author: entry.author.as_deref().ok(),
            is_trusted: entry.is_trusted,
            proposed_by: &entry.proposed_by,
            text,
            bytes: bytes.filter(|_| text.is_none()).cloned().map(Base64),
            ballot: entry.ballot.as_ref().map(ballot_text),
            is_repeated: entry.is_repeated,
        }
    }
}

/// Formats decisions as a table, one line for each proposal.
pub fn decisions_table(decisions: &[CheckedDecision]) -> String {
    if decisions.is_empty() {
        return "no decisions\n".into();
    }
    let rows = decisions.iter().flat_map(|decision| {
        let row = move |entry: &CheckedEntry| {
            let (author, text) = (author_of(entry), text_of(entry));
            [decision.seq.to_string(), author, entry.proposed_by.clone(), decision.signers.join(","), text]
        };
        let empty = [decision.seq.to_string(), String::new(), String::new(), decision.signers.join(","), String::new()];
        let nothing = decision.entries.is_empty().then_some(empty);
        decision.entries.iter().map(row).chain(nothing)
    });
    table(["DECISION", "AUTHOR", "PROPOSED BY", "PROVED BY", "TEXT"], rows)
}

/// What was found in a file of decisions, for documents: everything in it is proved.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogReportDocument<'a> {
    group: &'a str,
    fleet: &'a str,
    members: Vec<&'a str>,
    fingerprint: String,
    /// Where the trusted authorities came from, if any were given.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_from: Option<&'a str>,
    /// The SHA-256 digests of the authorities that have certified the members.
    authorities: &'a [String],
    decisions: Vec<DecisionDocument<'a>>,
    /// How many decisions before the last one are missing.
    missing: u64,
}

/// Returns what was found in a file of decisions. `source`: where the trusted authorities are from, if they are known.
pub fn log_report_document<'a>(report: &'a LogReport, source: Option<&'a str>) -> LogReportDocument<'a> {
    LogReportDocument {
        group: report.group.name(),
        fleet: &report.group.epoch().fleet,
        members: report.group.names().collect(),
        fingerprint: report.group.fingerprint(),
        trusted_from: source,
        authorities: &report.authorities,
        decisions: decisions_document(&report.decisions),
        missing: report.missing,
    }
}

/// Formats what was found in a file of decisions. `source`: where the trusted authorities are from, if they are known.
pub fn log_report_text(report: &LogReport, source: Option<&str>) -> String {
    let mut text = String::new();
    let members: Vec<&str> = report.group.names().collect();
    let _ = writeln!(text, "Group:        {}", printable(report.group.name()));
    let _ = writeln!(text, "Fleet:        {}", printable(&report.group.epoch().fleet));
    let _ = writeln!(text, "Members:      {}", printable(&members.join(", ")));
    let _ = writeln!(text, "Fingerprint:  {}", report.group.fingerprint());
    let authorities = match source {
        Some(source) => format!("trusted, from {source}"),
        None => format!("to be compared with the fleet's: sha256:{}", report.authorities.join(", sha256:")),
    };
    let _ = writeln!(text, "Authorities:  {}", printable(&authorities));
    let _ = writeln!(text, "Decisions:    {}, all proved", plural(report.decisions.len(), "decision"));
    if report.missing > 0 {
        let _ = writeln!(text, "Missing:      {} before the last one", plural_of(report.missing));
    }
    text.push('\n');
    text.push_str(&decisions_table(&report.decisions));
    text
}

fn plural_of(count: u64) -> String {
    plural(usize::try_from(count).unwrap_or(usize::MAX), "decision")
}
