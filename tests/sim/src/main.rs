//! Runs seeds of the simulator, each in a process of its own, and reports the results.

use std::{
    process::{Command, ExitCode, Output},
    sync::{Mutex, PoisonError},
    time::Instant,
};

use clap::Parser;
use robeing_sim::{Hard, PROMISES, Sabotage, Selection, run};

/// One of this many seeds is run twice, and the runs are compared.
const REPLAY_EVERY: u64 = 10;

#[derive(Parser)]
#[command(about = "Runs a fleet on a simulated network, clock and disk, under faults, and checks its invariants")]
struct Args {
    /// Number of seeds to run, each in a process of its own.
    #[arg(long, default_value_t = 50)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Number of concurrent processes; by default the number of processors.
    #[arg(long)]
    jobs: Option<usize>,
    /// Run only this seed, in this process.
    #[arg(long)]
    seed: Option<u64>,
    /// Print every event, with the simulated time.
    #[arg(long)]
    verbose: bool,
    /// Plant a mistake, to see that it is noticed.
    #[arg(long = "break", hide = true)]
    sabotage: Option<Sabotage>,
    /// Plant mistakes: all, one by its name, or those of a part (such as 0/5). Report which seed notices each first,
    /// and by which check.
    #[arg(long = "sabotage")]
    selection: Option<Selection>,
    /// Have no faults except the hard combination of this name, twice.
    #[arg(long)]
    only: Option<Hard>,
    /// List the checks.
    #[arg(long)]
    checks: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.checks {
        PROMISES.iter().for_each(|(name, promise)| println!("{name:<10} {promise}"));
        return ExitCode::SUCCESS;
    }
    let well = match (args.seed, &args.selection) {
        (Some(seed), _) => run(seed, args.verbose, args.sabotage, args.only),
        (None, None) => run_all(&args),
        (None, Some(Selection(all))) => {
            let found = all.iter().filter(|sabotage| is_found(&args, **sabotage)).count();
            println!("{found} of {} planted mistakes were found", all.len());
            found == all.len()
        }
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one seed in a process of its own.
fn run_one(args: &Args, seed: u64, sabotage: Option<Sabotage>) -> std::io::Result<Output> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--seed", &seed.to_string()]);
    if let Some(hard) = args.only {
        command.args(["--only", hard.kind()]);
    }
    if let Some(sabotage) = sabotage {
        command.args(["--break", sabotage.name()]);
    }
    command.output()
}

/// Runs one seed, some of them twice; returns whether all was well, and the output.
fn judge(args: &Args, seed: u64) -> (bool, String) {
    let first = match run_one(args, seed, args.sabotage) {
        Ok(output) => output,
        Err(e) => return (false, format!("seed {seed} could not be run: {e}\n")),
    };
    let mut told = String::from_utf8_lossy(&first.stdout).into_owned();
    if !first.status.success() {
        told.push_str(&String::from_utf8_lossy(&first.stderr));
        told.push_str(&format!("seed {seed} failed ({}); reproduce it with --seed {seed} --verbose\n", first.status));
        return (false, told);
    }
    if !seed.is_multiple_of(REPLAY_EVERY) {
        return (true, told);
    }
    match run_one(args, seed, args.sabotage) {
        Ok(second) if second.stdout == first.stdout => (true, format!("{} (again: the same)\n", told.trim_end())),
        Ok(second) => {
            let again = String::from_utf8_lossy(&second.stdout);
            (false, format!("seed {seed} did something else when it was run again:\n{told}{again}"))
        }
        Err(e) => (false, format!("seed {seed} could not be run again: {e}\n")),
    }
}

fn jobs(args: &Args) -> usize {
    args.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1).max(1)
}

/// Returns the first violation in the output of a run.
fn first_violation(output: &Output) -> String {
    let told = String::from_utf8_lossy(&output.stdout);
    let violation = told.lines().find_map(|line| line.strip_prefix("  ")).map(str::to_owned);
    violation.unwrap_or_else(|| {
        let told = String::from_utf8_lossy(&output.stderr);
        format!("it did not finish: {}", told.lines().last().unwrap_or_default())
    })
}

/// Returns what a seed notices of a planted mistake. A seed that fails without the mistake as well notices nothing.
fn notices(args: &Args, seed: u64, sabotage: Sabotage) -> Option<String> {
    let whole = match run_one(args, seed, Some(sabotage)) {
        Ok(output) if output.status.success() => return None,
        Ok(output) => run_one(args, seed, None).map(|whole| (output, whole)),
        Err(error) => Err(error),
    };
    match whole {
        Ok((output, whole)) if whole.status.success() => return Some(first_violation(&output)),
        Ok((_, whole)) => println!("seed {seed} fails without a planted mistake: {}", first_violation(&whole)),
        Err(error) => println!("seed {seed} could not be run: {error}"),
    }
    None
}

/// Returns whether a seed notices a planted mistake, and prints which.
fn is_found(args: &Args, sabotage: Sabotage) -> bool {
    let started = Instant::now();
    let todo = Mutex::new(args.first..args.first.saturating_add(args.seeds));
    let found: Mutex<Option<(u64, String)>> = Mutex::new(None);
    std::thread::scope(|scope| {
        for _ in 0..jobs(args) {
            scope.spawn(|| {
                while found.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
                    let next = todo.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(seed) = next else { return };
                    let Some(noticed) = notices(args, seed, sabotage) else { continue };
                    found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert((seed, noticed));
                }
            });
        }
    });
    let (name, took) = (sabotage.name(), started.elapsed().as_secs_f64());
    match found.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((seed, noticed)) => {
            let noticed: String = noticed.chars().take(200).collect();
            println!("{name}: found by seed {seed} in {took:.0} s: {noticed}");
            true
        }
        None => {
            println!("{name}: NOT FOUND by {} seeds in {took:.0} s", args.seeds);
            false
        }
    }
}

fn run_all(args: &Args) -> bool {
    let started = Instant::now();
    let todo = Mutex::new(args.first..args.first.saturating_add(args.seeds));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..jobs(args) {
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
