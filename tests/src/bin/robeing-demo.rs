//! `make demo`: see [`robeing_tests::demo`].

use std::{path::PathBuf, process::ExitCode};

use clap::Parser;
use robeing_tests::demo::{self, DemoOptions};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs the example fleet as real processes, gives it 500 tasks, kills an agent and then the leader, and checks every
/// result.
#[derive(Parser)]
#[command(name = "robeing-demo")]
struct Args {
    /// The manifest of the fleet
    #[arg(short = 'f', long, value_name = "FILE", default_value_os_t = example("robeingcluster.yaml"))]
    manifest: PathBuf,
    /// The text that is worked on
    #[arg(long, value_name = "FILE", default_value_os_t = example("texts/lighthouse-log.txt"))]
    text: PathBuf,
    /// The agent program; without it, the one beside this program
    #[arg(long, value_name = "FILE", env = "ROBEING_AGENT_BIN")]
    agent_bin: Option<PathBuf>,
}

fn example(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples")).join(name)
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let options = DemoOptions { manifest: args.manifest, text: args.text, agent_bin: args.agent_bin };
    let stop = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => either(interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("robeing-demo: signals can't be listened to: {error}");
            return ExitCode::FAILURE;
        }
    };
    match demo::run(&options, stop).await {
        Ok(()) => {
            println!("\nThe demo passed.");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nThe demo FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn either(mut one: Signal, mut other: Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}
