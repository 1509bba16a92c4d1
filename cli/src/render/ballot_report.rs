//! What was found in the file of a ballot, for documents.

use robeing_votes::{BallotFile, CheckedVote, FileOutcome, Report, Standing, hex};
use serde::Serialize;

/// What was found in the file of a ballot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BallotReportDocument<'a> {
    id: &'a str,
    fleet: &'a str,
    question: &'a str,
    options: &'a [String],
    /// What the file says came of it; the number of the approved option, from 1, or 0.
    outcome: FileOutcome,
    option: u32,
    digest_matches: bool,
    outcome_follows: bool,
    /// Which of the recorded times contradict each other; left out if none do.
    #[serde(skip_serializing_if = "Option::is_none")]
    contradiction: Option<&'a str>,
    /// What the votes decide that are right.
    decided: FileOutcome,
    decided_option: u32,
    /// Nothing is wrong.
    is_right: bool,
    /// Nothing is wrong, and each vote is signed.
    is_proved: bool,
    votes: Vec<VoteDocument<'a>>,
    /// Where the trusted authorities came from; left out if the file's own are believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    trusted_from: Option<&'a str>,
    /// The SHA-256 digests of the authorities in the file.
    authorities: Vec<String>,
}

/// A vote, and what proves it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct VoteDocument<'a> {
    member: &'a str,
    weight: u64,
    vote: &'static str,
    option: u32,
    proof: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    attested_by: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'a str>,
}

impl<'a> VoteDocument<'a> {
    fn of(checked: &'a CheckedVote) -> Self {
        let (proof, attested_by, problem) = match &checked.standing {
            Standing::Signed => ("signed", None, None),
            Standing::Attested { by } => ("attested", Some(by.as_str()), None),
            Standing::Wrong(problem) => ("wrong", None, Some(problem.as_str())),
        };
        let CheckedVote { member, choice, option, weight, .. } = checked;
        Self { member, weight: *weight, vote: choice.as_str(), option: *option, proof, attested_by, problem }
    }
}

/// Returns what was found in the file of a ballot. `trusted` is where the trusted authorities came from, if any were given.
pub fn report_document<'a>(
    file: &'a BallotFile,
    report: &'a Report,
    trusted: Option<&'a str>,
) -> BallotReportDocument<'a> {
    BallotReportDocument {
        id: &file.id,
        fleet: &file.fleet,
        question: &file.question,
        options: &file.options,
        outcome: file.outcome,
        option: file.option,
        digest_matches: report.digest_matches,
        outcome_follows: report.outcome_follows,
        contradiction: report.contradiction.as_deref(),
        decided: report.decided,
        decided_option: report.decided_option,
        is_right: report.is_right(),
        is_proved: report.is_proved(),
        votes: report.votes.iter().map(VoteDocument::of).collect(),
        trusted_from: trusted,
        authorities: report.authorities.iter().map(|digest| hex(digest)).collect(),
    }
}
