//! A leader's snapshot that arrives while this coordinator writes its own: the one that covers more is kept, in
//! whatever order they are written and whenever the power fails, and consensus continues.

use std::{collections::BTreeSet, time::Duration};

use robeing_platform::simulated::{Latency, SimulatedDisk};

use crate::raft::fixture::*;

/// The newest entry that is applied, and therefore covered by the coordinator's own snapshot.
const OWN_LAST: u64 = 5;
/// The newest entry that the leader's snapshot covers.
const LEADERS_LAST: u64 = 9;
/// Delays of the leader's snapshot, milliseconds. Writing the own snapshot takes about 120 ms.
const LATER: [u64; 4] = [0, 1, 40, 90];

fn slow_disk(seed: u64) -> SimulatedDisk {
    SimulatedDisk::with_latency(seed, Latency { min: Duration::from_millis(10), max: Duration::from_millis(100) })
}

/// Writes both snapshots at once. Returns whether the leader's was accepted.
async fn race(follower: &Follower, later: u64) -> bool {
    follower.raft.raft().trigger().snapshot().await.unwrap();
    tokio::time::sleep(Duration::from_millis(later)).await;
    let installed = follower.install(LEADERS_LAST).await;
    // Waits until all pending writes are done.
    tokio::time::sleep(Duration::from_secs(10)).await;
    installed
}

/// Restarts the follower. Returns it and the newest entry that it has applied.
async fn start(disk: SimulatedDisk) -> (Follower, u64) {
    let follower = Follower::start(disk).await;
    let applied = follower.log.applied().end() - 1;
    (follower, applied)
}

#[tokio::test(start_paused = true)]
async fn whichever_is_written_first_the_leaders_stays_and_consensus_goes_on() {
    for seed in 0..8 {
        for later in LATER {
            let follower = Follower::with_applied_on(slow_disk(seed), OWN_LAST).await;
            assert!(race(&follower, later).await, "seed {seed}, {later} ms later: not installed");
            follower.raft.raft().wait(DEADLINE).applied_index(Some(LEADERS_LAST), "the leader's state").await.unwrap();
            let next = [id(2, 3, LEADERS_LAST + 1)];
            let goes_on = follower.append(2, 3, Some(id(2, 3, LEADERS_LAST)), next.into_iter(), Some(next[0])).await;
            assert!(goes_on, "seed {seed}, {later} ms later: consensus stopped");
            let (follower, applied) = start(follower.stop().await).await;
            assert!(applied >= LEADERS_LAST, "seed {seed}, {later} ms later: {applied} after a start");
            follower.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_at_any_operation_of_both_leaves_a_coordinator_that_starts() {
    let (mut starts_with, mut most) = (BTreeSet::new(), 0);
    for later in LATER {
        let whole = Follower::with_applied_on(slow_disk(1), OWN_LAST).await;
        let before = whole.disk.operations();
        race(&whole, later).await;
        let operations = whole.stop().await.operations() - before;
        most = most.max(operations);
        for operation in 1..=operations {
            for seed in 0..3 {
                let follower = Follower::with_applied_on(slow_disk(1), OWN_LAST).await;
                follower.disk.power_off_during(operation);
                let installed = race(&follower, later).await;
                let disk = follower.stop().await;
                disk.crash(seed);
                let (follower, applied) = start(disk).await;
                let what = format!("{later} ms later, operation {operation}, seed {seed}");
                assert!(applied >= if installed { LEADERS_LAST } else { 0 }, "{what}: {applied}");
                starts_with.insert(applied);
                // After that start, both snapshots race again.
                let prev = follower.log.id_at(applied);
                assert!(follower.append(2, 3, prev, std::iter::empty(), prev).await, "{what}: consensus stopped");
                assert!(race(&follower, later).await, "{what}: not installed after the start");
                let (follower, applied) = start(follower.stop().await).await;
                assert_eq!(applied, LEADERS_LAST, "{what}: after the second race");
                follower.stop().await;
            }
        }
    }
    assert!(starts_with.contains(&OWN_LAST) && starts_with.contains(&LEADERS_LAST), "{starts_with:?}");
    assert!(most > 8, "two snapshots and a purge are more than {most} operations");
}
