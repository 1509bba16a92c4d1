//! Snapshots: one is taken and written while the log is applied and a leader's snapshot is installed.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{Command, ControlCommand, Fleet, FleetConfig, Stamp, TaskCommand, TaskId};
use shuttle::thread;

use crate::{
    apply::observer::ApplyObserver,
    fixture::task,
    leader::sessions::SessionTable,
    raft::{SharedFleet, modelled},
    tests::models::{apply, explore, fails, machine, results::TIMING},
};

/// More tasks than are taken or applied under one lock.
const TASKS: u128 = 600;
/// Each order takes long with so many tasks.
const FEW_ORDERS: usize = 100;

fn submissions(from: u128) -> Vec<Command> {
    (from..from + TASKS).map(|id| Command::Task(TaskCommand::Submit(task(id, Bytes::new())))).collect()
}

fn cancellations(from: u128, count: u128) -> Vec<Command> {
    (from..from + count)
        .map(|id| Command::Task(TaskCommand::Cancel { task: TaskId(id), reason: "test".into() }))
        .collect()
}

/// Takes a snapshot while the log advances. With `late`, the state that it is compared with is read when the log may
/// have advanced.
fn model(install: bool, late: bool) -> impl Fn() + Send + Sync + 'static {
    move || {
        let fleet = SharedFleet::new(Fleet::new(FleetConfig::default()));
        let observer = Arc::new(ApplyObserver::new(SessionTable::new(TIMING)));
        let mut machine = machine(&fleet, &observer);
        apply(&mut machine, 1, &submissions(1));
        let build = modelled::begin_snapshot(&mut machine);
        let begun = fleet.read().encode();
        let building = thread::spawn({
            let fleet = fleet.clone();
            move || {
                let taken = build();
                let begun = if late { fleet.read().encode() } else { begun };
                assert!(taken == begun, "the snapshot is not the state at its beginning");
            }
        });
        apply(&mut machine, 2, &cancellations(1, TASKS / 2));
        if install {
            let mut newer = Fleet::new(FleetConfig::default());
            newer.apply(Stamp::at(9), Command::Control(ControlCommand::Tick), &mut Vec::new());
            modelled::install(&mut machine, 9, newer.encode());
        }
        building.join().unwrap();
        let newest = if install { 9 } else { 1 };
        assert_eq!(modelled::covered(&mut machine), Some(newest), "what is on disk covers the most");
    }
}

#[test]
fn a_snapshot_is_the_state_at_its_beginning_whatever_is_applied_meanwhile() {
    explore(FEW_ORDERS, model(false, false));
}

#[test]
fn a_leaders_snapshot_that_comes_while_one_is_written_stays() {
    explore(FEW_ORDERS, model(true, false));
}

#[test]
fn a_snapshot_of_another_moment_would_be_noticed() {
    assert!(fails(model(false, true)), "no order was found in which the log advanced");
}
