//! `robeing team form`, `show`, `list` and `disband`.

use std::io;

use jiff::Timestamp;
use robeing_client::new_team_id;
use robeing_proto::v1::{DisbandTeamRequest, FormTeamRequest, GetTeamRequest, ListTeamsRequest, Role, Team};

use super::{connect::client, ensure_id};
use crate::{
    args::{Connection, DisbandArgs, FormArgs, ListTeamsArgs, ShowTeamArgs, TeamCommand},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{print_list, print_one, team_text, teams_table},
};

/// Number of teams that one call lists.
const PAGE: u32 = 100;
/// The commands that print the ids of teams.
const PRINTED_BY: &str = "`robeing team form` and `robeing team list`";

pub(super) async fn run(command: TeamCommand, fleet: &Connection) -> Result<Exit, CliError> {
    match command {
        TeamCommand::Form(args) => form(args, fleet).await,
        TeamCommand::Show(args) => show(args, fleet).await,
        TeamCommand::List(args) => list(args, fleet).await,
        TeamCommand::Disband(args) => disband(args, fleet).await,
    }
}

async fn form(args: FormArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let format = args.output.output;
    let client = client(fleet, None, Access::Use).await?;
    let team = client.form_team(forming(args)).await?;
    print_one(&mut io::stdout().lock(), format, &team, formed_text)?;
    Ok(Exit::Success)
}

fn forming(args: FormArgs) -> FormTeamRequest {
    FormTeamRequest {
        id: args.id.unwrap_or_else(new_team_id),
        purpose: args.purpose,
        size: args.size,
        partial: args.partial,
        role: args.role.map_or(Role::Unspecified, Role::from).into(),
        skills: args.needs,
    }
}

fn formed_text(team: &Team) -> String {
    format!("{}\n", team.id)
}

async fn show(args: ShowTeamArgs, fleet: &Connection) -> Result<Exit, CliError> {
    ensure_id("team", &args.team, PRINTED_BY)?;
    let client = client(fleet, None, Access::Use).await?;
    let team = client.get_team(GetTeamRequest { id: args.team }).await?;
    print_one(&mut io::stdout().lock(), args.output.output, &team, |team| team_text(team, Timestamp::now()))?;
    Ok(Exit::Success)
}

async fn disband(args: DisbandArgs, fleet: &Connection) -> Result<Exit, CliError> {
    ensure_id("team", &args.team, PRINTED_BY)?;
    let client = client(fleet, None, Access::Use).await?;
    let request = DisbandTeamRequest { id: args.team, term: args.term.unwrap_or_default() };
    let team = client.disband_team(request).await?;
    print_one(&mut io::stdout().lock(), args.output.output, &team, |team| team_text(team, Timestamp::now()))?;
    Ok(Exit::Success)
}

async fn list(args: ListTeamsArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let mut request = ListTeamsRequest { open: !args.all, limit: args.limit.min(PAGE), page_token: String::new() };
    let mut teams = Vec::new();
    loop {
        let page = client.list_teams(request.clone()).await?;
        let is_last = page.next_page_token.is_empty() || page.teams.is_empty();
        teams.extend(page.teams);
        if is_last || teams.len() >= limit {
            break;
        }
        request.page_token = page.next_page_token;
    }
    teams.truncate(limit);
    print_list(&mut io::stdout().lock(), args.output.output, &teams, |list| teams_table(list, Timestamp::now()))?;
    Ok(Exit::Success)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{AgentRole, Format, Output};

    #[test]
    fn every_team_has_an_id_of_its_own() {
        let args = || FormArgs {
            purpose: "review".into(),
            size: 3,
            needs: vec!["ocr".into()],
            role: Some(AgentRole::Specialist),
            partial: true,
            id: None,
            output: Output { output: Format::Table },
        };
        let (one, other) = (forming(args()), forming(args()));
        assert_ne!(one.id, other.id);
        assert_eq!((one.size, one.partial, one.role()), (3, true, Role::Specialist));
        assert_eq!(one.skills, ["ocr"]);
        assert_eq!(forming(FormArgs { id: Some("7".into()), ..args() }).id, "7");
    }
}
