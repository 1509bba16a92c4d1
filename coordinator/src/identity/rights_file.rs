//! The file with the rights of clients, which is read again when it changes.

use std::{io, path::Path, sync::Arc, time::Duration};

use robeing_platform::{
    Disk, WatchedFile,
    sync::{Mutex, PoisonError},
};
use tokio::time::{MissedTickBehavior, interval};
use tracing::info;

use super::rights::{Client, ClientRights, MAX_RIGHTS_BYTES, Right, RightsError};
use crate::warnings::{Reason, Warnings};

/// How often the file is looked at.
pub const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The reason of the warning that the file can't be used.
pub const WARNING: Reason = "RightsFileUnusable";

/// Why a coordinator can't start with a file of rights.
#[derive(Debug, thiserror::Error)]
pub enum RightsFileError {
    /// It can't be read.
    #[error("the file with the rights of clients can't be read: {0}")]
    Unreadable(io::Error),
    /// It is wrong.
    #[error("the file {path} with the rights of clients can't be used: {error}")]
    Wrong {
        /// Its path.
        path: String,
        /// What is wrong.
        error: RightsError,
    },
}

/// The rights of clients, as they are in the file now. Cheap to clone; clones see the same changes.
#[derive(Clone, Default)]
pub struct CurrentRights(Arc<Mutex<Arc<ClientRights>>>);

impl CurrentRights {
    /// Returns the rights as they are now.
    pub fn get(&self) -> Arc<ClientRights> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns whether a client has a right now.
    pub fn allow(&self, client: Client<'_>, right: Right) -> bool {
        self.get().allow(client, right)
    }

    /// Returns rights that are in no file.
    #[cfg(test)]
    pub fn fixed(rights: ClientRights) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(rights))))
    }

    /// Replaces the rights.
    pub fn set(&self, rights: ClientRights) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rights);
    }
}

/// A file of rights that is followed.
pub struct RightsFile {
    file: WatchedFile,
    current: CurrentRights,
    /// What is wrong with the last content that was read.
    wrong: Option<RightsError>,
}

impl RightsFile {
    /// Reads the file.
    ///
    /// # Errors
    /// If it can't be read or is wrong: at the start, there are no earlier rights to go by.
    pub async fn open(disk: Arc<dyn Disk>, path: &Path) -> Result<Self, RightsFileError> {
        let mut file = WatchedFile::new(disk, path, MAX_RIGHTS_BYTES as u64);
        let content = file.read_if_changed().await.map_err(RightsFileError::Unreadable)?.unwrap_or_default();
        let rights = ClientRights::parse(&content)
            .map_err(|error| RightsFileError::Wrong { path: path.display().to_string(), error })?;
        let current = CurrentRights::default();
        current.set(rights);
        Ok(Self { file, current, wrong: None })
    }

    /// Returns the rights, which change with the file while it is followed.
    pub fn rights(&self) -> CurrentRights {
        self.current.clone()
    }

    /// Reads the file again if it has changed. If it can't be read or is wrong, the rights stay as they were. Returns
    /// what is wrong with the file, a sentence.
    pub async fn refresh(&mut self) -> Option<String> {
        match self.file.read_if_changed().await {
            Ok(Some(content)) => match ClientRights::parse(&content) {
                Ok(rights) => {
                    info!(path = %self.file.path().display(), "the rights of clients have changed");
                    self.current.set(rights);
                    self.wrong = None;
                }
                Err(error) => self.wrong = Some(error),
            },
            Ok(None) => {}
            Err(error) => {
                return Some(format!(
                    "The rights of clients stay as they were, because their file can't be read: {error}"
                ));
            }
        }
        let path = self.file.path().display();
        let wrong = self.wrong.as_ref();
        wrong.map(|error| format!("The rights of clients stay as they were, because the file {path} is wrong: {error}"))
    }

    /// Follows the file, and warns of it while it can't be used. Ends only when it is dropped.
    pub async fn follow(mut self, warnings: Arc<Warnings>) {
        let mut looks = interval(POLL_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let problem = self.refresh().await;
            warnings.set(WARNING, problem);
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::{AtomicFile, simulated::SimulatedDisk};
    use tokio::time::sleep;

    use super::*;

    const PATH: &str = "/etc/rights.yaml";
    const ANN: Client<'static> = Client::Named("ann");

    fn text(right: &str) -> bytes::Bytes {
        format!("clients: [{{name: ann, rights: [{right}]}}]").into()
    }

    async fn disk() -> (SimulatedDisk, AtomicFile) {
        let disk = SimulatedDisk::new(0);
        disk.create_dir_all(Path::new("/etc")).await.unwrap();
        let file = AtomicFile::open(Arc::new(disk.clone()), Path::new(PATH)).await.unwrap();
        (disk, file)
    }

    #[tokio::test(start_paused = true)]
    async fn rights_follow_the_file_and_a_wrong_one_changes_none_and_is_warned_of() {
        let (disk, mut file) = disk().await;
        file.replace(text("read")).await.unwrap();
        let opened = RightsFile::open(Arc::new(disk.clone()), Path::new(PATH)).await.unwrap();
        let (rights, warnings) = (opened.rights(), Arc::new(Warnings::default()));
        let following = tokio::spawn(opened.follow(Arc::clone(&warnings)));
        let said = || warnings.told().into_iter().map(|warning| warning.message).collect::<Vec<_>>().concat();
        assert!(rights.allow(ANN, Right::Read));

        file.replace(text("vote")).await.unwrap();
        sleep(2 * POLL_INTERVAL).await;
        assert!(rights.allow(ANN, Right::Vote) && !rights.allow(ANN, Right::Read));
        assert_eq!(said(), "");

        for _ in 0..2 {
            file.replace(text("everything")).await.unwrap();
            sleep(2 * POLL_INTERVAL).await;
            assert!(rights.allow(ANN, Right::Vote), "the rights stay as they were");
            assert!(
                said().contains("the file /etc/rights.yaml is wrong") && said().contains("everything"),
                "{}",
                said()
            );
        }
        // It is not read again, and it is still wrong.
        sleep(3 * POLL_INTERVAL).await;
        assert!(said().contains("everything"), "{}", said());

        disk.remove(Path::new(PATH)).await.unwrap();
        sleep(2 * POLL_INTERVAL).await;
        assert!(rights.allow(ANN, Right::Vote));
        assert!(said().contains("can't be read"), "{}", said());

        file.replace(text("admin")).await.unwrap();
        sleep(2 * POLL_INTERVAL).await;
        assert!(rights.allow(ANN, Right::Admin) && !rights.allow(ANN, Right::Vote));
        assert_eq!(said(), "");
        following.abort();
    }

    #[tokio::test]
    async fn a_coordinator_does_not_start_with_a_missing_or_wrong_file() {
        let (disk, mut file) = disk().await;
        let open = || RightsFile::open(Arc::new(disk.clone()), Path::new(PATH));
        assert!(matches!(open().await, Err(RightsFileError::Unreadable(_))));
        file.replace("clients: 1".into()).await.unwrap();
        assert!(matches!(open().await, Err(RightsFileError::Wrong { .. })));
        file.replace(vec![b'\n'; MAX_RIGHTS_BYTES + 1].into()).await.unwrap();
        assert!(matches!(open().await, Err(RightsFileError::Unreadable(_))));
        file.replace("{}".into()).await.unwrap();
        assert!(!open().await.unwrap().rights().allow(ANN, Right::Read));
    }
}
