//! The task that writes: everything that was enqueued during the last sync goes into one frame and is acknowledged by
//! one sync (group commit).

use std::{
    collections::VecDeque,
    io,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
};

use bytes::BytesMut;
use openraft::{entry::RaftEntry, storage::IOFlushed};
use robeing_platform::DiskFile;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Shared, frame,
    index::Place,
    record::{self, Record},
    segment::{self, Spares},
};
use crate::raft::{Entry, LogId, TypeConfig, Vote};

/// Capacity of the queue of operations that the writer has not taken yet.
pub const MAX_PENDING: usize = 1_024;
/// A frame takes no further operation once it fills this part of a segment: `1 / FRAME_SHARE` (4 MiB of a segment of
/// the usual size).
pub const FRAME_SHARE: usize = 4;

/// One operation on the log.
pub enum Operation {
    /// Writes entries, then calls back.
    Append(Vec<Entry>, IOFlushed<TypeConfig>),
    /// Writes a record, then responds.
    Record(Record, oneshot::Sender<io::Result<()>>),
    /// Responds when everything before it is written.
    Barrier(oneshot::Sender<io::Result<()>>),
}

enum Waiting {
    Append(IOFlushed<TypeConfig>),
    Record(oneshot::Sender<io::Result<()>>),
}

impl Waiting {
    fn tell(self, result: io::Result<()>) {
        match self {
            Self::Append(callback) => callback.io_completed(result),
            // The receiver is gone when the library shuts down.
            Self::Record(sender) => drop(sender.send(result)),
        }
    }
}

/// The writer's state.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) dir: PathBuf,
    pub(super) spares: Spares,
    pub(super) segments: VecDeque<(u64, Option<u64>)>,
    pub(super) file: Option<Arc<dyn DiskFile>>,
    pub(super) tail: u64,
    pub(super) next_seq: u64,
    pub(super) segment_bytes: usize,
    pub(super) durable: Durable,
    /// The reason why nothing can be written any more. After a failed write the disk's content is unknown, so nothing
    /// is written and nothing acknowledged until the log is opened again.
    pub(super) failed: Option<String>,
    /// Spares that were created in advance, or failed to be, since this segment was started.
    pub(super) spares_tried: u64,
}

/// The newest vote and the newest purge that are certain to be on disk. A new segment must repeat them.
#[derive(Default)]
pub(super) struct Durable {
    pub(super) vote: Option<Vote>,
    pub(super) purged: Option<LogId>,
}

/// The operations that go into one frame.
#[derive(Default)]
struct Group {
    body: BytesMut,
    entries: Vec<LogId>,
    waiting: Vec<Waiting>,
    vote: Option<Vote>,
    purged: Option<LogId>,
}

impl Writer {
    /// Writes until every handle of the log is dropped.
    pub async fn run(mut self, mut operations: mpsc::Receiver<Operation>) {
        while let Some(first) = operations.recv().await {
            *super::lock(&self.shared.writing_since) = Some(Instant::now());
            let mut group = Group::default();
            let mut next = Some(first);
            while let Some(operation) = next {
                self.gather(operation, &mut group).await;
                next = (group.body.len() < self.frame_target()).then(|| operations.try_recv().ok()).flatten();
            }
            self.flush(&mut group).await;
            for waiting in group.waiting {
                waiting.tell(self.failed.clone().map_or(Ok(()), |e| Err(io::Error::other(e))));
            }
            if self.failed.is_none() {
                self.reclaim().await;
                self.prepare_spare().await;
            }
            *super::lock(&self.shared.writing_since) = None;
        }
    }

    fn frame_target(&self) -> usize {
        self.segment_bytes / FRAME_SHARE
    }

    /// Creates spares in advance, so that an append rarely has to wait for one to be filled: one when half of the
    /// segment is used, and another when three quarters are. A segment consumes only one.
    async fn prepare_spare(&mut self) {
        let allowed = (self.tail * 4 / self.segment_bytes as u64).saturating_sub(1);
        if self.spares_tried >= allowed || self.spares.complete() {
            return;
        }
        self.spares_tried += 1;
        if let Err(error) = self.spares.prepare().await {
            tracing::warn!(%error, "could not create a spare log segment in advance");
        }
    }

    /// Adds an operation's records to the group; writes out a full group first.
    async fn gather(&mut self, operation: Operation, group: &mut Group) {
        match operation {
            Operation::Append(entries, callback) => {
                for entry in &entries {
                    if !group.body.is_empty() && group.body.len() + record::entry_len(entry) > self.frame_target() {
                        self.flush(group).await;
                    }
                    record::put_entry(&mut group.body, entry);
                    group.entries.push(entry.log_id());
                }
                group.waiting.push(Waiting::Append(callback));
            }
            Operation::Record(record, sender) => {
                match &record {
                    Record::Vote(vote) => group.vote = Some(*vote),
                    Record::Purged(id) => group.purged = Some(*id),
                    _ => {}
                }
                record::put_record(&mut group.body, &record);
                group.waiting.push(Waiting::Record(sender));
            }
            Operation::Barrier(sender) => group.waiting.push(Waiting::Record(sender)),
        }
    }

    /// Writes and syncs the group's records, unless a write failed before.
    async fn flush(&mut self, group: &mut Group) {
        if self.failed.is_some() {
            return;
        }
        if let Err(error) = self.try_flush(group).await {
            tracing::error!(%error, dir = %self.dir.display(), "the log can't be written; this coordinator must stop");
            self.failed = Some(error.to_string());
            *super::lock(&self.shared.failed) = Some(error.to_string());
        }
    }

    async fn try_flush(&mut self, group: &mut Group) -> io::Result<()> {
        // The committed index is written along with other records; on its own it is not worth a sync.
        if group.body.is_empty() {
            return Ok(());
        }
        if let Some(committed) = self.shared.take_unsaved_commit() {
            record::put_record(&mut group.body, &Record::Committed(Some(committed)));
        }
        let place = self.write(&group.body).await?;
        let highest = group.entries.iter().map(|id| id.index()).max();
        if let Some(newest) = self.segments.back_mut() {
            newest.1 = newest.1.max(highest);
        }
        // Updated before anything else is written, because the next segment must repeat these.
        self.durable.vote = group.vote.take().or(self.durable.vote);
        self.durable.purged = group.purged.take().or(self.durable.purged);
        let mut index = self.shared.index();
        for id in group.entries.drain(..) {
            index.placed(id, place);
        }
        index.evict();
        group.body.clear();
        Ok(())
    }

    async fn write(&mut self, body: &[u8]) -> io::Result<Place> {
        let len = frame::frame_len(body.len());
        if len > self.segment_bytes {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a frame of {len} bytes does not fit a segment of {}", self.segment_bytes),
            ));
        }
        if self.file.is_none() || self.tail as usize + len > self.segment_bytes {
            self.begin_segment(len).await?;
        }
        let file = self.file.clone().ok_or_else(|| io::Error::other("no segment is open"))?;
        let number = self.segments.back().map_or(0, |(number, _)| *number);
        let frame = frame::encode(segment::salt(self.shared.salt, number), self.next_seq, body);
        let place = Place { segment: number, offset: self.tail, len };
        self.shared.stats.bytes.fetch_add(frame.len() as u64, Ordering::Relaxed);
        file.write_at_and_sync(self.tail, frame).await?;
        self.shared.stats.syncs.fetch_add(1, Ordering::Relaxed);
        self.tail += len as u64;
        self.next_seq += 1;
        Ok(place)
    }

    /// Starts a new segment. It begins with everything that must be known when the older segments are gone.
    async fn begin_segment(&mut self, need: usize) -> io::Result<()> {
        let number = self.segments.back().map_or(segment::FIRST, |(number, _)| number + 1);
        let file = self.spares.take(number).await?;
        let mut body = BytesMut::new();
        record::put_record(&mut body, &Record::Start(number));
        // Only what is already on disk may be repeated here; a newer vote or purge is still to be written by its own
        // record.
        if let Some(vote) = &self.durable.vote {
            record::put_record(&mut body, &Record::Vote(*vote));
        }
        if let Some(purged) = self.durable.purged {
            record::put_record(&mut body, &Record::Purged(purged));
        }
        let frame = frame::encode(segment::salt(self.shared.salt, number), self.next_seq, &body);
        if frame.len() + need > self.segment_bytes {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame does not fit a segment beside its start"));
        }
        let len = frame.len() as u64;
        file.write_at_and_sync(0, frame).await?;
        self.shared.stats.syncs.fetch_add(1, Ordering::Relaxed);
        self.next_seq += 1;
        self.tail = len;
        self.file = Some(file);
        self.segments.push_back((number, None));
        self.spares_tried = 0;
        Ok(())
    }

    /// Gives back the oldest segments when everything in them was purged.
    async fn reclaim(&mut self) {
        let Some(purged) = self.durable.purged else { return };
        while self.segments.len() > 1 && self.segments[0].1.is_none_or(|highest| highest <= purged.index()) {
            let (number, _) = self.segments[0];
            self.shared.forget_file(number);
            if let Err(error) = self.spares.give_back(number).await {
                // Only space is lost; the next purge retries.
                tracing::warn!(%error, number, "a purged log segment could not be given back");
                return;
            }
            self.segments.pop_front();
        }
    }
}
