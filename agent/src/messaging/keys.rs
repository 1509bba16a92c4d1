//! Keeps the key that opens an agent's sealed messages.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use robeing_platform::{AtomicFile, Platform};

use super::sealing::{OpeningKey, SealingError};

/// The file of the key in the agent's data folder.
const FILE: &str = "sealing.key";

/// Why an agent has no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file can't be read or written.
    #[error("the key of sealed messages in {file} can't be kept: {source}; see --data")]
    Io {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file has the wrong content.
    #[error(
        "{file} holds no key of sealed messages ({source}); delete it, and messages that are sealed for it are lost"
    )]
    Content {
        /// The file.
        file: PathBuf,
        /// The cause.
        source: SealingError,
    },
}

/// Returns the key that opens the agent's sealed messages: that in its data folder, so that it opens what was sealed
/// before a restart, or a new one.
///
/// # Errors
/// If the key in the data folder can't be read or written.
pub async fn opening_key(data: Option<&Path>, platform: &Platform) -> Result<OpeningKey, KeyError> {
    let Some(folder) = data else { return Ok(OpeningKey::generate(&*platform.random)) };
    let file = folder.join(FILE);
    let failed = |source| KeyError::Io { file: file.clone(), source };
    platform.disk.create_dir_all(folder).await.map_err(failed)?;
    let mut kept = AtomicFile::open(Arc::clone(&platform.disk), &file).await.map_err(failed)?;
    match kept.read().await {
        Ok(bytes) => OpeningKey::from_bytes(&bytes).map_err(|source| KeyError::Content { file: file.clone(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = OpeningKey::generate(&*platform.random);
            kept.replace(key.to_secret_bytes().to_vec().into()).await.map_err(failed)?;
            Ok(key)
        }
        Err(error) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::simulated::SimulatedDisk;

    use super::*;

    #[tokio::test]
    async fn a_key_in_a_data_folder_stays_the_same_and_one_in_memory_does_not() {
        let platform = Platform { disk: Arc::new(SimulatedDisk::new(1)), ..Platform::real() };
        let folder = Path::new("/agent");
        let id = async |data| opening_key(data, &platform).await.expect("a key").public().id();
        let first = id(Some(folder)).await;
        assert_eq!(id(Some(folder)).await, first);
        assert_ne!(id(None).await, id(None).await);
        let mut file = AtomicFile::open(Arc::clone(&platform.disk), &folder.join(FILE)).await.expect("the file");
        file.replace("short".into()).await.expect("it is written");
        let error = opening_key(Some(folder), &platform).await.expect_err("no key").to_string();
        assert!(error.contains("/agent/sealing.key"), "{error}");
    }
}
