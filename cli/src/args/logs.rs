//! The arguments of `cancel` and `logs`.

use std::time::Duration;

use clap::Args;

use super::Output;

/// How long `cancel --wait` waits if nothing else is given.
pub const CANCEL_WAIT: Duration = Duration::from_secs(60);

/// Arguments of `cancel`.
#[derive(Args, Debug)]
pub struct CancelArgs {
    /// The tasks' ids
    #[arg(required = true)]
    pub ids: Vec<String>,

    /// The reason, which is stored with the tasks
    #[arg(long, default_value = "")]
    pub reason: String,

    /// Wait until nothing of the tasks runs any more: every agent that ran them has said that their processes are gone,
    /// or is proved to be gone itself. Exit code 6 if that takes too long
    #[arg(long)]
    pub wait: bool,

    /// Wait no longer than this, at most 10m; the tasks are cancelled nevertheless [default: 1m]
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = humantime::parse_duration)]
    pub wait_timeout: Option<Duration>,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}

impl CancelArgs {
    /// Returns how long to wait, if at all.
    pub fn wait(&self) -> Option<Duration> {
        self.wait.then(|| self.wait_timeout.unwrap_or(CANCEL_WAIT))
    }
}

/// Arguments of `logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// The task's id
    pub id: String,

    /// Follow the task, also to other agents, until it has finished
    #[arg(short, long)]
    pub follow: bool,

    /// Only the attempt with this number; defaults to the newest one and, with --follow, those that come after it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub attempt: Option<u32>,

    /// Only so many of the lines that are there already
    #[arg(long, value_name = "N")]
    pub tail: Option<usize>,

    /// Begin each line with the time at which it was written, by the clock of the agent's machine
    #[arg(long)]
    pub timestamps: bool,

    /// Selects the output format.
    #[command(flatten)]
    pub output: Output,
}
