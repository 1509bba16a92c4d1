//! Ballots of five votes per second, beside the same in etcd: one transaction that creates the ballot, and one for each
//! vote. Both have three members on this machine with logs on its disk, every entry synced, and clients of the leader
//! that make one connection for each voter.
//!
//! Clients of the fleet vote as agents do: each makes one call at a time for what is due when it begins, without waiting
//! for more. With mutual TLS the votes of one call have one ed25519 signature, and the fleet verifies each vote and keeps
//! what proves it. All transactions of etcd that are due are under way at once, on the connections of their voters, and
//! the members of etcd write them to their logs in batches of their own. Its votes have as many bytes as votes that are
//! signed alone, but their signatures are made beforehand: neither clients nor members of etcd spend time on any, and
//! nobody counts votes. A client of etcd could put votes that are due together into one transaction, each in a nested one;
//! etcd's own client library does not do that, and neither do these. Without TLS the votes are not signed.
//!
//! The peers are measured in turn within each round; the medians of the rounds are reported, and the medians of the ratios
//! within the rounds. The last line is JSON.
//!
//! ```text
//! cargo build --release -p robeing-agent
//! cargo run --release -p robeing-tests --example ballots_bench
//! ```

mod etcd;
mod load;
mod messages;
mod ours;
mod report;
mod voters;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Parser, ValueEnum};
use devkube::{Tools, Wanted};
use robeing_tests::{
    bench::Report,
    local_fleet::Location,
    program::{AGENT, program},
};

use self::{
    etcd::Etcd,
    load::Peer,
    ours::Ours,
    report::{Ballots, Round, Row},
    voters::FleetAuthority,
};

/// The most ballots that one opener may have open. Without TLS, all clients are one.
const MAX_OPEN_OF_ONE: usize = 250;

/// Measures ballots of five votes beside six transactions of etcd each.
#[derive(Parser)]
struct Args {
    /// Numbers of ballots in flight, separated by commas; without TLS at most 250
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 64, 256])]
    in_flight: Vec<usize>,
    /// Rounds for each number in flight
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Milliseconds for which each peer is measured in a round, after a tenth of that as warm-up
    #[arg(long, value_name = "N", default_value_t = 3_000)]
    millis: u64,
    /// How clients connect, separated by commas
    #[arg(long, value_enum, value_name = "MODE", value_delimiter = ',', default_values_t = Mode::ALL)]
    modes: Vec<Mode>,
    /// A directory on the disk to measure; everything created in it is removed
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    data: PathBuf,
    /// The agent program; by default the one of the same build
    #[arg(long, value_name = "FILE", env = "ROBEING_AGENT_BIN")]
    agent_bin: Option<PathBuf>,
    /// The etcd program; by default the one of devkube, which is built if it is missing
    #[arg(long, value_name = "FILE")]
    etcd: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Mutual TLS, and signed votes.
    Mtls,
    /// No TLS, and votes without signatures.
    Plaintext,
}

impl Mode {
    const ALL: [Self; 2] = [Self::Mtls, Self::Plaintext];

    fn name(self) -> &'static str {
        match self {
            Self::Mtls => "mtls",
            Self::Plaintext => "plaintext",
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    // An interrupt drops the peers, so that their processes end and their directories are removed.
    let measured = tokio::select! {
        measured = measure(&args) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    match measured {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ballots_bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Prints the table, and returns the line of JSON.
async fn measure(args: &Args) -> Result<String> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures are meaningless; use --release");
    }
    if args.rounds == 0 || args.millis == 0 || args.in_flight.contains(&0) {
        bail!("rounds, milliseconds and ballots in flight must be at least 1");
    }
    std::fs::create_dir_all(&args.data)
        .with_context(|| format!("can't create the directory {}", args.data.display()))?;
    let data = std::path::absolute(&args.data)?;
    let etcd = match &args.etcd {
        Some(program) => program.clone(),
        None => Tools::ensure(Wanted::Cluster, &|line: &str| eprintln!("{line}")).await?.program("etcd"),
    };
    let this = Report::of_this_machine(&data)?;
    let disk = this.disk.to_string();
    let mut report = Ballots { bench: "ballots", machine: this.machine, disk, rows: Vec::new() };
    for mode in &args.modes {
        measure_mode(args, *mode, &data, &etcd, &mut report.rows).await?;
    }
    println!("{report}");
    Ok(serde_json::to_string(&report)?)
}

async fn measure_mode(args: &Args, mode: Mode, data: &Path, etcd: &Path, rows: &mut Vec<Row>) -> Result<()> {
    let place = Location {
        agent_bin: Some(args.agent_bin.clone().unwrap_or_else(|| program(AGENT))),
        parent: Some(data.to_owned()),
        plaintext: mode == Mode::Plaintext,
        ..Location::default()
    };
    let ours = Ours::start(&place).await?;
    let authority = (mode == Mode::Mtls).then(|| FleetAuthority::read(ours.directory())).transpose()?;
    let etcd = Etcd::start(etcd, data, authority.as_ref()).await?;
    let peers = [Arc::new(Peer::Ours(Box::new(ours))), Arc::new(Peer::Etcd(Box::new(etcd)))];
    let time = Duration::from_millis(args.millis);
    for in_flight in &args.in_flight {
        let in_flight = match mode {
            Mode::Mtls => *in_flight,
            Mode::Plaintext => (*in_flight).min(MAX_OPEN_OF_ONE),
        };
        let mut rounds: Vec<Round> = Vec::new();
        for round in 1..=args.rounds {
            let [ours, etcd] = &peers;
            ours.run(in_flight, time / 10).await?;
            let robeing = ours.run(in_flight, time).await?;
            etcd.run(in_flight, time / 10).await?;
            let etcd = etcd.run(in_flight, time).await?;
            eprintln!(
                "{}, {in_flight} in flight, round {round}: {:.0} ballots/s, etcd {:.0}",
                mode.name(),
                robeing.rate(),
                etcd.rate()
            );
            rounds.push([robeing, etcd]);
        }
        rows.push(Row::new(mode.name(), in_flight, &rounds));
    }
    Ok(())
}
