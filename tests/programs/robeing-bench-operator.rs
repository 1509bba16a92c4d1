//! `make bench-operator`: see [`robeing_tests::operator::bench`].

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use robeing_tests::operator::bench::{self, BenchOptions, FLEETS, WINDOW};
use tokio::signal::unix::{SignalKind, signal};

/// Measures what the operator costs with a real API server: fleets created at once, at rest, and deleted. Needs root,
/// and what tests/devkube needs.
#[derive(Parser)]
#[command(name = "robeing-bench-operator")]
struct Args {
    /// Number of fleets to create
    #[arg(long, value_name = "N", default_value_t = FLEETS)]
    fleets: usize,
    /// Seconds to measure at rest
    #[arg(long, value_name = "N", default_value_t = WINDOW.as_secs())]
    seconds: u64,
    /// Simulate their pods, with coordinators that respond at 127.77.0.0/16
    #[arg(long)]
    running: bool,
    /// The operator's program, from a release build
    #[arg(long, value_name = "FILE", default_value = "target/release/robeing-operator")]
    operator: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match measure(Args::parse()).await {
        Ok(report) => {
            println!("\n{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("robeing-bench-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(args: Args) -> anyhow::Result<bench::Report> {
    let options = BenchOptions {
        fleets: args.fleets,
        window: Duration::from_secs(args.seconds),
        operator: args.operator,
        running: args.running,
    };
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Dropping it ends the operator and the control plane.
    tokio::select! {
        report = bench::run(&options, &|line| eprintln!("{line}")) => report,
        _ = interrupt.recv() => anyhow::bail!("interrupted"),
        _ = terminate.recv() => anyhow::bail!("terminated"),
    }
}
