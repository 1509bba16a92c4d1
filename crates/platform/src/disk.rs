//! File access, reduced to the operations that the log, the snapshots and the node's identity need. Each operation
//! completes only when the operating system has performed it; only operations with `sync` in their name make data
//! durable.

use std::{
    fs, io,
    os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statvfs::statvfs,
};

/// Returns whether an operation failed only because the disk was full, so that it may succeed later.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// A version of a file. When a file is written or replaced, its stamp changes; a change of its times alone may change
/// it, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    /// The size of the file, bytes.
    pub len: u64,
    /// The file itself: device and inode on a real disk.
    pub(crate) file: (u64, u64),
    /// When it was changed: times of modification and change on a real disk, nanoseconds.
    pub(crate) changed: (i128, i128),
}

/// A file system.
#[async_trait]
pub trait Disk: Send + Sync + 'static {
    /// Creates a directory and its parents, durably. An existing directory is not an error.
    async fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Returns the names of the files in a directory, sorted.
    async fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file for reading and writing; with `create`, an empty file is created if it is missing.
    async fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>>;
    /// Reads a whole file.
    async fn read(&self, path: &Path) -> io::Result<Bytes>;
    /// Returns the size of a regular file, and what tells this version of it from others. Follows symbolic links.
    async fn stamp(&self, path: &Path) -> io::Result<FileStamp>;
    /// Renames a file, replacing any file at `to`. Durable after [`Disk::sync_dir`].
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    async fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory. Durable after [`Disk::sync_dir`] of its parent.
    async fn remove_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes all creations, renames and removals in a directory durable.
    async fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Returns the bytes that this process may still write to the file system of `dir`.
    async fn free(&self, dir: &Path) -> io::Result<u64>;
    /// Locks a file against other processes until the lock is dropped. Fails with `WouldBlock` if it is already locked.
    async fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>>;
}

/// An open file.
#[async_trait]
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait DiskFile: Send + Sync + 'static {
    /// Writes all of `data` at `offset` and makes it durable (`fdatasync`).
    async fn write_at_and_sync(&self, offset: u64, data: Bytes) -> io::Result<()>;
    /// Reads `len` bytes at `offset`, or fewer at the end of the file.
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes>;
    /// Returns the length of the file, in bytes.
    async fn len(&self) -> io::Result<u64>;
    /// Extends the file with zeros to `len` bytes and makes that durable, so that later writes within it change no
    /// metadata and sync in half the time.
    async fn fill_to(&self, len: u64) -> io::Result<()>;
}

/// A lock on a file, released when dropped.
pub trait DiskLock: Send + Sync + 'static {}

/// The real file system. Blocking calls run on tokio's blocking threads.
pub struct FileSystem;

struct OpenFile(Arc<fs::File>);
struct FileLock(#[expect(dead_code, reason = "held for its drop")] Flock<fs::File>);

impl DiskLock for FileLock {}

/// Bytes that [`DiskFile::fill_to`] writes at once.
const FILL_CHUNK: usize = 256 * 1024;

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(io::Error::other(format!("a file operation did not finish: {e}"))),
    }
}

/// Adds the path to an error, which the operating system leaves out.
fn at(path: &Path, verb: &str, e: io::Error) -> io::Error {
    let advice = if is_full(&e) { "; free space on its disk, or move it to a larger one" } else { "" };
    io::Error::new(e.kind(), format!("cannot {verb} {}: {e}{advice}", path.display()))
}

fn sync_directory(dir: &Path) -> io::Result<()> {
    // The parent of a single-component relative path is empty: it is the working directory.
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| at(dir, "sync directory", e))
}

#[async_trait]
impl Disk for FileSystem {
    async fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_path_buf();
        blocking(move || {
            let missing: Vec<PathBuf> =
                dir.ancestors().take_while(|part| !part.exists()).map(Path::to_path_buf).collect();
            fs::create_dir_all(&dir).map_err(|e| at(&dir, "create directory", e))?;
            // Syncing inside a directory is useless if the directory's own entry is not durable.
            missing.iter().filter_map(|made| made.parent()).try_for_each(sync_directory)
        })
        .await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let dir = dir.to_path_buf();
        blocking(move || {
            let mut names = Vec::new();
            for entry in fs::read_dir(&dir).map_err(|e| at(&dir, "list directory", e))? {
                if let Ok(name) = entry?.file_name().into_string() {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn open(&self, path: &Path, create: bool) -> io::Result<Arc<dyn DiskFile>> {
        let path = path.to_path_buf();
        blocking(move || {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(create)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(|e| at(&path, "open", e))?;
            Ok(Arc::new(OpenFile(Arc::new(file))) as Arc<dyn DiskFile>)
        })
        .await
    }

    async fn read(&self, path: &Path) -> io::Result<Bytes> {
        let path = path.to_path_buf();
        blocking(move || fs::read(&path).map(Bytes::from).map_err(|e| at(&path, "read", e))).await
    }

    async fn stamp(&self, path: &Path) -> io::Result<FileStamp> {
        let path = path.to_path_buf();
        blocking(move || {
            let metadata = fs::metadata(&path).map_err(|e| at(&path, "look at", e))?;
            if !metadata.is_file() {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
                return Err(at(&path, "read", error));
            }
            let nanos = |seconds: i64, nanos: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            Ok(FileStamp {
                len: metadata.len(),
                file: (metadata.dev(), metadata.ino()),
                changed: (
                    nanos(metadata.mtime(), metadata.mtime_nsec()),
                    nanos(metadata.ctime(), metadata.ctime_nsec()),
                ),
            })
        })
        .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_path_buf(), to.to_path_buf());
        blocking(move || fs::rename(&from, &to).map_err(|e| at(&from, "rename", e))).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_path_buf();
        blocking(move || fs::remove_file(&path).map_err(|e| at(&path, "remove", e))).await
    }

    async fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_path_buf();
        blocking(move || fs::remove_dir(&dir).map_err(|e| at(&dir, "remove directory", e))).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let dir = dir.to_path_buf();
        blocking(move || sync_directory(&dir)).await
    }

    async fn free(&self, dir: &Path) -> io::Result<u64> {
        let dir = dir.to_path_buf();
        blocking(move || {
            let stat = statvfs(&dir).map_err(|errno| at(&dir, "get the free space of", errno.into()))?;
            // Blocks reserved for the superuser don't count, even for the superuser. The types differ between systems.
            #[allow(clippy::useless_conversion)]
            let (blocks, size) = (u64::from(stat.blocks_available()), u64::from(stat.fragment_size()));
            Ok(blocks.saturating_mul(size))
        })
        .await
    }

    async fn lock(&self, path: &Path) -> io::Result<Box<dyn DiskLock>> {
        let path: PathBuf = path.to_path_buf();
        blocking(move || {
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(|e| at(&path, "open", e))?;
            match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => Ok(Box::new(FileLock(lock)) as Box<dyn DiskLock>),
                Err((_, errno)) => Err(at(&path, "lock", errno.into())),
            }
        })
        .await
    }
}

#[async_trait]
impl DiskFile for OpenFile {
    async fn write_at_and_sync(&self, offset: u64, data: Bytes) -> io::Result<()> {
        let file = Arc::clone(&self.0);
        blocking(move || {
            file.write_all_at(&data, offset)?;
            file.sync_data()
        })
        .await
    }

    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Bytes> {
        let file = Arc::clone(&self.0);
        // Allocated on the thread that drops it: memory that one thread allocates and another frees stays with the
        // first thread's allocator for a long time.
        let mut buffer = vec![0; len];
        blocking(move || {
            let mut filled = 0;
            while filled < len {
                match file.read_at(&mut buffer[filled..], offset + filled as u64)? {
                    0 => break,
                    n => filled += n,
                }
            }
            buffer.truncate(filled);
            Ok(Bytes::from(buffer))
        })
        .await
    }

    async fn len(&self) -> io::Result<u64> {
        let file = Arc::clone(&self.0);
        blocking(move || Ok(file.metadata()?.len())).await
    }

    async fn fill_to(&self, len: u64) -> io::Result<()> {
        let file = Arc::clone(&self.0);
        blocking(move || {
            let zeros = vec![0; FILL_CHUNK];
            let mut offset = file.metadata()?.len();
            while offset < len {
                let n = zeros.len().min((len - offset) as usize);
                file.write_all_at(&zeros[..n], offset)?;
                offset += n as u64;
            }
            file.sync_all()
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_of_which_file_it_is_and_of_a_full_disk_what_to_do() {
        let said = |kind: io::ErrorKind| at(Path::new("/data/log"), "write", kind.into()).to_string();
        assert!(said(io::ErrorKind::StorageFull).ends_with("; free space on its disk, or move it to a larger one"));
        assert!(said(io::ErrorKind::NotFound).starts_with("cannot write /data/log: "));
        assert!(!said(io::ErrorKind::NotFound).contains("free space"));
    }
}
