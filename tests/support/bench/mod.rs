//! The benchmark: how many durable tasks a fleet of three coordinators takes on this machine and how long each waits,
//! what a task costs, and how soon work goes on after a process is killed or frozen. Everything is real: processes,
//! fsyncs on the disk of the data directory, clients over gRPC.

mod cost;
mod disk;
mod measure;
mod report;
mod takeover;
mod throughput;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
pub use report::{Report, Takeovers, Throughput};

use crate::local_fleet::Location;

/// Numbers of tasks in flight that are measured.
pub const IN_FLIGHT: [usize; 3] = [1, 64, 1_024];
/// Rounds of each number in flight; the median counts.
pub const ROUNDS: usize = 3;

/// A half of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Tasks per second and what they cost.
    Throughput,
    /// How soon work goes on after a failure.
    Takeover,
}

/// Through which coordinators the client submits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The one that leads.
    Leader,
    /// One that has to forward everything.
    Follower,
}

/// What is measured, and how thoroughly.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Only this half.
    pub only: Option<Part>,
    /// Numbers of tasks in flight.
    pub in_flight: Vec<usize>,
    /// Time each round is measured.
    pub length: Duration,
    /// Rounds of each number in flight.
    pub rounds: usize,
    /// Trials of each kind of failure.
    pub trials: usize,
    /// Agents that run the no-op tasks.
    pub agents: u32,
    /// Through whom tasks are submitted.
    pub via: Via,
    /// The directory on the disk to be measured.
    pub data: PathBuf,
    /// The agent program; without it, the one beside this program.
    pub agent_bin: Option<PathBuf>,
}

/// Measures. `tell` is given a line whenever a part is done.
///
/// # Errors
/// When a fleet can't be started or does not do what is asked, when a task fails, or when the options make no sense.
pub async fn run(options: &BenchOptions, tell: &mut dyn FnMut(String)) -> Result<Report> {
    check(options)?;
    std::fs::create_dir_all(&options.data)
        .with_context(|| format!("the directory {} can't be made", options.data.display()))?;
    let place =
        Location { agent_bin: options.agent_bin.clone(), parent: Some(options.data.clone()), ..Location::default() };
    let mut report = Report::of_this_machine(&options.data)?;
    tell(format!("{}, {}", report.machine, report.disk));
    if options.only != Some(Part::Takeover) {
        report.throughput = throughput::measure(options, &place, tell).await?;
    }
    if options.only != Some(Part::Throughput) {
        report.takeover = takeover::measure(options, &place, tell).await?;
    }
    Ok(report)
}

fn check(options: &BenchOptions) -> Result<()> {
    if options.rounds == 0 || options.trials == 0 || options.in_flight.contains(&0) || options.length.is_zero() {
        bail!("rounds, trials, seconds and tasks in flight are at least 1");
    }
    if options.agents == 0 || options.agents > throughput::MAX_AGENTS {
        bail!("there can be 1 to {} agents", throughput::MAX_AGENTS);
    }
    Ok(())
}
