//! Models of the places where threads share a coordinator's state. They run the shipped code, each up to thousands of
//! times, each time with a random order of the threads' steps; a step is what happens between two locks. The random
//! choices come from a fixed seed; a failure is printed as a schedule that shuttle can replay.
//!
//! A model can't show what happens within the locks of the libraries, or how long a thread has to wait.

mod letters;
mod logs;
mod mailbox;
mod results;
mod sessions;
mod snapshots;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use robeing_fleet::{Command, Reply, Stamp, encode_command};
use robeing_platform::{Disk, Platform, simulated::SimulatedDisk, sync::points::modelled};
use shuttle::{Config, Runner, future::block_on, scheduler::RandomScheduler};

use crate::{
    apply::observer::ApplyObserver,
    clock::FleetClock,
    raft::{Batch, SharedFleet, StateMachine, modelled},
};

/// Number of orders in which most models are run.
const ORDERS: usize = 2_000;
const SEED: u64 = 0x0b0e;
/// The library's default is too small for the state machine.
const STACK_BYTES: usize = 1024 * 1024;
const DATA: &str = "/data";

/// Runs a model in this many orders of its threads' steps.
fn explore(orders: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    let runner = Runner::new(RandomScheduler::new_from_seed(SEED, orders), config);
    modelled(shuttle::thread::yield_now, || runner.run(model));
}

/// Returns whether a deliberately wrong model fails in some order, as proof that it can fail at all.
fn fails(model: impl Fn() + Send + Sync + 'static) -> bool {
    catch_unwind(AssertUnwindSafe(|| explore(ORDERS, model))).is_err()
}

/// Creates a state machine over this fleet that reports to this observer.
fn machine(fleet: &SharedFleet, observer: &Arc<ApplyObserver>) -> StateMachine {
    let disk = SimulatedDisk::new(1);
    let clock = FleetClock::new(1, Platform::real().clock);
    let (fleet, observer) = (fleet.clone(), Arc::clone(observer));
    block_on(async {
        disk.create_dir_all(Path::new(DATA)).await.expect("the simulated disk takes a directory");
        StateMachine::modelled(Arc::new(disk), Path::new(DATA), fleet, observer, clock).await
    })
}

fn batch(at: u64, commands: &[Command]) -> Batch {
    let encode = |command: &Command| {
        let mut bytes = Vec::new();
        encode_command(command, &mut bytes);
        bytes
    };
    let encoded: Vec<Vec<u8>> = commands.iter().map(encode).collect();
    Batch::new(Stamp::at(at), encoded.iter().map(Vec::as_slice))
}

/// Applies the log entry `index`, as the consensus library does.
fn apply(machine: &mut StateMachine, index: u64, commands: &[Command]) {
    modelled::apply(machine, index, batch(index, commands));
}

/// Applies a log entry with one command, and returns its reply.
fn apply_one(machine: &mut StateMachine, index: u64, command: Command) -> Reply {
    modelled::apply_now(machine, index, &batch(index, &[command])).pop().expect("a reply for each command")
}
