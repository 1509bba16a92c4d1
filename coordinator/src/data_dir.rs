//! Who this coordinator is: a node id drawn once for each data directory, so that no vote is ever cast twice in one name. A
//! coordinator that comes back with an empty directory is a new node.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use robeing_platform::{AtomicFile, DiskLock, Platform};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};
use tracing::info;

use crate::{advice::RESTORE_OR_REJOIN, raft::NodeId};

const FILE: &str = "identity.json";
const LOCK: &str = "lock";
/// How long another process in the directory is waited for: that of a pod that was deleted by force ends only after its successor
/// was started.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
/// Between two tries.
const LOCK_EVERY: Duration = Duration::from_millis(100);
/// Of the data directory: raised when what is in it is written differently.
const FORMAT: u32 = 3;

/// What is written down once.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster that the data belongs to.
    pub cluster_id: String,
    /// The coordinator's name.
    pub name: String,
    /// Its node id.
    pub node_id: NodeId,
    /// Salt of its log.
    pub log_salt: u64,
    /// Something was written to its log: from then on an empty log is a lost one.
    #[serde(default)]
    pub log_begun: bool,
    /// Of everything else in the directory.
    #[serde(default = "first_format")]
    format: u32,
}

fn first_format() -> u32 {
    1
}

impl Identity {
    /// Notes in the directory that the log has something in it.
    pub async fn note_log_begun(&self, platform: &Platform, dir: &Path) -> io::Result<()> {
        let content = serde_json::to_vec_pretty(&Self { log_begun: true, ..self.clone() }).map_err(io::Error::other)?;
        AtomicFile::open(Arc::clone(&platform.disk), &dir.join(FILE)).await?.replace(Bytes::from(content)).await
    }
}

/// A data directory that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another process uses it.
    #[error("the data directory {dir} is in use by another process; give each coordinator a directory of its own")]
    InUse {
        /// Which.
        dir: PathBuf,
    },
    /// The file can't be read.
    #[error("{file} is damaged ({problem}), and without it this coordinator's node id is lost. {RESTORE_OR_REJOIN}")]
    Damaged {
        /// Which.
        file: PathBuf,
        /// How.
        problem: String,
    },
    /// Another version wrote it.
    #[error(
        "the data directory {dir} has format {found}, and this version of the program reads format {FORMAT}; run the version that \
         wrote it, or remove the whole directory to let this coordinator join again as a new member, or, if that is done with all \
         coordinators, to begin a new fleet"
    )]
    Format {
        /// Which.
        dir: PathBuf,
        /// Of the directory.
        found: u32,
    },
    /// The log is gone, though the identity is there.
    #[error("the log in {dir} is gone or was emptied, though this coordinator had written to it. {RESTORE_OR_REJOIN}")]
    LogLost {
        /// Where it was.
        dir: PathBuf,
    },
    /// It is another coordinator's.
    #[error("the data directory {dir} belongs to {what} {found:?}, not {wanted:?}; use its own directory")]
    Foreign {
        /// Which.
        dir: PathBuf,
        /// "cluster" or "coordinator".
        what: &'static str,
        /// Whose it is.
        found: String,
        /// Who wants it.
        wanted: String,
    },
}

/// A data directory in use.
pub struct DataDir {
    /// Who this is.
    pub identity: Identity,
    /// Keeps other processes out.
    pub lock: Box<dyn DiskLock>,
}

/// Keeps other processes out of the directory, once there are none.
async fn lock(platform: &Platform, dir: &Path) -> Result<Box<dyn DiskLock>, DataError> {
    let (path, until) = (dir.join(LOCK), Instant::now() + LOCK_WITHIN);
    let mut waits = false;
    loop {
        match platform.disk.lock(&path).await {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if Instant::now() >= until => return Err(DataError::InUse { dir: dir.to_owned() }),
            Err(_) => {
                if !std::mem::replace(&mut waits, true) {
                    info!(dir = %dir.display(), "another process uses the data directory; waiting for its end");
                }
                sleep(LOCK_EVERY).await;
            }
            Ok(lock) => return Ok(lock),
        }
    }
}

/// Takes the directory, making it and an identity when there are none.
pub async fn open(platform: &Platform, dir: &Path, cluster_id: &str, name: &str) -> Result<DataDir, DataError> {
    let disk = &platform.disk;
    disk.create_dir_all(dir).await?;
    let lock = lock(platform, dir).await?;
    let mut file = AtomicFile::open(Arc::clone(disk), &dir.join(FILE)).await?;
    let identity = match file.read().await {
        Ok(content) => {
            let damaged =
                |e: serde_json::Error| DataError::Damaged { file: file.path().to_owned(), problem: e.to_string() };
            let identity: Identity = serde_json::from_slice(&content).map_err(damaged)?;
            check(dir, "cluster", &identity.cluster_id, cluster_id)?;
            check(dir, "coordinator", &identity.name, name)?;
            if identity.format != FORMAT {
                return Err(DataError::Format { dir: dir.to_owned(), found: identity.format });
            }
            identity
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let identity = Identity {
                cluster_id: cluster_id.to_owned(),
                name: name.to_owned(),
                node_id: platform.random.next_u64(),
                log_salt: platform.random.next_u64(),
                log_begun: false,
                format: FORMAT,
            };
            let content = serde_json::to_vec_pretty(&identity).map_err(io::Error::other)?;
            file.replace(Bytes::from(content)).await?;
            identity
        }
        Err(e) => return Err(e.into()),
    };
    Ok(DataDir { identity, lock })
}

fn check(dir: &Path, what: &'static str, found: &str, wanted: &str) -> Result<(), DataError> {
    if found == wanted {
        return Ok(());
    }
    Err(DataError::Foreign { dir: dir.to_owned(), what, found: found.to_owned(), wanted: wanted.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_directory_keeps_its_node_id() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::real();
        let first = open(&platform, dir.path(), "c", "n").await.unwrap().identity;
        let second = open(&platform, dir.path(), "c", "n").await.unwrap().identity;
        assert_eq!(first, second);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_about_to_end_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::real();
        let taken = open(&platform, dir.path(), "c", "n").await.unwrap();
        let ends = async {
            sleep(LOCK_WITHIN / 2).await;
            drop(taken);
        };
        let (opened, ()) = tokio::join!(open(&platform, dir.path(), "c", "n"), ends);
        assert!(opened.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_directory_in_use_or_of_somebody_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::real();
        let taken = open(&platform, dir.path(), "c", "n").await.unwrap();
        assert!(matches!(open(&platform, dir.path(), "c", "n").await, Err(DataError::InUse { .. })));
        drop(taken);
        assert!(matches!(open(&platform, dir.path(), "d", "n").await, Err(DataError::Foreign { what: "cluster", .. })));
        assert!(matches!(
            open(&platform, dir.path(), "c", "m").await,
            Err(DataError::Foreign { what: "coordinator", .. })
        ));
    }

    #[tokio::test]
    async fn that_the_log_has_begun_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::real();
        let first = open(&platform, dir.path(), "c", "n").await.unwrap().identity;
        assert!(!first.log_begun);
        first.note_log_begun(&platform, dir.path()).await.unwrap();
        let second = open(&platform, dir.path(), "c", "n").await.unwrap().identity;
        assert_eq!(second, Identity { log_begun: true, ..first });
    }

    #[tokio::test]
    async fn a_directory_of_another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::real();
        drop(open(&platform, dir.path(), "c", "n").await.unwrap());
        let file = dir.path().join(FILE);
        let written = std::fs::read_to_string(&file).unwrap();
        let own = format!("\"format\": {FORMAT}");
        for (format, found) in [("\"format\": 9", 9), ("\"unknown\": 0", 1)] {
            std::fs::write(&file, written.replace(&own, format)).unwrap();
            let refused = open(&platform, dir.path(), "c", "n").await.err().expect("another format");
            assert!(matches!(refused, DataError::Format { found: f, .. } if f == found), "{refused}");
        }
    }

    #[tokio::test]
    async fn a_damaged_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let platform = Platform::real();
        drop(open(&platform, dir.path(), "c", "n").await.unwrap());
        std::fs::write(dir.path().join(FILE), b"{").unwrap();
        assert!(matches!(open(&platform, dir.path(), "c", "n").await, Err(DataError::Damaged { .. })));
    }
}
