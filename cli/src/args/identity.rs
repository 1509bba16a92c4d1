//! The arguments that are about who may use a fleet, and who may be in it.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use robeing_identity::is_segment;

use super::{AgentRole, Output};

/// Arguments with the credentials for endpoints. A fleet of `robeing dev` needs none of them.
#[derive(Args, Clone, Debug, Default)]
pub struct ClientFiles {
    /// The certificates of the authorities that coordinators must be certified by (PEM), for --endpoint. Without it,
    /// http:// and host:port endpoints are believed, with TLS if they speak it
    #[arg(long, global = true, env = "ROBEING_TRUST", hide_env_values = true, value_name = "FILE")]
    pub trust: Option<PathBuf>,

    /// Your certificate (PEM); `robeing client create` makes one
    #[arg(long, global = true, env = "ROBEING_CERTIFICATE", hide_env_values = true, value_name = "FILE")]
    pub certificate: Option<PathBuf>,

    /// The private key of your certificate (PEM)
    #[arg(long, global = true, env = "ROBEING_PRIVATE_KEY", hide_env_values = true, value_name = "FILE")]
    pub private_key: Option<PathBuf>,

    /// A file with a token of the audience robeing
    #[arg(long, global = true, env = "ROBEING_TOKEN_FILE", hide_env_values = true, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// The directory of the fleet's certificate authority, with which robeing certifies itself
    #[arg(long, global = true, env = "ROBEING_CA", hide_env_values = true, value_name = "DIR")]
    pub ca: Option<PathBuf>,
}

/// Maximum length of the reason for barring an agent, in bytes; the fleet keeps no longer one.
pub const MAX_REASON_BYTES: usize = 256;

/// Arguments of `quarantine` and `remove`.
#[derive(Args, Debug)]
pub struct BarArgs {
    /// The agent's name
    pub agent: String,

    /// The reason, kept with the agent's name and in the audit log, and sent to the agent
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,

    /// Bar the name also if the fleet knows no agent of it, so that none that comes with it gets in
    #[arg(long)]
    pub unknown: bool,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Checks the reason for barring an agent.
fn reason(text: &str) -> Result<String, String> {
    match text.trim() {
        "" => Err("a reason must not be empty".into()),
        text if text.len() > MAX_REASON_BYTES => {
            Err(format!("a reason has at most {MAX_REASON_BYTES} bytes, and this one has {}", text.len()))
        }
        text => Ok(text.into()),
    }
}

/// Arguments of `release`.
#[derive(Args, Debug)]
pub struct ReleaseArgs {
    /// The agent's name
    pub agent: String,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// The subcommands of `token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token with which one agent can enrol, once
    Create(CreateTokenArgs),
}

/// Arguments of `token create`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The token is all that is written to standard output, so that it can be passed on, for example:

    ROBEING_JOIN_TOKEN=$(robeing token create --name data-7) robeing-agent --role worker --name data-7 ...

Anyone who has the token can use it before the agent does: pass it on through an environment variable or a file, and \
let it expire soon.")]
pub struct CreateTokenArgs {
    /// The role that the agent must have; worker if omitted
    #[arg(long, value_enum, ignore_case = true)]
    pub role: Option<AgentRole>,

    /// The pool that the agent must be of; without it, none
    #[arg(long, value_name = "NAME")]
    pub pool: Option<String>,

    /// The name that the agent must have; without it, any that is not in use
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// How long the token can be used, up to 24h
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub valid_for: Duration,

    /// Do not print on standard error until when the token can be used
    #[arg(short, long)]
    pub quiet: bool,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// The subcommands of `client`.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Make a private key, and a certificate with which it uses the fleet
    Create(CreateClientArgs),
}

/// Arguments of `client create`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The key is made on this machine and does not leave it. Three files are written: NAME.crt, the certificate; NAME.key, \
the private key, which only this user can read; and trust.crt, the certificates of the authorities that coordinators \
are certified by. What the client may do is what the fleet's administrator allows to this name.")]
pub struct CreateClientArgs {
    /// The name of the person or the program: letters, digits, '-', '.' and '_'
    #[arg(value_parser = client_name)]
    pub name: String,

    /// How long the certificate is valid, from 1m to 366days
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    pub valid_for: Duration,

    /// The directory for the files, which is made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// Replace files that exist
    #[arg(long)]
    pub force: bool,
}

/// Maximum length of a client's name, which becomes part of the name of a file.
pub const MAX_CLIENT_NAME: usize = 200;

/// Checks the name of a client.
fn client_name(text: &str) -> Result<String, String> {
    if text.len() > MAX_CLIENT_NAME {
        return Err(format!("a client's name has at most {MAX_CLIENT_NAME} characters"));
    }
    if text == "trust" {
        return Err("this name is taken: trust.crt has the certificates of the authorities".into());
    }
    if text.starts_with('.') || !is_segment(text) {
        return Err("a client's name consists of letters, digits, '-', '.' and '_', and does not begin with '.'".into());
    }
    Ok(text.into())
}

/// The subcommands of `policies`.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// Replace the policies of the fleet by those of a file
    Set(SetPoliciesArgs),
    /// Show the policies of the fleet
    Show(ShowPoliciesArgs),
    /// Check the policies of a file without a fleet
    Check(PolicyFileArgs),
}

/// Arguments of `policies set`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The policies replace those that the fleet has, from then on; an empty list removes them all, and a manifest without \
spec.policies is refused. On Kubernetes, the operator sets the policies of the RobeingCluster: change spec.policies \
there.")]
pub struct SetPoliciesArgs {
    /// A YAML file with a list `policies`, or the manifest of a RobeingCluster; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `policies show`.
#[derive(Args, Debug)]
pub struct ShowPoliciesArgs {
    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `policies check`.
#[derive(Args, Debug)]
pub struct PolicyFileArgs {
    /// A YAML file with a list `policies`, or the manifest of a RobeingCluster; - for standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// Arguments of `audit`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The log keeps the newest 10,000 records. Their numbers increase by one; with --after, a note on standard error states \
which of the requested records are no longer kept. With -o json, each record is a line.")]
pub struct AuditArgs {
    /// List only the records after this one
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub after: u64,

    /// Wait for further records until Ctrl-C, and print each as a line
    #[arg(long)]
    pub follow: bool,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}
