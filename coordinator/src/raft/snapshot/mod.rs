//! The snapshot file: the fleet's state as of some log entry, with a checksum. It is replaced atomically, and never by
//! an older one.
//!
//! ```text
//! "RBSNAP02" | meta length u32 | meta JSON | data length u64 | data | crc32c of all before u32
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use robeing_platform::{AtomicFile, Disk, compute, is_full};
use tokio::sync::Mutex;
use tracing::warn;

use super::{LogId, SnapshotMeta, wire};
use crate::advice::RESTORE_OR_REJOIN;

const MAGIC: &[u8; 8] = b"RBSNAP02";
/// Name of the file in the data directory.
pub const FILE: &str = "snapshot";

/// Reasons why a snapshot file can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is damaged.
    #[error(
        "the snapshot {file} is damaged: {detail}. Its content exists nowhere else on this disk. {RESTORE_OR_REJOIN}"
    )]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// How the damage was detected.
        detail: String,
    },
    /// The file is missing or older than the start of the log.
    #[error(
        "the snapshot {file} {problem}, but the log beside it begins after entry {purged}: the entries up to there \
         are only in that snapshot. {RESTORE_OR_REJOIN}"
    )]
    TooOld {
        /// The missing or old file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// The newest entry that was purged from the log.
        purged: u64,
    },
}

/// What happened to a snapshot that was to be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kept {
    /// It is now the snapshot on disk.
    Written,
    /// The snapshot on disk covers as much of the log, or more.
    Obsolete,
    /// The disk had no space for it.
    Skipped,
}

/// The snapshot on disk. Clones share it.
///
/// Two tasks write it: the one that builds this coordinator's own snapshots, and the state machine that installs a
/// leader's. The library runs them concurrently and leaves their order to the storage. Invariant: what the file on disk
/// covers never becomes less, since the log is purged up to there. The two therefore take turns, and a snapshot that
/// covers less is not written.
#[derive(Clone)]
pub struct SnapshotFile {
    path: Arc<Path>,
    disk: Arc<dyn Disk>,
    current: Arc<Mutex<Current>>,
    stats: Arc<SnapshotStats>,
}

/// Statistics of a coordinator's snapshots since it started.
#[derive(Default)]
pub struct SnapshotStats {
    /// Number of snapshots that were skipped because the disk had no space for them.
    pub skipped: AtomicU64,
    /// Bytes of the state in the snapshot on disk; 0 without one.
    pub bytes: AtomicU64,
}

struct Current {
    file: AtomicFile,
    /// The last entry that the file on disk is certain to cover; `None` without a file.
    covers: Option<Option<LogId>>,
}

impl SnapshotFile {
    /// Opens the snapshot in the data directory `dir`, and reads it if there is one.
    ///
    /// # Errors
    /// The disk failed, or the snapshot is damaged.
    pub async fn open(disk: Arc<dyn Disk>, dir: &Path) -> Result<(Self, Option<(SnapshotMeta, Bytes)>), SnapshotError> {
        let path: Arc<Path> = dir.join(FILE).into();
        let file = AtomicFile::open(Arc::clone(&disk), &path).await?;
        let current = Arc::new(Mutex::new(Current { file, covers: None }));
        let this = Self { path, disk, current, stats: Arc::default() };
        let found = this.read().await?;
        this.stats.bytes.store(found.as_ref().map_or(0, |(_, data)| data.len() as u64), Ordering::Relaxed);
        this.current.lock().await.covers = found.as_ref().map(|(meta, _)| meta.last_log_id);
        Ok((this, found))
    }

    /// Returns the statistics of the snapshots.
    pub fn stats(&self) -> &Arc<SnapshotStats> {
        &self.stats
    }

    /// Returns the error for a snapshot that covers the log up to `covered` and does not reach to where the log begins.
    pub(super) fn too_old(&self, covered: Option<LogId>, purged: LogId) -> SnapshotError {
        let problem = match covered {
            Some(covered) => format!("ends with entry {}", covered.index()),
            None => "is missing".to_owned(),
        };
        SnapshotError::TooOld { file: self.path.to_path_buf(), problem, purged: purged.index() }
    }

    /// Durably replaces the snapshot, unless the one on disk covers as much. Waits for a write in progress.
    ///
    /// # Errors
    /// The disk's error. The snapshot on disk is then this one or the previous one.
    pub async fn write(&self, meta: &SnapshotMeta, data: &Bytes) -> io::Result<Kept> {
        let mut current = self.current.lock().await;
        // Log ids of committed entries are ordered as their indexes.
        if current.covers.is_some_and(|covers| covers >= meta.last_log_id) {
            return Ok(Kept::Obsolete);
        }
        let content = compute(|| encode(meta, data));
        current.file.replace_pieces(&content).await?;
        current.covers = Some(meta.last_log_id);
        self.stats.bytes.store(data.len() as u64, Ordering::Relaxed);
        Ok(Kept::Written)
    }

    /// Like [`SnapshotFile::write`], for a snapshot that can be taken again later: if the disk has no space for it, it
    /// is counted as skipped and not written.
    ///
    /// # Errors
    /// Any other error from the disk.
    pub async fn write_if_room(&self, meta: &SnapshotMeta, data: &Bytes) -> io::Result<Kept> {
        match self.write(meta, data).await {
            Err(error) if is_full(&error) => Ok(self.skip(&error, data.len())),
            written => written,
        }
    }

    /// Counts a snapshot of so many bytes as skipped, because of this error of a full disk.
    pub fn skip(&self, error: &io::Error, bytes: usize) -> Kept {
        warn!(%error, bytes, "a snapshot was skipped because the disk is full; retrying later");
        self.stats.skipped.fetch_add(1, Ordering::Relaxed);
        Kept::Skipped
    }

    /// Reads the snapshot, if there is one.
    ///
    /// # Errors
    /// The disk failed, or the snapshot is damaged.
    pub async fn read(&self) -> Result<Option<(SnapshotMeta, Bytes)>, SnapshotError> {
        // Without the lock: the file has either the old or the new content as a whole, and sending a snapshot need not
        // wait for the next write.
        let content = match self.disk.read(&self.path).await {
            Ok(content) => content,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let damaged = |detail: String| SnapshotError::Damaged { file: self.path.to_path_buf(), detail };
        compute(|| parse(content)).map(Some).map_err(damaged)
    }
}

/// Returns the file's content in pieces. The largest is `data` itself, because a copy would take too much memory.
fn encode(meta: &SnapshotMeta, data: &Bytes) -> [Bytes; 3] {
    let meta = wire::json(meta);
    let mut head = BytesMut::with_capacity(MAGIC.len() + 4 + meta.len() + 8);
    head.put_slice(MAGIC);
    head.put_u32_le(meta.len() as u32);
    head.put_slice(&meta);
    head.put_u64_le(data.len() as u64);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&head), data);
    [head.freeze(), data.clone(), Bytes::copy_from_slice(&checksum.to_le_bytes())]
}

fn parse(content: Bytes) -> Result<(SnapshotMeta, Bytes), String> {
    let cut = "it is cut short";
    let body_len = content.len().checked_sub(4).ok_or(cut)?;
    let stated = content.slice(body_len..).get_u32_le();
    let mut body = content.slice(..body_len);
    if crc32c::crc32c(&body) != stated {
        return Err("its checksum does not match".into());
    }
    if body.len() < MAGIC.len() || body.split_to(MAGIC.len()) != MAGIC[..] {
        return Err("it is not a snapshot of this version".into());
    }
    let meta_len = body.try_get_u32_le().map_err(|_| cut)? as usize;
    if body.len() < meta_len {
        return Err(cut.into());
    }
    let meta = wire::from_json("snapshot meta", &body.split_to(meta_len)).map_err(|e| e.to_string())?;
    let data_len = body.try_get_u64_le().map_err(|_| cut)?;
    if body.len() as u64 != data_len {
        return Err(cut.into());
    }
    Ok((meta, body))
}

#[cfg(test)]
mod tests;
