//! Decisions per second of a group of robeing-bft beside commonware's simplex, with the same requests, which clients sign
//! with ed25519 and every replica verifies; the same number of them outstanding; the same largest batch; and ed25519
//! signatures of the replicas. All replicas are in this process, with channels of encoded messages between them, which
//! take the same time. All sync what they have said to a file before they send it, and the batches before they are
//! decided, in a folder that is in memory unless another one is given; none keeps decisions for good. The groups are
//! measured in turn within each round, every other time in the opposite order; the medians of the rounds are reported,
//! and the medians of the ratios within the rounds. The last line is JSON.
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
mod disk;
mod network;
mod ours;
mod report;
mod simplex;
mod wire;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use robeing_bft::limits::{MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, MAX_MEMBERS, MIN_MEMBERS};

use self::{
    common::{Sample, drive, group},
    ours::Ours,
    report::{Report, Round, Row},
    simplex::{Leader, Simplex},
};

/// More bytes than a request has besides what it asks to decide on.
const REQUEST_OVERHEAD: usize = 256;

/// Measures decisions per second of robeing-bft beside commonware's simplex.
#[derive(Parser)]
struct Args {
    /// Numbers of members, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [4, 7],
        value_parser = clap::value_parser!(u16).range(MIN_MEMBERS as i64..=MAX_MEMBERS as i64))]
    members: Vec<u16>,
    /// Most requests of a batch, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 100],
        value_parser = clap::value_parser!(u32).range(1..=MAX_BATCH_REQUESTS as i64))]
    batch: Vec<u32>,
    /// Bytes that a request asks to decide on
    #[arg(long, value_name = "N", default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(..=32 * 1_024))]
    payload: u32,
    /// Milliseconds that each message between replicas takes
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000))]
    delay: u64,
    /// Rounds for each number of members and batch
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Milliseconds for which each group is measured in a round, after a tenth of that as warm-up
    #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..))]
    millis: u64,
    /// The directory of the replicas' files, which must be there; everything created in it is removed
    #[arg(long, value_name = "DIR", default_value = "/dev/shm")]
    data: PathBuf,
}

/// The groups, in the order of a round.
#[derive(Clone, Copy)]
enum Kind {
    Ours,
    Simplex(Leader),
}

impl Kind {
    const ALL: [Self; 3] = [Self::Ours, Self::Simplex(Leader::Rotating), Self::Simplex(Leader::Stable)];

    fn name(self) -> &'static str {
        match self {
            Self::Ours => "robeing-bft",
            Self::Simplex(Leader::Rotating) => "simplex-rotating",
            Self::Simplex(Leader::Stable) => "simplex-stable",
        }
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures are meaningless; use --release");
    }
    // Else the batches of robeing-bft would be smaller.
    let batch_bytes = |batch: &u32| *batch as usize * (args.payload as usize + REQUEST_OVERHEAD);
    if args.batch.iter().map(batch_bytes).any(|bytes| bytes > MAX_BATCH_BYTES) {
        eprintln!("a batch has at most {MAX_BATCH_BYTES} bytes: give a smaller --batch or --payload");
        return ExitCode::FAILURE;
    }
    match measure(&args) {
        Ok(report) => {
            println!("{report}\n{}", serde_json::to_string(&report).expect("figures can be written"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the files of replicas can't be in {}: {error}", args.data.display());
            ExitCode::FAILURE
        }
    }
}

fn measure(args: &Args) -> std::io::Result<Report> {
    let sync = disk::sync_time(&args.data)?;
    let mut rows = Vec::new();
    for members in &args.members {
        for batch in &args.batch {
            let mut rounds: Vec<Round> = Vec::new();
            for number in 0..args.rounds {
                let round = measure_round(args, *members, *batch, number % 2 == 1)?;
                let rates = round.map(|sample| format!("{:.0}", sample.decisions_per_s)).join(", ");
                eprintln!("n = {members}, batches of up to {batch}, round {}: {rates} decisions/s", number + 1);
                rounds.push(round);
            }
            rows.extend((0..Kind::ALL.len()).map(|of| Row::new(*members, *batch, of, &rounds)));
        }
    }
    Ok(Report::new(args, sync, rows))
}

/// Measures each group once.
fn measure_round(args: &Args, members: u16, batch: u32, reversed: bool) -> std::io::Result<Round> {
    let mut samples = [None; Kind::ALL.len()];
    let mut order: Vec<usize> = (0..Kind::ALL.len()).collect();
    if reversed {
        order.reverse();
    }
    for of in order {
        samples[of] = Some(measure_one(Kind::ALL[of], args, members, batch)?);
    }
    Ok(samples.map(|sample| sample.expect("each is measured")))
}

fn measure_one(kind: Kind, args: &Args, members: u16, batch: u32) -> std::io::Result<Sample> {
    let (time, delay) = (Duration::from_millis(args.millis), Duration::from_millis(args.delay));
    let (epoch, initial) = group(members, batch);
    let folder = tempfile::tempdir_in(&args.data)?;
    let payload = args.payload as usize;
    Ok(match kind {
        Kind::Ours => drive(&epoch, &Ours::start(&epoch, &initial, folder, delay), batch, payload, time),
        Kind::Simplex(leader) => {
            let simplex = Simplex::start(epoch.clone(), batch, leader, folder, delay);
            drive(&epoch, &simplex, batch, payload, time)
        }
    })
}
