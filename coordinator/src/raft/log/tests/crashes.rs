//! One scripted history with a power failure at every single disk operation, including those while the log is read
//! back.

use std::path::Path;

use openraft::storage::RaftLogStorage;
use robeing_platform::Disk;

use super::{Content, DIR, Rig, entry, id, new_disk};
use crate::raft::Vote;

const SEGMENT: usize = 1024;
const SEEDS: u64 = 4;

/// Runs the script as far as the disk allows. Returns the state acknowledged last, and the one it was about to reach.
async fn script(rig: &mut Rig) -> (Content, Content) {
    let mut state = Content::default();
    for round in 0..40 {
        let before = state.clone();
        let result = match round % 10 {
            3 => {
                state.vote = Some(Vote::new(round, 1));
                rig.log.save_vote(&Vote::new(round, 1)).await
            }
            6 => {
                state.entries.pop();
                rig.log.truncate_after(state.last()).await
            }
            8 => {
                let upto = id(state.entries[4].log_id.committed_leader_id().term, state.entries[4].log_id.index);
                state.entries.drain(..=4);
                state.purged = Some(upto);
                rig.purge(upto).await
            }
            _ => {
                let next = entry(round + 1, state.next_index(), 90);
                state.entries.push(next.clone());
                let second = entry(round + 1, state.next_index(), 10);
                state.entries.push(second.clone());
                rig.append(vec![next, second]).await
            }
        };
        if result.is_err() {
            return (before, state);
        }
    }
    (state.clone(), state)
}

async fn operations_of_the_script() -> u64 {
    let mut rig = Rig::open(&new_disk().await, SEGMENT).await;
    let (done, _) = script(&mut rig).await;
    assert_eq!(rig.content().await, done);
    rig.disk.operations()
}

#[tokio::test]
async fn the_power_may_go_during_any_operation() {
    let total = operations_of_the_script().await;
    assert!(total > 60, "the script rolls and recycles segments: {total} operations");
    for operation in 1..=total {
        for seed in 0..SEEDS {
            let disk = new_disk().await;
            let mut rig = Rig::open(&disk, SEGMENT).await;
            disk.power_off_during(operation);
            let (before, after) = script(&mut rig).await;
            let mut rig = rig.crash(seed).await;
            let found = rig.content().await;
            assert!(
                before.may_be_found_as(&found) || after.may_be_found_as(&found),
                "operation {operation}, seed {seed}: {found:?} is neither {before:?} nor {after:?}"
            );
            let next = entry(99, found.next_index(), 300);
            rig.append(vec![next.clone()]).await.unwrap();
            assert_eq!(rig.crash(seed + 1).await.content().await.entries.last(), Some(&next));
        }
    }
}

#[tokio::test]
async fn the_power_may_go_again_while_the_log_is_read_back() {
    let total = operations_of_the_script().await;
    for operation in 1..=total {
        let disk = new_disk().await;
        let mut rig = Rig::open(&disk, SEGMENT).await;
        disk.power_off_during(operation);
        let (before, after) = script(&mut rig).await;
        rig.close().await.crash(operation);
        for again in 1..=4 {
            disk.power_off_during(again);
            if let Ok(rig) = Rig::try_open(&disk, SEGMENT).await {
                rig.close().await;
            }
            disk.crash(operation + again);
        }
        let found = Rig::open(&disk, SEGMENT).await.content().await;
        assert!(before.may_be_found_as(&found) || after.may_be_found_as(&found), "operation {operation}: {found:?}");
    }
}

/// A crash may leave a spare of any length. It must not become a segment before it is complete, or a second crash
/// leaves a segment that looks truncated.
#[tokio::test]
async fn no_crash_leaves_a_segment_that_is_shorter_than_it_was_made() {
    const BEGINNING: u64 = 6;
    let mut halves = 0;
    for first in 1..=BEGINNING {
        for second in 1..=BEGINNING {
            for seed in 0..4 * SEEDS {
                let disk = new_disk().await;
                let mut rig = Rig::open(&disk, SEGMENT).await;
                disk.power_off_during(first);
                drop(rig.append(vec![entry(1, 0, 40)]).await);
                let mut rig = rig.crash(seed).await;
                for name in disk.list(Path::new(DIR)).await.unwrap() {
                    let len = disk.content(&Path::new(DIR).join(&name)).unwrap().len();
                    assert!(len == SEGMENT || !name.ends_with(".log"), "{name} has {len} bytes");
                    halves += u64::from(len > 0 && len < SEGMENT);
                }
                let next = rig.content().await.next_index();
                disk.power_off_during(second);
                drop(rig.append(vec![entry(2, next, 40)]).await);
                let rig = rig.crash(seed + 1).await;
                for name in rig.disk.list(Path::new(DIR)).await.unwrap() {
                    let len = disk.content(&Path::new(DIR).join(&name)).unwrap().len();
                    assert!(len == SEGMENT || !name.ends_with(".log"), "{name} has {len} bytes");
                }
            }
        }
    }
    assert!(halves > 0, "some crash leaves a part of a spare");
}
