//! A file that is replaced atomically: after a crash it has its old content or its new content, never a mix of both.

use std::{
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;

use super::Disk;

/// Suffix of the temporary files that new content is written to.
const ASIDE: &str = ".tmp";

/// A file that is replaced by writing a temporary file, syncing it, renaming it over the old file, and syncing the
/// directory.
///
/// An `AtomicFile` is the only writer of its file; `&mut self` serializes replacements. Each replacement uses its own
/// temporary name, because an operation whose caller was dropped (a blocking call cannot be cancelled) may still be
/// writing the previous temporary file.
pub struct AtomicFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    replacements: u64,
}

impl AtomicFile {
    /// Opens the file at `path`, which need not exist, and removes the temporary files that earlier processes left
    /// behind.
    ///
    /// # Errors
    /// If the directory cannot be listed, or a leftover file cannot be removed.
    pub async fn open(disk: Arc<dyn Disk>, path: &Path) -> io::Result<Self> {
        let file = Self { disk, path: path.to_owned(), replacements: 0 };
        let (dir, prefix) = (file.dir(), file.name_aside(""));
        for name in file.disk.list(dir).await? {
            let is_aside = name.strip_prefix(&*prefix.to_string_lossy()).is_some_and(|rest| rest.ends_with(ASIDE));
            if is_aside {
                file.disk.remove(&dir.join(name)).await?;
            }
        }
        Ok(file)
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn name_aside(&self, rest: &str) -> OsString {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(rest);
        name
    }

    /// The path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads the whole content.
    ///
    /// # Errors
    /// `NotFound` if the file was never written; otherwise the disk's error.
    pub async fn read(&self) -> io::Result<Bytes> {
        self.disk.read(&self.path).await
    }

    /// Replaces the content durably. On failure the temporary file is removed, so that it does not keep a full disk
    /// full.
    ///
    /// # Errors
    /// The disk's error. The content is then either the old or the new.
    pub async fn replace(&mut self, content: Bytes) -> io::Result<()> {
        self.replace_pieces(&[content]).await
    }

    /// Like [`AtomicFile::replace`], with the content given as consecutive pieces.
    ///
    /// # Errors
    /// See [`AtomicFile::replace`].
    pub async fn replace_pieces(&mut self, pieces: &[Bytes]) -> io::Result<()> {
        self.replacements += 1;
        let aside = self.dir().join(self.name_aside(&format!("{}{ASIDE}", self.replacements)));
        let written = self.replace_by(&aside, pieces).await;
        if written.is_err() {
            // Report the first error; the next start removes what is left.
            drop(self.disk.remove(&aside).await);
        }
        written
    }

    async fn replace_by(&self, aside: &Path, pieces: &[Bytes]) -> io::Result<()> {
        let file = self.disk.open(aside, true).await?;
        let mut offset = 0;
        for piece in pieces {
            file.write_at_and_sync(offset, piece.clone()).await?;
            offset += piece.len() as u64;
        }
        self.disk.rename(aside, &self.path).await?;
        self.disk.sync_dir(self.dir()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulated::SimulatedDisk;

    const PATH: &str = "/data/snapshot";

    async fn opened() -> (SimulatedDisk, AtomicFile) {
        let disk = SimulatedDisk::new(0);
        disk.create_dir_all(Path::new("/data")).await.unwrap();
        let file = AtomicFile::open(Arc::new(disk.clone()), Path::new(PATH)).await.unwrap();
        (disk, file)
    }

    async fn names(disk: &SimulatedDisk) -> Vec<String> {
        disk.list(Path::new("/data")).await.unwrap()
    }

    #[tokio::test]
    async fn what_a_crash_left_aside_is_removed_at_the_next_start_and_nothing_else() {
        let (disk, mut file) = opened().await;
        file.replace(Bytes::from("first")).await.unwrap();
        for other in ["snapshot.7.tmp", "snapshots.7.tmp", "snapshot.7", "identity.json.7.tmp"] {
            disk.open(&Path::new("/data").join(other), true).await.unwrap();
        }
        let file = AtomicFile::open(Arc::new(disk.clone()), Path::new(PATH)).await.unwrap();
        assert_eq!(names(&disk).await, ["identity.json.7.tmp", "snapshot", "snapshot.7", "snapshots.7.tmp"]);
        assert_eq!(file.read().await.unwrap(), "first");
    }

    #[tokio::test]
    async fn a_replacement_that_finds_no_room_leaves_the_old_content_and_takes_none() {
        let (disk, mut file) = opened().await;
        file.replace(Bytes::from("first")).await.unwrap();
        disk.set_capacity(Some(10));
        let full = file.replace(Bytes::from("second")).await.unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        assert_eq!(names(&disk).await, ["snapshot"]);
        file.replace(Bytes::from("third")).await.unwrap();
        assert_eq!(file.read().await.unwrap(), "third");
    }

    #[tokio::test]
    async fn one_that_was_given_up_does_not_touch_the_next() {
        let (disk, mut file) = opened().await;
        // As if a blocking call continued after its future was dropped: it creates the file and never renames it.
        disk.open(Path::new("/data/snapshot.1.tmp"), true).await.unwrap();
        file.replacements = 1;
        file.replace(Bytes::from("second")).await.unwrap();
        assert_eq!(file.read().await.unwrap(), "second");
        assert_eq!(names(&disk).await, ["snapshot", "snapshot.1.tmp"]);
    }
}
