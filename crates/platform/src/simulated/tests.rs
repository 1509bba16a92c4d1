use std::{io, path::Path, time::Duration};

use bytes::Bytes;

use super::*;
use crate::{Disk, DiskFile};

async fn disk_with(path: &Path) -> (SimulatedDisk, std::sync::Arc<dyn DiskFile>) {
    let disk = SimulatedDisk::new(0);
    disk.create_dir_all(path.parent().unwrap()).await.unwrap();
    let file = disk.open(path, true).await.unwrap();
    (disk, file)
}

#[tokio::test]
async fn what_was_synced_survives_every_crash() {
    let path = Path::new("/d/f");
    let (disk, file) = disk_with(path).await;
    disk.sync_dir(Path::new("/d")).await.unwrap();
    let content = Bytes::from(vec![7; 3 * SECTOR + 5]);
    file.write_at_and_sync(0, content.clone()).await.unwrap();
    for seed in 0..20 {
        disk.crash(seed);
        assert_eq!(disk.content(path).unwrap(), content, "seed {seed}");
    }
}

#[tokio::test]
async fn an_unsynced_write_is_torn_at_sectors_in_any_order() {
    let path = Path::new("/d/f");
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..64 {
        let (disk, file) = disk_with(path).await;
        file.write_at_and_sync(0, Bytes::from(vec![1; 3 * SECTOR])).await.unwrap();
        disk.sync_dir(Path::new("/d")).await.unwrap();
        disk.power_off_during(1);
        file.write_at_and_sync(0, Bytes::from(vec![2; 3 * SECTOR])).await.unwrap_err();
        disk.crash(seed);
        let content = disk.content(path).unwrap();
        let sectors: Vec<u8> = content.chunks(SECTOR).map(|sector| sector[0]).collect();
        assert!(content.chunks(SECTOR).all(|sector| sector.iter().all(|&b| b == sector[0])));
        seen.insert(sectors);
    }
    assert_eq!(seen.len(), 8, "every combination of old and new sectors: {seen:?}");
}

#[tokio::test]
async fn a_name_is_durable_only_after_its_directory_is_synced() {
    let (mut kept, mut lost) = (0, 0);
    for seed in 0..20 {
        let (disk, file) = disk_with(Path::new("/d/f")).await;
        file.write_at_and_sync(0, Bytes::from("content")).await.unwrap();
        disk.crash(seed);
        match disk.content(Path::new("/d/f")) {
            Ok(content) => {
                assert_eq!(content, "content");
                kept += 1;
            }
            Err(e) => {
                assert_eq!(e.kind(), io::ErrorKind::NotFound);
                lost += 1;
            }
        }
    }
    assert!(kept > 0 && lost > 0, "kept {kept}, lost {lost}");
}

#[tokio::test]
async fn a_failed_sync_is_not_made_up_for_by_the_next() {
    let path = Path::new("/d/f");
    let (disk, file) = disk_with(path).await;
    disk.sync_dir(Path::new("/d")).await.unwrap();
    file.write_at_and_sync(0, Bytes::from("old")).await.unwrap();
    disk.fail_sync_after(0);
    file.write_at_and_sync(0, Bytes::from("new")).await.unwrap_err();
    file.fill_to(3).await.unwrap();
    assert_eq!(disk.content(path).unwrap(), "new", "readable from the cache");
    disk.crash(1);
    assert_eq!(disk.content(path).unwrap(), "old", "and not on the disk");
}

#[tokio::test]
async fn a_full_disk_refuses_to_grow_and_takes_overwrites() {
    let (disk, file) = disk_with(Path::new("/d/f")).await;
    disk.set_capacity(Some(10));
    file.write_at_and_sync(0, Bytes::from_static(&[1; 10])).await.unwrap();
    file.write_at_and_sync(5, Bytes::from_static(&[2; 5])).await.unwrap();
    let refused = file.write_at_and_sync(5, Bytes::from_static(&[2; 6])).await.unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
}

#[tokio::test]
async fn a_lock_is_held_once_until_dropped_or_crashed() {
    let disk = SimulatedDisk::new(0);
    let path = Path::new("/lock");
    let first = disk.lock(path).await.unwrap();
    assert_eq!(disk.lock(path).await.err().unwrap().kind(), io::ErrorKind::WouldBlock);
    disk.crash(0);
    let second = disk.lock(path).await.unwrap();
    drop(first);
    assert!(disk.lock(path).await.is_err(), "a lock of before the crash releases nothing");
    drop(second);
    disk.lock(path).await.unwrap();
}

#[tokio::test]
async fn what_was_open_before_a_crash_is_void() {
    let (disk, file) = disk_with(Path::new("/d/f")).await;
    disk.sync_dir(Path::new("/d")).await.unwrap();
    disk.crash(0);
    file.write_at_and_sync(0, Bytes::from("late")).await.unwrap_err();
    assert_eq!(disk.content(Path::new("/d/f")).unwrap(), "");
}

#[tokio::test(start_paused = true)]
async fn latency_passes_in_virtual_time() {
    let latency = Latency { min: Duration::from_secs(1), max: Duration::from_secs(2) };
    let disk = SimulatedDisk::with_latency(3, latency);
    disk.create_dir_all(Path::new("/d")).await.unwrap();
    let begun = tokio::time::Instant::now();
    disk.sync_dir(Path::new("/d")).await.unwrap();
    assert!((latency.min..=latency.max + Duration::from_millis(2)).contains(&begun.elapsed()));
}

#[test]
fn the_same_seed_gives_the_same_numbers() {
    let draw = |seed| {
        let random = SeededRandom::new(seed);
        (0..4).map(|_| random.next_u64()).collect::<Vec<_>>()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
}

#[tokio::test(start_paused = true)]
async fn a_hung_disk_ends_no_sync_until_it_works_again() {
    let (disk, file) = disk_with(Path::new("/d/f")).await;
    disk.set_hung(true);
    let mut write = std::pin::pin!(file.write_at_and_sync(0, Bytes::from("late")));
    assert!(tokio::time::timeout(Duration::from_secs(60), &mut write).await.is_err());
    disk.set_hung(false);
    write.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_disk_becomes_slow_and_fast_again() {
    let (disk, file) = disk_with(Path::new("/d/f")).await;
    let slow = Latency { min: Duration::from_secs(1), max: Duration::from_secs(1) };
    for (latency, takes) in [(Some(slow), slow.min), (None, Duration::ZERO)] {
        disk.set_latency(latency);
        let begun = tokio::time::Instant::now();
        file.write_at_and_sync(0, Bytes::from("content")).await.unwrap();
        assert!((takes..=takes + Duration::from_millis(2)).contains(&begun.elapsed()), "{latency:?}");
    }
}

#[tokio::test]
async fn a_write_without_room_counts_as_a_failure() {
    let (disk, file) = disk_with(Path::new("/d/f")).await;
    disk.set_capacity(Some(disk.used() + 1));
    file.write_at_and_sync(0, Bytes::from_static(&[1; 2])).await.unwrap_err();
    assert_eq!(disk.failures(), 1);
}
