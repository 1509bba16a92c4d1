//! Segments: files of one size, filled with zeros in advance so that writing within them changes no metadata, and
//! reused when everything in them was purged. The name shows the kind of file: `0000000000000007.log` is a segment,
//! `spare-3` a spare segment.
//!
//! Invariant: a file has its full size, durably, before it gets a segment's name, and never shrinks afterwards. So no
//! crash leaves a shorter segment; one that is shorter was truncated by something else, and what it lost may have been
//! acknowledged.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use robeing_platform::{Disk, DiskFile};

/// Size of a segment in bytes; also the largest frame. A log with shorter segments is refused, so a version that raises
/// this value must know the segment size of older versions.
pub const SEGMENT_BYTES: usize = 16 * 1024 * 1024;
/// Number of a log's first segment.
pub const FIRST: u64 = 1;
/// Number of spare segments: created in advance, or reclaimed from purged segments. They are also the log's reserve:
/// while the disk is full, entries that finish accepted work are written to them, until a snapshot lets older segments
/// be reused.
pub const SPARES: usize = 2;

/// Returns the salt of a segment's frames, which differs for every segment of every log.
pub fn salt(log_salt: u64, number: u64) -> u64 {
    // SplitMix64's finalizer: neighbouring numbers get unrelated salts.
    let z = log_salt ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Returns the path of segment `number`.
pub fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.log"))
}

/// Parses the number in a segment's file name.
pub fn number(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// The spare segments of a log.
pub struct Spares {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    size: usize,
    names: Vec<String>,
    next: u64,
}

impl Spares {
    /// Creates the set of those spares that are among `files`.
    pub fn new(disk: Arc<dyn Disk>, dir: PathBuf, size: usize, files: &[String]) -> Self {
        let names: Vec<String> = files.iter().filter(|name| name.starts_with("spare-")).cloned().collect();
        let highest = names.iter().filter_map(|name| name["spare-".len()..].parse::<u64>().ok()).max();
        Self { disk, dir, size, names, next: highest.map_or(0, |n| n.wrapping_add(1)) }
    }

    /// Whether there are [`SPARES`] spares, so that no further one is needed.
    pub fn complete(&self) -> bool {
        self.names.len() >= SPARES
    }

    fn next_name(&mut self) -> String {
        self.next = self.next.wrapping_add(1);
        format!("spare-{}", self.next)
    }

    /// Creates a spare.
    pub async fn prepare(&mut self) -> io::Result<()> {
        let name = self.next_name();
        self.fill(&name, true).await?;
        self.names.push(name);
        Ok(())
    }

    /// Gives a spare its full size, durably.
    async fn fill(&self, name: &str, create: bool) -> io::Result<()> {
        let path = self.dir.join(name);
        let filled = self.disk.open(&path, create).await?.fill_to(self.size as u64).await;
        if filled.is_err() {
            // An incomplete spare must not take space on a full disk, and one whose sync failed must not pass for a
            // complete one at the next start.
            drop(self.disk.remove(&path).await);
        }
        filled
    }

    /// Takes a spare, creating one if there is none, and makes it segment `number`. Syncs the directory, because
    /// otherwise the new name would not be durable.
    pub async fn take(&mut self, number: u64) -> io::Result<Arc<dyn DiskFile>> {
        if self.names.is_empty() {
            self.prepare().await?;
        }
        let name = self.names.pop().ok_or_else(|| io::Error::other("a spare segment was created and is gone"))?;
        // A crash may have left it half filled.
        self.fill(&name, false).await?;
        let to = path(&self.dir, number);
        self.disk.rename(&self.dir.join(name), &to).await?;
        self.disk.sync_dir(&self.dir).await?;
        self.disk.open(&to, false).await
    }

    /// Turns a segment that is no longer needed into a spare, or removes it if there are enough.
    pub async fn give_back(&mut self, number: u64) -> io::Result<()> {
        let from = path(&self.dir, number);
        let name = (self.names.len() < SPARES).then(|| self.next_name());
        let moved = match &name {
            Some(name) => self.disk.rename(&from, &self.dir.join(name)).await,
            None => self.disk.remove(&from).await,
        };
        match moved {
            Ok(()) => self.names.extend(name),
            // It was given back before, and only the sync of the directory failed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        self.disk.sync_dir(&self.dir).await
    }
}
