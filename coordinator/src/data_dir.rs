//! The data directory and the coordinator's identity in it. The node id is drawn once per data directory, so that no
//! node id ever votes twice in one term. A coordinator that restarts with an empty directory is a new node.

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
/// How long to wait for another process to release the directory: the process of a force-deleted pod may still be
/// running when its successor starts.
const LOCK_WITHIN: Duration = Duration::from_secs(10);
/// Interval between attempts to take the lock.
const LOCK_EVERY: Duration = Duration::from_millis(100);
/// Format version of the data directory. It is raised when the encoding of its content changes.
const FORMAT: u32 = 3;

/// The coordinator's identity, as stored in the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster that the data belongs to.
    pub cluster_id: String,
    /// The coordinator's name.
    pub name: String,
    /// Its node id.
    pub node_id: NodeId,
    /// The salt of its log, which the checksums of the log's frames include.
    pub log_salt: u64,
    /// Whether anything was ever written to its log. If so, an empty log means that the log was lost.
    #[serde(default)]
    pub log_begun: bool,
    /// The format of everything else in the directory.
    #[serde(default = "first_format")]
    format: u32,
}

fn first_format() -> u32 {
    1
}

impl Identity {
    /// Records in the directory that the log is no longer empty.
    pub async fn note_log_begun(&self, platform: &Platform, dir: &Path) -> io::Result<()> {
        let content = serde_json::to_vec_pretty(&Self { log_begun: true, ..self.clone() }).map_err(io::Error::other)?;
        AtomicFile::open(Arc::clone(&platform.disk), &dir.join(FILE)).await?.replace(Bytes::from(content)).await
    }
}

/// Reasons why a data directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Another process uses the directory.
    #[error("the data directory {dir} is in use by another process; give each coordinator a directory of its own")]
    InUse {
        /// The data directory.
        dir: PathBuf,
    },
    /// The identity file can't be parsed.
    #[error("{file} is damaged ({problem}), and without it this coordinator's node id is lost. {RESTORE_OR_REJOIN}")]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A different version of the program wrote the directory.
    #[error(
        "the data directory {dir} has format {found}, and this version of the program reads format {FORMAT}; run the version that \
         wrote it, or remove the whole directory to let this coordinator join again as a new member, or, if you do \
         that for all coordinators, to start a new fleet"
    )]
    Format {
        /// The data directory.
        dir: PathBuf,
        /// The directory's format.
        found: u32,
    },
    /// The log is missing or empty although the identity says that it was written to.
    #[error("the log in {dir} is missing or empty, although this coordinator has written to it. {RESTORE_OR_REJOIN}")]
    LogLost {
        /// The data directory.
        dir: PathBuf,
    },
    /// The directory belongs to another coordinator or cluster.
    #[error("the data directory {dir} belongs to {what} {found:?}, not {wanted:?}; use its own directory")]
    Foreign {
        /// The data directory.
        dir: PathBuf,
        /// What differs: "cluster" or "coordinator".
        what: &'static str,
        /// The name or id in the directory.
        found: String,
        /// The configured name or id.
        wanted: String,
    },
}

/// An open data directory.
pub struct DataDir {
    /// The coordinator's identity.
    pub identity: Identity,
    /// Locks the directory against other processes.
    pub lock: Box<dyn DiskLock>,
}

/// Locks the directory against other processes. Waits up to [`LOCK_WITHIN`] for another process to release it.
async fn lock(platform: &Platform, dir: &Path) -> Result<Box<dyn DiskLock>, DataError> {
    let (path, until) = (dir.join(LOCK), Instant::now() + LOCK_WITHIN);
    let mut waits = false;
    loop {
        match platform.disk.lock(&path).await {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error.into()),
            Err(_) if Instant::now() >= until => return Err(DataError::InUse { dir: dir.to_owned() }),
            Err(_) => {
                if !std::mem::replace(&mut waits, true) {
                    info!(dir = %dir.display(), "another process uses the data directory; waiting for it to exit");
                }
                sleep(LOCK_EVERY).await;
            }
            Ok(lock) => return Ok(lock),
        }
    }
}

/// Locks the directory and reads its identity; creates both if they don't exist.
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
