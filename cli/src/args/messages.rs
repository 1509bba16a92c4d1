//! The arguments that are about messages to agents.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::Output;

/// What is sent.
#[derive(Args, Debug)]
pub struct Content {
    /// The message. Without it and --file, the message is empty
    pub text: Option<String>,

    /// A file with the message, at most 1 MiB; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,

    /// What kind of message it is, for the receiver to tell them apart
    #[arg(long = "type", value_name = "TYPE", default_value = "text")]
    pub kind: String,

    /// 1 (last) to 10 (first)
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10))]
    pub priority: u32,
}

/// The address of all agents.
const EVERYONE: &str = "everyone";

/// Checks an address that must stand for one agent. The fleet checks the rest.
fn one_receiver(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        None if text == EVERYONE => Err("it stands for all agents: use `robeing broadcast`".into()),
        Some(("team", _)) => {
            Err(format!("it stands for several agents: use `robeing broadcast --to {}`", text.escape_default()))
        }
        _ => Ok(text.into()),
    }
}

/// Checks an address that must stand for several agents. The fleet checks the rest.
fn many_receivers(text: &str) -> Result<String, String> {
    match text.split_once(':') {
        None if text == EVERYONE => Ok(text.into()),
        None | Some(("agent", _)) => {
            Err(format!("it stands for one agent: use `robeing send {}`", text.escape_default()))
        }
        Some(_) => Ok(text.into()),
    }
}

/// Arguments of `send`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The receiver is one agent: NAME (or agent:NAME), or the best one of a group: role:ROLE, pool:NAME or skill:NAME. A \
message is accepted once the receiver's handler has accepted it. What the handler is, the agent's pool sets: a \
command, an HTTP endpoint, an attached process, or the built-in inbox, which `robeing inbox` reads.

With --durable, the message is accepted once a majority of the coordinators has it. It waits there for a receiver \
that is away, and `robeing message ID` shows what became of it.")]
pub struct SendArgs {
    /// The receiver: NAME, agent:NAME, role:ROLE, pool:NAME or skill:NAME
    #[arg(value_name = "TO", value_parser = one_receiver)]
    pub to: String,

    /// What is sent.
    #[command(flatten)]
    pub content: Content,

    /// How long the receiver has to decide, up to 10m, or to 7days with --durable; 30s, or 24h with --durable
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,

    /// Keep the message for a receiver that is away
    #[arg(long)]
    pub durable: bool,

    /// The id of the message, a UUID; a message that is sent again with its id is handled once
    #[arg(long, value_name = "UUID")]
    pub id: Option<String>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `ask`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The reply is written to standard output, unmodified. An agent replies if its handler does: the output of a command, \
the body of an HTTP response, or the reply of an attached process. The built-in inbox does not reply.

Without a reply, the exit code is 1. With -o json or yaml, what became of the message is written, with the reply as \
base64, and also as text if it is one.")]
pub struct AskArgs {
    /// The receiver: NAME, agent:NAME, role:ROLE, pool:NAME or skill:NAME
    #[arg(value_name = "TO", value_parser = one_receiver)]
    pub to: String,

    /// What is sent.
    #[command(flatten)]
    pub content: Content,

    /// How long the reply may take, up to 10m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub deadline: Duration,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `broadcast`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The exit code is 0 if every agent that the address stands for has accepted the message, 1 if one has not, and 4 if the \
address stands for no active agent.")]
pub struct BroadcastArgs {
    /// What is sent.
    #[command(flatten)]
    pub content: Content,

    /// Only to these agents: role:ROLE, pool:NAME, skill:NAME or team:ID
    #[arg(long, value_name = "ADDRESS", default_value = EVERYONE, value_parser = many_receivers)]
    pub to: String,

    /// How long the receivers have to decide, up to 10m
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    pub deadline: Duration,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `message`.
#[derive(Args, Debug)]
pub struct MessageArgs {
    /// The id of the message
    pub id: String,

    /// Wait until the receiver has decided, at most this long, up to 10m
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `inbox`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Messages that are read are taken out of the inbox, unless --peek is given. With -o json and --follow, each message is \
a line.")]
pub struct InboxArgs {
    /// The agent's name
    pub agent: String,

    /// Maximum number of messages to read, up to 1,000. Of large messages fewer are read at once, at most 1 MiB
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub limit: u32,

    /// Leave the messages in the inbox
    #[arg(long, conflicts_with = "follow")]
    pub peek: bool,

    /// Wait until there is a message, at most this long, up to 1m
    #[arg(long, value_name = "DURATION", conflicts_with = "follow", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,

    /// Read further messages until Ctrl-C, and print each as a line
    #[arg(short, long)]
    pub follow: bool,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}
