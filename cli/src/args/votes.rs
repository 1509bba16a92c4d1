//! The arguments that are about ballots.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};

use super::Output;

/// Maximum weight of a member of a ballot.
const MAX_WEIGHT: u32 = 1_000;
/// Maximum number of agents on which a task runs at once.
const MAX_AGENTS: u32 = 8;

/// The subcommands of `vote`.
#[derive(Debug, Subcommand)]
pub enum VoteCommand {
    /// Open a ballot: agents and people vote on a question
    Open(OpenArgs),
    /// Vote in a ballot
    Cast(CastArgs),
    /// Show a ballot, its votes, and what was decided
    Show(ShowArgs),
    /// List ballots, newest first
    List(ListArgs),
    /// Verify the file of a ballot, without a fleet
    Verify(VerifyArgs),
}

/// Who counts the votes of a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BallotMode {
    /// The coordinators, of which a majority is trusted
    Majority,
    /// The members of a group, of which up to a third may lie
    Byzantine,
}

/// Members of a ballot, and the weight of each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Electors {
    /// Who they are.
    pub address: String,
    /// From 1 to 1,000.
    pub weight: u32,
}

/// Reads `ADDRESS` or `ADDRESS=WEIGHT`.
fn electors(text: &str) -> Result<Electors, String> {
    let (address, weight) = match text.rsplit_once('=') {
        None => (text, 1),
        Some((address, weight)) => match weight.parse() {
            Ok(weight) if (1..=MAX_WEIGHT).contains(&weight) => (address, weight),
            _ => return Err(format!("the weight {weight:?} must be a number from 1 to {MAX_WEIGHT}")),
        },
    };
    if address.is_empty() {
        return Err("give an address, such as data-0, role:worker, or client:ada=2".into());
    }
    Ok(Electors { address: address.into(), weight })
}

/// Arguments of `vote open`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The members are found once, when the ballot is opened. The agents among them get a message of the type \
robeing.ballot.v1; what handles their messages replies {\"vote\": \"approve\", \"reject\" or \"abstain\", \"option\": \
TEXT or NUMBER, \"reason\": TEXT}. People vote with `robeing vote cast`.

The ballot is approved as soon as those who approve have the threshold's share of the weight of all members, whether \
the others have voted or not; rejected as soon as that can no longer be reached; and expired at the deadline. Not to \
vote is not to reject.

With --group, the members of a group (`robeing pbft form`) vote and count: each has one vote, which it signs and has \
ordered by Byzantine agreement, so that neither coordinators nor the members that may lie change the outcome.

With --wait, the exit code is 0 if the ballot is approved, and 1 if it is rejected or has expired.")]
pub struct OpenArgs {
    /// The question, at most 4 KiB
    pub question: String,

    /// Who votes, and with which weight (1 unless given): NAME, agent:NAME, role:ROLE, pool:NAME, skill:NAME, team:ID,
    /// everyone or client:NAME. Repeat it, or separate several by commas; of a member that two stand for, the first counts
    #[arg(
        long,
        required_unless_present = "group",
        value_name = "ADDRESS[=WEIGHT]",
        value_delimiter = ',',
        value_parser = electors
    )]
    pub to: Vec<Electors>,

    /// Who counts the votes; --group implies byzantine, and nothing else does
    #[arg(long, value_enum, value_name = "MODE")]
    pub mode: Option<BallotMode>,

    /// The group whose members vote: its name, if NAME.group.json is in the current directory, or the file with its
    /// description
    #[arg(long, value_name = "GROUP", conflicts_with_all = ["to", "id"])]
    pub group: Option<String>,

    /// What members who approve choose among: give at least two, at most 16. Without it, they approve of the question
    #[arg(long = "option", value_name = "TEXT")]
    pub options: Vec<String>,

    /// The share of the weight of all members that has to approve: 2/3, 66% or 0.66; defaults to the fleet's
    /// (spec.consensus), 2/3 unless it sets one, and with --group to 2/3
    #[arg(long, value_name = "FRACTION")]
    pub threshold: Option<String>,

    /// How long members have to vote, up to 30days; defaults to the fleet's deadline (spec.consensus), 30s unless it
    /// sets one, and with --group to 30s
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub deadline: Option<Duration>,

    /// Wait until the ballot is closed
    #[arg(long)]
    pub wait: bool,

    /// The id of the ballot, a UUID; one that is opened again with its id is opened once
    #[arg(long, value_name = "UUID")]
    pub id: Option<String>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `submit` about the approval that a task needs, and the verification of its result.
#[derive(Args, Debug)]
pub struct ApprovalArgs {
    /// Do not start the task before these have approved it by a ballot, which has the task's id: addresses as of `vote
    /// open --to`, each with the weight of each of them (1 unless given). Repeat it, or separate several by commas
    #[arg(long, value_name = "ADDRESS[=WEIGHT]", value_delimiter = ',', value_parser = electors)]
    pub require_approval: Vec<Electors>,

    /// The share of the weight of all who are asked that has to approve: 2/3, 66% or 0.66; defaults to the fleet's
    /// (spec.consensus), 2/3 unless it sets one
    #[arg(long, value_name = "FRACTION", requires = "require_approval")]
    pub approval_threshold: Option<String>,

    /// How long they have to vote; defaults to the fleet's deadline (spec.consensus), 30s unless it sets one
    #[arg(long, value_name = "DURATION", requires = "require_approval", value_parser = humantime::parse_duration)]
    pub approval_deadline: Option<Duration>,

    /// What they are asked besides whether the task may run
    #[arg(long, value_name = "TEXT", requires = "require_approval")]
    pub approval_question: Option<String>,

    /// How the result is verified.
    #[command(flatten)]
    pub verification: VerifyResultArgs,
}

/// On how many agents a task runs, and how many of them must agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// How many must give equal outputs.
    pub agree: u32,
    /// On how many the task runs.
    pub agents: u32,
}

/// Reads `AGREE/AGENTS`, such as 2/3.
fn agreement(text: &str) -> Result<Agreement, String> {
    let numbers = text.split_once('/').and_then(|(agree, agents)| Some((agree.parse().ok()?, agents.parse().ok()?)));
    match numbers {
        Some((agree, agents)) if (2..=MAX_AGENTS).contains(&agents) && (2..=agents).contains(&agree) => {
            Ok(Agreement { agree, agents })
        }
        _ => Err(format!("write how many of how many agents must agree, such as 2/3, of 2 to {MAX_AGENTS} agents")),
    }
}

/// Arguments of `submit` about the verification of results.
#[derive(Args, Debug)]
pub struct VerifyResultArgs {
    /// Run the task on several agents, and take the output that enough of them agree on: 2/3 is 2 of 3 agents
    #[arg(long, value_name = "AGREE/AGENTS", value_parser = agreement)]
    pub verify: Option<Agreement>,

    /// Compare only this part of the outputs, which are JSON: a JSON pointer such as /total; / is written as ~1 in a name.
    /// Without it, all bytes are compared; with an empty one, all of the JSON
    #[arg(long, value_name = "POINTER", requires = "verify")]
    pub verify_json: Option<String>,

    /// Have tasks of this kind say which outputs are equal, by agents with this specialization. Their input is a line with
    /// the lengths of two outputs in bytes, such as "4 5", and then these; their output is true or false. Outputs with the
    /// same bytes are equal anyway
    #[arg(long, value_name = "KIND", requires = "verify", conflicts_with = "verify_json")]
    pub verify_compare: Option<String>,
}

/// What a member votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum VoteWord {
    /// For it
    Approve,
    /// Against it
    Reject,
    /// Neither
    Abstain,
}

/// Arguments of `vote cast`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
You vote as whoever your credentials name: client:NAME. With a certificate, the vote is signed, so that anybody can \
verify it; with a token, the coordinator that takes it attests that it is yours. A vote can't be changed. The same \
vote for the same reason, cast again, counts once; another one is refused.

The exit code is 0 if the vote is counted, 3 if it is refused, because the ballot is closed, you are no member or have \
cast another vote, and 4 if there is no such ballot.")]
pub struct CastArgs {
    /// The id of the ballot
    pub ballot: String,

    /// What you vote
    #[arg(value_enum)]
    pub vote: VoteWord,

    /// The option that you approve, if the ballot has options: its text, or its number, from 1
    #[arg(long, value_name = "TEXT")]
    pub option: Option<String>,

    /// Why, at most 1 KiB; everyone who sees the ballot sees it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub reason: String,

    /// In a fleet without TLS, where callers have no names: who you are, the name of an agent or client:NAME
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    pub member: String,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `vote show`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
With --group, its members are asked. What a quorum of them has signed is final, and is said to be proved.

With --wait, the exit code is 0 if the ballot is approved, 1 if it is rejected or has expired, and 6 if it is still \
open.")]
pub struct ShowArgs {
    /// The id of the ballot
    pub ballot: String,

    /// The group whose ballot it is: its name, if NAME.group.json is in the current directory, or the file with its
    /// description
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,

    /// Wait until the ballot is closed, at most this long
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub wait: Option<Duration>,

    /// Write the ballot with all that proves its votes to this file, for `robeing vote verify`; it is replaced if it
    /// exists
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `vote list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Only ballots that are open
    #[arg(long)]
    pub open: bool,

    /// Maximum number of ballots
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `vote verify`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Every signature and certificate is verified, the votes are counted again, and the outcome must follow from them; no \
fleet is asked. With --trust, the certificates of the fleet's authorities, or --ca, the directory of its authority, \
the voters must be certified by one of them. Without either, the authorities are those that the file has: compare \
their digests, which are printed, with those of the fleet's authorities.

A vote that is not signed is the word of a coordinator, and of whoever has written the file: with such a vote, the \
file is not right, unless --attested is given. With --trust or --ca, it never is.

The file of a ballot of a group is verified by its members' signatures: a quorum must have signed its outcome.

The exit code is 0 if everything is right, and 1 if not. It does not say that the ballot was approved.")]
pub struct VerifyArgs {
    /// The file, as `robeing vote show --file` writes it
    pub file: PathBuf,

    /// Believe votes that are not signed, of members without certificates
    #[arg(long)]
    pub attested: bool,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agreement_is_of_two_to_eight_agents() {
        let read = |text: &str| agreement(text).map(|Agreement { agree, agents }| (agree, agents)).ok();
        assert_eq!(["2/3", "2/2", "8/8"].map(read), [Some((2, 3)), Some((2, 2)), Some((8, 8))]);
        assert_eq!(["1/3", "4/3", "2/9", "2", "/", "a/3", "-2/3"].map(read), [None; 7]);
    }

    #[test]
    fn members_have_weights_from_1_to_1000() {
        let read = |text: &str| electors(text).map(|Electors { address, weight }| (address, weight));
        assert_eq!(read("data-0"), Ok(("data-0".to_owned(), 1)));
        assert_eq!(read("role:worker=1000"), Ok(("role:worker".to_owned(), 1_000)));
        for (text, words) in [
            ("a=0", "from 1 to 1000"),
            ("a=1001", "from 1 to 1000"),
            ("a=", "from 1 to 1000"),
            ("a=x", "\"x\" must be a number"),
            ("", "give an address"),
            ("=3", "give an address"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(words), "{text}: {error}");
        }
    }
}
