//! The join directory: where coordinators keep what agents enrol with, for agents that can read it. Several
//! coordinators may share one. A secret that is removed is made again, and the removed one is not accepted any more.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use robeing_identity::{IdentityError, JoinSecret, TrustBundle};
use robeing_platform::{DiskLock, Platform};
use tokio::sync::watch;
use tracing::info;

use super::{text_file, trust::FleetTrust};
use crate::{
    read::StateReader,
    warnings::{Reason, Warnings},
};

/// The secret with which agents of any pool and role enrol, as text.
pub const SECRET: &str = "join.secret";
/// The certificates of the trusted authorities, PEM.
pub const TRUST: &str = "trust.crt";
/// Held by the coordinator that writes.
const LOCK: &str = "join.lock";
/// How often the directory is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Maximum size of one file, bytes: that of a bundle of authorities.
const MAX_FILE_BYTES: usize = robeing_identity::MAX_BUNDLE_BYTES;
/// The reason of the warning while the directory can't be used.
pub const JOIN_UNUSABLE: Reason = "JoinDirectoryUnusable";

/// Why a join directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum JoinDirError {
    /// A file can't be read or written.
    #[error("the join directory {dir} can't be used: {source}; see --join")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The secret is none.
    #[error("the join secret in {dir}/{SECRET} can't be used: {source}; remove the file, and another one is made")]
    Secret {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        source: IdentityError,
    },
}

/// Keeps a join directory up to date.
pub struct JoinDir {
    platform: Platform,
    dir: PathBuf,
    sender: watch::Sender<Option<[u8; 32]>>,
}

impl JoinDir {
    /// Opens a directory and makes the secret if there is none. Returns the digest of the secret, too, which is missing
    /// while another coordinator makes it.
    ///
    /// # Errors
    /// If the directory can't be used.
    pub async fn open(
        platform: &Platform,
        dir: &Path,
    ) -> Result<(Self, watch::Receiver<Option<[u8; 32]>>), JoinDirError> {
        let (sender, receiver) = watch::channel(None);
        let opened = Self { platform: platform.clone(), dir: dir.to_owned(), sender };
        platform.disk.create_dir_all(dir).await.map_err(|source| opened.failed(source))?;
        opened.refresh_secret().await?;
        Ok((opened, receiver))
    }

    /// Reads the secret again, and writes the trusted authorities, whenever they have changed. Runs until the
    /// coordinator stops.
    pub async fn run(self, trust: FleetTrust, state: StateReader, warnings: Arc<Warnings>) {
        loop {
            let trusted = trust.with(state.look(|fleet| fleet.identity_config().cloned()));
            let secret = self.refresh_secret().await;
            let problem = secret.and(self.refresh_trust(&trusted.bundle).await).err();
            warnings.set(JOIN_UNUSABLE, problem.map(|error| error.to_string()));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn failed(&self, source: io::Error) -> JoinDirError {
        JoinDirError::Io { dir: self.dir.clone(), source }
    }

    async fn refresh_secret(&self) -> Result<(), JoinDirError> {
        let wrong = |source| JoinDirError::Secret { dir: self.dir.clone(), source };
        let found = match self.read(SECRET).await? {
            Some(found) => found,
            None => {
                let Some(_lock) = self.lock().await? else { return Ok(()) };
                match self.read(SECRET).await? {
                    // Another coordinator has made it.
                    Some(found) => found,
                    None => {
                        let made = JoinSecret::generate().map_err(wrong)?.to_text();
                        self.write(SECRET, &made).await?;
                        info!(dir = %self.dir.display(), "made a join secret");
                        made
                    }
                }
            }
        };
        let digest = JoinSecret::from_text(&found).map_err(wrong)?.digest();
        self.sender.send_if_modified(|known| known.replace(digest) != Some(digest));
        Ok(())
    }

    async fn refresh_trust(&self, bundle: &TrustBundle) -> Result<(), JoinDirError> {
        if self.read(TRUST).await?.as_deref() == Some(bundle.pem()) {
            return Ok(());
        }
        let Some(_lock) = self.lock().await? else { return Ok(()) };
        self.write(TRUST, bundle.pem()).await
    }

    /// Locks the directory for writing. Returns `None` while another coordinator has it locked.
    async fn lock(&self) -> Result<Option<Box<dyn DiskLock>>, JoinDirError> {
        match self.platform.disk.lock(&self.dir.join(LOCK)).await {
            Ok(lock) => Ok(Some(lock)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn read(&self, name: &str) -> Result<Option<String>, JoinDirError> {
        let read = text_file::read(&self.platform.disk, &self.dir, name, MAX_FILE_BYTES).await;
        read.map_err(|source| self.failed(source))
    }

    async fn write(&self, name: &str, content: &str) -> Result<(), JoinDirError> {
        let written = text_file::write(&self.platform.disk, &self.dir, name, content.to_owned()).await;
        written.map_err(|source| self.failed(source))
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::simulated::SimulatedDisk;

    use super::*;
    use crate::identity::fixture::certifier;

    const DIR: &str = "/join";

    fn platform() -> Platform {
        Platform { disk: Arc::new(SimulatedDisk::new(0)), ..Platform::real() }
    }

    async fn open(platform: &Platform) -> (JoinDir, watch::Receiver<Option<[u8; 32]>>) {
        JoinDir::open(platform, Path::new(DIR)).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn text(platform: &Platform, name: &str) -> String {
        let bytes = platform.disk.read(&Path::new(DIR).join(name)).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn coordinators_that_share_a_directory_have_the_secret_of_the_first() {
        let platform = platform();
        let (first, digest) = open(&platform).await;
        let (second, other) = open(&platform).await;
        let secret = JoinSecret::from_text(&text(&platform, SECRET).await).unwrap();
        assert_eq!((*digest.borrow(), *other.borrow()), (Some(secret.digest()), Some(secret.digest())));
        // One that is removed is replaced, by whoever looks first.
        platform.disk.remove(&Path::new(DIR).join(SECRET)).await.unwrap();
        second.refresh_secret().await.unwrap();
        first.refresh_secret().await.unwrap();
        assert_ne!(*digest.borrow(), Some(secret.digest()));
        assert_eq!(*digest.borrow(), *other.borrow());
    }

    #[tokio::test]
    async fn while_another_coordinator_writes_nothing_is_written() {
        let platform = platform();
        platform.disk.create_dir_all(Path::new(DIR)).await.unwrap();
        let lock = platform.disk.lock(&Path::new(DIR).join(LOCK)).await.unwrap();
        let (dir, digest) = open(&platform).await;
        assert_eq!(*digest.borrow(), None);
        dir.refresh_trust(&certifier().bundle).await.unwrap();
        assert!(platform.disk.read(&Path::new(DIR).join(TRUST)).await.is_err());
        drop(lock);
        dir.refresh_secret().await.unwrap();
        assert!(digest.borrow().is_some());
    }

    #[tokio::test]
    async fn the_trusted_authorities_are_written_whenever_they_change() {
        let platform = platform();
        let (dir, _) = open(&platform).await;
        for _ in 0..2 {
            let bundle = certifier().bundle;
            dir.refresh_trust(&bundle).await.unwrap();
            dir.refresh_trust(&bundle).await.unwrap();
            assert_eq!(text(&platform, TRUST).await, bundle.pem());
        }
    }

    #[tokio::test]
    async fn a_file_that_is_no_secret_is_refused_with_what_to_do_and_the_known_one_stays() {
        let platform = platform();
        let (dir, digest) = open(&platform).await;
        let before = *digest.borrow();
        for wrong in ["secret".to_owned(), "x".repeat(MAX_FILE_BYTES + 1)] {
            dir.write(SECRET, &wrong).await.unwrap();
            assert!(dir.refresh_secret().await.is_err());
            assert_eq!(*digest.borrow(), before);
        }
        let refused = JoinDir::open(&platform, Path::new(DIR)).await.err().expect("it is refused").to_string();
        assert!(refused.contains("the most is"), "{refused}");
        dir.write(SECRET, "secret").await.unwrap();
        let refused = dir.refresh_secret().await.unwrap_err().to_string();
        assert!(refused.contains("remove the file, and another one is made"), "{refused}");
    }
}
