//! The state of a simulated disk: directories, files, locks and injected faults.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{SplitMix, file::File};

/// How long a sync takes, in `tokio::time`: uniformly distributed between `min` and `max`.
#[derive(Clone, Copy, Debug)]
pub struct Latency {
    /// Shortest.
    pub min: Duration,
    /// Longest.
    pub max: Duration,
}

/// A change of a directory that is not yet durable.
enum Change {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

impl Change {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Link(name, file) => drop(names.insert(name, file)),
            Self::Unlink(name) => drop(names.remove(&name)),
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(&from) {
                    names.insert(to, file);
                }
            }
        }
    }
}

#[derive(Default)]
struct Directory {
    names: BTreeMap<String, u64>,
    durable: BTreeMap<String, u64>,
    changes: Vec<Change>,
}

pub(super) struct State {
    pub(super) random: SplitMix,
    pub(super) latency: Option<Latency>,
    /// Counts crashes: files and locks opened before a crash are invalid after it.
    pub(super) epoch: u64,
    pub(super) locks: BTreeSet<PathBuf>,
    pub(super) files: BTreeMap<u64, File>,
    /// Number of operations so far that may change something.
    pub(super) operations: u64,
    /// How many such operations are left before the power fails.
    pub(super) power_left: Option<u64>,
    /// Successful syncs before the next one that fails.
    pub(super) sync_failure_in: Option<u64>,
    /// Number of syncs that failed so far, plus writes that found no room.
    pub(super) failures: u64,
    /// Whether the disk hangs: syncs wait until it works again.
    pub(super) hung: bool,
    /// Maximum total size of all files, in bytes.
    pub(super) capacity: Option<u64>,
    /// Whether syncs report success without syncing.
    pub(super) lying: bool,
    pub(super) trace: u32,
    directories: BTreeMap<PathBuf, Directory>,
    next_file: u64,
}

/// Whether the power is on for an operation that may change something.
#[derive(PartialEq)]
pub(super) enum Power {
    On,
    /// The power fails during the operation: it has started, and like any unsynced change it may survive in part.
    Fails,
}

pub(super) fn power_is_off() -> io::Error {
    io::Error::other("the simulated power is off")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{} does not exist", path.display()))
}

impl State {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            random: SplitMix(seed),
            latency: None,
            epoch: 0,
            locks: BTreeSet::new(),
            files: BTreeMap::new(),
            operations: 0,
            power_left: None,
            sync_failure_in: None,
            failures: 0,
            hung: false,
            capacity: None,
            lying: false,
            trace: 0,
            directories: BTreeMap::new(),
            next_file: 0,
        }
    }

    /// Counts an operation that may change something.
    pub(super) fn operate(&mut self, what: &str, path: &Path, data: &[u8]) -> io::Result<Power> {
        self.operations += 1;
        for part in [what.as_bytes(), path.as_os_str().as_encoded_bytes(), data] {
            self.trace = crc32c::crc32c_append(self.trace, part);
        }
        match &mut self.power_left {
            Some(0) => Err(power_is_off()),
            Some(left) => {
                *left -= 1;
                Ok(if *left == 0 { Power::Fails } else { Power::On })
            }
            None => Ok(Power::On),
        }
    }

    /// Returns whether this sync is the one that fails.
    pub(super) fn sync_fails(&mut self) -> bool {
        match &mut self.sync_failure_in {
            Some(0) => {
                self.sync_failure_in = None;
                self.failures += 1;
                true
            }
            Some(n) => {
                *n -= 1;
                false
            }
            None => false,
        }
    }

    /// Draws the duration of the sync that starts now.
    pub(super) fn draw_latency(&mut self) -> Option<Duration> {
        let Latency { min, max } = self.latency?;
        let spread = max.saturating_sub(min).as_micros() as u64;
        Some(min + Duration::from_micros(self.random.below(spread + 1)))
    }

    /// Total size of all files, in bytes.
    pub(super) fn used(&self) -> u64 {
        self.files.values().map(File::len).sum()
    }

    /// Bytes of free room.
    pub(super) fn room(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used()))
    }

    /// Returns the error of a write that found no room, and counts it as a failure, after which a program may give up.
    pub(super) fn full(&mut self) -> io::Error {
        self.failures += 1;
        io::ErrorKind::StorageFull.into()
    }

    pub(super) fn make_directory(&mut self, dir: &Path) {
        for part in dir.ancestors() {
            self.directories.entry(part.to_owned()).or_default();
        }
    }

    /// Removes an empty directory.
    pub(super) fn remove_directory(&mut self, dir: &Path) -> io::Result<()> {
        if !self.directory(dir)?.names.is_empty() {
            return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
        }
        self.directories.remove(dir);
        Ok(())
    }

    fn directory(&mut self, dir: &Path) -> io::Result<&mut Directory> {
        self.directories.get_mut(dir).ok_or_else(|| not_found(dir))
    }

    fn split(path: &Path) -> io::Result<(&Path, String)> {
        let name = path.file_name().and_then(|name| name.to_str());
        path.parent().zip(name).map(|(dir, name)| (dir, name.to_owned())).ok_or_else(|| not_found(path))
    }

    pub(super) fn names(&mut self, dir: &Path) -> io::Result<Vec<String>> {
        Ok(self.directory(dir)?.names.keys().cloned().collect())
    }

    /// Returns the number of the file at this path.
    pub(super) fn find(&mut self, path: &Path) -> io::Result<u64> {
        let (dir, name) = Self::split(path)?;
        self.directory(dir)?.names.get(&name).copied().ok_or_else(|| not_found(path))
    }

    pub(super) fn file(&mut self, path: &Path) -> io::Result<&mut File> {
        let number = self.find(path)?;
        self.files.get_mut(&number).ok_or_else(|| not_found(path))
    }

    pub(super) fn create(&mut self, path: &Path) -> io::Result<u64> {
        let (dir, name) = Self::split(path)?;
        self.next_file += 1;
        let number = self.next_file;
        let directory = self.directory(dir)?;
        directory.names.insert(name.clone(), number);
        directory.changes.push(Change::Link(name, number));
        self.files.insert(number, File::default());
        Ok(number)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> io::Result<()> {
        self.find(from)?;
        let ((dir, from), (other, to)) = (Self::split(from)?, Self::split(to)?);
        if dir != other {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the simulated disk renames within a directory only",
            ));
        }
        let directory = self.directory(dir)?;
        Change::Rename(from.clone(), to.clone()).apply(&mut directory.names);
        directory.changes.push(Change::Rename(from, to));
        Ok(())
    }

    pub(super) fn remove(&mut self, path: &Path) -> io::Result<()> {
        self.find(path)?;
        let (dir, name) = Self::split(path)?;
        let directory = self.directory(dir)?;
        directory.names.remove(&name);
        directory.changes.push(Change::Unlink(name));
        Ok(())
    }

    pub(super) fn sync_directory(&mut self, dir: &Path) -> io::Result<()> {
        let directory = self.directory(dir)?;
        directory.changes.clear();
        directory.durable = directory.names.clone();
        Ok(())
    }

    /// Removes everything.
    pub(super) fn wipe(&mut self) {
        self.epoch += 1;
        self.locks.clear();
        self.files.clear();
        self.directories.clear();
        (self.power_left, self.sync_failure_in, self.hung) = (None, None, false);
    }

    /// Simulates a power failure and restart.
    pub(super) fn crash(&mut self, seed: u64) {
        let mut random = SplitMix(seed);
        self.epoch += 1;
        self.locks.clear();
        (self.power_left, self.sync_failure_in, self.hung) = (None, None, false);
        let mut linked = BTreeSet::new();
        for directory in self.directories.values_mut() {
            for change in std::mem::take(&mut directory.changes) {
                if random.coin() {
                    change.apply(&mut directory.durable);
                }
            }
            directory.names = directory.durable.clone();
            linked.extend(directory.durable.values().copied());
        }
        self.files.retain(|number, _| linked.contains(number));
        for file in self.files.values_mut() {
            file.crash(&mut random);
        }
    }
}
