//! A snapshot that finds no space on the disk: consensus continues, the log is kept, and the snapshot is written once
//! there is space.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use robeing_platform::Disk;

use crate::raft::fixture::*;

const LAST: u64 = 5;

/// Requests snapshots until `is_so` holds. The library ignores requests while it takes a snapshot.
async fn snapshots_until(follower: &Follower, is_so: impl Fn() -> bool) {
    let reached = async {
        while !is_so() {
            follower.raft.raft().trigger().snapshot().await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), reached).await.expect("in time");
}

/// Returns whether the next entry is accepted.
async fn goes_on(follower: &Follower, term: u64, leader: u64, prev: u64) -> bool {
    let next = id(term, leader, prev + 1);
    follower.append(term, leader, follower.log.id_at(prev), [next].into_iter(), Some(next)).await
}

#[tokio::test]
async fn an_own_snapshot_without_room_is_skipped_and_nothing_is_purged_until_one_is_written() {
    let follower = Follower::with_applied(LAST).await;
    follower.disk.set_capacity(Some(0));
    snapshots_until(&follower, || follower.snapshots.skipped.load(Ordering::Relaxed) >= 2).await;
    assert!(goes_on(&follower, 1, 2, LAST).await, "consensus stopped");
    assert_eq!(follower.log.purged(), None);
    let names = follower.disk.list(Path::new(DATA)).await.unwrap();
    assert!(names.iter().all(|name| !name.starts_with("snapshot")), "{names:?}");
    let last = LAST + 1;
    follower.raft.raft().wait(DEADLINE).applied_index(Some(last), "all is applied").await.unwrap();
    follower.disk.set_capacity(None);
    snapshots_until(&follower, || follower.log.purged() == Some(id(1, 2, last))).await;
    let follower = Follower::start(follower.stop().await).await;
    assert_eq!(follower.log.applied().end(), last + 1);
    follower.stop().await;
}

#[tokio::test]
async fn a_leaders_snapshot_without_room_is_refused_before_consensus_has_it() {
    let follower = Follower::with_applied(LAST).await;
    follower.disk.set_capacity(Some(0));
    assert!(!follower.install(9).await, "there is no room for it");
    assert!(goes_on(&follower, 2, 3, LAST).await, "consensus stopped");
    follower.disk.set_capacity(None);
    assert!(follower.install(9).await);
    let follower = Follower::start(follower.stop().await).await;
    assert_eq!(follower.log.applied().end(), 10);
    follower.stop().await;
}
