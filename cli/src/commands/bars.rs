//! `robeing quarantine`, `robeing remove` and `robeing release`.

use std::io;

use robeing_client::{ClientError, FleetClient};
use robeing_proto::v1::{BarAgentRequest, BarKind, Consistency, ReleaseAgentRequest};
use tonic::Code;

use super::connect::client;
use crate::{
    args::{BarArgs, Connection, ReleaseArgs},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{print_one, printable},
};

pub(super) async fn bar(args: BarArgs, kind: BarKind, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Administer).await?;
    // Before it is barred, because the fleet forgets a removed agent.
    let is_known = is_known(&client, &args.agent).await?;
    if is_known == Some(false) && !args.unknown {
        return Err(CliError::NotFound(unknown_text(&args.agent)));
    }
    let request = BarAgentRequest { agent: args.agent.clone(), kind: kind.into(), reason: args.reason };
    let barred = client.bar_agent(request).await?;
    let text = barred_text(&args.agent, kind, is_known);
    print_one(&mut io::stdout().lock(), args.output.output, &barred, |_| text)?;
    Ok(Exit::Success)
}

/// Returns whether the fleet knows an agent; `None` if this user may not read that.
async fn is_known(client: &FleetClient, agent: &str) -> Result<Option<bool>, CliError> {
    match client.agent(agent, Consistency::Linearizable).await {
        Ok(found) => Ok(Some(found.is_some())),
        // Barring an agent needs another right than reading does.
        Err(ClientError::Refused { code: Code::PermissionDenied, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns that an agent is not barred because its name may be mistyped.
fn unknown_text(agent: &str) -> String {
    format!(
        "the fleet has no agent {agent:?}, so nothing has changed; `robeing agents --all` lists those it has, and \
         --unknown bars a name before an agent comes with it"
    )
}

fn barred_text(agent: &str, kind: BarKind, is_known: Option<bool>) -> String {
    let agent = printable(agent);
    let (what, effect) = match kind {
        BarKind::Removed => {
            ("removed", "its tasks run elsewhere, its certificate is refused, and the fleet forgets it")
        }
        BarKind::Quarantined | BarKind::Unspecified => {
            ("quarantined", "its tasks run elsewhere, and its certificate is refused")
        }
    };
    let effect = match is_known {
        Some(false) => "the fleet knows no agent of this name now, and will refuse one that comes",
        _ => effect,
    };
    format!("agent {agent} is {what}: {effect}; `robeing release {agent}` lets it in again\n")
}

pub(super) async fn release(args: ReleaseArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Administer).await?;
    let released = client.release_agent(ReleaseAgentRequest { agent: args.agent.clone() }).await?;
    print_one(&mut io::stdout().lock(), args.output.output, &released, |released| {
        released_text(&args.agent, released.released)
    })?;
    Ok(Exit::Success)
}

fn released_text(agent: &str, was_barred: bool) -> String {
    let agent = printable(agent);
    match was_barred {
        true => format!("agent {agent} is released: it may be in the fleet again\n"),
        false => format!("agent {agent} is not barred, so nothing has changed\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistyped_name_is_told() {
        let text = unknown_text("data-\u{1b}0");
        assert!(text.starts_with("the fleet has no agent \"data-\\u{1b}0\", so nothing has changed"), "{text}");
    }

    #[test]
    fn what_happened_to_an_agent_is_told() {
        let texts = [
            barred_text("data-0", BarKind::Quarantined, Some(true)),
            barred_text("data-0", BarKind::Removed, None),
            barred_text("data-\u{1b}[31m", BarKind::Removed, Some(false)),
            released_text("data-0", true),
            released_text("data-0", false),
        ];
        insta::assert_snapshot!(texts.concat(), @r"
        agent data-0 is quarantined: its tasks run elsewhere, and its certificate is refused; `robeing release data-0` lets it in again
        agent data-0 is removed: its tasks run elsewhere, its certificate is refused, and the fleet forgets it; `robeing release data-0` lets it in again
        agent data- [31m is removed: the fleet knows no agent of this name now, and will refuse one that comes; `robeing release data- [31m` lets it in again
        agent data-0 is released: it may be in the fleet again
        agent data-0 is not barred, so nothing has changed
        ");
    }
}
