//! `robeing pbft form`, `epoch`, `propose`, `log` and `verify`.

pub(super) mod ballots;
mod epoch;
mod files;

use std::{
    io::{self, Write},
    time::Duration,
};

use robeing_client::{FleetClient, new_proposal_id};
use robeing_groups::{
    CheckedDecision, Enrolment, Group, GroupError, GroupFile, LogFile, MAX_TEXT_BYTES, Proposal, Seen, entries_of,
    exchange::{self, Ask, Decided, Enrolled, Page, Shown},
    is_group_name,
};
use robeing_proto::v1::{GetTeamRequest, MessageCode, MessageStatus};
use robeing_votes::Base64;

pub use self::files::PbftError;
use super::{connect::client, credentials};
use crate::{
    args::{Connection, FormGroupArgs, LogArgs, LogFileArgs, PbftCommand, ProposeArgs},
    error::CliError,
    exit::Exit,
    inputs::read_message,
    kubernetes::Access,
    render::{decisions_table, group_text, log_report_text, note, outcome_text},
};

/// How long a member may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a group may take to decide: other members become primary if one is away.
const DECIDE_WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn run(command: PbftCommand, fleet: &Connection) -> Result<Exit, CliError> {
    match command {
        PbftCommand::Form(args) => form(args, fleet).await,
        PbftCommand::Epoch(args) => epoch::change(args, fleet).await,
        PbftCommand::Propose(args) => propose(args, fleet).await,
        PbftCommand::Log(args) => log(args, fleet).await,
        PbftCommand::Verify(args) => verify(&args, fleet),
    }
}

/// Asks an agent. Returns its reply, or why there is none.
async fn ask(
    client: &FleetClient,
    member: &str,
    question: &Ask,
    within: Duration,
) -> Result<Result<Vec<u8>, PbftError>, CliError> {
    let member = member.to_owned();
    let Some(status) = client.ask_member(&member, question, within).await? else {
        return Ok(Err(PbftError::Away { member, reason: "no agent has this name".into() }));
    };
    let MessageStatus { reason, reply, .. } = &status;
    Ok(match (status.code(), reply) {
        (MessageCode::Accepted, Some(reply)) => Ok(reply.to_vec()),
        (MessageCode::Refused, _) => Err(PbftError::Refused { member, reason: reason.clone() }),
        _ => Err(PbftError::Away { member, reason: outcome_text(&status).trim_end().to_owned() }),
    })
}

/// Asks one member of a group after another until one answers.
async fn any_answer(
    client: &FleetClient,
    group: &Group,
    via: Option<&str>,
    question: &Ask,
    within: Duration,
) -> Result<(String, Vec<u8>), CliError> {
    let mut last = PbftError::NoMember(via.unwrap_or_default().to_owned());
    for member in group.names().filter(|name| via.is_none_or(|via| via == *name)) {
        match ask(client, member, question, within).await? {
            Ok(answer) => return Ok((member.to_owned(), answer)),
            Err(error) => {
                if via.is_none() {
                    note(&error.to_string());
                }
                last = error;
            }
        }
    }
    Err(last.into())
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

async fn propose(args: ProposeArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let group = files::group(&args.group)?;
    let text = match (&args.file, args.text) {
        (Some(file), _) => read_message(file)?,
        (None, text) => text.unwrap_or_default().into_bytes(),
    };
    if text.len() > MAX_TEXT_BYTES {
        let (what, bytes, most) = ("text of the proposal", text.len(), MAX_TEXT_BYTES);
        return Err(PbftError::Group(GroupError::TooLarge { what, bytes, most }).into());
    }
    let client = client(fleet, None, Access::Use).await?;
    let proposal = client.signed_proposal(&group, new_proposal_id(), text.into())?;
    let (mine, author) = Proposal::verify(&proposal, &group).map_err(PbftError::Group)?;
    let question = Ask::Propose { group: group.name().to_owned(), proposal };
    let (member, answer) = any_answer(&client, &group, args.via.as_deref(), &question, DECIDE_WITHIN).await?;
    let Decided { decision } = exchange::read("answer of a member", &answer).map_err(PbftError::Group)?;
    // The member may lie, and so may whoever passes its answer on. A decision proves itself, but any does: it must be
    // one of this very proposal.
    let page = page(&client, &group, Some(&member), (decision, 1)).await?;
    let mut seen = Seen::new();
    let proved = page.decisions.first().map(|Base64(bytes)| entries_of(&group, bytes, None, &mut seen)).transpose();
    match proved.map_err(PbftError::Group)? {
        Some(proved) if proved.seq == decision && proved.decides(&mine, &author) => {
            writeln!(io::stdout().lock(), "{decision}")?;
            Ok(Exit::Success)
        }
        _ => {
            let says = format!("{member} says that it is decision {decision}, and does not prove it");
            note(&format!("{says}; see `robeing pbft log`"));
            Ok(Exit::TaskFailed)
        }
    }
}

/// Returns decisions of a group from a number on, as a member has them.
async fn page(
    client: &FleetClient,
    group: &Group,
    via: Option<&str>,
    (from, limit): (u64, u32),
) -> Result<Page, CliError> {
    let question = Ask::Log { group: group.name().to_owned(), from, limit };
    let (_, answer) = any_answer(client, group, via, &question, ANSWER_WITHIN).await?;
    Ok(exchange::read("answer of a member", &answer).map_err(PbftError::Group)?)
}

async fn log(args: LogArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let group = files::group(&args.group)?;
    let client = client(fleet, None, Access::Use).await?;
    let trusted = client.trusted();
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let (mut from, mut kept, mut seen) = (args.from, Vec::new(), Seen::new());
    let mut decisions: Vec<CheckedDecision> = Vec::new();
    while decisions.len() < limit {
        let left = u32::try_from(limit - decisions.len()).unwrap_or(u32::MAX);
        let page = page(&client, &group, args.via.as_deref(), (from, left.min(exchange::MAX_PAGE))).await?;
        let count = decisions.len();
        for bytes in page.decisions {
            let checked = entries_of(&group, &bytes.0, trusted.as_ref(), &mut seen).map_err(PbftError::Group)?;
            if checked.seq >= from {
                from = checked.seq.saturating_add(1);
                decisions.push(checked);
                kept.push(bytes);
            }
        }
        if decisions.len() == count || from > page.last {
            break;
        }
    }
    if let Some(path) = &args.file {
        files::write(path, &LogFile::of(&group, kept).to_json())?;
    }
    io::stdout().lock().write_all(decisions_table(&decisions).as_bytes())?;
    Ok(Exit::Success)
}

fn verify(args: &LogFileArgs, fleet: &Connection) -> Result<Exit, CliError> {
    if let Some(ballot) = ballots::file(&args.file)? {
        return ballots::verify(&ballot, fleet);
    }
    let file = files::log(&args.file)?;
    let trusted = credentials::trusted(&fleet.credentials)?;
    match file.verify(trusted.as_ref().map(|(bundle, _)| bundle)) {
        Ok(report) => {
            let source = trusted.as_ref().map(|(_, source)| source.as_str());
            io::stdout().lock().write_all(log_report_text(&report, source).as_bytes())?;
            Ok(Exit::Success)
        }
        Err(error) => {
            note(&format!("the file is not right: {error}"));
            Ok(Exit::TaskFailed)
        }
    }
}
