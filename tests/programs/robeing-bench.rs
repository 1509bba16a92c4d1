//! `make bench`: see [`robeing_tests::bench`].

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use robeing_tests::bench::{self, BenchOptions, IN_FLIGHT, Part, ROUNDS, Report, Via};
use tokio::signal::unix::{SignalKind, signal};

/// Measures a fleet of three coordinators on this machine, every log entry synced: durable no-op tasks per second, and
/// how soon work resumes after a process is killed or frozen. Only the figures of a release build are meaningful.
#[derive(Parser)]
#[command(name = "robeing-bench")]
struct Args {
    /// Run only one half
    #[arg(long, value_enum)]
    only: Option<Half>,
    /// Numbers of tasks in flight, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = IN_FLIGHT)]
    in_flight: Vec<usize>,
    /// Seconds for which each round is measured, after a second of warm-up
    #[arg(long, value_name = "N", default_value_t = 5)]
    seconds: u64,
    /// Rounds for each number in flight; the median is reported
    #[arg(long, value_name = "N", default_value_t = ROUNDS)]
    rounds: usize,
    /// Trials for each kind of failure
    #[arg(long, value_name = "N", default_value_t = 100)]
    trials: usize,
    /// Number of agents that share the no-op tasks
    #[arg(long, value_name = "N", default_value_t = 1)]
    agents: u32,
    /// The coordinator to which the client submits
    #[arg(long, value_enum, default_value = "leader")]
    via: Coordinator,
    /// A directory on the disk to measure; everything created in it is removed
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    data: PathBuf,
    /// The agent program; by default the one in the directory of this program
    #[arg(long, value_name = "FILE", env = "ROBEING_AGENT_BIN")]
    agent_bin: Option<PathBuf>,
    /// Run the fleets without TLS, to see what it costs
    #[arg(long)]
    plaintext: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Half {
    Throughput,
    Takeover,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Coordinator {
    Leader,
    Follower,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match measure(&args).await {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("robeing-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: &Args) -> anyhow::Result<String> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures are meaningless; use `make bench`");
    }
    let options = BenchOptions {
        only: args.only.map(|half| match half {
            Half::Throughput => Part::Throughput,
            Half::Takeover => Part::Takeover,
        }),
        in_flight: args.in_flight.clone(),
        length: Duration::from_secs(args.seconds),
        rounds: args.rounds,
        trials: args.trials,
        agents: args.agents,
        via: match args.via {
            Coordinator::Leader => Via::Leader,
            Coordinator::Follower => Via::Follower,
        },
        data: args.data.clone(),
        agent_bin: args.agent_bin.clone(),
        plaintext: args.plaintext,
    };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut tell = |line: String| eprintln!("{line}");
    // Dropping it drops the fleet: its processes are killed and its directory is removed.
    let report = tokio::select! {
        report = bench::run(&options, &mut tell) => report?,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    };
    render(&report, args.output)
}

fn render(report: &Report, output: Output) -> anyhow::Result<String> {
    Ok(match output {
        Output::Table => format!("\n{report}"),
        Output::Json => serde_json::to_string_pretty(report)?,
    })
}
