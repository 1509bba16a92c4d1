//! The arguments that are about teams.

use clap::{Args, Subcommand};

use super::{AgentRole, Output};

/// The subcommands of `team`.
#[derive(Debug, Subcommand)]
pub enum TeamCommand {
    /// Form a team of the best agents that are in no other one
    Form(FormArgs),
    /// Show a team: its members, leader, paths, and what it has done
    Show(ShowTeamArgs),
    /// List teams, newest first
    List(ListTeamsArgs),
    /// Disband a team: its members are free, and its unfinished tasks are cancelled
    Disband(DisbandArgs),
}

/// Reads `skill=NAME`.
fn need(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some(("skill", name)) if !name.is_empty() => Ok(name.into()),
        _ => Err(format!("{text:?} is no need: write skill=NAME")),
    }
}

/// Arguments of `team form`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
The members are the live agents that perform best among those that fit and are in no other team. The one with the \
highest score leads: 0.3 experience + 0.3 reliability + 0.2 resources + 0.2 availability. A member that is lost is \
replaced by the next best, and a leader that is lost by another member, under a new term.

Submit a task to a team with `robeing submit --team ID`: only its members run it. Send a message to all members with \
`robeing broadcast --to team:ID`.

The exit code is 3 if there are too few agents, unless --partial is given and there is one.")]
pub struct FormArgs {
    /// What the team is for, at most 1 KiB
    #[arg(long, value_name = "TEXT")]
    pub purpose: String,

    /// Number of members
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub size: u32,

    /// What each member must have: skill=NAME. Repeat it, or separate several by commas
    #[arg(long = "need", value_name = "skill=NAME", value_delimiter = ',', value_parser = need)]
    pub needs: Vec<String>,

    /// Only agents of this role; without it: workers and specialists, or any role if skills are needed
    #[arg(long, value_enum, ignore_case = true)]
    pub role: Option<AgentRole>,

    /// Form the team also of fewer members, if there are not so many agents
    #[arg(long)]
    pub partial: bool,

    /// The id of the team, a UUID; one that is formed again with its id is formed once
    #[arg(long, value_name = "UUID")]
    pub id: Option<String>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `team show`.
#[derive(Args, Debug)]
pub struct ShowTeamArgs {
    /// The id of the team
    pub team: String,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `team list`.
#[derive(Args, Debug)]
pub struct ListTeamsArgs {
    /// Also those that are disbanded
    #[arg(long)]
    pub all: bool,

    /// Maximum number of teams
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub limit: u32,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `team disband`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
Who has formed the team can disband it, its leader if it gives its term, and who has the right admin.

The exit code is 3 if you may not, or the term is over, and 4 if there is no such team.")]
pub struct DisbandArgs {
    /// The id of the team
    pub team: String,

    /// Only if this is still the term of its leader
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub term: Option<u64>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_need_is_a_skill() {
        assert_eq!(need("skill=ocr"), Ok("ocr".to_owned()));
        for bad in ["ocr", "skill=", "pool=data", ""] {
            assert!(need(bad).expect_err(bad).contains("write skill=NAME"), "{bad}");
        }
    }
}
