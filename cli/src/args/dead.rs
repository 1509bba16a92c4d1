//! The arguments that are about dead letters.

use clap::{Args, Subcommand};

use super::{Output, Reading};

/// The subcommands of `dead`.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List dead letters with the reasons, in the order in which they died
    List(ListDeadArgs),
    /// Try dead letters again: the same tasks, with fresh attempts
    Retry(RetryDeadArgs),
    /// Drop dead letters: they are deleted as other results are
    Drop(DropDeadArgs),
}

/// Arguments of `dead list`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
A task is a dead letter when it has used up its attempts, or failed in a way that is not tried again. It is kept for \
seven days, or for its --ttl if that is longer. A task whose deadline or queue expiry passed, that was not approved or \
that was cancelled is none, nor is one that depends on others or has or is a part or subtask.

At most 10,000 are kept, and they take at most a quarter of what the fleet may keep; beyond it, the ones that died \
first are dropped.")]
pub struct ListDeadArgs {
    /// Only tasks of this kind
    #[arg(long)]
    pub kind: Option<String>,

    /// Maximum number of dead letters to list; 0 lists all
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub limit: usize,

    /// Selects the consistency of reads.
    #[command(flatten)]
    pub reading: Reading,
    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Which dead letters a command is for.
#[derive(Args, Debug)]
pub struct Letters {
    /// The tasks' ids
    #[arg(required_unless_present = "all")]
    pub ids: Vec<String>,

    /// All dead letters
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,

    /// All dead letters of this kind
    #[arg(long, requires = "all", conflicts_with = "ids")]
    pub kind: Option<String>,
}

/// Arguments of `dead retry`.
#[derive(Args, Debug)]
#[command(after_long_help = "\
A task that is tried again keeps its id, input and options, and has its attempts, its deadline and its queue expiry \
afresh. Each time counts as another epoch of it, which `robeing task ID` shows.")]
pub struct RetryDeadArgs {
    /// Selects the dead letters.
    #[command(flatten)]
    pub letters: Letters,
    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

/// Arguments of `dead drop`.
#[derive(Args, Debug)]
pub struct DropDeadArgs {
    /// Selects the dead letters.
    #[command(flatten)]
    pub letters: Letters,
    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}
