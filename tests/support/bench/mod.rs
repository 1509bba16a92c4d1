//! The benchmark: how many durable tasks per second a fleet of three coordinators completes on this machine, how long
//! each task takes, what a task costs, and how soon work resumes after a process is killed or frozen. Everything is
//! real: processes, fsyncs on the disk of the data directory, clients over gRPC.

mod cost;
mod disk;
mod measure;
mod report;
mod takeover;
mod throughput;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
pub use measure::{Spread, median};
pub use report::{Report, Takeovers, Throughput};

use crate::local_fleet::Location;

/// The numbers of tasks in flight that are measured by default.
pub const IN_FLIGHT: [usize; 3] = [1, 64, 1_024];
/// The default number of rounds for each number in flight; the median is reported.
pub const ROUNDS: usize = 3;

/// One half of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Tasks per second and their cost.
    Throughput,
    /// How soon work resumes after a failure.
    Takeover,
}

/// The coordinator to which the client submits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The leader.
    Leader,
    /// A follower, which has to forward everything.
    Follower,
}

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Measures only this half.
    pub only: Option<Part>,
    /// The numbers of tasks in flight.
    pub in_flight: Vec<usize>,
    /// The time for which each round is measured.
    pub length: Duration,
    /// The number of rounds for each number in flight.
    pub rounds: usize,
    /// The number of trials for each kind of failure.
    pub trials: usize,
    /// The number of agents that run the no-op tasks.
    pub agents: u32,
    /// The coordinator to which tasks are submitted.
    pub via: Via,
    /// A directory on the disk that is measured.
    pub data: PathBuf,
    /// The agent program; by default the one in the directory of this program.
    pub agent_bin: Option<PathBuf>,
    /// Whether the fleets run without TLS.
    pub plaintext: bool,
}

/// Runs the benchmark. `tell` receives a line when each part is done.
///
/// # Errors
/// If a fleet can't be started or does not work as expected, a task fails, or the options are invalid.
pub async fn run(options: &BenchOptions, tell: &mut dyn FnMut(String)) -> Result<Report> {
    check(options)?;
    std::fs::create_dir_all(&options.data)
        .with_context(|| format!("can't create the directory {}", options.data.display()))?;
    let place = Location {
        agent_bin: options.agent_bin.clone(),
        parent: Some(options.data.clone()),
        plaintext: options.plaintext,
        ..Location::default()
    };
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
        bail!("rounds, trials, seconds and tasks in flight must be at least 1");
    }
    if options.agents == 0 || options.agents > throughput::MAX_AGENTS {
        bail!("the number of agents must be 1 to {}", throughput::MAX_AGENTS);
    }
    Ok(())
}
