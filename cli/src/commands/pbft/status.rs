//! `robeing pbft status`.

use std::io::{self, Write};

use robeing_groups::{
    Group,
    exchange::{Ask, Shown},
};

use super::{
    PbftError,
    asking::{SILENT_AFTER, all, ask_for},
    files,
};
use crate::{
    args::{Connection, Format, GroupStatusArgs},
    commands::connect::client,
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{GroupStatus, MemberState, MemberStatus, ProtocolStatus, write_document},
};

pub(super) async fn show(args: GroupStatusArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let group = files::group(&args.group)?;
    let client = client(fleet, None, Access::Use).await?;
    let question = Ask::Show { group: group.name().to_owned() };
    let members: Vec<&str> = group.names().collect();
    let said = all(&members, 0, |member| ask_for::<Shown>(&client, member, &question, SILENT_AFTER)).await?;
    let status = GroupStatus {
        group: group.name().to_owned(),
        epoch: group.epoch().number,
        fingerprint: group.fingerprint(),
        quorum: group.epoch().quorums().quorum(),
        members: said.into_iter().map(|(member, answer)| status_of(&group, member, answer)).collect(),
    };
    let mut out = io::stdout().lock();
    match args.output.output {
        Format::Table => out.write_all(status.text().as_bytes())?,
        format => write_document(&mut out, format, &status)?,
    }
    Ok(if status.can_decide() { Exit::Success } else { Exit::TaskFailed })
}

/// Returns what a member's answer says about it.
fn status_of(group: &Group, member: &str, answer: Result<Shown, PbftError>) -> MemberStatus {
    let member = member.to_owned();
    let without = |state, reason| MemberStatus { member: member.clone(), state, protocol: None, reason };
    let Shown { file, status } = match answer {
        Ok(shown) => shown,
        Err(PbftError::Away { reason, .. }) => return without(MemberState::Silent, reason),
        Err(PbftError::Refused { reason, .. }) => return without(MemberState::Refuses, reason),
        Err(error) => return without(MemberState::Refuses, error.to_string()),
    };
    if file != *group.file() {
        let reason = "it has another description of the group: of another epoch, or formed again";
        return without(MemberState::OtherDescription, reason.to_owned());
    }
    if !status.problem.is_empty() {
        return without(MemberState::Halted, status.problem);
    }
    let state = if status.active { MemberState::Active } else { MemberState::ChangesView };
    let protocol = ProtocolStatus {
        view: status.view,
        primary: group.primary(status.view).to_owned(),
        decided: status.decided,
        proved: status.stable,
    };
    MemberStatus { member, state, protocol: Some(protocol), reason: String::new() }
}
