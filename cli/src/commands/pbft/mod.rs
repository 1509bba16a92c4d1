//! `robeing pbft form`, `status`, `epoch`, `propose`, `log` and `verify`.

mod asking;
pub(super) mod ballots;
mod epoch;
mod files;
mod propose;
mod status;

use std::{
    io::{self, Write},
    time::Duration,
};

use robeing_client::FleetClient;
use robeing_groups::{
    CheckedDecision, Enrolment, Group, GroupError, GroupFile, LogFile, Seen, entries_of,
    exchange::{self, Ask, Enrolled, Page, Shown},
    is_group_name,
};
use robeing_proto::v1::GetTeamRequest;

use self::asking::ask;
pub use self::files::PbftError;
use super::{connect::client, credentials};
use crate::{
    args::{Connection, FormGroupArgs, Format, LogArgs, LogFileArgs, PbftCommand},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{
        decisions_document, decisions_table, group_text, log_report_document, log_report_text, note, write_document,
    },
};

/// How long a member may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a group may take to decide: other members become primary if one is away.
const DECIDE_WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn run(command: PbftCommand, fleet: &Connection) -> Result<Exit, CliError> {
    match command {
        PbftCommand::Form(args) => form(args, fleet).await,
        PbftCommand::Status(args) => status::show(args, fleet).await,
        PbftCommand::Epoch(args) => epoch::change(args, fleet).await,
        PbftCommand::Propose(args) => propose::run(args, fleet).await,
        PbftCommand::Log(args) => log(args, fleet).await,
        PbftCommand::Verify(args) => verify(&args, fleet),
    }
}

async fn form(args: FormGroupArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let FormGroupArgs { name, members, team, file } = args;
    if !is_group_name(&name) {
        return Err(PbftError::Group(GroupError::Name(name)).into());
    }
    let path = file.unwrap_or_else(|| files::description_of(&name));
    // Before the fleet is reached, if they are given.
    let given = if team.is_none() { Enrolment::in_order(&members).map_err(PbftError::Group)? } else { Vec::new() };
    let client = client(fleet, None, Access::Use).await?;
    let members = match team {
        Some(id) => members_of(&client, id).await?,
        None => given,
    };
    let trusted = client.trusted().ok_or(PbftError::NoTrust)?;
    let (group, is_new) = match path.exists() {
        true => (files::described(&path)?, false),
        false => (enrolled(&client, &name, &members).await?, true),
    };
    group.check_trust(&trusted).map_err(PbftError::Group)?;
    if group.name() != name || !group.names().eq(members.iter().map(String::as_str)) {
        return Err(PbftError::OtherGroup(path).into());
    }
    if is_new {
        // Before the members start: without it, nobody could verify what they decide.
        files::write(&path, &group.file().to_json())?;
    }
    start(&client, &group).await?;
    io::stdout().lock().write_all(group_text(&group, &path).as_bytes())?;
    Ok(Exit::Success)
}

/// Has all members start with the description of their group.
async fn start(client: &FleetClient, group: &Group) -> Result<(), CliError> {
    for member in group.names() {
        let question = Ask::Form { file: group.file().clone() };
        let answer = ask(client, member, &question, ANSWER_WITHIN).await??;
        let shown: Shown = exchange::read("answer of a member", &answer).map_err(PbftError::Group)?;
        if !shown.status.problem.is_empty() {
            note(&format!("{member} does not take part: {}", shown.status.problem));
        }
    }
    Ok(())
}

/// Returns the names of a team's members, if they can form a group.
async fn members_of(client: &FleetClient, team: String) -> Result<Vec<String>, CliError> {
    let team = client.get_team(GetTeamRequest { id: team }).await?;
    let names: Vec<String> = team.members.into_iter().map(|member| member.name).collect();
    Ok(Enrolment::in_order(&names).map_err(PbftError::Group)?)
}

/// Has agents enrol for a group, and returns the group.
async fn enrolled(client: &FleetClient, name: &str, members: &[String]) -> Result<Group, CliError> {
    let mut enrolments = Vec::new();
    for member in members {
        let question = Ask::Enrol { group: name.to_owned(), members: members.to_vec() };
        let answer = ask(client, member, &question, ANSWER_WITHIN).await??;
        let answer: Enrolled = exchange::read("answer of a member", &answer).map_err(PbftError::Group)?;
        enrolments.push(answer.enrolment);
    }
    let group = GroupFile::of(enrolments).and_then(GroupFile::verify);
    Ok(group.map_err(PbftError::Group)?)
}

/// Returns decisions of a group from a number on, as one of these members has them, which is asked first from then on.
async fn page<'a>(
    client: &FleetClient,
    group: &'a Group,
    members: &mut [&'a str],
    (from, limit): (u64, u32),
) -> Result<Page, CliError> {
    let question = Ask::Log { group: group.name().to_owned(), from, limit };
    let faulty = group.epoch().quorums().faulty();
    let (member, page) =
        asking::first(members, faulty, |member| asking::ask_for(client, member, &question, ANSWER_WITHIN)).await?;
    members.sort_by_key(|name| *name != member);
    Ok(page)
}

async fn log(args: LogArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let group = files::group(&args.group)?;
    let mut members = asking::members(&group, args.via.as_deref())?;
    let client = client(fleet, None, Access::Use).await?;
    let trusted = client.trusted();
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut from, mut kept, mut seen) = (args.from, Vec::new(), Seen::new());
    let mut decisions: Vec<CheckedDecision> = Vec::new();
    while decisions.len() < limit {
        let left = u32::try_from(limit - decisions.len()).unwrap_or(u32::MAX);
        let page = page(&client, &group, &mut members, (from, left.min(exchange::MAX_PAGE))).await?;
        let (count, mut wrong) = (decisions.len(), None);
        for bytes in page.decisions {
            let checked = match entries_of(&group, &bytes.0, trusted.as_ref(), &mut seen) {
                Ok(checked) => checked,
                Err(error) => {
                    wrong = Some(error);
                    break;
                }
            };
            if checked.seq >= from {
                from = checked.seq.saturating_add(1);
                decisions.push(checked);
                kept.push(bytes);
            }
        }
        if let Some(error) = wrong {
            // It comes first since it has answered; the others are asked for the rest.
            let liar = members.remove(0);
            if members.is_empty() {
                return Err(PbftError::Group(error).into());
            }
            note(&format!("{liar}: {error}"));
            continue;
        }
        if decisions.len() == count || from > page.last {
            break;
        }
    }
    if let Some(path) = &args.file {
        files::write(path, &LogFile::of(&group, kept).to_json())?;
    }
    let mut out = io::stdout().lock();
    match args.output.output {
        Format::Table => out.write_all(decisions_table(&decisions).as_bytes())?,
        format => write_document(&mut out, format, &decisions_document(&decisions))?,
    }
    Ok(Exit::Success)
}

fn verify(args: &LogFileArgs, fleet: &Connection) -> Result<Exit, CliError> {
    if let Some(ballot) = ballots::file(&args.file)? {
        return ballots::verify(&ballot, fleet, args.output.output);
    }
    let file = files::log(&args.file)?;
    let trusted = credentials::trusted(&fleet.credentials)?;
    match file.verify(trusted.as_ref().map(|(bundle, _)| bundle)) {
        Ok(report) => {
            let source = trusted.as_ref().map(|(_, source)| source.as_str());
            let mut out = io::stdout().lock();
            match args.output.output {
                Format::Table => out.write_all(log_report_text(&report, source).as_bytes())?,
                format => write_document(&mut out, format, &log_report_document(&report, source))?,
            }
            Ok(Exit::Success)
        }
        Err(error) => {
            note(&format!("the file is not right: {error}"));
            Ok(Exit::TaskFailed)
        }
    }
}
