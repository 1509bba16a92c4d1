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

use super::{LogId, SnapshotMeta, wire};
use crate::platform::{Disk, compute};

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
    /// The file is missing or an old one.
    #[error(
        "the snapshot {file} {problem}, but the log beside it begins after entry {purged}: what was before is in that snapshot alone. \
         Restore the file, or, while a majority of the coordinators is alive without this one, remove its whole data directory \
         {dir} to let it join again as a new member"
    )]
    TooOld {
        /// Which file.
        file: PathBuf,
        /// Where it belongs.
        dir: PathBuf,
        /// What is the matter with it.
        problem: String,
        /// The newest entry that is not in the log any more.
        purged: u64,
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

    /// That the snapshot, which covers the log up to `covered`, does not reach to where the log begins.
    pub(super) fn too_old(&self, covered: Option<LogId>, purged: LogId) -> SnapshotError {
        let problem = match covered {
            Some(covered) => format!("ends with entry {}", covered.index()),
            None => "is missing".to_owned(),
        };
        let dir = self.path.parent().unwrap_or(&self.path).to_owned();
        SnapshotError::TooOld { file: self.path.clone(), dir, problem, purged: purged.index() }
    }

    /// Replaces the snapshot; durable when it returns.
    pub async fn write(&self, meta: &SnapshotMeta, data: &Bytes) -> io::Result<()> {
        let meta = wire::json(meta);
        let file = compute(|| {
            let mut file = BytesMut::with_capacity(MAGIC.len() + 4 + meta.len() + 8 + data.len() + 4);
            file.put_slice(MAGIC);
            file.put_u32_le(meta.len() as u32);
            file.put_slice(&meta);
            file.put_u64_le(data.len() as u64);
            file.put_slice(data);
            file.put_u32_le(crc32c::crc32c(&file));
            file.freeze()
        });
        self.disk.write_atomic(&self.path, file).await
    }

    /// The snapshot, if there is one.
    pub async fn read(&self) -> Result<Option<(SnapshotMeta, Bytes)>, SnapshotError> {
        let content = match self.disk.read(&self.path).await {
            Ok(content) => content,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let damaged = |detail: String| SnapshotError::Damaged { file: self.path.clone(), detail };
        compute(|| parse(content)).map(Some).map_err(damaged)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{coordinator::consensus::LogId, platform::simulated::SimulatedDisk};
    use openraft::vote::{RaftLeaderId, leader_id_adv::LeaderId};

    fn meta(index: u64) -> SnapshotMeta {
        let id = LogId::new(LeaderId::new(3, 1).to_committed(), index);
        SnapshotMeta { last_log_id: Some(id), ..SnapshotMeta::default() }
    }

    async fn written() -> (SimulatedDisk, SnapshotFile) {
        let disk = SimulatedDisk::new(0);
        disk.create_dir_all(Path::new("/data")).await.unwrap();
        let file = SnapshotFile::new(Arc::new(disk.clone()), Path::new("/data"));
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
                match file.read().await.unwrap() {
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
}
