//! Tests of one snapshot file: what is written is read back, whatever crashes, and a damaged file is refused.

mod full_disk;
mod races;
mod unreadable;

use openraft::vote::{RaftLeaderId, leader_id_adv::LeaderId};
use robeing_platform::simulated::SimulatedDisk;

use super::*;

fn meta(index: u64) -> SnapshotMeta {
    let id = LogId::new(LeaderId::new(3, 1).to_committed(), index);
    SnapshotMeta { last_log_id: Some(id), ..SnapshotMeta::default() }
}

async fn opened(disk: &SimulatedDisk) -> (SnapshotFile, Option<(SnapshotMeta, Bytes)>) {
    SnapshotFile::open(Arc::new(disk.clone()), Path::new("/data")).await.unwrap()
}

async fn written() -> (SimulatedDisk, SnapshotFile) {
    let disk = SimulatedDisk::new(0);
    disk.create_dir_all(Path::new("/data")).await.unwrap();
    let (file, _) = opened(&disk).await;
    file.write(&meta(1), &Bytes::from("old")).await.unwrap();
    (disk, file)
}

#[tokio::test]
async fn a_snapshot_is_read_back_and_an_absent_one_is_none() {
    let (disk, file) = written().await;
    assert_eq!(file.read().await.unwrap(), Some((meta(1), Bytes::from("old"))));
    disk.remove(Path::new("/data/snapshot")).await.unwrap();
    assert_eq!(file.read().await.unwrap(), None);
}

#[tokio::test]
async fn a_snapshot_damaged_or_cut_anywhere_is_refused() {
    let (disk, file) = written().await;
    let path = Path::new("/data/snapshot");
    let whole = disk.content(path).unwrap();
    for byte in 0..whole.len() as u64 {
        disk.flip(path, byte, byte as u32 % 8).unwrap();
        assert!(matches!(file.read().await, Err(SnapshotError::Damaged { .. })), "flipped byte {byte}");
        disk.flip(path, byte, byte as u32 % 8).unwrap();
    }
    for len in (0..whole.len() as u64).rev() {
        disk.cut(path, len).unwrap();
        assert!(matches!(file.read().await, Err(SnapshotError::Damaged { .. })), "cut to {len}");
    }
}

#[tokio::test]
async fn lengths_that_lie_are_refused_even_with_a_right_checksum() {
    let (disk, file) = written().await;
    let path = Path::new("/data/snapshot");
    let whole = disk.content(path).unwrap();
    for offset in [MAGIC.len(), whole.len() - 4 - 3 - 8] {
        let mut lying = whole[..whole.len() - 4].to_vec();
        lying[offset..offset + 4].copy_from_slice(&u32::MAX.to_le_bytes());
        lying.extend_from_slice(&crc32c::crc32c(&lying).to_le_bytes());
        disk.overwrite(path, 0, &lying).unwrap();
        assert!(matches!(file.read().await, Err(SnapshotError::Damaged { .. })), "length at {offset}");
    }
}

#[tokio::test]
async fn a_crash_at_any_operation_leaves_the_old_snapshot_or_the_new() {
    let (disk, file) = written().await;
    let before = disk.operations();
    file.write(&meta(2), &Bytes::from(vec![9; 5000])).await.unwrap();
    let operations = disk.operations() - before;
    let (mut old, mut new) = (0, 0);
    for operation in 1..=operations {
        for seed in 0..16 {
            let (disk, file) = written().await;
            disk.power_off_during(operation);
            file.write(&meta(2), &Bytes::from(vec![9; 5000])).await.unwrap_err();
            disk.crash(seed);
            let (file, found) = opened(&disk).await;
            match found {
                Some((m, data)) if m == meta(1) && data == "old" => old += 1,
                Some((m, data)) if m == meta(2) && data == vec![9; 5000] => new += 1,
                other => panic!("operation {operation}, seed {seed}: {other:?}"),
            }
            file.write(&meta(3), &Bytes::from("third")).await.unwrap();
            disk.crash(seed);
            assert_eq!(file.read().await.unwrap(), Some((meta(3), Bytes::from("third"))));
        }
    }
    assert!(old > 0 && new > 0, "old {old}, new {new}");
}

#[tokio::test]
async fn an_older_snapshot_never_replaces_a_newer_one_and_is_dropped_without_an_error() {
    let (disk, file) = written().await;
    assert_eq!(file.write(&meta(5), &Bytes::from("five")).await.unwrap(), Kept::Written);
    let before = disk.operations();
    for obsolete in [0, 4, 5] {
        assert_eq!(file.write(&meta(obsolete), &Bytes::from("late")).await.unwrap(), Kept::Obsolete);
    }
    assert_eq!(file.write(&SnapshotMeta::default(), &Bytes::from("late")).await.unwrap(), Kept::Obsolete);
    // The rule also holds across a restart.
    let (file, found) = opened(&disk).await;
    assert_eq!(found, Some((meta(5), Bytes::from("five"))));
    assert_eq!(file.write(&meta(4), &Bytes::from("late")).await.unwrap(), Kept::Obsolete);
    assert_eq!(disk.operations(), before, "nothing was touched");
    assert_eq!(file.write(&meta(6), &Bytes::from("six")).await.unwrap(), Kept::Written);
}

#[tokio::test]
async fn a_snapshot_that_could_not_be_written_does_not_keep_another_from_being_written() {
    let (disk, file) = written().await;
    disk.fail_sync_after(0);
    file.write(&meta(5), &Bytes::from("five")).await.unwrap_err();
    assert_eq!(file.write(&meta(4), &Bytes::from("four")).await.unwrap(), Kept::Written);
    disk.crash(1);
    assert_eq!(opened(&disk).await.1, Some((meta(4), Bytes::from("four"))));
}
