//! How far a webhook is: the fleet's revision up to which tasks were looked at, and the tasks whose events are not
//! delivered yet. It is kept in a file of the data folder.

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use robeing_platform::{AtomicFile, Disk};
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::share::History;

/// The folder of these files in the data folder.
const FOLDER: &str = "webhooks";

/// How far a webhook is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Tasks up to this revision were looked at.
    pub revision: u64,
    /// Ids of tasks among these whose events are not delivered.
    pub pending: BTreeSet<String>,
    /// The revision to which to look back when a messenger is gone.
    #[serde(default)]
    pub look_back: Option<u64>,
    /// Which messengers were active when, as far as tasks of then may be looked at.
    #[serde(default)]
    pub history: History,
    /// The look back that is under way.
    #[serde(default)]
    pub review: Option<Review>,
}

/// A look back at tasks that were looked at before a messenger was gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Review {
    /// Up to this revision, tasks were looked at before.
    pub until: u64,
    /// By whom their events were to be sent.
    pub former: History,
}

/// The file of a place; without a data folder, nothing is kept.
pub struct PlaceFile {
    file: Option<AtomicFile>,
    kept: Option<Place>,
}

/// Returns the folder of all places.
pub fn folder(data: &Path) -> PathBuf {
    data.join(FOLDER)
}

impl PlaceFile {
    /// Opens the file of the webhook of this name, and reads it.
    ///
    /// # Errors
    /// If the folder can't be used. A file that can't be read as a place counts as none.
    pub async fn open(disk: &Arc<dyn Disk>, data: Option<&Path>, name: &str) -> io::Result<Self> {
        let Some(data) = data else { return Ok(Self { file: None, kept: None }) };
        let folder = folder(data);
        disk.create_dir_all(&folder).await?;
        let path = folder.join(format!("{name}.json"));
        let file = AtomicFile::open(Arc::clone(disk), &path).await?;
        let kept = match file.read().await {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(place) => Some(place),
                Err(error) => {
                    warn!(file = %path.display(), %error, "where a webhook was can't be read; it begins anew from now on");
                    None
                }
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Self { file: Some(file), kept })
    }

    /// Returns the place that is kept.
    pub fn kept(&self) -> Option<&Place> {
        self.kept.as_ref()
    }

    /// Keeps a place, if it is another one.
    ///
    /// # Errors
    /// The disk's error; the place that was kept remains.
    pub async fn keep(&mut self, place: &Place) -> io::Result<()> {
        if self.kept.as_ref() == Some(place) {
            return Ok(());
        }
        if let Some(file) = &mut self.file {
            // A place is numbers and text, which have a JSON form.
            let json = serde_json::to_vec(place).map_err(io::Error::other)?;
            file.replace(json.into()).await?;
        }
        self.kept = Some(place.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::Platform;

    use super::*;

    #[tokio::test]
    async fn a_place_is_kept_in_the_data_folder_and_a_broken_one_is_none() {
        let dir = tempfile::tempdir().expect("a folder");
        let disk = Platform::real().disk;
        let place = Place { revision: 7, pending: ["t".to_owned()].into(), ..Place::default() };
        let mut file = PlaceFile::open(&disk, Some(dir.path()), "a").await.expect("it opens");
        assert_eq!(file.kept(), None);
        file.keep(&place).await.expect("it is written");
        let file = PlaceFile::open(&disk, Some(dir.path()), "a").await.expect("it opens");
        assert_eq!(file.kept(), Some(&place));
        // As an earlier version has written it.
        std::fs::write(folder(dir.path()).join("a.json"), r#"{"revision":7,"pending":["t"]}"#).expect("it is written");
        let file = PlaceFile::open(&disk, Some(dir.path()), "a").await.expect("it opens");
        assert_eq!(file.kept(), Some(&place));
        std::fs::write(folder(dir.path()).join("a.json"), "{").expect("it is written");
        let file = PlaceFile::open(&disk, Some(dir.path()), "a").await.expect("it opens");
        assert_eq!(file.kept(), None);
        let mut nowhere = PlaceFile::open(&disk, None, "a").await.expect("it opens");
        nowhere.keep(&place).await.expect("nothing is written");
    }
}
