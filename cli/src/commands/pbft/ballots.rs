//! Ballots that the members of a group count themselves: `vote open`, `show` and `verify` with `--group`.

use std::{
    io::{self, Write},
    path::Path,
    time::Duration,
};

use robeing_client::{FleetClient, new_proposal_id};
use robeing_groups::{
    Group, GroupError,
    ballot::{
        Attestation, BallotRecord, BallotReport, GROUP_BALLOT_FILE_VERSION, GroupBallotFile, Opening, ballot_id,
        ballot_id_of,
    },
    exchange::{self, Ask, BallotShown, Opened},
};
use robeing_settings::Fraction;
use robeing_votes::{FileOutcome, hex};
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    ANSWER_WITHIN, DECIDE_WITHIN, PbftError,
    asking::{Asked, all, ask, ask_for, enough, members, undecided},
    files,
};
use crate::{
    args::{Connection, Format, OpenArgs, ShowArgs},
    commands::{connect::client, credentials},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{
        group_ballot_document, group_ballot_text, note, open_group_ballot_document, open_group_ballot_text,
        write_document,
    },
};

/// The share that has to approve, and how long members have to vote, if the command does not say it: what the fleet
/// sets is known to coordinators alone, which have no part in these ballots.
const SHARE: Fraction = Fraction::TWO_THIRDS;
const OPEN_FOR: Duration = Duration::from_secs(30);
/// Pause between two questions whether a ballot is closed.
const POLL_PAUSE: Duration = Duration::from_millis(500);
/// How long one more member may take to keep a ballot.
const KEEP_WITHIN: Duration = Duration::from_secs(5);
/// How long after its deadline the end of a ballot is waited for.
const AFTER_DEADLINE: Duration = Duration::from_secs(30);
/// Longest time that a command waits: an instant that is much later can't be computed.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Maximum size of the file of a ballot that is read, bytes.
const MAX_FILE_BYTES: usize = 1 << 20;

/// Opens a ballot.
pub(in crate::commands) async fn open(args: OpenArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let format = args.output.output;
    let group = files::group(args.group.as_deref().unwrap_or_default())?;
    let share = match args.threshold.as_deref() {
        Some(text) => text.parse::<Fraction>().map_err(|error| CliError::Usage(error.to_string()))?,
        None => SHARE,
    };
    let deadline = args.deadline.unwrap_or(OPEN_FOR);
    let client = client(fleet, None, Access::Use).await?;
    let id = begin(&client, &group, (args.question, args.options), (share, deadline)).await?;
    if !args.wait {
        let mut out = io::stdout().lock();
        match format {
            Format::Table => writeln!(out, "{}", hex(&id))?,
            format => write_document(&mut out, format, &json!({"id": hex(&id)}))?,
        }
        return Ok(Exit::Success);
    }
    if format == Format::Table {
        note(&format!("waiting for ballot {}; it goes on without this command", hex(&id)));
    }
    let until = Instant::now() + deadline.saturating_add(AFTER_DEADLINE).min(LONGEST);
    shown(&client, &group, &id, Showing { until, file: None, format }).await
}

/// Signs a ballot and has it opened. Returns its id.
async fn begin(
    client: &FleetClient,
    group: &Group,
    (question, options): (String, Vec<String>),
    (share, deadline): (Fraction, Duration),
) -> Result<[u8; 32], CliError> {
    let opening = Opening {
        group: *group.epoch().domain(),
        nonce: new_proposal_id(),
        at_ms: 0,
        ttl_ms: u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX),
        question,
        options,
        threshold: (share.numerator, share.denominator),
    };
    let opening = client.signed_ballot(opening)?;
    let id = ballot_id(&opening).0;
    let question = Ask::OpenBallot { group: group.name().to_owned(), opening };
    let (asked, faulty, began) = (members(group, None)?, group.epoch().quorums().faulty(), Instant::now());
    // One of these does not lie: it keeps the ballot, also if the others forget it.
    let opened = enough(&asked, faulty, [DECIDE_WITHIN, KEEP_WITHIN], |member, within| {
        opened_by(client, member, (&question, &id), within)
    });
    opened.await.map_err(|error| undecided(error, began))?;
    Ok(id)
}

/// Has a member open a ballot, or keep it if it is open. The member may lie, and so may an agent that passes its answer
/// on.
async fn opened_by(
    client: &FleetClient,
    member: &str,
    (question, id): (&Ask, &[u8; 32]),
    within: Duration,
) -> Asked<()> {
    Ok(match ask_for::<Opened>(client, member, question, within).await? {
        Ok(opened) if opened.ballot == hex(id) => Ok(()),
        Ok(_) => Err(PbftError::OtherBallot(member.to_owned())),
        Err(error) => Err(error),
    })
}

/// Shows a ballot.
pub(in crate::commands) async fn show(args: ShowArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let format = args.output.output;
    let group = files::group(args.group.as_deref().unwrap_or_default())?;
    let id = ballot_id_of(&args.ballot).map_err(PbftError::Group)?.0;
    let client = client(fleet, None, Access::Use).await?;
    let until = Instant::now() + args.wait.unwrap_or_default().min(LONGEST);
    let exit = shown(&client, &group, &id, Showing { until, file: args.file.as_deref(), format }).await?;
    // A ballot that is shown was found, whatever came of it.
    Ok(if args.wait.is_some() { exit } else { Exit::Success })
}

/// How a ballot is shown.
struct Showing<'a> {
    /// Until when its outcome is waited for.
    until: Instant,
    /// The file that it is written to.
    file: Option<&'a Path>,
    format: Format,
}

/// Asks the members for a ballot until its outcome is proved, or until this time, and prints it.
async fn shown(
    client: &FleetClient,
    group: &Group,
    id: &[u8; 32],
    Showing { until, file, format }: Showing<'_>,
) -> Result<Exit, CliError> {
    loop {
        let found = gather(client, group, id).await?;
        if let Some(ballot) = found.proved(group) {
            let report = ballot.verify(client.trusted().as_ref()).map_err(PbftError::Group)?;
            if let Some(path) = file {
                files::write(path, &ballot.to_json())?;
            }
            print_report(&report, None, format)?;
            return Ok(exit_of(&report));
        }
        if Instant::now() >= until {
            let Some((member, shown, record)) = found.first else { return Err(found.problem.into()) };
            let opening = Opening::read(&shown.opening).map_err(PbftError::Group)?;
            let mut out = io::stdout().lock();
            match format {
                Format::Table => {
                    out.write_all(open_group_ballot_text(group, &opening, &record, &member).as_bytes())?;
                }
                format => {
                    let document = open_group_ballot_document(group, &opening, &record, &member);
                    write_document(&mut out, format, &document)?;
                }
            }
            return match file {
                Some(path) => Err(PbftError::NotClosed(path.to_owned()).into()),
                None => Ok(Exit::TimedOut),
            };
        }
        sleep(POLL_PAUSE.min(until.saturating_duration_since(Instant::now()))).await;
    }
}

/// Prints a ballot whose outcome is proved. `source`: where the trusted authorities are from, if that is known.
fn print_report(report: &BallotReport, source: Option<&str>, format: Format) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    match format {
        Format::Table => Ok(out.write_all(group_ballot_text(report, source).as_bytes())?),
        format => write_document(&mut out, format, &group_ballot_document(report, source)),
    }
}

/// Has the members of a group vote on a question, and returns what came of it, proved.
pub(super) async fn decide(
    client: &FleetClient,
    group: &Group,
    question: String,
    deadline: Duration,
) -> Result<BallotReport, CliError> {
    let id = begin(client, group, (question, Vec::new()), (SHARE, deadline)).await?;
    note(&format!("waiting for the votes of the members in ballot {}", hex(&id)));
    let until = Instant::now() + deadline.saturating_add(AFTER_DEADLINE).min(LONGEST);
    loop {
        let found = gather(client, group, &id).await?;
        if let Some(ballot) = found.proved(group) {
            return Ok(ballot.verify(client.trusted().as_ref()).map_err(PbftError::Group)?);
        }
        if Instant::now() >= until {
            return Err(found.problem.into());
        }
        sleep(POLL_PAUSE).await;
    }
}

/// What the members say of a ballot.
struct Found {
    /// What the first one says that knows it.
    first: Option<(String, BallotShown, BallotRecord)>,
    /// What closed ballots members have signed, and who has.
    signed: Vec<(BallotShown, BallotRecord, Vec<Attestation>)>,
    /// Why one of them has not said anything.
    problem: PbftError,
}

impl Found {
    /// Returns the ballot if a quorum has signed the same.
    fn proved(&self, group: &Group) -> Option<GroupBallotFile> {
        let need = group.epoch().quorums().quorum();
        let (shown, record, attested) = self.signed.iter().find(|(_, _, attested)| attested.len() >= need)?;
        Some(GroupBallotFile::of(group, shown.opening.clone(), record, attested.clone()))
    }
}

/// Asks all members for a ballot, and waits only briefly for those that are silent once a quorum has answered. What one
/// says wrongly is left out, and noted.
async fn gather(client: &FleetClient, group: &Group, id: &[u8; 32]) -> Result<Found, CliError> {
    let mut found = Found { first: None, signed: Vec::new(), problem: PbftError::NoMember(String::new()) };
    let question = Ask::ShowBallot { group: group.name().to_owned(), ballot: hex(id) };
    let (members, quorum): (Vec<&str>, usize) = (group.names().collect(), group.epoch().quorums().quorum());
    for (member, answer) in all(&members, quorum, |member| ask(client, member, &question, ANSWER_WITHIN)).await? {
        let answer = match answer {
            Ok(answer) => answer,
            Err(problem) => {
                // What one says is worth more than that another is away.
                if !matches!(found.problem, PbftError::Refused { .. }) {
                    found.problem = problem;
                }
                continue;
            }
        };
        let said = exchange::read::<BallotShown>("answer of a member", &answer)
            .and_then(|shown| shown.read(group, member, id).map(|(record, attested)| (shown, record, attested)));
        match said {
            Ok((shown, record, attested)) => found.add(member, shown, record, attested),
            Err(error) => {
                note(&format!("{member}: {error}"));
                found.problem = PbftError::Group(error);
            }
        }
    }
    Ok(found)
}

impl Found {
    fn add(&mut self, member: &str, shown: BallotShown, record: BallotRecord, attested: Option<Attestation>) {
        if self.first.is_none() {
            self.first = Some((member.to_owned(), shown.clone(), record.clone()));
        }
        let Some(attestation) = attested else { return };
        match self.signed.iter_mut().find(|(_, known, _)| *known == record) {
            Some((_, _, signers)) => signers.push(attestation),
            None => self.signed.push((shown, record, vec![attestation])),
        }
    }
}

fn exit_of(report: &BallotReport) -> Exit {
    match report.record.outcome {
        FileOutcome::Approved => Exit::Success,
        FileOutcome::Rejected | FileOutcome::Expired | FileOutcome::Open => Exit::TaskFailed,
    }
}

/// What tells the kinds of files apart.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kind {
    api_version: String,
}

/// Reads a file if it is one of a ballot of a group. `None`: it is something else, or can't be read. This verifies
/// nothing.
pub(in crate::commands) fn file(path: &Path) -> Result<Option<GroupBallotFile>, CliError> {
    let Ok(json) = files::read(path, MAX_FILE_BYTES) else { return Ok(None) };
    let kind = serde_json::from_slice::<Kind>(&json);
    if kind.is_ok_and(|kind| kind.api_version == GROUP_BALLOT_FILE_VERSION) {
        let failed = |problem: GroupError| PbftError::Form { file: path.to_owned(), problem: Box::new(problem) };
        return Ok(Some(GroupBallotFile::from_json(&json).map_err(failed)?));
    }
    Ok(None)
}

/// Verifies the file of a ballot, and prints what is in it.
pub(in crate::commands) fn verify(
    ballot: &GroupBallotFile,
    fleet: &Connection,
    format: Format,
) -> Result<Exit, CliError> {
    let trusted = credentials::trusted(&fleet.credentials)?;
    match ballot.verify(trusted.as_ref().map(|(bundle, _)| bundle)) {
        Ok(report) => {
            let source = trusted.as_ref().map(|(_, source)| source.as_str());
            print_report(&report, source, format)?;
            Ok(Exit::Success)
        }
        Err(error) => {
            note(&format!("the file is not right: {error}"));
            Ok(Exit::TaskFailed)
        }
    }
}
