//! The archive: the tasks that the fleet's state has handed over, on this coordinator's disk. Which these are, and
//! under which numbers, follows from the log; so a record that is handed over again is the same, and nothing is
//! acknowledged here. Instead, a snapshot that refers to records is written only once they are durable.
//!
//! What is handed over waits in memory until the writer has written it, and is read from there meanwhile.

mod effects;
mod index;
mod reader;
mod recovery;
mod segment;
mod transfer;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use robeing_fleet::{Task, decode_task, encode_task};
use robeing_platform::{
    Disk, DiskFile,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{mpsc, watch};
use tracing::warn;

pub use self::{
    effects::archived_task,
    reader::{RecordReader, Unread},
    transfer::{MAX_RECORDS_ASKED, Others, RecordStream, fetch, send},
};
use self::{
    segment::{Place, Segment},
    writer::Writer,
};
use crate::raft::log::frame;

/// Name of the folder in the data directory.
pub const FOLDER: &str = "archive";
/// The sizes of an archive.
const SIZES: Sizes = Sizes { segment: 16 * 1024 * 1024, pending: 64 * 1024 * 1024 };
/// What a task that waits counts for besides its inputs, outputs and texts, bytes.
const TASK_BYTES: u64 = 512;
/// Most segments whose files are open; at this number, all are closed, and opened again when they are needed.
const MAX_OPEN: usize = 64;

/// The sizes of an archive, bytes.
#[derive(Clone, Copy)]
struct Sizes {
    /// Of a segment at which it is sealed.
    segment: u64,
    /// What may wait to be written before no further log entry is applied.
    pending: u64,
}

/// A handle of the archive. Cheap to clone. The writer ends when all handles are dropped.
#[derive(Clone)]
pub struct Archive {
    shared: Arc<Shared>,
    wake: mpsc::Sender<()>,
}

/// What the handles share with the writer.
struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    sizes: Sizes,
    records: Mutex<Records>,
    /// What waits to be written, bytes.
    pending_bytes: AtomicU64,
    written: watch::Sender<Written>,
    /// How many wait until records are durable.
    waiting: AtomicU64,
    /// How many reads were of records that should be here and were not, or were damaged.
    missing: AtomicU64,
}

/// How far the records are written.
#[derive(Clone, Default)]
struct Written {
    /// All needed records with lower numbers are durable.
    below: u64,
    /// The last write found no room. It is repeated.
    is_full: bool,
    /// Why nothing is written any more.
    failed: Option<String>,
}

/// The records.
#[derive(Default)]
struct Records {
    /// Those that are not durable yet.
    pending: BTreeMap<u64, Arc<Task>>,
    /// The number of the next record. Those with lower numbers are here, or are not needed any more.
    next: u64,
    /// The segments, by the numbers of the first records that they may have.
    segments: BTreeMap<u64, Segment>,
    /// Needed records that were not here at the start.
    lost: BTreeSet<u64>,
    files: BTreeMap<u64, Arc<dyn DiskFile>>,
}

impl Records {
    /// Returns the number below which nothing waits to be written.
    fn durable_below(&self) -> u64 {
        self.pending.first_key_value().map_or(self.next, |(record, _)| *record)
    }

    /// Returns those of the needed records that are not here.
    fn lost_of(&self, needed: &[u64]) -> BTreeSet<u64> {
        let is_here = |record: u64| self.pending.contains_key(&record) || self.place(record).is_some();
        needed.iter().copied().filter(|record| !is_here(*record)).collect()
    }

    /// Returns the segment that has a record, and the record's place in it.
    fn place(&self, record: u64) -> Option<(u64, Place)> {
        let (first, segment) = self.segments.range(..=record).next_back()?;
        Some((*first, segment.place(record - first)?))
    }
}

/// One that waits until records are durable.
struct Waiting<'a>(&'a AtomicU64);

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicU64) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Returns what a task that waits counts for, bytes.
fn weight(task: &Task) -> u64 {
    task.stored_bytes() + TASK_BYTES
}

impl Shared {
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of how far the records are written.
    fn note_written(&self) {
        let below = self.records().durable_below();
        self.written.send_modify(|written| (written.below, written.is_full) = (below, false));
    }

    /// Returns the open file of a segment.
    async fn file(&self, first: u64) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = self.records().files.get(&first) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&segment::path(&self.dir, first), false).await?;
        self.keep_open(first, &file);
        Ok(file)
    }

    /// Has those who read a segment read this file.
    fn keep_open(&self, first: u64, file: &Arc<dyn DiskFile>) {
        let mut records = self.records();
        if records.files.len() >= MAX_OPEN {
            records.files.clear();
        }
        records.files.insert(first, Arc::clone(file));
    }

    /// Has the file of a record's segment opened again: it may be one that was replaced while it was opened.
    fn close(&self, record: u64) {
        let mut records = self.records();
        if let Some((first, _)) = records.place(record) {
            records.files.remove(&first);
        }
    }

    /// Reads the content of a record on the disk. `None`: it is not there, or is damaged.
    async fn read(&self, record: u64) -> io::Result<Option<Bytes>> {
        let Some((first, Place { offset, len })) = self.records().place(record) else { return Ok(None) };
        let content = self.file(first).await?.read_at(offset, len).await?;
        let found = frame::decode_at(segment::SALT, &content, 0);
        Ok(found.filter(|(number, _)| *number == record).map(|(_, content)| content))
    }
}

/// An opened archive.
pub struct Opened {
    /// The archive.
    pub archive: Archive,
    /// What writes it, which has to be run.
    pub writer: Writer,
}

impl Archive {
    /// Opens the archive in the data directory `dir`. Its folder is created with the first record. The snapshot in the
    /// data directory refers to no records but those below `below`, which were durable before it was written.
    ///
    /// # Errors
    /// The disk failed.
    pub async fn open(disk: Arc<dyn Disk>, dir: &Path, below: u64) -> io::Result<Opened> {
        Self::open_sized(disk, dir, below, SIZES).await
    }

    /// Like [`Archive::open`], with other sizes.
    async fn open_sized(disk: Arc<dyn Disk>, dir: &Path, below: u64, sizes: Sizes) -> io::Result<Opened> {
        let dir = dir.join(FOLDER);
        let segments = recovery::recover(&disk, &dir, below).await?;
        let next = segments.last_key_value().map_or(0, |(first, segment)| first + segment.records());
        let shared = Arc::new(Shared {
            disk,
            dir,
            sizes,
            records: Mutex::new(Records { next, segments, ..Records::default() }),
            pending_bytes: AtomicU64::new(0),
            written: watch::Sender::new(Written { below: next, ..Written::default() }),
            waiting: AtomicU64::new(0),
            missing: AtomicU64::new(0),
        });
        let (wake, woken) = mpsc::channel(1);
        let writer = Writer { shared: Arc::clone(&shared), woken };
        Ok(Opened { archive: Self { shared, wake }, writer })
    }

    /// Wakes the writer. One that is awake looks again anyway.
    fn wake(&self) {
        let _ = self.wake.try_send(());
    }

    /// Adds a record, unless it was added before.
    pub fn put(&self, record: u64, task: &Arc<Task>) {
        let mut records = self.shared.records();
        if record < records.next {
            return;
        }
        records.next = record + 1;
        records.pending.insert(record, Arc::clone(task));
        self.shared.pending_bytes.fetch_add(weight(task), Ordering::Relaxed);
        drop(records);
        self.wake();
    }

    /// Takes note that a record is not needed any more.
    pub fn forget(&self, record: u64) {
        let mut records = self.shared.records();
        records.lost.remove(&record);
        if let Some(task) = records.pending.remove(&record) {
            self.shared.pending_bytes.fetch_sub(weight(&task), Ordering::Relaxed);
        } else if let Some((first, segment)) = records.segments.range_mut(..=record).next_back() {
            segment.forget(record - first);
            if !segment.is_sparse() {
                return;
            }
        }
        drop(records);
        self.wake();
    }

    /// Takes note of all records with numbers below `below` that are needed, in ascending order. Returns how many of
    /// them are missing. Those with higher numbers are kept: the log has them, too.
    pub fn keep_only(&self, needed: &[u64], below: u64) -> usize {
        let mut records = self.shared.records();
        let Records { pending, next, segments, .. } = &mut *records;
        let mut found = 0;
        pending.retain(|record, _| {
            let is_needed = needed.binary_search(record).is_ok();
            found += usize::from(is_needed);
            is_needed || *record >= below
        });
        for (first, segment) in segments.iter_mut() {
            found += segment.keep_only(*first, needed, below);
        }
        *next = (*next).max(below);
        let missing = needed.len().saturating_sub(found);
        let waiting = pending.values().map(|task| weight(task)).sum();
        self.shared.pending_bytes.store(waiting, Ordering::Relaxed);
        records.lost = if missing > 0 { records.lost_of(needed) } else { BTreeSet::new() };
        drop(records);
        self.wake();
        missing
    }

    /// Returns whether a record that can't be read should be here.
    fn is_lost(&self, record: u64) -> bool {
        let records = self.shared.records();
        records.lost.contains(&record) || records.place(record).is_some()
    }

    /// Takes note that of the records with numbers below `below`, all that are needed were added.
    pub fn skip_to(&self, below: u64) {
        let mut records = self.shared.records();
        records.next = records.next.max(below);
        drop(records);
        self.wake();
    }

    /// Returns the number of the next record: those with lower numbers are here, or are not needed any more.
    pub fn next(&self) -> u64 {
        self.shared.records().next
    }

    /// Returns the task of a record. `None`: it is not here, or is damaged.
    pub async fn get(&self, record: u64) -> Option<Arc<Task>> {
        if let Some(task) = self.waiting(record) {
            return Some(task);
        }
        match decode_task(&self.read(record).await?) {
            Ok(task) => Some(Arc::new(task)),
            Err(error) => {
                warn!(record, %error, "a record of the archive can't be read");
                None
            }
        }
    }

    /// Returns the content of a record. `None`: it is not here, or is damaged.
    async fn content(&self, record: u64) -> Option<Bytes> {
        let Some(task) = self.waiting(record) else { return self.read(record).await };
        let mut content = Vec::new();
        encode_task(&task, &mut content);
        Some(content.into())
    }

    /// Returns the task of a record that is not durable yet.
    fn waiting(&self, record: u64) -> Option<Arc<Task>> {
        self.shared.records().pending.get(&record).cloned()
    }

    /// Reads the content of a record on the disk. Its segment may be written again meanwhile; then it is read again.
    async fn read(&self, record: u64) -> Option<Bytes> {
        let first = self.shared.read(record).await;
        let read = if matches!(first, Ok(Some(_))) {
            first
        } else {
            self.shared.close(record);
            self.shared.read(record).await
        };
        read.unwrap_or_else(|error| {
            warn!(record, %error, "the archive can't be read");
            None
        })
    }

    /// Returns the number of reads of records that should have been here and were not, or were damaged. A record that is
    /// read twice counts twice.
    pub fn missing(&self) -> u64 {
        self.shared.missing.load(Ordering::Relaxed)
    }

    fn note_missing(&self) {
        self.shared.missing.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until all needed records with numbers below `below` are durable. Cancellation-safe.
    ///
    /// # Errors
    /// They can't be written: `StorageFull`, if there may be room for them later.
    pub async fn flush(&self, below: u64) -> io::Result<()> {
        let mut written = self.shared.written.subscribe();
        let _waiting = Waiting::of(&self.shared.waiting);
        loop {
            {
                let now = written.borrow_and_update();
                if now.below >= below {
                    return Ok(());
                }
                if now.is_full {
                    return Err(io::Error::new(io::ErrorKind::StorageFull, "there is no room for the archive"));
                }
                self.check(&now)?;
            }
            self.wake();
            // The sender is in what this handle shares, so an error is impossible.
            let _ = written.changed().await;
        }
    }

    fn check(&self, written: &Written) -> io::Result<()> {
        match &written.failed {
            Some(problem) => Err(io::Error::other(problem.clone())),
            None if self.wake.is_closed() => Err(io::Error::other("the archive's writer has stopped")),
            None => Ok(()),
        }
    }

    /// Returns whether no more waits to be written than may.
    fn has_room(&self) -> bool {
        self.shared.pending_bytes.load(Ordering::Relaxed) <= self.shared.sizes.pending
    }

    /// Waits while too much waits to be written, unless that is because the disk is full. Cancellation-safe.
    ///
    /// # Errors
    /// The archive can't be written any more, so this coordinator must stop.
    pub async fn until_room(&self) -> io::Result<()> {
        let is_idle = self.shared.pending_bytes.load(Ordering::Relaxed) == 0;
        if is_idle || (self.has_room() && !self.wake.is_closed()) {
            return Ok(());
        }
        let mut written = self.shared.written.subscribe();
        loop {
            {
                let now = written.borrow_and_update();
                self.check(&now)?;
                if now.is_full || self.has_room() {
                    return Ok(());
                }
            }
            self.wake();
            let _ = written.changed().await;
        }
    }
}
