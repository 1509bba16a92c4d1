//! `robeing agents` and `robeing status`.

use std::io;

use jiff::Timestamp;

use super::connect::{client, consistency, reach, resource};
use crate::{
    args::{AgentsArgs, Connection, Format, StatusArgs},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{agent_text, agents_table, print_list, print_one, resource_text, status_text},
};

pub(super) async fn agents(args: AgentsArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, Some(&args.reading), Access::Use).await?;
    if let Some(name) = &args.why {
        let found = client.agent(name, consistency(&args.reading)).await?;
        let agent = found.ok_or_else(|| {
            CliError::NotFound(format!(
                "no agent {name:?} in the fleet: it never joined, has left, or was lost so long ago that it is forgotten; \
                 `robeing agents --all` lists all there are"
            ))
        })?;
        print_one(&mut io::stdout().lock(), args.output.output, &agent, |agent| agent_text(agent, Timestamp::now()))?;
        return Ok(Exit::Success);
    }
    let agents = client.list_agents(args.all, consistency(&args.reading)).await?;
    print_list(&mut io::stdout().lock(), args.output.output, &agents, |agents| agents_table(agents, Timestamp::now()))?;
    Ok(Exit::Success)
}

pub(super) async fn status(args: StatusArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let (client, resource) = match reach(fleet, Some(&args.reading), Access::Use).await {
        Ok(reached) => reached,
        Err(error) => {
            // Print the resource even if the user may not read more than that, or if no coordinator is up.
            let told = if args.output.output == Format::Table { resource(fleet).await } else { None };
            if let Some(resource) = told {
                io::Write::write_all(&mut io::stdout().lock(), resource_text(&resource).as_bytes())?;
            }
            return Err(error);
        }
    };
    let status = client.status(consistency(&args.reading)).await?;
    print_one(&mut io::stdout().lock(), args.output.output, &status, |status| {
        resource.as_ref().map(resource_text).unwrap_or_default() + &status_text(status)
    })?;
    Ok(Exit::Success)
}
