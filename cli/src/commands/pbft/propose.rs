//! `robeing pbft propose`.

use std::io::{self, Write};

use robeing_client::{FleetClient, new_proposal_id};
use robeing_groups::{
    Group, GroupError, MAX_TEXT_BYTES, Proposal, Seen, entries_of,
    exchange::{Ask, Decided, Page},
};
use tokio::time::Instant;

use super::{
    ANSWER_WITHIN, DECIDE_WITHIN, PbftError,
    asking::{Asked, ask_for, first, members, undecided},
    files,
};
use crate::{
    args::{Connection, ProposeArgs},
    commands::connect::client,
    error::CliError,
    exit::Exit,
    inputs::read_message,
    kubernetes::Access,
};

pub(super) async fn run(args: ProposeArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let group = files::group(&args.group)?;
    let text = match (&args.file, args.text) {
        (Some(file), _) => read_message(file)?,
        (None, text) => text.unwrap_or_default().into_bytes(),
    };
    if text.len() > MAX_TEXT_BYTES {
        let (what, bytes, most) = ("text of the proposal", text.len(), MAX_TEXT_BYTES);
        return Err(PbftError::Group(GroupError::TooLarge { what, bytes, most }).into());
    }
    let asked = members(&group, args.via.as_deref())?;
    let client = client(fleet, None, Access::Use).await?;
    let proposal = client.signed_proposal(&group, new_proposal_id(), text.into())?;
    let (mine, author) = Proposal::verify(&proposal, &group).map_err(PbftError::Group)?;
    let question = Ask::Propose { group: group.name().to_owned(), proposal };
    let (faulty, began) = (group.epoch().quorums().faulty(), Instant::now());
    let decided =
        first(&asked, faulty, |member| decided_by(&client, &group, member, &question, (&mine, author.as_str())));
    let (_, decision) = decided.await.map_err(|error| undecided(error, began))?;
    writeln!(io::stdout().lock(), "{decision}")?;
    Ok(Exit::Success)
}

/// Has a member propose something, and returns the number of the decision, once the member has proved it. The member may
/// lie, and so may an agent that passes its answer on. A decision proves itself, but any does: it must be one of this very
/// proposal.
async fn decided_by(
    client: &FleetClient,
    group: &Group,
    member: &str,
    question: &Ask,
    (mine, author): (&Proposal, &str),
) -> Asked<u64> {
    let decision = match ask_for::<Decided>(client, member, question, DECIDE_WITHIN).await? {
        Ok(Decided { decision }) => decision,
        Err(error) => return Ok(Err(error)),
    };
    let log = Ask::Log { group: group.name().to_owned(), from: decision, limit: 1 };
    let decisions = match ask_for::<Page>(client, member, &log, ANSWER_WITHIN).await? {
        Ok(Page { decisions, .. }) => decisions,
        Err(error) => return Ok(Err(error)),
    };
    let proved = decisions.first().map(|one| entries_of(group, &one.0, None, &mut Seen::new())).transpose();
    Ok(match proved {
        Ok(Some(proved)) if proved.seq == decision && proved.decides(mine, author) => Ok(decision),
        Ok(_) => Err(PbftError::NotProved { member: member.to_owned(), decision }),
        Err(error) => Err(error.into()),
    })
}
