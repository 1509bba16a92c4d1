//! The arguments that are about groups of agents that decide by Byzantine agreement.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};

use super::Output;

/// The subcommands of `pbft`.
#[derive(Debug, Subcommand)]
pub enum PbftCommand {
    /// Form a group of agents
    Form(FormGroupArgs),
    /// Show how the members of a group are doing, and which of them do not answer
    Status(GroupStatusArgs),
    /// Have a group decide on other members, who follow in its next epoch
    Epoch(EpochArgs),
    /// Have a group decide something
    Propose(ProposeArgs),
    /// Read the decisions of a group, and verify them
    Log(LogArgs),
    /// Verify a file of decisions, without a fleet
    Verify(LogFileArgs),
}

/// Arguments of `pbft form`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Each member makes a key for the group, on its disk, and signs it with the key of its certificate. The description of \
the group consists of what they have signed. Every member verifies it before it starts. It is written to \
NAME.group.json in the current directory, which `robeing pbft propose` and `robeing pbft log` read: keep it. If the \
file is there, nothing is signed anew, and the members get it again.

Members need TLS and --data. With n members, up to (n - 1) / 3 may lie or be away.")]
pub struct FormGroupArgs {
    /// The name of the group: lower-case letters, digits and -
    pub name: String,

    /// The names of the agents that are its members, 4 to 16, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required_unless_present = "team")]
    pub members: Vec<String>,

    /// The team whose members it has. They are found once: the group keeps them, whoever leaves or joins the team
    #[arg(long, value_name = "ID", conflicts_with = "members")]
    pub team: Option<String>,

    /// Write the group's description to this file instead of NAME.group.json
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Arguments of `pbft status`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
All members are asked at once, and have 2 seconds to answer. What they say is not proved: one that lies can say \
anything. For what was decided, see `robeing pbft log`.

The exit code is 0 if enough members run so that the group can decide, and 1 if too few do.")]
pub struct GroupStatusArgs {
    /// The group: its name, if NAME.group.json is in the current directory, or the file with its description
    pub group: String,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `pbft epoch`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
All members of the next epoch enrol, also those that stay: one that has lost its disk, and whose folder of the group \
was removed, comes back with a new key. Then the present members vote: their handlers of messages get the question as \
a ballot of the group. If a quorum of them approves, the epoch ends, and its log goes on in the next one, which has \
another fingerprint. NAME.group.json is replaced: who has the old one can't read what is decided from then on.

Ballots of the epoch that ends are forgotten: write the files of those that matter before. If this command is \
interrupted, call it again.")]
pub struct EpochArgs {
    /// The group: its name, if NAME.group.json is in the current directory, or the file with its description
    pub group: String,

    /// Agents that become members, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub add: Vec<String>,

    /// Members that leave, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub remove: Vec<String>,

    /// How long members have to vote
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    pub deadline: Duration,
}

/// Arguments of `pbft propose`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The number of the decision is printed. What is proposed is signed with the key of your certificate.

One member is asked, and others as well if it does not answer within 2 seconds. A proposal is decided once, however \
many members are asked.

The exit code is 0 if it is decided, 1 if no member can be asked, or one says that it is decided and does not prove \
it, 3 if members refuse it, and 6 if it was not decided within a minute: it may still be.")]
pub struct ProposeArgs {
    /// The group: its name, if NAME.group.json is in the current directory, or the file with its description
    pub group: String,

    /// What is proposed
    #[arg(required_unless_present = "file")]
    pub text: Option<String>,

    /// A file with what is proposed, at most 16 KiB; - reads standard input
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,

    /// Ask this member, and no other
    #[arg(long, value_name = "NAME")]
    pub via: Option<String>,
}

/// Arguments of `pbft log`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Every decision is verified by the keys in the group's description, so it does not matter which member is asked, or who \
passes its answer on. The member may not know the latest decisions yet.")]
pub struct LogArgs {
    /// The group: its name, if NAME.group.json is in the current directory, or the file with its description
    pub group: String,

    /// The number of the first decision
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub from: u64,

    /// Maximum number of decisions
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,

    /// Write the decisions with all that proves them to this file, for `robeing pbft verify`; it is replaced if it
    /// exists
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Ask this member, and no other
    #[arg(long, value_name = "NAME")]
    pub via: Option<String>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `pbft verify`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Every signature and certificate is verified; no fleet is asked. With --trust, the certificates of the fleet's \
authorities, or --ca, the directory of its authority, the members must be certified by one of them. Without either, \
compare the digests of the authorities, or the fingerprint of the group, which are printed.

The exit code is 0 if every decision is proved, and 1 if not. A member that lies can have anything decided: read who \
the authors are. (nobody) has signed nothing, and who is (untrusted) is certified by no authority that you trust.")]
pub struct LogFileArgs {
    /// The file, as `robeing pbft log --file` or `robeing vote show --group --file` writes it
    pub file: PathBuf,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}
