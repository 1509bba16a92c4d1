//! Tests of limits, disk failures, and the real file system.

use std::{path::Path, sync::Arc};

use openraft::{RaftLogReader, storage::RaftLogStorage};
use robeing_platform::{Disk, FileSystem};

use super::{DIR, Rig, SALT, entry, filled, id, indexes, new_disk};
use crate::raft::{
    Vote,
    log::{
        Log, READ_BYTES, SEGMENT_BYTES, frame,
        index::{CACHE_BYTES, Found},
        record,
    },
};

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_until_the_log_is_opened_anew() {
    let mut rig = filled(4096, 3, 20).await;
    rig.disk.fail_sync_after(0);
    let failed = rig.append(vec![entry(1, 3, 20)]).await.unwrap_err();
    assert!(failed.to_string().contains("I/O error"), "{failed}");
    let syncs = rig.disk.operations();
    rig.append(vec![entry(1, 4, 20)]).await.unwrap_err();
    rig.append(vec![entry(1, 5, 4000)]).await.unwrap_err();
    rig.log.save_vote(&Vote::new(9, 9)).await.unwrap_err();
    rig.log.purge(id(1, 1)).await.unwrap_err();
    rig.log.truncate_after(Some(id(1, 1))).await.unwrap_err();
    assert_eq!(rig.disk.operations(), syncs, "the disk is not touched any more");
    let content = rig.crash(7).await.content().await;
    assert_eq!(indexes(&content), [0, 1, 2]);
    assert_eq!(content.vote, None);
}

#[tokio::test]
async fn what_is_applied_is_never_truncated() {
    let mut rig = filled(4096, 6, 20).await;
    // Known to be committed is not enough: after a failed sync that may be ahead of the log.
    rig.log.save_committed(Some(id(1, 5))).await.unwrap();
    rig.log.truncate_after(Some(id(1, 4))).await.unwrap();
    rig.log.applied().note(3);
    for kept in [None, Some(id(1, 2))] {
        let refused = rig.log.truncate_after(kept).await.unwrap_err();
        assert!(refused.to_string().contains("those before 4 are applied here"), "{refused}");
        assert_eq!(indexes(&rig.content().await), [0, 1, 2, 3, 4]);
    }
    rig.log.truncate_after(Some(id(1, 3))).await.unwrap();
    assert_eq!(indexes(&rig.content().await), [0, 1, 2, 3]);
}

/// A replication stream that was abandoned may still request entries that were purged since.
#[tokio::test]
async fn replication_never_reads_past_a_gap() {
    let mut rig = filled(4096, 12, 20).await;
    rig.log.purge(id(1, 5)).await.unwrap();
    assert!(rig.log.limited_get_log_entries(3, 9).await.unwrap().is_empty(), "entries 3 to 5 are gone");
    let kept = rig.log.limited_get_log_entries(6, 9).await.unwrap();
    assert_eq!(kept.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [6, 7, 8]);
    let applied = rig.log.try_get_log_entries(3..9).await.unwrap();
    assert_eq!(applied.iter().map(|entry| entry.log_id.index).collect::<Vec<_>>(), [6, 7, 8]);
}

#[tokio::test]
async fn what_is_read_back_after_a_failed_sync_is_made_durable_before_it_counts() {
    let mut rig = filled(4096, 3, 20).await;
    rig.disk.fail_sync_after(0);
    rig.append(vec![entry(1, 3, 20)]).await.unwrap_err();
    // The process exits but the machine keeps running: the entry is only in the operating system's cache.
    let mut rig = rig.reopen().await;
    let seen = indexes(&rig.content().await);
    for seed in 0..8 {
        rig = rig.crash(seed).await;
        assert_eq!(indexes(&rig.content().await), seen, "what was read once is kept, seed {seed}");
    }
}

#[tokio::test]
async fn a_full_disk_fails_loudly_and_loses_nothing() {
    let mut rig = filled(1024, 1, 40).await;
    let used = 2 * 1024;
    rig.disk.set_capacity(Some(used));
    let mut acknowledged = 1;
    while rig.append(vec![entry(1, acknowledged, 40)]).await.is_ok() {
        acknowledged += 1;
    }
    assert!(acknowledged > 10, "the segments there are get used: {acknowledged}");
    let names = rig.disk.list(Path::new(DIR)).await.unwrap();
    assert!(names.len() <= 4, "no litter of half-made files: {names:?}");
    rig.disk.set_capacity(None);
    let mut rig = rig.reopen().await;
    assert!(rig.content().await.entries.len() as u64 >= acknowledged);
    let next = rig.content().await.next_index();
    rig.append(vec![entry(1, next, 40)]).await.unwrap();
}

#[tokio::test]
async fn an_entry_that_no_segment_holds_is_refused_and_the_largest_is_not() {
    const SEGMENT: usize = 4096;
    let one = entry(1, 0, 0);
    let start = frame::frame_len(5 + 8);
    let largest = SEGMENT - start - frame::HEADER - record::entry_len(&one);
    let mut rig = Rig::open(&new_disk().await, SEGMENT).await;
    rig.append(vec![entry(1, 0, largest)]).await.unwrap();
    assert_eq!(rig.reopen().await.content().await.entries, [entry(1, 0, largest)]);

    let mut rig = Rig::open(&new_disk().await, SEGMENT).await;
    let refused = rig.append(vec![entry(1, 0, largest + 1)]).await.unwrap_err();
    assert!(refused.to_string().contains("does not fit"), "{refused}");
}

#[tokio::test]
async fn appends_that_wait_together_share_a_sync() {
    let mut rig = Rig::open(&new_disk().await, 64 * 1024).await;
    let mut waiting = Vec::new();
    for index in 0..100 {
        waiting.push(rig.begin_append(vec![entry(1, index, 30)]).await.unwrap());
    }
    for flushed in waiting {
        flushed.await.unwrap().unwrap();
    }
    let syncs = rig.log.stats().syncs.load(std::sync::atomic::Ordering::Relaxed);
    assert!(syncs <= 10, "{syncs} syncs for 100 appends");
    assert_eq!(rig.reopen().await.content().await.entries.len(), 100);
}

#[tokio::test]
async fn entries_too_many_for_memory_are_read_back_from_disk() {
    const LEN: usize = 64 * 1024;
    let count = (CACHE_BYTES / LEN) as u64 * 3 / 2;
    let mut rig = Rig::open(&new_disk().await, 1024 * 1024).await;
    for first in (0..count).step_by(4) {
        rig.append((first..first + 4).map(|index| entry(1, index, LEN)).collect()).await.unwrap();
    }
    let in_memory = |rig: &Rig| {
        let found = rig.log.shared.index().range(0, u64::MAX);
        found.iter().filter(|found| matches!(found, Found::Here(_))).count()
    };
    for _ in 0..2 {
        assert!(in_memory(&rig) * LEN <= CACHE_BYTES && in_memory(&rig) > 0);
        let all = rig.content().await.entries;
        assert_eq!(all.len() as u64, count);
        assert!(all.iter().all(|e| *e == entry(1, e.log_id.index, LEN)));
        let some = rig.log.try_get_log_entries(7..=9).await.unwrap();
        assert_eq!(some, [entry(1, 7, LEN), entry(1, 8, LEN), entry(1, 9, LEN)]);
        rig = rig.reopen().await;
    }
}

#[tokio::test]
async fn a_limited_read_gives_some_but_not_too_much() {
    const LEN: usize = 512 * 1024;
    let mut rig = filled(16 * 1024 * 1024, 8, LEN).await;
    let some = rig.log.limited_get_log_entries(0, 8).await.unwrap();
    assert_eq!(some.len(), READ_BYTES / LEN - 1, "headers count too");
    rig.append(vec![entry(1, 8, READ_BYTES + 1)]).await.unwrap();
    assert_eq!(rig.log.limited_get_log_entries(8, 9).await.unwrap().len(), 1, "one entry always");
    assert!(rig.log.limited_get_log_entries(9, 20).await.unwrap().is_empty());
    assert_eq!(rig.log.try_get_log_entries(0..=u64::MAX).await.unwrap().len(), 9);
}

#[tokio::test]
async fn an_entry_that_does_not_follow_the_last_is_refused() {
    let mut rig = filled(4096, 3, 10).await;
    for wrong in [2, 4] {
        let refused = rig.append(vec![entry(1, wrong, 10)]).await.unwrap_err();
        assert!(refused.to_string().contains("missing"), "{refused}");
    }
    rig.append(vec![entry(1, 3, 10)]).await.unwrap();
}

#[tokio::test]
async fn the_real_file_system_keeps_a_log() {
    let dir = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(FileSystem);
    for round in 0..3 {
        let opened = Log::open(Arc::clone(&disk), dir.path(), SALT).await.unwrap();
        let mut log = opened.log;
        assert_eq!(log.entries(), round);
        let (flushed, answer) = <super::TypeConfig as super::TypeConfigExt>::oneshot();
        log.append([entry(1, round as u64, 1000)], super::IOFlushed::signal(flushed)).await.unwrap();
        answer.await.unwrap().unwrap();
        drop(log);
        opened.writer.await.unwrap();
    }
    let segment = dir.path().join("0000000000000001.log");
    assert_eq!(segment.metadata().unwrap().len() as usize, SEGMENT_BYTES);
}

#[tokio::test]
async fn a_data_directory_is_locked_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let first = FileSystem.lock(&path).await.unwrap();
    let second = FileSystem.lock(&path).await.err().expect("it is locked");
    assert_eq!(second.kind(), std::io::ErrorKind::WouldBlock);
    assert!(second.to_string().contains("lock"), "{second}");
    drop(first);
    FileSystem.lock(&path).await.unwrap();
}

#[tokio::test]
async fn an_empty_directory_is_an_empty_log() {
    let mut rig = Rig::open(&new_disk().await, 4096).await;
    assert_eq!(rig.content().await, super::Content::default());
    assert_eq!(rig.disk.list(Path::new(DIR)).await.unwrap(), Vec::<String>::new());
}

/// Fills the disk and returns how many entries are still accepted.
async fn taken_on_a_full_disk(rig: &mut Rig, mut index: u64, len: usize, purges: bool) -> u64 {
    rig.disk.set_capacity(Some(0));
    let first = index;
    while index < first + 1_000 {
        if rig.append(vec![entry(1, index, len)]).await.is_err() {
            break;
        }
        if purges {
            rig.log.purge(id(1, index)).await.unwrap();
        }
        index += 1;
    }
    index - first
}

#[tokio::test]
async fn a_full_disk_leaves_the_log_its_reserve_which_lasts_as_long_as_the_log_is_purged() {
    const LEN: usize = 200;
    let used = |rig: &Rig| rig.log.shared.stats.bytes.load(std::sync::atomic::Ordering::Relaxed);
    for purges in [false, true] {
        // Most of the first segment, so that both spares exist.
        let mut rig = filled(4096, 0, LEN).await;
        let mut index = 0;
        while used(&rig) < 4096 * 4 / 5 {
            rig.append(vec![entry(1, index, LEN)]).await.unwrap();
            index += 1;
        }
        // The writer creates a spare after it has acknowledged.
        rig.log.save_vote(&Vote::new(1, 1)).await.unwrap();
        let before = used(&rig);
        let taken = taken_on_a_full_disk(&mut rig, index, LEN, purges).await;
        if purges {
            assert_eq!(taken, 1_000, "what is purged makes room");
        } else {
            let bytes = used(&rig) - before;
            assert!(bytes > 4096 * 2 * 4 / 5, "two segments in reserve held {taken} entries of {bytes} bytes");
            assert!(taken < 1_000);
        }
        // Everything accepted is there.
        rig.disk.set_capacity(None);
        let last = rig.reopen().await.content().await.last().unwrap().index;
        assert_eq!(last, index + taken - 1);
    }
}
