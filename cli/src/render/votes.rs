//! Ballots for people, and what was found in the file of one.

use std::fmt::Write;

use jiff::Timestamp;
use robeing_proto::v1::{Ballot, BallotState, VoteChoice, ballot::Vote};
use robeing_votes::{BallotFile, FileOutcome, Report, Standing, hex};

use super::{
    table::table,
    words::{age, camel, instant, moment, plural, printable},
};

/// Formats a state: `Open`, `Approved`, …
fn state_word(state: BallotState) -> String {
    camel(state.as_str_name(), "BALLOT_STATE_")
}

/// Formats an option by its number, from 1, and its text; empty for none.
fn option_text(options: &[String], number: u32) -> String {
    let index = usize::try_from(number).ok().and_then(|number| number.checked_sub(1));
    match index.and_then(|index| options.get(index)) {
        Some(text) => format!("{number} ({text})"),
        None if number == 0 => String::new(),
        None => number.to_string(),
    }
}

/// Formats the list of `robeing vote list`.
pub fn ballots_table(ballots: &[Ballot], now: Timestamp) -> String {
    if ballots.is_empty() {
        return "no ballots\n".into();
    }
    table(
        ["ID", "STATE", "APPROVE", "REJECT", "OF", "OPENED BY", "AGE", "QUESTION"],
        ballots.iter().map(|ballot| {
            let tally = ballot.tally.clone().unwrap_or_default();
            [
                ballot.id.clone(),
                state_word(ballot.state()),
                tally.approve.to_string(),
                tally.reject.to_string(),
                tally.total.to_string(),
                ballot.opened_by.clone(),
                age(ballot.opened_at.as_ref(), now),
                ballot.question.chars().take(SHOWN).collect(),
            ]
        }),
    )
}

/// Number of characters of a question in a list.
const SHOWN: usize = 48;

/// Formats one ballot in full, with its votes.
pub fn ballot_text(ballot: &Ballot, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{:<16}{}", format!("{name}:"), printable(&value));
        }
    };
    let options = ballot.options.iter().enumerate().map(|(index, option)| format!("{} ({option})", index + 1));
    line("ID", ballot.id.clone());
    line("Question", ballot.question.clone());
    line("Options", options.collect::<Vec<_>>().join(", "));
    line("State", state_word(ballot.state()));
    line("Approved", option_text(&ballot.options, ballot.option));
    line("Threshold", ballot.threshold.clone());
    line("Weights", weights(ballot));
    line("Opened", format!("{} by {}", moment(ballot.opened_at.as_ref(), now), ballot.opened_by));
    match ballot.closed_at {
        Some(_) => line("Closed", moment(ballot.closed_at.as_ref(), now)),
        None => line("Deadline", moment(ballot.expires_at.as_ref(), now)),
    }
    text.push('\n');
    text.push_str(&members_table(ballot));
    text
}

/// Formats what the members have voted, by weight.
fn weights(ballot: &Ballot) -> String {
    let tally = ballot.tally.clone().unwrap_or_default();
    let voted = tally.approve.saturating_add(tally.reject).saturating_add(tally.abstain);
    format!(
        "{} approve, {} reject, {} abstain, {} not voted, of {}; approval rate {:.0}%",
        tally.approve,
        tally.reject,
        tally.abstain,
        tally.total.saturating_sub(voted),
        tally.total,
        tally.approval_rate * 100.0,
    )
}

/// Formats all members with their votes: first those who have voted, in the order of the votes.
fn members_table(ballot: &Ballot) -> String {
    let weight_of = |name: &str| ballot.electorate.iter().find(|member| member.name == name).map(|it| it.weight);
    let voted = ballot.votes.iter().map(|vote| {
        let weight = weight_of(&vote.member).map(|weight| weight.to_string()).unwrap_or_default();
        [
            vote.member.clone(),
            weight,
            choice_word(vote.choice()),
            option_text(&ballot.options, vote.option),
            proof(vote),
            instant(vote.at.as_ref()).map(|time| format!("{time:.3}")).unwrap_or_default(),
            vote.reason.clone(),
        ]
    });
    let silent = ballot.electorate.iter().filter(|member| ballot.votes.iter().all(|vote| vote.member != member.name));
    let silent = silent.map(|member| {
        let none = String::new;
        [member.name.clone(), member.weight.to_string(), none(), none(), none(), none(), none()]
    });
    table(["MEMBER", "WEIGHT", "VOTE", "OPTION", "PROOF", "TIME", "REASON"], voted.chain(silent))
}

fn choice_word(choice: VoteChoice) -> String {
    camel(choice.as_str_name(), "VOTE_CHOICE_").to_ascii_lowercase()
}

/// Formats what proves a vote, as the coordinator says that has counted it. Only `robeing vote verify` checks it.
fn proof(vote: &Vote) -> String {
    let word = if vote.signed { "signed, checked by" } else { "attested by" };
    format!("{word} {}", vote.attested_by)
}

/// Formats what was found in the file of a ballot. `trusted` is where the trusted authorities came from, if any were
/// given.
pub fn report_text(file: &BallotFile, report: &Report, trusted: Option<&str>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{:<16}{}", format!("{name}:"), printable(&value));
    };
    line("ID", file.id.clone());
    line("Fleet", file.fleet.clone());
    line("Question", file.question.clone());
    let digest = if report.digest_matches { "right" } else { "WRONG: the ballot was changed" };
    line("Digest", digest.to_owned());
    line("Outcome", outcome_text(file, report));
    if let Some(problem) = &report.contradiction {
        line("Times", format!("WRONG: {problem}"));
    }
    match trusted {
        Some(source) => line("Authorities", format!("those in {source}")),
        None => line("Authorities", authorities_text(report)),
    }
    text.push('\n');
    text.push_str(&checked_table(file, report));
    text
}

fn outcome_text(file: &BallotFile, report: &Report) -> String {
    let recorded = decided_text(file, file.outcome, file.option);
    if report.outcome_follows {
        return format!("{recorded}, as follows from the votes");
    }
    let decided = decided_text(file, report.decided, report.decided_option);
    format!("{recorded}: WRONG, the votes that are right make it {decided}")
}

fn decided_text(file: &BallotFile, outcome: FileOutcome, option: u32) -> String {
    let word = match outcome {
        FileOutcome::Open => "open",
        FileOutcome::Approved => "approved",
        FileOutcome::Rejected => "rejected",
        FileOutcome::Expired => "expired",
    };
    match option_text(&file.options, option) {
        option if option.is_empty() => word.to_owned(),
        option => format!("{word}: {option}"),
    }
}

fn authorities_text(report: &Report) -> String {
    if report.authorities.is_empty() {
        return "none".into();
    }
    let digests: Vec<String> = report.authorities.iter().map(|digest| format!("sha256:{}", hex(digest))).collect();
    format!("those in the file, to be compared with the fleet's: {}", digests.join(", "))
}

fn checked_table(file: &BallotFile, report: &Report) -> String {
    if report.votes.is_empty() {
        return "no votes\n".into();
    }
    table(
        ["MEMBER", "WEIGHT", "VOTE", "OPTION", "PROOF"],
        report.votes.iter().map(|vote| {
            let proof = match &vote.standing {
                Standing::Signed => "signed".to_owned(),
                Standing::Attested { by } => format!("attested by {by}"),
                Standing::Wrong(problem) => format!("WRONG: {problem}"),
            };
            let option = option_text(&file.options, vote.option);
            [vote.member.clone(), vote.weight.to_string(), vote.choice.as_str().to_owned(), option, proof]
        }),
    )
}

/// Returns what is wrong with the file of a ballot, or what is not proved in it; `None`: nothing. With `attested_too`,
/// votes that are not signed are believed.
pub fn report_note(report: &Report, attested_too: bool) -> Option<String> {
    let of = |which: fn(&Standing) -> bool| report.votes.iter().filter(|vote| which(&vote.standing)).count();
    let wrong = of(|standing| matches!(standing, Standing::Wrong(_)));
    let attested = of(|standing| matches!(standing, Standing::Attested { .. }));
    if !report.is_right() {
        let votes = if wrong == 0 { String::new() } else { format!(": {} of no worth", plural(wrong, "vote")) };
        return Some(format!("the file is not right{votes}"));
    }
    let votes = plural(attested, "vote");
    let note = if attested_too {
        format!("{votes} not signed: you believe whoever has written the file, and the coordinators that attest them")
    } else {
        format!(
            "the file proves nothing of {votes} not signed: whoever has written it may have invented them; give \
             --attested to believe them"
        )
    };
    (attested > 0).then_some(note)
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp as Time;
    use robeing_proto::v1::ballot::{Member, Tally};
    use robeing_votes::{CheckedVote, Choice, FileElector, FileThreshold};

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn at(seconds: i64) -> Option<Time> {
        Some(Time { seconds: NOW + seconds, nanos: 0 })
    }

    fn now() -> Timestamp {
        Timestamp::new(NOW, 0).expect("a time")
    }

    fn ballot() -> Ballot {
        let member = |name: &str, weight| Member { name: name.into(), weight, ..Member::default() };
        Ballot {
            id: "0190163d-8694-739b-aea5-966c26f8ad91".into(),
            question: "which colour\x1b[1m?".into(),
            options: vec!["red".into(), "blue".into()],
            electorate: vec![member("client:ada", 1), member("data-0", 2), member("data-1", 1)],
            threshold: "2/3".into(),
            opened_by: "client:cli".into(),
            opened_at: at(-5),
            expires_at: at(25),
            state: BallotState::Open.into(),
            votes: vec![Vote {
                member: "data-0".into(),
                choice: VoteChoice::Approve.into(),
                option: 2,
                reason: "it is calm".into(),
                at: at(-4),
                attested_by: "coordinator-1".into(),
                signed: true,
                ..Vote::default()
            }],
            tally: Some(Tally { approve: 2, total: 4, approval_rate: 0.5, per_option: vec![0, 2], ..Tally::default() }),
            ..Ballot::default()
        }
    }

    #[test]
    fn a_ballot_lists_every_member_and_its_vote() {
        insta::assert_snapshot!(ballot_text(&ballot(), now()), @"
        ID:             0190163d-8694-739b-aea5-966c26f8ad91
        Question:       which colour [1m?
        Options:        1 (red), 2 (blue)
        State:          Open
        Threshold:      2/3
        Weights:        2 approve, 0 reject, 0 abstain, 2 not voted, of 4; approval rate 50%
        Opened:         2023-11-14T22:13:15.000Z (5.0s ago) by client:cli
        Deadline:       2023-11-14T22:13:45.000Z (in 25s)

        MEMBER       WEIGHT   VOTE      OPTION     PROOF                              TIME                       REASON
        data-0       2        approve   2 (blue)   signed, checked by coordinator-1   2023-11-14T22:13:16.000Z   it is calm
        client:ada   1        -         -          -                                  -                          -
        data-1       1        -         -          -                                  -                          -
        ");
    }

    #[test]
    fn a_closed_ballot_says_what_was_approved_and_who_attests_a_vote() {
        let mut closed = Ballot { state: BallotState::Approved.into(), option: 2, closed_at: at(-1), ..ballot() };
        closed.votes[0].signed = false;
        let text = ballot_text(&closed, now());
        for line in [
            "State:          Approved\nApproved:       2 (blue)\n",
            "Closed:         2023-11-14T22:13:19.000Z (1.0s ago)\n",
            "   attested by coordinator-1   ",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
    }

    #[test]
    fn ballots_are_a_table() {
        let long = Ballot { question: "é".repeat(SHOWN + 1), ..ballot() };
        let text = ballots_table(&[ballot(), long], now());
        assert!(text.starts_with("ID  "), "{text}");
        assert!(text.lines().nth(1).is_some_and(|line| line.ends_with("5.0s   which colour [1m?")), "{text}");
        assert!(text.lines().nth(2).is_some_and(|line| line.ends_with(&format!("   {}", "é".repeat(SHOWN)))), "{text}");
        assert_eq!(ballots_table(&[], now()), "no ballots\n");
    }

    fn file() -> BallotFile {
        let elector = |name: &str, weight| FileElector { name: name.into(), weight };
        BallotFile {
            api_version: robeing_votes::FILE_VERSION.into(),
            fleet: "spiffe://robeing.local/ns/default/cluster/one".into(),
            id: "0190163d-8694-739b-aea5-966c26f8ad91".into(),
            question: "which colour?".into(),
            options: vec!["red".into(), "blue".into()],
            electorate: vec![elector("data-0", 2), elector("data-1", 1)],
            threshold: FileThreshold { numerator: 2, denominator: 3 },
            ttl_ms: 30_000,
            digest: "00".repeat(32),
            opened_by: "client:cli".into(),
            opened_at_ms: 1_700_000_000_000,
            closed_at_ms: Some(1_700_000_001_000),
            outcome: FileOutcome::Approved,
            option: 2,
            votes: Vec::new(),
            authorities: Vec::new(),
        }
    }

    fn report(standing: Standing) -> Report {
        let (choice, option) = (Choice::Approve, 2);
        let is_wrong = matches!(standing, Standing::Wrong(_));
        Report {
            digest_matches: true,
            votes: vec![CheckedVote { member: "data-0".into(), choice, option, weight: 2, standing }],
            tally: robeing_votes::Tally::default(),
            decided: if is_wrong { FileOutcome::Open } else { FileOutcome::Approved },
            decided_option: if is_wrong { 0 } else { 2 },
            outcome_follows: !is_wrong,
            contradiction: None,
            authorities: vec![[7; 32]],
        }
    }

    #[test]
    fn what_is_right_is_said_to_be() {
        let right = report(Standing::Signed);
        insta::assert_snapshot!(report_text(&file(), &right, Some("trust.crt")), @"
        ID:             0190163d-8694-739b-aea5-966c26f8ad91
        Fleet:          spiffe://robeing.local/ns/default/cluster/one
        Question:       which colour?
        Digest:         right
        Outcome:        approved: 2 (blue), as follows from the votes
        Authorities:    those in trust.crt

        MEMBER   WEIGHT   VOTE      OPTION     PROOF
        data-0   2        approve   2 (blue)   signed
        ");
        assert_eq!([true, false].map(|attested_too| report_note(&right, attested_too)), [None, None]);
        let attested = report(Standing::Attested { by: "coordinator-1".into() });
        let note = report_note(&attested, true).expect("it is not proved");
        assert!(note.starts_with("1 vote not signed: you believe"), "{note}");
        let note = report_note(&attested, false).expect("it is not proved");
        assert!(note.starts_with("the file proves nothing of 1 vote not signed"), "{note}");
        assert!(note.ends_with("give --attested to believe them"), "{note}");
    }

    #[test]
    fn what_is_wrong_is_said_to_be() {
        let wrong = Report { digest_matches: false, ..report(Standing::Wrong("the signature is wrong".into())) };
        let text = report_text(&file(), &wrong, None);
        for line in [
            "Digest:         WRONG: the ballot was changed\n",
            "Outcome:        approved: 2 (blue): WRONG, the votes that are right make it open\n",
            "Authorities:    those in the file, to be compared with the fleet's: sha256:07070707",
            "   WRONG: the signature is wrong\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        assert_eq!(report_note(&wrong, true).as_deref(), Some("the file is not right: 1 vote of no worth"));
        assert!(report_text(&file(), &Report { votes: Vec::new(), ..wrong }, None).ends_with("no votes\n"));
        let contradiction = Some("it expired before its deadline".to_owned());
        let early = Report { contradiction, ..report(Standing::Signed) };
        let text = report_text(&file(), &early, None);
        assert!(text.contains("\nTimes:          WRONG: it expired before its deadline\n"), "{text}");
        assert_eq!(report_note(&early, true).as_deref(), Some("the file is not right"));
    }
}
