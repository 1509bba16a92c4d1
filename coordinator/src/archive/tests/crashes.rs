//! One scripted history with a power failure at every single disk operation, including those while the archive is
//! opened again.

use std::collections::BTreeSet;

use super::*;

const RECORDS: u64 = 40;
const SEEDS: u64 = 3;

/// What the script has reached.
#[derive(Default)]
struct Reached {
    /// All records below are durable, as after a snapshot.
    below: u64,
    /// Those that are not needed any more.
    forgotten: BTreeSet<u64>,
}

/// Puts records one after the other, with a snapshot after each third, and forgets most of them some time later. Ends
/// when the disk fails.
async fn script(rig: &Rig, tasks: &[Arc<Task>]) -> Reached {
    let mut reached = Reached::default();
    for (record, task) in (0..).zip(tasks) {
        rig.archive.put(record, task);
        if record >= 12 && record % 6 != 0 {
            rig.archive.forget(record - 12);
            reached.forgotten.insert(record - 12);
        }
        if record % 3 == 2 {
            if rig.archive.flush(record + 1).await.is_err() {
                return reached;
            }
            reached.below = record + 1;
        }
        // The writer tidies up.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
    if rig.archive.flush(RECORDS).await.is_ok() {
        reached.below = RECORDS;
    }
    reached
}

fn needed(reached: &Reached) -> Vec<u64> {
    (0..reached.below).filter(|record| !reached.forgotten.contains(record)).collect()
}

async fn operations_of_the_script(tasks: &[Arc<Task>]) -> u64 {
    let rig = Rig::new().await;
    let reached = script(&rig, tasks).await;
    assert_eq!(reached.below, RECORDS);
    assert!(rig.files(".rec").len() < 10, "segments were removed or written again");
    rig.disk.operations()
}

#[tokio::test(start_paused = true)]
async fn the_power_may_go_during_any_operation() {
    let tasks = tasks(RECORDS, 100);
    let total = operations_of_the_script(&tasks).await;
    assert!(total > 40, "it writes, seals and tidies up: {total} operations");
    for operation in 1..=total {
        for seed in 0..SEEDS {
            let rig = Rig::new().await;
            rig.disk.power_off_during(operation);
            let reached = script(&rig, &tasks).await;
            let rig = rig.crash(seed, reached.below).await;
            let needed = needed(&reached);
            assert_eq!(rig.archive.keep_only(&needed, reached.below), 0, "operation {operation}, seed {seed}");
            let found = rig.read(&tasks).await;
            assert!(needed.iter().all(|record| found.contains(record)), "{found:?} of {needed:?}");
            // The log after the snapshot archives the rest again.
            assert_eq!(script(&rig, &tasks).await.below, RECORDS, "operation {operation}, seed {seed}");
            let rig = rig.crash(seed + 1, RECORDS).await;
            let found = rig.read(&tasks).await;
            let last = (RECORDS - 12..RECORDS).collect::<Vec<u64>>();
            assert!(last.iter().all(|record| found.contains(record)), "{found:?} of {last:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_power_may_go_again_while_it_is_opened() {
    let tasks = tasks(RECORDS, 100);
    for operation in 1..8 {
        for seed in 0..SEEDS {
            let rig = Rig::new().await;
            let reached = script(&rig, &tasks).await;
            let Rig { disk, archive, _writing: writing } = rig;
            drop((archive, writing));
            disk.crash(seed);
            disk.power_off_during(operation);
            drop(Archive::open_sized(Arc::new(disk.clone()), Path::new(DIR), reached.below, SMALL).await);
            disk.crash(seed + 1);
            let rig = Rig::open(&disk, reached.below).await;
            assert_eq!(
                rig.archive.keep_only(&needed(&reached), reached.below),
                0,
                "operation {operation}, seed {seed}"
            );
        }
    }
}
