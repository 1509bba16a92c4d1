//! The index of a sealed segment: where its records are, so that a restart need not read them. It can always be made
//! again from the segment, so it is written without care, and checked when it is read.
//!
//! ```text
//! "RBRIDX01" | end of the last frame u64 | count u32
//! (record u32 | offset u32 | length u32) …
//! crc32c of all before u32
//! ```

use std::{io, path::Path, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use robeing_platform::Disk;
use tracing::warn;

use super::segment::{self, Entry, Place, Segment};
use crate::raft::log::frame;

const MAGIC: &[u8; 8] = b"RBRIDX01";
const ENTRY: usize = 12;

fn encode(segment: &Segment) -> Bytes {
    let entries: Vec<Entry> = segment.needed().collect();
    let mut content = BytesMut::with_capacity(MAGIC.len() + 8 + 4 + entries.len() * ENTRY + 4);
    content.put_slice(MAGIC);
    content.put_u64_le(segment.end);
    content.put_u32_le(entries.len() as u32);
    for Entry { record, offset, len } in entries {
        content.put_u32_le(record);
        content.put_u32_le(offset);
        content.put_u32_le(len);
    }
    let checksum = crc32c::crc32c(&content);
    content.put_u32_le(checksum);
    content.freeze()
}

/// Returns the segment that an index describes; `None` if it is no index or is damaged.
fn decode(mut content: Bytes) -> Option<Segment> {
    let whole = content.clone();
    if content.len() < MAGIC.len() || content.split_to(MAGIC.len()) != MAGIC[..] {
        return None;
    }
    let end = content.try_get_u64_le().ok()?;
    let count = content.try_get_u32_le().ok()? as usize;
    let bytes = count.checked_mul(ENTRY)?;
    if content.len() < bytes.checked_add(4)? {
        return None;
    }
    let mut entries = content.split_to(bytes);
    let checked = &whole[..MAGIC.len() + 8 + 4 + bytes];
    if crc32c::crc32c(checked) != content.get_u32_le() {
        return None;
    }
    let mut segment = Segment::default();
    for _ in 0..count {
        let (record, offset, len) = (entries.get_u32_le(), entries.get_u32_le(), entries.get_u32_le());
        segment.push(record.into(), Place { offset: offset.into(), len: len as usize }, true);
    }
    segment.end = end;
    segment.seal();
    Some(segment)
}

/// Writes the index of a segment. Without it, the next start only takes longer.
pub async fn write(disk: &Arc<dyn Disk>, dir: &Path, first: u64, segment: &Segment) {
    let path = segment::index_path(dir, first);
    let content = encode(segment);
    let written = async { disk.open(&path, true).await?.write_at_and_sync(0, content).await };
    if let Err(error) = written.await {
        warn!(%error, "the index of a segment of the archive could not be written");
    }
}

/// Reads the index of a segment. `None`: there is none that is that of the segment as it is now.
///
/// # Errors
/// The disk failed.
pub async fn read(disk: &Arc<dyn Disk>, dir: &Path, first: u64) -> io::Result<Option<Segment>> {
    let content = match disk.read(&segment::index_path(dir, first)).await {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(found) = decode(content) else { return Ok(None) };
    // One of a segment that was written again has its last record elsewhere.
    let Some(last) = found.needed().last() else { return Ok(None) };
    let file = disk.open(&segment::path(dir, first), false).await?;
    let head = file.read_at(last.offset.into(), frame::HEADER).await?;
    let record = first + u64::from(last.record);
    let is_there = frame::announced(&head) == Some(last.len as usize) && frame::torn_len(&head, record) > 0;
    // And one to which more was added is longer.
    let after = file.read_at(found.end, frame::HEADER).await?;
    Ok(Some(found).filter(|_| is_there && frame::announced(&after).is_none()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_read_as_it_was_written_and_refused_if_any_bit_differs() {
        let mut segment = Segment::default();
        for (record, offset) in [(0, 0u64), (3, 40), (4, 104)] {
            segment.push(record, Place { offset, len: 40 + record as usize * 8 }, true);
        }
        segment.seal();
        let content = encode(&segment);
        assert_eq!(decode(content.clone()), Some(segment));
        for byte in 0..content.len() {
            let mut damaged = content.to_vec();
            damaged[byte] ^= 1 << (byte % 8);
            assert_eq!(decode(damaged.into()), None, "byte {byte}");
            assert_eq!(decode(content.slice(..byte)), None, "cut to {byte}");
        }
    }

    #[test]
    fn records_that_are_not_needed_are_left_out() {
        let mut segment = Segment::default();
        for record in 0..3 {
            segment.push(record, Place { offset: record * 40, len: 40 }, true);
        }
        segment.seal();
        segment.forget(1);
        let read = decode(encode(&segment)).expect("it is whole");
        assert_eq!((read.place(0), read.place(1), read.end), (segment.place(0), None, 120));
        assert!(read.place(2).is_some() && read.records() == 3);
    }
}
