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
/// needed.
///
/// # Errors
/// The disk failed.
pub async fn recover(disk: &Arc<dyn Disk>, dir: &Path) -> io::Result<BTreeMap<u64, Segment>> {
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
    for first in firsts.iter().copied() {
        let is_newest = firsts.last() == Some(&first);
        let indexed = if is_newest { None } else { index::read(disk, dir, first).await? };
        let found = match indexed {
            Some(found) => found,
            None => scanned(disk, dir, first, !is_newest).await?,
        };
        if found.is_empty() {
            // It was created and never written to, or is damaged from its very beginning.
            if is_newest {
                disk.remove(&segment::path(dir, first)).await?;
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

/// Reads the frames of a segment. If it is sealed, writes its index again.
async fn scanned(disk: &Arc<dyn Disk>, dir: &Path, first: u64, is_sealed: bool) -> io::Result<Segment> {
    let mut content = Pieces::open(disk, &segment::path(dir, first)).await?;
    let mut found = Segment::default();
    let (mut offset, mut next) = (0, first);
    while let Some((record, body)) = content.frame(segment::SALT, offset).await? {
        if record < next {
            break;
        }
        let place = Place { offset: offset as u64, len: frame::frame_len(body.len()) };
        found.push(record - first, place, true);
        (offset, next) = (offset + place.len, record + 1);
    }
    if is_sealed {
        found.seal();
    }
    if is_sealed && !found.is_empty() {
        index::write(disk, dir, first, &found).await;
    }
    Ok(found)
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
