//! Tests of damage: what a crash can cause is repaired, everything else is refused.

use std::path::{Path, PathBuf};

use openraft::storage::RaftLogStorage;
use robeing_platform::simulated::SimulatedDisk;

use super::{DIR, Rig, SALT, entry, filled, id, indexes};
use crate::raft::log::{RecoveryError, frame, segment};

fn path(number: u64) -> PathBuf {
    segment::path(Path::new(DIR), number)
}

/// Returns the frames of a segment: offset, and offset of the byte after the body.
fn frames(disk: &SimulatedDisk, number: u64) -> Vec<(usize, usize)> {
    let content = disk.content(&path(number)).unwrap();
    let (mut offset, mut frames) = (0, Vec::new());
    while let Some((_, body)) = frame::decode_at(segment::salt(SALT, number), &content, offset) {
        frames.push((offset, offset + frame::HEADER + body.len()));
        offset += frame::frame_len(body.len());
    }
    frames
}

/// Returns a function that copies the disk, to be damaged once more.
fn copy_of(disk: &SimulatedDisk, numbers: &[u64]) -> impl AsyncFn() -> SimulatedDisk {
    let contents: Vec<_> = numbers.iter().map(|&n| (n, disk.content(&path(n)).unwrap())).collect();
    async move || {
        let copy = super::new_disk().await;
        for (number, content) in &contents {
            let file = robeing_platform::Disk::open(&copy, &path(*number), true).await.unwrap();
            file.write_at_and_sync(0, content.clone()).await.unwrap();
        }
        robeing_platform::Disk::sync_dir(&copy, Path::new(DIR)).await.unwrap();
        copy
    }
}

/// A crash can tear a write only within the segment, which has its full length before anything is written to it.
#[tokio::test]
async fn a_log_torn_at_any_byte_goes_on_after_its_last_whole_frame() {
    const SEGMENT: usize = 4096;
    let disk = filled(SEGMENT, 5, 20).await.close().await;
    let frames = frames(&disk, 1);
    let copy = copy_of(&disk, &[1]);
    let (_, written) = frames[frames.len() - 1];
    for cut in 0..=written {
        for garbage in [0, 0xa5] {
            // The padding is part of the frame, and zero.
            let is_whole =
                |end: usize| if garbage == 0 { end <= cut } else { end.next_multiple_of(frame::ALIGN) <= cut };
            let whole = frames.iter().filter(|(_, end)| is_whole(*end)).count();
            let expected: Vec<u64> = (0..whole.saturating_sub(1) as u64).collect();
            let disk = copy().await;
            disk.overwrite(&path(1), cut as u64, &vec![garbage; SEGMENT - cut]).unwrap();
            let mut rig = Rig::open(&disk, SEGMENT).await;
            assert_eq!(indexes(&rig.content().await), expected, "torn at {cut}, then {garbage}");
            let next = expected.len() as u64;
            rig.append(vec![entry(2, next, 33)]).await.unwrap();
            let content = rig.reopen().await.content().await;
            assert_eq!(content.last(), Some(id(2, next)), "it continues after {cut}, where {garbage} begins");
        }
    }
}

/// No crash makes a segment shorter, so what it lost may have been acknowledged, unless nothing was ever written there.
#[tokio::test]
async fn a_segment_cut_short_is_refused_and_left_as_it_is_unless_nothing_is_lost() {
    const SEGMENT: usize = 1024;
    let disk = filled(SEGMENT, 24, 40).await.close().await;
    let numbers = [1, 2, 3];
    let copy = copy_of(&disk, &numbers);
    let whole = Rig::open(&copy().await, SEGMENT).await.content().await;
    let written = frames(&disk, 3).last().unwrap().1.next_multiple_of(frame::ALIGN);
    let mut harmless = 0;
    for number in numbers {
        for cut in (0..SEGMENT).step_by(8).chain([SEGMENT - 16, SEGMENT - 1]) {
            let disk = copy().await;
            disk.cut(&path(number), cut as u64).unwrap();
            if number == 3 && cut >= written + frame::HEADER {
                let mut rig = Rig::open(&disk, SEGMENT).await;
                assert_eq!(rig.content().await, whole, "cut at {cut}");
                assert_eq!(rig.close().await.content(&path(3)).unwrap().len(), SEGMENT, "it has its size again");
                harmless += 1;
                continue;
            }
            let before: Vec<_> = numbers.iter().map(|&number| disk.content(&path(number)).unwrap()).collect();
            match Rig::try_open(&disk, SEGMENT).await.err().expect("it must be refused") {
                refused @ RecoveryError::CutShort { .. } => {
                    let said = refused.to_string();
                    let lengths = format!("{} was cut short: it has {cut} bytes of {SEGMENT}", path(number).display());
                    assert!(said.contains(&lengths) && said.contains("remove its whole data directory"), "{said}");
                }
                other => panic!("segment {number} cut at {cut}: {other}"),
            }
            let after: Vec<_> = numbers.iter().map(|&number| disk.content(&path(number)).unwrap()).collect();
            assert_eq!(after, before, "nothing is changed");
        }
    }
    assert!(harmless > 0, "the newest segment has room left");
}

#[tokio::test]
async fn a_torn_tail_is_told() {
    let disk = filled(4096, 2, 20).await.close().await;
    let (start, end) = *frames(&disk, 1).last().unwrap();
    disk.flip(&path(1), end as u64 - 1, 0).unwrap();
    let opened = Rig::try_open(&disk, 4096).await.unwrap();
    assert_eq!(opened.log.entries(), 1);
    drop(opened);
    let shared = std::sync::Arc::new(disk.clone());
    disk.flip(&path(1), end as u64 - 1, 0).unwrap();
    disk.flip(&path(1), end as u64 - 1, 1).unwrap();
    let opened = super::Log::open_sized(shared, Path::new(DIR), SALT, 4096).await.unwrap();
    assert_eq!(opened.torn_bytes as usize, (end - start).next_multiple_of(frame::ALIGN));
}

#[tokio::test]
async fn any_flipped_byte_before_the_last_frame_is_refused() {
    const SEGMENT: usize = 1024;
    let disk = filled(SEGMENT, 24, 40).await.close().await;
    let numbers = [1, 2, 3];
    assert!(disk.content(&path(3)).is_ok() && disk.content(&path(4)).is_err(), "three segments");
    let copy = copy_of(&disk, &numbers);
    for number in numbers {
        let mut frames = frames(&disk, number);
        if number == 3 {
            frames.pop();
        }
        for byte in 0..frames[frames.len() - 1].1 {
            let disk = copy().await;
            disk.flip(&path(number), byte as u64, byte as u32 % 8).unwrap();
            match Rig::try_open(&disk, SEGMENT).await {
                Ok(_) => panic!("segment {number} byte {byte} went unnoticed"),
                Err(RecoveryError::Damaged { file, .. }) => assert!(file.starts_with(DIR)),
                Err(e) => panic!("segment {number} byte {byte}: {e}"),
            }
        }
    }
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    for missing in [1, 2] {
        let disk = filled(1024, 24, 40).await.close().await;
        robeing_platform::Disk::remove(&disk, &path(missing)).await.unwrap();
        let refused = Rig::try_open(&disk, 1024).await.err().expect("a hole must be refused");
        match refused {
            RecoveryError::MissingSegment { missing: named, .. } => assert_eq!(named, path(missing)),
            // Nothing precedes the first segment, but its entries are missing.
            RecoveryError::Damaged { detail, .. } => assert!(missing == 1 && detail.contains("missing"), "{detail}"),
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_record_of_a_newer_version_is_refused() {
    let disk = filled(4096, 1, 20).await.close().await;
    let (_, end) = *frames(&disk, 1).last().unwrap();
    let offset = end.next_multiple_of(frame::ALIGN);
    let unknown = frame::encode(segment::salt(SALT, 1), 3, &[99, 0, 0, 0, 0]);
    disk.overwrite(&path(1), offset as u64, &unknown).unwrap();
    let refused = Rig::try_open(&disk, 4096).await.err().expect("must be refused").to_string();
    assert!(refused.contains("record kind 99") && refused.contains(&format!("byte {offset}")), "{refused}");
}

#[tokio::test]
async fn segments_are_used_again_and_what_they_held_never_comes_back() {
    const SEGMENT: usize = 1024;
    let mut rig = Rig::open(&super::new_disk().await, SEGMENT).await;
    for index in 0..200 {
        rig.append(vec![entry(1, index, (index * 7 % 90) as usize)]).await.unwrap();
        if index % 8 == 7 {
            rig.log.purge(id(1, index - 4)).await.unwrap();
        }
        if index % 5 == 0 {
            rig = rig.crash(index).await;
            let content = rig.content().await;
            assert_eq!(content.last(), Some(id(1, index)));
            assert!(content.entries.iter().all(|e| *e == entry(1, e.log_id.index, (e.log_id.index * 7 % 90) as usize)));
        }
    }
    let names = robeing_platform::Disk::list(&rig.disk, Path::new(DIR)).await.unwrap();
    assert!(names.len() <= 3 + segment::SPARES, "purged segments are given back: {names:?}");
}
