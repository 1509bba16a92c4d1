//! Runs the shipped coordinator and agent code on a simulated network, clock and disk, under faults that a seed decides, and
//! holds every run to the fleet's invariants. Each seed is a process of its own, and a seed that is run again does exactly the
//! same again.

mod checks;
mod clients;
mod executor;
mod faults;
mod network;
mod record;
mod results;
mod time;
mod watcher;
mod world;

use std::{
    process::{Command, ExitCode, Output},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use clap::Parser;

/// Every so many seeds, one is run twice and compared.
const REPLAY_EVERY: u64 = 10;

#[derive(Parser)]
#[command(about = "Runs a fleet on a simulated network, clock and disk, under faults, and checks its invariants")]
struct Args {
    /// How many seeds to run, each in a process of its own.
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Processes at once; all processors if not given.
    #[arg(long)]
    jobs: Option<usize>,
    /// Run this one seed, in this process.
    #[arg(long)]
    seed: Option<u64>,
    /// Tell everything that happens, with the simulated time.
    #[arg(long)]
    verbose: bool,
    /// Break the fleet on purpose, to see that it is noticed.
    #[arg(long = "break", value_enum, hide = true)]
    sabotage: Option<world::Sabotage>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let well = match args.seed {
        Some(seed) => world::run(seed, args.verbose, args.sabotage),
        None => run_all(&args),
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed in a process of its own.
fn run_one(args: &Args, seed: u64) -> std::io::Result<Output> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string()]);
    if let Some(sabotage) = args.sabotage {
        command.args(["--break", sabotage.name()]);
    }
    command.output()
}

/// Runs one seed, some of them twice: whether all was well, and what to tell.
fn judge(args: &Args, seed: u64) -> (bool, String) {
    let first = match run_one(args, seed) {
        Ok(output) => output,
        Err(e) => return (false, format!("seed {seed} could not be run: {e}\n")),
    };
    let mut told = String::from_utf8_lossy(&first.stdout).into_owned();
    if !first.status.success() {
        told.push_str(&String::from_utf8_lossy(&first.stderr));
        told.push_str(&format!("seed {seed} failed ({}); see it again with --seed {seed} --verbose\n", first.status));
        return (false, told);
    }
    if !seed.is_multiple_of(REPLAY_EVERY) {
        return (true, told);
    }
    match run_one(args, seed) {
        Ok(second) if second.stdout == first.stdout => (true, format!("{} (again: the same)\n", told.trim_end())),
        Ok(second) => {
            let again = String::from_utf8_lossy(&second.stdout);
            (false, format!("seed {seed} did not do the same again:\n{told}{again}"))
        }
        Err(e) => (false, format!("seed {seed} could not be run again: {e}\n")),
    }
}

fn run_all(args: &Args) -> bool {
    let started = Instant::now();
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let todo = Mutex::new(args.first..args.first.saturating_add(args.seeds));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = todo.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(seed) = next else { return };
                    let (well, told) = judge(args, seed);
                    print!("{told}");
                    if !well {
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push(seed);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_unstable();
    println!("{} seeds in {:.0} s, {} failed {failed:?}", args.seeds, started.elapsed().as_secs_f64(), failed.len());
    failed.is_empty()
}
