//! The snapshot file: the fleet as of some log entry, with a checksum, replaced atomically.
//!
//! ```text
//! "RBSNAP01" | meta length u32 | meta JSON | data length u64 | data | crc32c of all before u32
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{SnapshotMeta, wire};
use crate::platform::Disk;

const MAGIC: &[u8; 8] = b"RBSNAP01";
/// Name of the file in the data directory.
pub const FILE: &str = "snapshot";

/// A snapshot file that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is damaged.
    #[error(
        "the snapshot {file} is damaged: {detail}. What it holds is nowhere else on this disk; restore the file, or remove this \
         coordinator's whole data directory to let it join again as a new member"
    )]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// How it was seen.
        detail: String,
    },
}

/// Where snapshots are kept.
#[derive(Clone)]
pub struct SnapshotFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
}

impl SnapshotFile {
    /// In this data directory.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path) -> Self {
        Self { disk, path: dir.join(FILE) }
    }

    /// Replaces the snapshot; durable when it returns.
    pub async fn write(&self, meta: &SnapshotMeta, data: &Bytes) -> io::Result<()> {
        let meta = wire::json(meta);
        let mut file = BytesMut::with_capacity(MAGIC.len() + 4 + meta.len() + 8 + data.len() + 4);
        file.put_slice(MAGIC);
        file.put_u32_le(meta.len() as u32);
        file.put_slice(&meta);
        file.put_u64_le(data.len() as u64);
        file.put_slice(data);
        file.put_u32_le(crc32c::crc32c(&file));
        self.disk.write_atomic(&self.path, file.freeze()).await
    }

    /// The snapshot, if there is one.
    pub async fn read(&self) -> Result<Option<(SnapshotMeta, Bytes)>, SnapshotError> {
        let content = match self.disk.read(&self.path).await {
            Ok(content) => content,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let damaged = |detail: String| SnapshotError::Damaged { file: self.path.clone(), detail };
        parse(content).map(Some).map_err(damaged)
    }
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
