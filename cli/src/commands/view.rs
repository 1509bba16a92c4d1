//! `robeing agents` and `robeing status`.

use std::io;

use jiff::Timestamp;

use super::connect::{client, consistency, reach};
use crate::{
    args::{AgentsArgs, Connection, StatusArgs},
    error::CliError,
    exit::Exit,
    render::{agents_table, print_list, print_one, resource_text, status_text},
};

pub(super) async fn agents(args: AgentsArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, Some(&args.reading)).await?;
    let agents = client.list_agents(args.all, consistency(&args.reading)).await?;
    print_list(&mut io::stdout().lock(), args.output.output, &agents, |agents| agents_table(agents, Timestamp::now()))?;
    Ok(Exit::Success)
}

pub(super) async fn status(args: StatusArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let (client, resource) = reach(fleet, Some(&args.reading)).await?;
    let status = client.status(consistency(&args.reading)).await?;
    print_one(&mut io::stdout().lock(), args.output.output, &status, |status| {
        resource.as_ref().map(resource_text).unwrap_or_default() + &status_text(status)
    })?;
    Ok(Exit::Success)
}
