//! A small file that others replace while this process runs, such as a projected token or a list of rights.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::{Disk, FileStamp};

/// A file whose content is read again when it has changed. It finds changes only when asked.
pub struct WatchedFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    max_bytes: u64,
    seen: Option<FileStamp>,
}

impl WatchedFile {
    /// Watches the file at `path`, which may have at most `max_bytes`. Nothing is read yet.
    pub fn new(disk: Arc<dyn Disk>, path: impl Into<PathBuf>, max_bytes: u64) -> Self {
        Self { disk, path: path.into(), max_bytes, seen: None }
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the content if this is the first time that it can be read, or it may have changed since the last time.
    ///
    /// # Errors
    /// The disk's error; `FileTooLarge` if the file is larger than the limit. The next call tries again.
    pub async fn read_if_changed(&mut self) -> io::Result<Option<Bytes>> {
        // The stamp is older than the content: if the file changes between the two, it is only read once more.
        let stamp = self.disk.stamp(&self.path).await?;
        if self.seen == Some(stamp) {
            return Ok(None);
        }
        self.check(stamp.len)?;
        let content = self.disk.read(&self.path).await?;
        self.check(content.len() as u64)?;
        self.seen = Some(stamp);
        Ok(Some(content))
    }

    /// Forgets what was read: the next call of [`WatchedFile::read_if_changed`] returns the content again.
    pub fn forget(&mut self) {
        self.seen = None;
    }

    fn check(&self, bytes: u64) -> io::Result<()> {
        if bytes <= self.max_bytes {
            return Ok(());
        }
        let (path, most) = (self.path.display(), self.max_bytes);
        Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("{path} has {bytes} bytes, the most is {most}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AtomicFile, FileSystem, simulated::SimulatedDisk};

    const PATH: &str = "/etc/token";
    const MAX: u64 = 8;

    async fn watched() -> (SimulatedDisk, AtomicFile, WatchedFile) {
        let disk = SimulatedDisk::new(0);
        disk.create_dir_all(Path::new("/etc")).await.unwrap();
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let file = AtomicFile::open(Arc::clone(&shared), Path::new(PATH)).await.unwrap();
        (disk, file, WatchedFile::new(shared, PATH, MAX))
    }

    #[tokio::test]
    async fn a_file_is_read_when_it_has_changed_and_only_then() {
        let (disk, mut file, mut watched) = watched().await;
        assert_eq!(watched.read_if_changed().await.unwrap_err().kind(), io::ErrorKind::NotFound);
        file.replace("first".into()).await.unwrap();
        assert_eq!(watched.read_if_changed().await.unwrap().unwrap(), "first");
        assert_eq!(watched.read_if_changed().await.unwrap(), None);
        watched.forget();
        assert_eq!(watched.read_if_changed().await.unwrap().unwrap(), "first");
        // Replaced by as many bytes, and changed in place.
        file.replace("other".into()).await.unwrap();
        assert_eq!(watched.read_if_changed().await.unwrap().unwrap(), "other");
        disk.overwrite(Path::new(PATH), 0, b"O").unwrap();
        assert_eq!(watched.read_if_changed().await.unwrap().unwrap(), "Other");
        disk.remove(Path::new(PATH)).await.unwrap();
        assert_eq!(watched.read_if_changed().await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_file_may_be_as_large_as_the_limit_and_no_larger() {
        let (disk, mut file, mut watched) = watched().await;
        file.replace("12345678".into()).await.unwrap();
        assert_eq!(watched.read_if_changed().await.unwrap().unwrap(), "12345678");
        file.replace("123456789".into()).await.unwrap();
        for _ in 0..2 {
            let error = watched.read_if_changed().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            assert_eq!(error.to_string(), "/etc/token has 9 bytes, the most is 8");
        }
        disk.cut(Path::new(PATH), 8).unwrap();
        assert_eq!(watched.read_if_changed().await.unwrap().unwrap(), "12345678");
    }

    #[tokio::test]
    async fn on_a_real_disk_a_link_that_leads_elsewhere_is_a_change_as_kubernetes_makes_it() {
        let dir = std::env::temp_dir().join(format!("robeing-watched-{}", std::process::id()));
        let version = |name: &str, content: &str| {
            std::fs::create_dir_all(dir.join(name)).unwrap();
            std::fs::write(dir.join(name).join("token"), content).unwrap();
            let aside = dir.join("..data_tmp");
            std::os::unix::fs::symlink(name, &aside).unwrap();
            std::fs::rename(&aside, dir.join("..data")).unwrap();
        };
        let mut watched = WatchedFile::new(Arc::new(FileSystem), dir.join("..data/token"), MAX);
        version("..1", "first");
        assert_eq!(watched.read_if_changed().await.unwrap().unwrap(), "first");
        assert_eq!(watched.read_if_changed().await.unwrap(), None);
        version("..2", "other");
        assert_eq!(watched.read_if_changed().await.unwrap().unwrap(), "other");
        let folder = FileSystem.stamp(&dir).await.unwrap_err();
        assert!(folder.to_string().contains("not a regular file"), "{folder}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
