//! Decisions per second of a group of robeing-bft beside commonware's simplex, with the same requests of 1 KiB, which
//! clients sign with ed25519 and every replica verifies; the same number of them outstanding; the same largest batch;
//! and ed25519 signatures of the replicas. All replicas are in this process, with channels of encoded messages between
//! them, and sync their files before they send, in a folder that is in memory unless another one is given. The groups
//! are measured in turn within each round; the medians of the rounds are reported, and the medians of the ratios within
//! the rounds. The last line is JSON.
//!
//! Of simplex, two ways are measured: with a leader for each view, which is its default, and with one leader that
//! proposes several batches at once, as the primary of robeing-bft does. Its times are those of the replica that
//! decides first; those of robeing-bft are the primary's.
//!
//! ```text
//! cargo run --release --manifest-path tests/peers/bft/Cargo.toml
//! ```

mod application;
mod common;
mod network;
mod ours;
mod simplex;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Parser;
use serde::Serialize;

use self::{
    common::{Sample, drive, group},
    ours::Ours,
    simplex::{Leader, Simplex},
};

/// The groups that are measured, in the order of a round.
const GROUPS: [&str; 3] = ["robeing-bft", "simplex-rotating", "simplex-stable"];

/// Measures decisions per second of robeing-bft beside commonware's simplex.
#[derive(Parser)]
struct Args {
    /// Numbers of members, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [4, 7])]
    members: Vec<u16>,
    /// Most requests of a batch, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 100])]
    batch: Vec<u32>,
    /// Rounds for each number of members and batch
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Milliseconds for which each group is measured in a round, after a tenth of that as warm-up
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    millis: u64,
    /// The directory of the replicas' files; everything created in it is removed
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    data: PathBuf,
}

/// The medians of one group.
#[derive(Serialize)]
struct Row {
    members: u16,
    batch: u32,
    group: &'static str,
    decisions_per_s: f64,
    requests_per_s: f64,
    p50_ms: f64,
    /// Medians of the rounds' own ratios: those of robeing-bft by those of this group.
    robeing_decisions_by_its: f64,
    robeing_p50_by_its: f64,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    peer: &'static str,
    rows: Vec<Row>,
}

fn main() {
    let args = Args::parse();
    let mut rows = Vec::new();
    for members in &args.members {
        for batch in &args.batch {
            let round = |number: usize| {
                let samples = GROUPS.map(|name| measure(name, *members, *batch, &args));
                let rates = samples.map(|sample| format!("{:.0}", sample.decisions_per_s)).join(", ");
                eprintln!("n = {members}, batches of up to {batch}, round {number}: {rates} decisions/s");
                samples
            };
            let rounds: Vec<[Sample; 3]> = (1..=args.rounds.max(1)).map(round).collect();
            rows.extend((0..GROUPS.len()).map(|of| row(of, *members, *batch, &rounds)));
        }
    }
    print(&rows);
    let report = Report { bench: "bft", peer: "commonware-consensus 2026.10.0", rows };
    println!("{}", serde_json::to_string(&report).expect("figures can be written"));
}

fn measure(name: &str, members: u16, batch: u32, args: &Args) -> Sample {
    let time = Duration::from_millis(args.millis);
    let (epoch, initial) = group(members, batch);
    let folder = folder(&args.data);
    let leader = match name {
        "simplex-rotating" => Leader::Rotating,
        "simplex-stable" => Leader::Stable,
        _ => return drive(&epoch, &Ours::start(&epoch, &initial, folder), batch, time),
    };
    drive(&epoch, &Simplex::start(epoch.clone(), batch, leader, folder), batch, time)
}

fn folder(data: &Path) -> tempfile::TempDir {
    tempfile::tempdir_in(data).unwrap_or_else(|error| panic!("can't create a folder in {}: {error}", data.display()))
}

fn row(of: usize, members: u16, batch: u32, rounds: &[[Sample; 3]]) -> Row {
    let over = |value: &dyn Fn(&[Sample; 3]) -> f64| median(rounds.iter().map(value).collect());
    Row {
        members,
        batch,
        group: GROUPS[of],
        decisions_per_s: over(&|round| round[of].decisions_per_s),
        requests_per_s: over(&|round| round[of].requests_per_s),
        p50_ms: over(&|round| round[of].p50_ms),
        robeing_decisions_by_its: over(&|round| round[0].decisions_per_s / round[of].decisions_per_s),
        robeing_p50_by_its: over(&|round| round[0].p50_ms / round[of].p50_ms),
    }
}

fn print(rows: &[Row]) {
    println!(
        "{:>2} {:>6} {:<17} {:>12} {:>11} {:>8} {:>11} {:>9}",
        "n", "batch", "group", "decisions/s", "requests/s", "p50 ms", "ours / its", "p50 ratio"
    );
    for row in rows {
        println!(
            "{:>2} {:>6} {:<17} {:>12.0} {:>11.0} {:>8.2} {:>11.2} {:>9.2}",
            row.members,
            row.batch,
            row.group,
            row.decisions_per_s,
            row.requests_per_s,
            row.p50_ms,
            row.robeing_decisions_by_its,
            row.robeing_p50_by_its
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
