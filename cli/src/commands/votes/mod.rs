//! `robeing vote open`, `cast`, `show`, `list` and `verify`.

mod file;

use std::{
    io::{self, Write},
    time::Duration,
};

use jiff::Timestamp;
use robeing_client::{ClientError, FleetClient, new_ballot_id};
use robeing_proto::v1::{
    self, Ballot, BallotState, CastVoteRequest, ElectorAddress, GetBallotRequest, ListBallotsRequest,
    OpenBallotRequest, VoteChoice,
};
use robeing_votes::Report;
use tokio::time::Instant;

pub use self::file::BallotFileError;
use super::{connect::client, credentials, duration, ensure_id, pbft};
use crate::{
    args::{
        BallotMode, CastArgs, Connection, Electors, Format, ListArgs, OpenArgs, ShowArgs, VerifyArgs, VoteCommand,
        VoteWord,
    },
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{
        ballot_text, ballots_table, note, print_list, print_one, report_document, report_note, report_text,
        write_document,
    },
};

/// How long one call waits for the end of a ballot.
const WAIT_AT_ONCE: Duration = Duration::from_secs(20);
/// How long after its deadline the end of a ballot is waited for: a new leader may have to be elected to close it.
const AFTER_DEADLINE: Duration = Duration::from_secs(30);
/// Longest time that a command waits: an instant that is much later can't be computed.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Number of ballots that one call lists.
const PAGE: u32 = 100;
/// The commands that print the ids of ballots.
const PRINTED_BY: &str = "`robeing vote open` and `robeing vote list`";

pub(super) async fn run(command: VoteCommand, fleet: &Connection) -> Result<Exit, CliError> {
    match command {
        VoteCommand::Open(args) => open(args, fleet).await,
        VoteCommand::Cast(args) => cast(args, fleet).await,
        VoteCommand::Show(args) => show(args, fleet).await,
        VoteCommand::List(args) => list(args, fleet).await,
        VoteCommand::Verify(args) => verify(&args, fleet),
    }
}

async fn open(args: OpenArgs, fleet: &Connection) -> Result<Exit, CliError> {
    match (args.mode, args.group.is_some()) {
        (Some(BallotMode::Majority), true) | (Some(BallotMode::Byzantine), false) => {
            let problem = "the members of a group count the votes in the mode byzantine, and in no other: give --group";
            return Err(CliError::Usage(format!("{problem} with it, or neither")));
        }
        (_, true) => return pbft::ballots::open(args, fleet).await,
        (_, false) => {}
    }
    let (wait, format) = (args.wait, args.output.output);
    let client = client(fleet, None, Access::Use).await?;
    let mut ballot = client.open_ballot(opening(args)).await?;
    if !wait {
        print_one(&mut io::stdout().lock(), format, &ballot, opened_text)?;
        return Ok(Exit::Success);
    }
    if format == Format::Table {
        note(&format!("waiting for ballot {}; it goes on without this command", ballot.id));
    }
    if ballot.state() == BallotState::Open {
        let deadline = Duration::from_millis(ballot.ttl_ms);
        let until = Instant::now() + deadline.saturating_add(AFTER_DEADLINE).min(LONGEST);
        let opened = ballot;
        ballot = closed(&client, &opened.id, until).await?;
        if ballot.digest != opened.digest {
            let problem = "it was closed with another content than it was opened with";
            return Err(ClientError::WrongBallot { ballot: opened.id, problem }.into());
        }
    }
    print_one(&mut io::stdout().lock(), format, &ballot, |ballot| ballot_text(ballot, Timestamp::now()))?;
    Ok(exit_of(ballot.state()))
}

fn opening(args: OpenArgs) -> OpenBallotRequest {
    let electors = args.to.into_iter().map(|Electors { address, weight }| ElectorAddress { address, weight });
    OpenBallotRequest {
        id: args.id.unwrap_or_else(new_ballot_id),
        question: args.question,
        options: args.options,
        electorate: electors.collect(),
        // What is not given is left to the fleet.
        threshold: args.threshold.unwrap_or_default(),
        deadline: args.deadline.map(duration),
        mode: v1::BallotMode::Majority.into(),
    }
}

fn opened_text(ballot: &Ballot) -> String {
    format!("{}\n", ballot.id)
}

/// Waits until a ballot is closed, or until this time, and returns it.
async fn closed(client: &FleetClient, id: &str, until: Instant) -> Result<Ballot, CliError> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Some(duration(left.min(WAIT_AT_ONCE)));
        let ballot = client.get_ballot(GetBallotRequest { id: id.to_owned(), wait, evidence: false }).await?;
        if ballot.state() != BallotState::Open || left.is_zero() {
            return Ok(ballot);
        }
    }
}

async fn cast(args: CastArgs, fleet: &Connection) -> Result<Exit, CliError> {
    ensure_id("ballot", &args.ballot, PRINTED_BY)?;
    let client = client(fleet, None, Access::Use).await?;
    let ballot = client.get_ballot(GetBallotRequest { id: args.ballot, ..GetBallotRequest::default() }).await?;
    let choice = choice(args.vote);
    let vote = CastVoteRequest {
        ballot: ballot.id.clone(),
        choice: choice.into(),
        option: option(&ballot.options, choice, args.option.as_deref())?,
        reason: args.reason,
        member: args.member,
        ..CastVoteRequest::default()
    };
    let vote = client.signed(&ballot, vote)?;
    let counted = client.cast_vote(vote).await?;
    print_one(&mut io::stdout().lock(), args.output.output, &counted, |ballot| ballot_text(ballot, Timestamp::now()))?;
    Ok(Exit::Success)
}

fn choice(word: VoteWord) -> VoteChoice {
    match word {
        VoteWord::Approve => VoteChoice::Approve,
        VoteWord::Reject => VoteChoice::Reject,
        VoteWord::Abstain => VoteChoice::Abstain,
    }
}

/// Returns the number of the option that is named by its text or its number; 0 for none.
fn option(options: &[String], choice: VoteChoice, named: Option<&str>) -> Result<u32, CliError> {
    let usage = |problem: String| Err(CliError::Usage(problem));
    let Some(named) = named else {
        return match (choice, options.len()) {
            (VoteChoice::Approve, count @ 1..) => {
                usage(format!("the ballot has options: give --option with the text or the number of one, 1 to {count}"))
            }
            _ => Ok(0),
        };
    };
    if choice != VoteChoice::Approve {
        return usage("who does not approve approves no option: leave out --option".into());
    }
    // An option may be called "2", and be the third.
    let number = match options.iter().position(|option| option == named) {
        Some(index) => Some(index + 1),
        None => named.parse().ok().filter(|number| (1..=options.len()).contains(number)),
    };
    match number.and_then(|number| u32::try_from(number).ok()) {
        Some(number) => Ok(number),
        None if options.is_empty() => usage("the ballot has no options: leave out --option".into()),
        None => usage(format!("the ballot has no option {named:?}; it has: {}", options.join(", "))),
    }
}

async fn show(args: ShowArgs, fleet: &Connection) -> Result<Exit, CliError> {
    if args.group.is_some() {
        return pbft::ballots::show(args, fleet).await;
    }
    ensure_id("ballot", &args.ballot, PRINTED_BY)?;
    let client = client(fleet, None, Access::Use).await?;
    let has_waited = args.wait.is_some();
    if let Some(wait) = args.wait {
        closed(&client, &args.ballot, Instant::now() + wait.min(LONGEST)).await?;
    }
    let evidence = args.file.is_some();
    let ballot = client.get_ballot(GetBallotRequest { id: args.ballot, wait: None, evidence }).await?;
    if let Some(path) = &args.file {
        file::write(path, &file::of(&ballot)?)?;
    }
    let shown = without_evidence(ballot);
    print_one(&mut io::stdout().lock(), args.output.output, &shown, |ballot| ballot_text(ballot, Timestamp::now()))?;
    Ok(if has_waited { exit_of(shown.state()) } else { Exit::Success })
}

/// What proves the votes is for files.
fn without_evidence(mut ballot: Ballot) -> Ballot {
    for vote in &mut ballot.votes {
        for bytes in [&mut vote.envelope, &mut vote.binding, &mut vote.certificate, &mut vote.authority] {
            bytes.clear();
        }
    }
    ballot
}

async fn list(args: ListArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut request = ListBallotsRequest { open: args.open, limit: args.limit.min(PAGE), page_token: String::new() };
    let mut ballots = Vec::new();
    loop {
        let page = client.list_ballots(request.clone()).await?;
        let is_last = page.next_page_token.is_empty() || page.ballots.is_empty();
        ballots.extend(page.ballots);
        if is_last || ballots.len() >= limit {
            break;
        }
        request.page_token = page.next_page_token;
    }
    ballots.truncate(limit);
    print_list(&mut io::stdout().lock(), args.output.output, &ballots, |list| ballots_table(list, Timestamp::now()))?;
    Ok(Exit::Success)
}

fn verify(args: &VerifyArgs, fleet: &Connection) -> Result<Exit, CliError> {
    if let Some(ballot) = pbft::ballots::file(&args.file)? {
        return pbft::ballots::verify(&ballot, fleet, args.output.output);
    }
    let ballot = file::read(&args.file)?;
    let trusted = credentials::trusted(&fleet.credentials)?;
    let report = ballot.verify(trusted.as_ref().map(|(bundle, _)| bundle));
    let source = trusted.as_ref().map(|(_, source)| source.as_str());
    let mut out = io::stdout().lock();
    match args.output.output {
        Format::Table => out.write_all(report_text(&ballot, &report, source).as_bytes())?,
        format => write_document(&mut out, format, &report_document(&ballot, &report, source))?,
    }
    if let Some(problem) = report_note(&report, args.attested) {
        note(&problem);
    }
    Ok(verified(&report, args.attested))
}

/// Returns the exit code for what was found in a file. Only with `attested`, votes that are not signed are believed.
fn verified(report: &Report, attested: bool) -> Exit {
    let is_right = if attested { report.is_right() } else { report.is_proved() };
    if is_right { Exit::Success } else { Exit::TaskFailed }
}

fn exit_of(state: BallotState) -> Exit {
    match state {
        BallotState::Approved => Exit::Success,
        BallotState::Rejected | BallotState::Expired | BallotState::Unspecified => Exit::TaskFailed,
        BallotState::Open => Exit::TimedOut,
    }
}

#[cfg(test)]
mod tests {
    use robeing_votes::{CheckedVote, Choice, FileOutcome, Standing, Tally};

    use super::*;

    #[test]
    fn only_an_approved_ballot_is_a_success() {
        for (state, exit) in [
            (BallotState::Approved, Exit::Success),
            (BallotState::Rejected, Exit::TaskFailed),
            (BallotState::Expired, Exit::TaskFailed),
            (BallotState::Open, Exit::TimedOut),
        ] {
            assert_eq!(exit_of(state), exit, "{state:?}");
        }
    }

    #[test]
    fn a_file_whose_votes_nothing_proves_is_a_success_only_if_that_is_asked_for() {
        let report = |standing| Report {
            digest_matches: true,
            votes: vec![CheckedVote { member: "a".into(), choice: Choice::Approve, option: 0, weight: 1, standing }],
            tally: Tally::default(),
            decided: FileOutcome::Approved,
            decided_option: 0,
            outcome_follows: true,
            contradiction: None,
            authorities: Vec::new(),
        };
        let attested = Standing::Attested { by: "coordinator-0".into() };
        let wrong = Standing::Wrong("it is".into());
        for (standing, exits) in [
            (Standing::Signed, [Exit::Success; 2]),
            (attested, [Exit::TaskFailed, Exit::Success]),
            (wrong, [Exit::TaskFailed; 2]),
        ] {
            let report = report(standing);
            assert_eq!([false, true].map(|attested| verified(&report, attested)), exits, "{report:?}");
        }
    }

    #[test]
    fn an_option_is_named_by_its_text_or_its_number() {
        let options = ["blue", "2", "green"].map(str::to_owned);
        let named = |choice, name| option(&options, choice, name).map_err(|error| error.to_string());
        for (name, number) in [("green", 3), ("1", 1), ("2", 2), ("3", 3)] {
            assert_eq!(named(VoteChoice::Approve, Some(name)), Ok(number), "{name}");
        }
        assert_eq!(named(VoteChoice::Reject, None), Ok(0));
        assert_eq!(option(&[], VoteChoice::Approve, None).ok(), Some(0));
        for (choice, name, words) in [
            (VoteChoice::Approve, None, "give --option"),
            (VoteChoice::Approve, Some("0"), "no option \"0\"; it has: blue, 2, green"),
            (VoteChoice::Approve, Some("4"), "no option \"4\""),
            (VoteChoice::Approve, Some("red"), "no option \"red\""),
            (VoteChoice::Abstain, Some("blue"), "leave out --option"),
        ] {
            let error = named(choice, name).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
        let error = option(&[], VoteChoice::Approve, Some("blue")).expect_err("there is none").to_string();
        assert!(error.contains("has no options"), "{error}");
    }

    #[test]
    fn every_ballot_has_an_id_of_its_own() {
        let args = || OpenArgs {
            question: "why?".into(),
            to: vec![Electors { address: "data-0".into(), weight: 2 }],
            mode: None,
            group: None,
            options: Vec::new(),
            threshold: None,
            deadline: None,
            wait: false,
            id: None,
            output: crate::args::Output { output: Format::Table },
        };
        let (one, other) = (opening(args()), opening(args()));
        assert_ne!(one.id, other.id);
        assert_eq!((one.electorate[0].weight, one.threshold.as_str(), one.deadline), (2, "", None));
        let (threshold, deadline) = (Some("0.66".into()), Some(Duration::from_secs(60)));
        let set = opening(OpenArgs { threshold, deadline, ..args() });
        assert_eq!((set.threshold.as_str(), set.deadline), ("0.66", Some(duration(Duration::from_secs(60)))));
        assert_eq!(opening(OpenArgs { id: Some("7".into()), ..args() }).id, "7");
    }
}
