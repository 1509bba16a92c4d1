//! Reads a log back after a shutdown or a crash.
//!
//! Each frame is written and synced before the next one is started, so at most the last frame can be torn. Hence an
//! incomplete frame with no whole frame after it was cut off by a crash and never acknowledged; it is dropped. An
//! incomplete frame with a whole one after it was synced once and is damaged now; nothing may be dropped, and the log
//! is refused. A log with a segment that is shorter than its original size is refused too, since a torn write stays
//! within a segment.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use robeing_platform::Disk;
use tracing::warn;

use super::{
    frame,
    index::{Index, Misfit, Place},
    pieces::Pieces,
    record::{self, BadRecord, Record},
    segment,
};
use crate::{advice::RESTORE_OR_REJOIN, raft::LogId};

/// Reasons why a log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// There is damage before the end.
    #[error(
        "the log is damaged in {file} at byte {offset}: {detail}. Entries that were acknowledged may be in the damaged part, so \
         nothing is dropped. {RESTORE_OR_REJOIN}"
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// The offset of the damage, in bytes.
        offset: u64,
        /// How the damage was detected.
        detail: String,
    },
    /// A segment was truncated.
    #[error(
        "the log segment {file} was cut short: it has {len} bytes of {whole}. A segment has its full size before \
         anything is written to it, so no crash caused this. Entries that were acknowledged may be gone, so nothing is \
         dropped. {RESTORE_OR_REJOIN}"
    )]
    CutShort {
        /// The segment's file.
        file: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// Its original length in bytes.
        whole: u64,
    },
    /// A segment is missing.
    #[error("the log segment {missing} is missing while {found} exists. {RESTORE_OR_REJOIN}")]
    MissingSegment {
        /// The missing file.
        missing: PathBuf,
        /// The file after it, which exists.
        found: PathBuf,
    },
}

/// A log that was read back.
pub struct Recovered {
    /// Its content.
    pub index: Index,
    /// Segments, oldest first, each with the highest entry index in it.
    pub segments: Vec<(u64, Option<u64>)>,
    /// The offset in the newest segment at which writing continues.
    pub tail: u64,
    /// The next frame's sequence number.
    pub next_seq: u64,
    /// The last whole frame, which is in the newest segment.
    pub last_frame: Option<LastFrame>,
    /// Bytes of a torn frame that was dropped, as announced in its header.
    pub torn_bytes: u64,
}

/// A frame that was read back.
pub struct LastFrame {
    /// Its offset.
    pub offset: u64,
    /// Its sequence number.
    pub seq: u64,
    /// Its body.
    pub body: Bytes,
}

const SIZE_RESTORED: &str = "a log segment was cut short, but not by a crash; nothing was written in the part it \
                             lost, so it is restored to its size";

/// The sequence number of a log's first frame.
pub const FIRST_SEQ: u64 = 1;

struct Reader<'a> {
    dir: &'a Path,
    salt: u64,
    index: Index,
    next_seq: Option<u64>,
    last_frame: Option<LastFrame>,
}

/// Reads the log in `dir`, whose segments have `segment_bytes` bytes. `files` are the file names in it.
pub async fn recover(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    log_salt: u64,
    files: &[String],
    segment_bytes: usize,
) -> Result<Recovered, RecoveryError> {
    let numbers: Vec<u64> = files.iter().filter_map(|name| segment::number(name)).collect();
    for pair in numbers.windows(2) {
        if pair[0] + 1 != pair[1] {
            return Err(RecoveryError::MissingSegment {
                missing: segment::path(dir, pair[0] + 1),
                found: segment::path(dir, pair[1]),
            });
        }
    }
    let mut reader = Reader { dir, salt: log_salt, index: Index::default(), next_seq: None, last_frame: None };
    // Segments whose entries were all purged may be missing, so the newest purge must be known before the first entry
    // is read.
    reader.index.purged = newest_purge(disk, dir, log_salt, &numbers).await?;
    let mut segments: Vec<(u64, Option<u64>)> = Vec::new();
    let (mut tail, mut torn_bytes) = (0, 0);
    // The newest segment read so far and where its frames end, in case no segment follows.
    let mut stopped: Option<(u64, usize, Pieces)> = None;
    for &number in &numbers {
        let file = segment::path(dir, number);
        let mut content = Pieces::open(disk, &file).await?;
        let (end, highest) = reader.read_segment(number, &mut content).await?;
        if content.len() < segment_bytes {
            let is_newest = number == numbers[numbers.len() - 1];
            if !(is_newest && reader.ends_before_the_cut(end, &mut content).await?) {
                return Err(RecoveryError::CutShort { file, len: content.len() as u64, whole: segment_bytes as u64 });
            }
            warn!(?file, len = content.len(), whole = segment_bytes, "{SIZE_RESTORED}");
            disk.open(&file, false).await?.fill_to(segment_bytes as u64).await?;
        }
        if end == 0 {
            // Created but never written to, or damaged at its very start; only the newest segment may be the former.
            reader.refuse_if_more(number, 0, &mut content).await?;
            if number != numbers[numbers.len() - 1] {
                return Err(reader.damaged(number, 0, "its first frame is not whole, and a newer segment exists"));
            }
            disk.remove(&file).await?;
            break;
        }
        tail = end as u64;
        segments.push((number, highest));
        stopped = Some((number, end, content));
    }
    if let Some((number, end, mut content)) = stopped {
        reader.refuse_if_more(number, end, &mut content).await?;
        torn_bytes = content.torn_len(end, reader.next_seq.unwrap_or(FIRST_SEQ)).await?;
    }
    Ok(Recovered {
        index: reader.index,
        segments,
        tail,
        next_seq: reader.next_seq.unwrap_or(FIRST_SEQ),
        last_frame: reader.last_frame,
        torn_bytes,
    })
}

/// Returns the furthest purge on record.
async fn newest_purge(
    disk: &Arc<dyn Disk>,
    dir: &Path,
    log_salt: u64,
    numbers: &[u64],
) -> Result<Option<LogId>, RecoveryError> {
    let mut newest: Option<LogId> = None;
    for &number in numbers {
        let mut content = Pieces::open(disk, &segment::path(dir, number)).await?;
        let salt = segment::salt(log_salt, number);
        let mut offset = 0;
        while let Some((_, body)) = content.frame(salt, offset).await? {
            offset += frame::frame_len(body.len());
            // The pass that follows refuses what can't be decoded.
            for record in record::decode(body).unwrap_or_default() {
                if let Record::Purged(id) = record
                    && newest.is_none_or(|n| n.index() < id.index())
                {
                    newest = Some(id);
                }
            }
        }
    }
    Ok(newest)
}

impl Reader<'_> {
    fn damaged(&self, number: u64, offset: usize, detail: impl ToString) -> RecoveryError {
        RecoveryError::Damaged {
            file: segment::path(self.dir, number),
            offset: offset as u64,
            detail: detail.to_string(),
        }
    }

    /// Replays a segment's frames. Returns the offset after the last whole one, and the highest entry index seen.
    async fn read_segment(&mut self, number: u64, content: &mut Pieces) -> Result<(usize, Option<u64>), RecoveryError> {
        let salt = segment::salt(self.salt, number);
        let (mut offset, mut highest) = (0, None);
        while let Some((seq, body)) = content.frame(salt, offset).await? {
            if self.next_seq.is_some_and(|expected| seq != expected) {
                let expected = self.next_seq.unwrap_or_default();
                return Err(self.damaged(number, offset, format!("frame {seq} instead of frame {expected}")));
            }
            let len = frame::frame_len(body.len());
            let place = Place { segment: number, offset: offset as u64, len };
            let records = record::decode(body.clone()).map_err(|e: BadRecord| self.damaged(number, offset, e))?;
            for record in records {
                if let Record::Start(said) = record
                    && said != number
                {
                    return Err(self.damaged(number, offset, format!("its start record names segment {said}")));
                }
                if let Record::Entry(entry) = &record {
                    let index = openraft::entry::RaftEntry::index(entry);
                    highest = highest.max(Some(index));
                }
                self.index.replay(record, place).map_err(|e: Misfit| self.damaged(number, offset, e))?;
                self.index.evict();
            }
            self.next_seq = Some(seq + 1);
            self.last_frame = Some(LastFrame { offset: offset as u64, seq, body });
            offset += len;
        }
        Ok((offset, highest))
    }

    /// Whether a truncated segment never had a frame in the part that it lost: frames are contiguous, and the header of
    /// the next frame, which would lie in the part that is left, was never written.
    async fn ends_before_the_cut(&self, end: usize, content: &mut Pieces) -> Result<bool, RecoveryError> {
        let next = self.next_seq.unwrap_or(FIRST_SEQ);
        Ok(end > 0 && content.len() >= end + frame::HEADER && content.torn_len(end, next).await? == 0)
    }

    /// Refuses a segment with a whole frame after an incomplete one.
    async fn refuse_if_more(&self, number: u64, end: usize, content: &mut Pieces) -> Result<(), RecoveryError> {
        let salt = segment::salt(self.salt, number);
        match content.find_from(salt, end, self.next_seq.unwrap_or(0)).await? {
            Some(later) => Err(self.damaged(number, end, format!("a whole frame follows at byte {later}"))),
            None => Ok(()),
        }
    }
}
