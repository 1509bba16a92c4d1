//! `robeing token create`.

use std::io::{self, Write};

use jiff::Timestamp;
use robeing_proto::v1::{CreateJoinTokenRequest, CreateJoinTokenResponse, Role};

use super::{connect::client, duration};
use crate::{
    args::{Connection, CreateTokenArgs, Format},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{moment, note, print_one, printable},
};

pub(super) async fn create(args: CreateTokenArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Administer).await?;
    let request = CreateJoinTokenRequest {
        role: args.role.map_or(Role::Unspecified, Role::from).into(),
        pool: args.pool.unwrap_or_default(),
        name: args.name.unwrap_or_default(),
        valid_for: Some(duration(args.valid_for)),
    };
    let token = client.create_join_token(request).await?;
    let mut out = io::stdout().lock();
    print_one(&mut out, args.output.output, &token, |token| format!("{}\n", printable(&token.token)))?;
    // The note comes after the token on a terminal.
    out.flush()?;
    if !args.quiet && args.output.output == Format::Table {
        note(&expiry(&token, Timestamp::now()));
    }
    Ok(Exit::Success)
}

fn expiry(token: &CreateJoinTokenResponse, now: Timestamp) -> String {
    format!("note: one agent can enrol with this token, once, until {}", moment(token.expires.as_ref(), now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_states_until_when_a_token_can_be_used() {
        let expires = Some(prost_types::Timestamp { seconds: 1_700_003_600, nanos: 0 });
        let token = CreateJoinTokenResponse { token: "t".into(), expires };
        let now = Timestamp::from_second(1_700_000_000).expect("a time of this century");
        assert_eq!(
            expiry(&token, now),
            "note: one agent can enrol with this token, once, until 2023-11-14T23:13:20.000Z (in 1h)"
        );
    }
}
