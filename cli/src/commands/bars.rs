//! `robeing quarantine`, `robeing remove` and `robeing release`.

use std::io;

use robeing_client::ClientError;
use robeing_proto::v1::{BarAgentRequest, BarKind, ReleaseAgentRequest};

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
    let BarArgs { agent, reason, unknown, output } = args;
    let request = BarAgentRequest { agent: agent.clone(), kind: kind.into(), reason, known_only: !unknown };
    let barred = client.bar_agent(request).await.map_err(|error| match error {
        ClientError::NotFound { .. } => CliError::NotFound(unknown_text(&agent)),
        error => error.into(),
    })?;
    let text = barred_text(&agent, kind, barred.known);
    print_one(&mut io::stdout().lock(), output.output, &barred, |_| text)?;
    Ok(Exit::Success)
}

/// Returns that an agent is not barred because its name may be mistyped.
fn unknown_text(agent: &str) -> String {
    format!(
        "the fleet has no agent {agent:?}, so nothing has changed; `robeing agents --all` lists those it has, and \
         --unknown bars a name before an agent comes with it"
    )
}

fn barred_text(agent: &str, kind: BarKind, is_known: bool) -> String {
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
        true => effect,
        false => "the fleet knows no agent of this name now, and will refuse one that comes",
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
            barred_text("data-0", BarKind::Quarantined, true),
            barred_text("data-0", BarKind::Removed, true),
            barred_text("data-\u{1b}[31m", BarKind::Removed, false),
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
