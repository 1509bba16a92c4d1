//! The Raft log on disk: segments of checksummed frames, written by one task with group commit, behind the consensus
//! library's storage trait. Nothing is acknowledged before it is synced.
//!
//! This project has its own log because existing ones don't guarantee that: `raft-log` 0.4.6 silently drops
//! acknowledged entries when one bit of a length flips in its newest file, refuses to open after a zeroed tail (which a
//! crash may leave), and opens its files and threads itself, so that no simulator can drop its unsynced writes.

pub(crate) mod frame;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod index;
pub(crate) mod pieces;
mod promise;
mod record;
mod recovery;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{Stream, StreamExt, TryStreamExt, stream};
use openraft::{
    OptionalSend, RaftLogReader,
    entry::RaftEntry,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use robeing_fleet::sabotage::{Mistake, planted};
use robeing_platform::{Disk, DiskFile};
use robeing_proto::budget::MESSAGE_BUDGET_BYTES;
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};

use self::{
    index::{Found, Index, Place},
    promise::Promise,
    record::Record,
    writer::{Durable, MAX_PENDING, Operation, Writer},
};
pub use self::{recovery::RecoveryError, segment::SEGMENT_BYTES};
use crate::raft::{Applied, Entry, LogId, NodeId, TypeConfig, Vote};

/// Maximum bytes of entries that one limited read returns, though always at least one entry. They are sent in one
/// message or applied.
const READ_BYTES: usize = MESSAGE_BUDGET_BYTES;
/// Maximum entries considered for one such read.
const READ_ENTRIES: u64 = 256;

/// Statistics of the log since it was opened.
#[derive(Default)]
pub struct LogStats {
    /// Number of syncs.
    pub syncs: AtomicU64,
    /// Bytes written.
    pub bytes: AtomicU64,
    /// Number of entries appended.
    pub entries: AtomicU64,
    /// Bytes of appended entries, used to decide when a snapshot is due.
    pub entry_bytes: AtomicU64,
}

struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    salt: u64,
    index: Mutex<Index>,
    applied: Applied,
    unsaved_commit: Mutex<Option<LogId>>,
    files: Mutex<HashMap<u64, Arc<dyn DiskFile>>>,
    /// The reason why nothing can be written any more.
    failed: Mutex<Option<String>>,
    /// The current promise: votes that are durable and may still be granted.
    promise: Mutex<Option<Promise>>,
    /// When the write in progress started.
    writing_since: Mutex<Option<Instant>>,
    stats: LogStats,
}

/// A poisoned lock only means that another thread panicked while it held the lock; every critical section here leaves
/// the data consistent at each step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    fn take_unsaved_commit(&self) -> Option<LogId> {
        lock(&self.unsaved_commit).take()
    }

    fn forget_file(&self, segment: u64) {
        lock(&self.files).remove(&segment);
    }

    async fn file(&self, segment: u64) -> io::Result<Arc<dyn DiskFile>> {
        if let Some(file) = lock(&self.files).get(&segment) {
            return Ok(Arc::clone(file));
        }
        let file = self.disk.open(&segment::path(&self.dir, segment), false).await?;
        lock(&self.files).insert(segment, Arc::clone(&file));
        Ok(file)
    }

    /// Reads the entry `id` in the frame at `place`. `last` caches the decoded frame for the next entry in it.
    async fn read_entry(&self, id: LogId, place: Place, last: &mut Option<(Place, Vec<Entry>)>) -> io::Result<Entry> {
        if last.as_ref().is_none_or(|(at, _)| *at != place) {
            *last = Some((place, self.read_entries(place).await?));
        }
        let mut of_frame = last.iter().flat_map(|(_, entries)| entries);
        let entry = of_frame.find(|entry| entry.log_id() == id).cloned();
        entry.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("log entry {id} is not where it was written"))
        })
    }

    /// Reads the entries in the frame at `place`.
    async fn read_entries(&self, place: Place) -> io::Result<Vec<Entry>> {
        let content = self.file(place.segment).await?.read_at(place.offset, place.len).await?;
        let damaged = |detail: String| {
            let file = segment::path(&self.dir, place.segment);
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("the log is damaged in {} at byte {}: {detail}", file.display(), place.offset),
            )
        };
        let (_, body) = frame::decode_at(segment::salt(self.salt, place.segment), &content, 0)
            .ok_or_else(|| damaged("a frame that was valid before is damaged now".into()))?;
        let records = record::decode(body).map_err(|e| damaged(e.to_string()))?;
        Ok(records
            .into_iter()
            .filter_map(|record| if let Record::Entry(entry) = record { Some(entry) } else { None })
            .collect())
    }
}

/// The log, as the consensus library uses it. Clones share it.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    operations: mpsc::Sender<Operation>,
}

/// An opened log.
pub struct Opened {
    /// The log.
    pub log: Log,
    /// The task that writes; it ends when every clone of the log is dropped.
    pub writer: JoinHandle<()>,
    /// Bytes of a write that a crash cut off; they are dropped when the log is opened.
    pub torn_bytes: u64,
    /// Whether nothing was ever written, as far as the files show.
    pub blank: bool,
}

impl Log {
    /// Opens the log in `dir`, which must exist; an empty directory is an empty log. `salt` is drawn once per log.
    ///
    /// # Errors
    /// The log is damaged anywhere but at the very end of what was written, or it was cut short.
    pub async fn open(disk: Arc<dyn Disk>, dir: &Path, salt: u64) -> Result<Opened, RecoveryError> {
        Self::open_sized(disk, dir, salt, SEGMENT_BYTES).await
    }

    /// Like [`Log::open`], with another segment size.
    pub async fn open_sized(
        disk: Arc<dyn Disk>,
        dir: &Path,
        salt: u64,
        segment_bytes: usize,
    ) -> Result<Opened, RecoveryError> {
        let files = disk.list(dir).await?;
        let recovered = recovery::recover(&disk, dir, salt, &files, segment_bytes).await?;
        let file = match recovered.segments.last() {
            Some((number, _)) => {
                let file = disk.open(&segment::path(dir, *number), false).await?;
                // The last frame may be only in the operating system's cache: it was never synced, or its sync failed,
                // which a later sync does not repair. From now on it counts as durable, so it is written and synced
                // again.
                if let Some(frame) = recovered.last_frame {
                    let content = frame::encode(segment::salt(salt, *number), frame.seq, &frame.body);
                    file.write_at_and_sync(frame.offset, content).await?;
                }
                disk.sync_dir(dir).await?;
                Some(file)
            }
            None => None,
        };
        let blank = recovered.next_seq == recovery::FIRST_SEQ;
        let durable = Durable { vote: recovered.index.vote, purged: recovered.index.purged };
        let shared = Arc::new(Shared {
            disk: Arc::clone(&disk),
            dir: dir.to_owned(),
            salt,
            index: Mutex::new(recovered.index),
            applied: Applied::default(),
            unsaved_commit: Mutex::new(None),
            files: Mutex::new(HashMap::new()),
            failed: Mutex::new(None),
            promise: Mutex::new(None),
            writing_since: Mutex::new(None),
            stats: LogStats::default(),
        });
        let (operations, receiver) = mpsc::channel(MAX_PENDING);
        let writer = Writer {
            shared: Arc::clone(&shared),
            dir: dir.to_owned(),
            spares: segment::Spares::new(disk, dir.to_owned(), segment_bytes, &files),
            segments: recovered.segments.into(),
            file,
            tail: recovered.tail,
            next_seq: recovered.next_seq,
            segment_bytes,
            durable,
            failed: None,
            spares_tried: 0,
        };
        let writer = tokio::spawn(writer.run(receiver));
        Ok(Opened { log: Self { shared, operations }, writer, torn_bytes: recovered.torn_bytes, blank })
    }

    /// Returns the statistics of the log since it was opened.
    pub fn stats(&self) -> &LogStats {
        &self.shared.stats
    }

    /// Returns how long the write in progress has taken so far; `None` if there is none.
    pub fn stalled_for(&self) -> Option<Duration> {
        lock(&self.shared.writing_since).map(|since| since.elapsed())
    }

    /// Returns the number of entries in the log.
    pub fn entries(&self) -> usize {
        self.shared.index().len()
    }

    /// Returns the counter in which the state machine records what it has applied of this log.
    pub fn applied(&self) -> &Applied {
        &self.shared.applied
    }

    /// Returns the id of the entry at `index`, if it is still known. Entries before the newest purged one are not.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        self.shared.index().id_at(index)
    }

    /// Returns the newest entry that was purged.
    pub fn purged(&self) -> Option<LogId> {
        self.shared.index().purged
    }

    /// Returns the newest vote.
    pub fn vote(&self) -> Option<Vote> {
        self.shared.index().vote
    }

    /// Replaces a promise that was found when the log was opened by `own`'s vote for itself, one term later; see
    /// [`promise`]. Call it only before the library uses the log.
    pub fn step_past_promise(&self, own: NodeId) {
        let mut index = self.shared.index();
        index.vote = index.vote.map(|found| promise::after_restart(found, own));
    }

    async fn hand_over(&self, operation: Operation) -> io::Result<()> {
        let gone = |_| io::Error::other("the log's writer has stopped");
        self.operations.send(operation).await.map_err(gone)
    }

    /// Writes a record and waits until it is durable.
    async fn write_record(&self, record: Record) -> io::Result<()> {
        self.answered(|done| Operation::Record(record, done)).await
    }

    /// Waits until everything that was enqueued before is durable. It costs no sync of its own.
    async fn wait_for_writes(&self) -> io::Result<()> {
        self.answered(Operation::Barrier).await
    }

    async fn answered(
        &self,
        operation: impl FnOnce(tokio::sync::oneshot::Sender<io::Result<()>>) -> Operation,
    ) -> io::Result<()> {
        let (done, written) = tokio::sync::oneshot::channel();
        self.hand_over(operation(done)).await?;
        written.await.map_err(|_| io::Error::other("the log's writer has stopped"))?
    }

    /// Enqueues a record without waiting for the disk, because waiting would block the consensus core. Only for records
    /// that a crash may undo.
    ///
    /// # Errors
    /// The log has failed before. A failure of this write is reported by the operations that follow it.
    async fn hand_over_record(&self, record: Record) -> io::Result<()> {
        if let Some(problem) = lock(&self.shared.failed).clone() {
            return Err(io::Error::other(problem));
        }
        let (done, _) = tokio::sync::oneshot::channel();
        self.hand_over(Operation::Record(record, done)).await
    }

    /// Reads the entries from `from` up to but not including `to`; if `limited`, at most about [`READ_BYTES`] of them.
    async fn read(&self, from: u64, to: u64, limited: bool) -> io::Result<Vec<Entry>> {
        let to = if limited { to.min(from.saturating_add(READ_ENTRIES)) } else { to };
        let found = self.shared.index().range(from, to);
        let mut entries: Vec<Entry> = Vec::with_capacity(found.len());
        let (mut bytes, mut frame): (usize, Option<(Place, Vec<Entry>)>) = (0, None);
        for found in found {
            let entry = match found {
                Found::Here(entry) => entry,
                Found::At(id, place) => match self.shared.read_entry(id, place, &mut frame).await {
                    Ok(entry) => entry,
                    // The entry was purged meanwhile and its segment reused; so were the entries before it.
                    Err(_) if self.shared.index().purged.is_some_and(|p| p.index() >= id.index()) => {
                        entries.clear();
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            bytes += record::entry_len(&entry);
            if limited && !entries.is_empty() && bytes > READ_BYTES {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

fn limits(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&n) => n,
        Bound::Excluded(&n) => n.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let to = match range.end_bound() {
        Bound::Included(&n) => n.saturating_add(1),
        Bound::Excluded(&n) => n,
        Bound::Unbounded => u64::MAX,
    };
    (from, to)
}

impl RaftLogReader<TypeConfig> for Log {
    /// Reads piece by piece: after a restart, or for a coordinator that was away, the range may be the whole log.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = limits(&range);
        let pieces = stream::try_unfold((self.clone(), from), move |(log, from)| async move {
            if from >= to {
                return Ok(None);
            }
            let entries = log.read(from, to, true).await?;
            let next = entries.last().map(|last| last.index() + 1);
            Ok::<_, io::Error>(next.map(|next| (stream::iter(entries.into_iter().map(Ok)), (log, next))))
        });
        pieces.try_flatten().boxed()
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<Entry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, to) = limits(&range);
        self.read(from, to, false).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, true).await?;
        // Purged entries belong to a snapshot that the library is about to send. A replication stream that it has
        // abandoned may still request them, and would send the rest after a gap. An empty result is taken for a
        // heartbeat.
        Ok(if entries.first().is_some_and(|first| first.index() > start) { Vec::new() } else { entries })
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.index().vote)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let index = self.shared.index();
        Ok(LogState { last_purged_log_id: index.purged, last_log_id: index.last() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let before = self.shared.index().vote.replace(*vote);
        let promised = lock(&self.shared.promise).is_some_and(|promise| promise.covers(vote));
        if promised {
            // The library takes a saved vote as a sign that everything before it is durable.
            return self.wait_for_writes().await;
        }
        // After a crash this record may be the newest one, so it ends the promise.
        *lock(&self.shared.promise) = None;
        if vote.is_committed() && before.is_some_and(|before| before.leader_id == vote.leader_id) {
            // The vote for this candidate is durable already; that the candidate was elected need not be.
            self.wait_for_writes().await?;
            return self.hand_over_record(Record::Vote(*vote)).await;
        }
        if planted(Mistake::VoteNotSynced) {
            return self.hand_over_record(Record::Vote(*vote)).await;
        }
        if vote.is_committed() {
            return self.write_record(Record::Vote(*vote)).await;
        }
        let promise = Promise::to(vote);
        self.write_record(Record::Vote(promise.furthest_vote())).await?;
        *lock(&self.shared.promise) = Some(promise);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        // Written with the next frame, not on its own: it only saves some replaying at the next start.
        self.shared.index().committed = committed;
        *lock(&self.shared.unsaved_commit) = committed;
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        // It may refer to an entry that a crash cut off, if it was written with that entry's own frame; return no more
        // than the log has.
        let index = self.shared.index();
        Ok(index.committed.min(index.last()))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        {
            let mut index = self.shared.index();
            for entry in &entries {
                let bytes = record::entry_len(entry) as u64;
                self.shared.stats.entry_bytes.fetch_add(bytes, Ordering::Relaxed);
                index.push(entry.clone(), None).map_err(io::Error::other)?;
            }
        }
        self.shared.stats.entries.fetch_add(entries.len() as u64, Ordering::Relaxed);
        self.hand_over(Operation::Append(entries, callback)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        // Applied entries are part of the state, which can't be undone.
        let (kept, applied) = (last.map_or(0, |last| last.index() + 1), self.shared.applied.end());
        if kept < applied {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "log entries from {kept} on would be replaced, but those before {applied} are applied here: a \
                     majority of the coordinators has lost entries that were acknowledged. Before anything else, keep \
                     a copy of this coordinator's data directory, which has them"
                ),
            ));
        }
        self.shared.index().truncate_after(last);
        self.write_record(Record::TruncatedAfter(last)).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.shared.index().purge(upto);
        self.hand_over_record(Record::Purged(upto)).await
    }
}
