//! `make demo`: see [`robeing_tests::demo`].

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, ValueEnum};
use robeing_tests::demo::{self, DemoOptions, Where};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Runs the example fleet, submits 500 tasks, kills an agent and then the leader (on Kubernetes: deletes their pods),
/// and checks every result.
#[derive(Parser)]
#[command(name = "robeing-demo")]
struct Args {
    /// Where the fleet runs: as processes on this machine, or on the Kubernetes of KUBECONFIG, or else a throwaway one
    #[arg(long, value_enum, default_value_t = On::Local)]
    cluster: On,
    /// The manifest of the fleet
    #[arg(short = 'f', long, value_name = "FILE", default_value_os_t = example("robeingcluster.yaml"))]
    manifest: PathBuf,
    /// The text that the tasks process
    #[arg(long, value_name = "FILE", default_value_os_t = example("texts/lighthouse-log.txt"))]
    text: PathBuf,
    /// The agent program; by default the one in the directory of this program
    #[arg(long, value_name = "FILE", env = "ROBEING_AGENT_BIN")]
    agent_bin: Option<PathBuf>,
}

#[derive(Clone, Copy, ValueEnum)]
enum On {
    Local,
    Kube,
}

fn example(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples")).join(name)
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let on = match args.cluster {
        On::Local => Where::Processes,
        On::Kube => Where::Kubernetes,
    };
    let options = DemoOptions { manifest: args.manifest, text: args.text, on, agent_bin: args.agent_bin };
    let stop = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => either(interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("robeing-demo: can't listen for signals: {error}");
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
