//! What tasks cost a fleet beyond one by one: graphs, maps, many queues, schedules, cancellations, and results that are
//! kept. Each part starts a fleet of its own, of three coordinators on this machine with logs on its disk, every entry
//! synced, and agents that return their input at once (`cancel`: that run commands). Clients and fleet use mutual TLS,
//! unless `--plaintext` is given.
//!
//! - `dag`: a graph in layers, beside as many tasks without dependencies. Both are submitted in requests of 1,000, which is
//!   the most that one takes.
//! - `map`: a task that is split into parts and reduces their results, which are checked, beside as many tasks without
//!   parts. A request takes the inputs of 10,000 parts; as with `robeing submit --split`, more are submitted by themselves.
//! - `queues`: as many tasks in 1,000 queues, one queue after the other, and in one. They are submitted while the agents
//!   are frozen, so that all of them wait.
//! - `schedules`: schedules that are all due each minute, which is as often as one can be, with a load of plain tasks
//!   beside them, and before them without.
//! - `cancel`: commands that end at SIGTERM are cancelled by calls that return when nothing runs any more.
//! - `kept`: results that are kept, and coordinators that are killed and restarted with them.
//!
//! Memory is what the kernel calls the resident set. Where figures are compared, both are of this run.
//!
//! ```text
//! cargo build --release -p robeing-agent -p robeing
//! cargo run --release -p robeing-tests --example tasks_bench -- --only dag,map
//! ```

mod bed;
mod cancel;
mod dag;
mod kept;
mod load;
mod map;
mod queues;
mod report;
mod restart;
mod schedules;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, anyhow, ensure};
use clap::{Parser, ValueEnum};
use robeing_tests::{
    bench::Report,
    program::{AGENT, program},
};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    bed::Bed,
    report::{Figures, Section},
};

/// The largest number of agents.
const MOST_AGENTS: u32 = 64;

/// Measures graphs, maps, queues, schedules, cancellations and kept results of a fleet of three coordinators.
#[derive(Parser)]
#[command(name = "tasks_bench")]
struct Args {
    /// Measure only these parts, separated by commas
    #[arg(long, value_enum, value_name = "PART", value_delimiter = ',', default_values_t = Part::ALL)]
    only: Vec<Part>,
    /// Nodes of the graph of `dag`, at most 500000
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    nodes: usize,
    /// Parts of the task of `map`, at most 131072
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    parts: usize,
    /// Tasks of `queues` and of `kept`, at most 2000000
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    tasks: usize,
    /// Queues of `queues`, at most 1000
    #[arg(long, value_name = "N", default_value_t = 1_000)]
    queues: usize,
    /// Schedules of `schedules`, at most 1000
    #[arg(long, value_name = "N", default_value_t = 100)]
    schedules: usize,
    /// Minutes for which `schedules` measures, once with them and once without, at most 9
    #[arg(long, value_name = "N", default_value_t = 3)]
    minutes: u32,
    /// Commands of `cancel`, at most 1000
    #[arg(long, value_name = "N", default_value_t = 200)]
    commands: usize,
    /// Agents of each fleet
    #[arg(long, value_name = "N", default_value_t = 4)]
    agents: u32,
    /// A directory on the disk to measure; everything created in it is removed
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    data: PathBuf,
    /// The agent program; by default the one of the same build
    #[arg(long, value_name = "FILE", env = "ROBEING_AGENT_BIN")]
    agent_bin: Option<PathBuf>,
    /// Run the fleets without TLS
    #[arg(long)]
    plaintext: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Dag,
    Map,
    Queues,
    Schedules,
    Cancel,
    Kept,
}

impl Part {
    const ALL: [Self; 6] = [Self::Dag, Self::Map, Self::Queues, Self::Schedules, Self::Cancel, Self::Kept];
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match until_interrupted(&args).await {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("tasks_bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn until_interrupted(args: &Args) -> Result<String> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // An interrupt drops the fleet, so that its processes end and its directory is removed.
    tokio::select! {
        measured = measure(args) => measured,
        _ = interrupt.recv() => Err(anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow!("terminated")),
    }
}

/// Returns the table or the JSON.
async fn measure(args: &Args) -> Result<String> {
    if cfg!(debug_assertions) {
        eprintln!("this is a debug build: its figures are meaningless; use --release");
    }
    check(args)?;
    std::fs::create_dir_all(&args.data)
        .with_context(|| format!("can't create the directory {}", args.data.display()))?;
    let data = std::path::absolute(&args.data)?;
    let agent = std::path::absolute(args.agent_bin.clone().unwrap_or_else(|| program(AGENT)))?;
    let this = Report::of_this_machine(&data)?;
    let bed = Bed { data, agent, agents: args.agents, plaintext: args.plaintext };
    let mode = if args.plaintext { "plaintext" } else { "mtls" };
    let mut figures =
        Figures { bench: "tasks", machine: this.machine, disk: this.disk.to_string(), mode, sections: Vec::new() };
    for part in &args.only {
        let section = measure_part(*part, args, &bed).await?;
        eprintln!("{section}");
        figures.sections.push(section);
    }
    Ok(match args.output {
        Output::Table => figures.to_string(),
        Output::Json => serde_json::to_string_pretty(&figures)?,
    })
}

async fn measure_part(part: Part, args: &Args, bed: &Bed) -> Result<Section> {
    match part {
        Part::Dag => dag::measure(bed, args.nodes).await.context("dag"),
        Part::Map => map::measure(bed, args.parts).await.context("map"),
        Part::Queues => queues::measure(bed, args.queues, args.tasks).await.context("queues"),
        Part::Schedules => schedules::measure(bed, args.schedules, args.minutes).await.context("schedules"),
        Part::Cancel => cancel::measure(bed, args.commands).await.context("cancel"),
        Part::Kept => kept::measure(bed, args.tasks).await.context("kept"),
    }
}

fn check(args: &Args) -> Result<()> {
    ensure!((1..=dag::MOST_NODES).contains(&args.nodes), "the nodes must be 1 to {}", dag::MOST_NODES);
    ensure!((1..=map::MOST_PARTS).contains(&args.parts), "the parts must be 1 to {}", map::MOST_PARTS);
    ensure!((1..=bed::MOST_TASKS).contains(&args.tasks), "the tasks must be 1 to {}", bed::MOST_TASKS);
    ensure!((1..=queues::MOST_QUEUES).contains(&args.queues), "the queues must be 1 to {}", queues::MOST_QUEUES);
    ensure!(args.tasks >= args.queues, "there must be at least as many tasks as queues");
    ensure!((1..=1_000).contains(&args.schedules), "the schedules must be 1 to 1000");
    ensure!(
        (1..=schedules::MOST_MINUTES).contains(&args.minutes),
        "the minutes must be 1 to {}",
        schedules::MOST_MINUTES
    );
    ensure!(
        (1..=cancel::MOST_COMMANDS).contains(&args.commands),
        "the commands must be 1 to {}",
        cancel::MOST_COMMANDS
    );
    ensure!((1..=MOST_AGENTS).contains(&args.agents), "the agents must be 1 to {MOST_AGENTS}");
    Ok(())
}
