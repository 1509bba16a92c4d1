//! Opens an archive after a shutdown or a crash: reads the indexes and the newest segment.

use std::{collections::BTreeMap, io, path::Path, sync::Arc};

use robeing_platform::Disk;
use tracing::warn;

use super::{
    index,
    segment::{self, Place, Segment},
};
use crate::raft::log::{frame, pieces::Pieces};

/// Bytes at the end of the newest segment that are written again, because they may be only in the system's cache: more
/// than one write has.
const WRITTEN_AGAIN: u64 = 8 * 1024 * 1024;

/// Returns the segments in the folder `dir`, of which only the last one is not sealed. All their records count as
/// needed. Those below `below` were durable.
///
/// # Errors
/// The disk failed.
pub async fn recover(disk: &Arc<dyn Disk>, dir: &Path, below: u64) -> io::Result<BTreeMap<u64, Segment>> {
    let names = match disk.list(dir).await {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(error),
    };
    let firsts: Vec<u64> = names.iter().filter_map(|name| segment::first_of(name)).collect();
    let is_left_over = |name: &&String| {
        let of_none = |first: u64| firsts.binary_search(&first).is_err();
        name.ends_with(segment::ASIDE) || segment::first_of_index(name).is_some_and(of_none)
    };
    for left_over in names.iter().filter(is_left_over) {
        disk.remove(&dir.join(left_over)).await?;
    }
    let mut segments = BTreeMap::new();
    for (place, first) in firsts.iter().copied().enumerate() {
        let next = firsts.get(place + 1).copied();
        let is_newest = next.is_none();
        let indexed = if is_newest { None } else { index::read(disk, dir, first).await? };
        let found = match indexed {
            Some(found) => found,
            None => scanned(disk, dir, first, next, below).await?,
        };
        if found.is_empty() {
            // It was created and never written to, or is damaged from its very beginning.
            let path = segment::path(dir, first);
            if is_newest || disk.open(&path, false).await?.len().await? == 0 {
                disk.remove(&path).await?;
            } else {
                warn!(first, "a segment of the archive is damaged: it has no whole record");
            }
            continue;
        }
        if is_newest {
            sync(disk, dir, first, found.end).await?;
        }
        segments.insert(first, found);
    }
    Ok(segments)
}

/// Reads the frames of a segment. `following` is the first record of the next one: if there is one, the segment is
/// sealed, and its index is written again. Damaged frames are left out.
async fn scanned(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    first: u64,
    following: Option<u64>,
    below: u64,
) -> io::Result<Segment> {
    let mut content = Pieces::open(disk, &segment::path(dir, first)).await?;
    let mut found = Segment::default();
    let (mut offset, mut next) = (0, first);
    while let Some(frame) = next_frame(&mut content, offset, next).await? {
        let damaged = frame.offset - offset;
        // A later part of a write that was interrupted may be whole. The log has what was in it.
        let end = following.unwrap_or(if damaged > 0 { below } else { u64::MAX });
        if frame.record >= end {
            break;
        }
        if damaged > 0 {
            warn!(first, offset, bytes = damaged, "a part of a segment of the archive is damaged");
        }
        found.push(frame.record - first, Place { offset: frame.offset as u64, len: frame.len }, true);
        (offset, next) = (frame.offset + frame.len, frame.record + 1);
    }
    if following.is_some() {
        found.seal();
        if !found.is_empty() {
            index::write(disk, dir, first, &found).await;
        }
    }
    Ok(found)
}

/// A whole frame.
struct Found {
    record: u64,
    offset: usize,
    len: usize,
}

/// Returns the first whole frame from an offset on, of the record `next` or a later one.
async fn next_frame(content: &mut Pieces, from: usize, next: u64) -> io::Result<Option<Found>> {
    let Some(offset) = content.find_from(segment::SALT, from, next).await? else { return Ok(None) };
    let whole = content.frame(segment::SALT, offset).await?;
    Ok(whole.map(|(record, body)| Found { record, offset, len: frame::frame_len(body.len()) }))
}

/// Makes the end of the newest segment durable: it may never have been synced, or its sync may have failed, which a
/// later sync does not repair.
async fn sync(disk: &Arc<dyn Disk>, dir: &Path, first: u64, end: u64) -> io::Result<()> {
    let file = disk.open(&segment::path(dir, first), false).await?;
    let from = end.saturating_sub(WRITTEN_AGAIN);
    let content = file.read_at(from, (end - from) as usize).await?;
    file.write_at_and_sync(from, content).await?;
    disk.sync_dir(dir).await
}
