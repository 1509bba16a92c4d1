//! The task that writes. Nobody waits for a single record, so it gathers them for a while, which leaves the disk to the
//! log. It also removes segments that nobody needs, and writes sparse ones again.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use robeing_fleet::{Task, encode_task};
use robeing_platform::{compute, is_full};
use tokio::{sync::mpsc, time::timeout};
use tracing::{error, warn};

use super::{
    Shared, index,
    segment::{self, Place, Segment},
    weight,
};
use crate::raft::log::frame;

/// Bytes of one write, or one larger record.
const WRITE_BYTES: usize = 1024 * 1024;
/// How long records are gathered before they are written, unless they fill a write or somebody waits for them.
const GATHER: Duration = Duration::from_millis(50);
/// Pause before a write that found no room is repeated.
const RETRY: Duration = Duration::from_secs(1);

/// Writes an archive.
pub struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) woken: mpsc::Receiver<()>,
}

/// Frames that are written at once.
#[derive(Default)]
struct Group {
    content: BytesMut,
    /// The record of each, with the length of its frame.
    records: Vec<(u64, usize)>,
}

impl Group {
    /// Returns the frames of the first of these tasks, of at most so many bytes, or one larger one.
    fn of(tasks: &[(u64, Arc<Task>)], most: usize) -> Self {
        let (mut group, mut body) = (Self::default(), Vec::new());
        for (record, task) in tasks {
            body.clear();
            encode_task(task, &mut body);
            let frame = frame::encode(segment::SALT, *record, &body);
            if !group.records.is_empty() && group.content.len() + frame.len() > most {
                break;
            }
            group.content.extend_from_slice(&frame);
            group.records.push((*record, frame.len()));
        }
        group
    }
}

impl Writer {
    /// Writes until all handles of the archive are dropped. What waits then is in the log.
    pub async fn run(mut self) {
        while self.woken.recv().await.is_some() {
            self.gather().await;
            if let Err(problem) = self.work().await {
                error!(error = %problem, "the archive can't be written; this coordinator must stop");
                self.shared.written.send_modify(|written| written.failed = Some(problem.to_string()));
                return;
            }
        }
    }

    /// Waits until it is time for the next write.
    async fn gather(&mut self) {
        let Self { shared, woken } = self;
        let is_urgent = || {
            let pending = shared.pending_bytes.load(Ordering::Relaxed);
            pending >= WRITE_BYTES as u64 || shared.waiting.load(Ordering::Relaxed) > 0
        };
        let gathered = async { while !is_urgent() && woken.recv().await.is_some() {} };
        // Either way, it is time to write.
        let _ = timeout(GATHER, gathered).await;
    }

    /// Writes what waits, then tidies up.
    async fn work(&mut self) -> io::Result<()> {
        while !self.woken.is_closed() {
            match self.write_next().await {
                Ok(true) => {}
                Ok(false) => break,
                Err(problem) if is_full(&problem) => {
                    warn!(error = %problem, "there is no room for the archive; retrying");
                    self.shared.written.send_modify(|written| written.is_full = true);
                    // There is room where something was that nobody needs any more.
                    while let Some(first) = self.find(Segment::is_unneeded) {
                        self.tidy(first).await;
                    }
                    tokio::time::sleep(RETRY).await;
                }
                Err(problem) => return Err(problem),
            }
        }
        while let Some(first) = self.find(Segment::is_sparse) {
            self.tidy(first).await;
        }
        Ok(())
    }

    /// Returns the next records to be written, about as many as go into one write.
    fn next_tasks(&self) -> Vec<(u64, Arc<Task>)> {
        let (mut tasks, mut bytes) = (Vec::new(), 0);
        for (record, task) in &self.shared.records().pending {
            if bytes >= WRITE_BYTES as u64 {
                break;
            }
            bytes += weight(task);
            tasks.push((*record, Arc::clone(task)));
        }
        tasks
    }

    /// Writes the next records. Returns whether there were any.
    async fn write_next(&mut self) -> io::Result<bool> {
        let tasks = self.next_tasks();
        let Some(next) = tasks.first().map(|(record, _)| *record) else {
            self.shared.note_written();
            return Ok(false);
        };
        let most = WRITE_BYTES.min(self.shared.sizes.segment as usize);
        let Group { content, records } = compute(|| Group::of(&tasks, most));
        let (first, offset) = self.place_for(next, content.len() as u64).await?;
        let Shared { disk, dir, .. } = &*self.shared;
        let file = match offset {
            0 => disk.open(&segment::path(dir, first), true).await?,
            _ => self.shared.file(first).await?,
        };
        file.write_at_and_sync(offset, content.freeze()).await?;
        if offset == 0 {
            disk.sync_dir(dir).await?;
        }
        self.written(first, offset, &records);
        Ok(true)
    }

    /// Returns the segment to which so many bytes from this record on are added, and where. Seals the newest one if it
    /// is full.
    async fn place_for(&self, next: u64, bytes: u64) -> io::Result<(u64, u64)> {
        let newest = {
            let records = self.shared.records();
            let newest = records.segments.last_key_value();
            newest.map(|(first, segment)| (*first, segment.end, segment.is_sealed))
        };
        match newest {
            None => self.shared.disk.create_dir_all(&self.shared.dir).await?,
            Some((first, end, false)) => {
                let has_room = end + bytes <= self.shared.sizes.segment && next - first < u64::from(u32::MAX);
                if has_room {
                    return Ok((first, end));
                }
                self.seal(first).await;
            }
            Some(_) => {}
        }
        Ok((next, 0))
    }

    async fn seal(&self, first: u64) {
        let sealed = self.shared.records().segments.get_mut(&first).map(|segment| {
            segment.seal();
            segment.clone()
        });
        if let Some(sealed) = sealed {
            index::write(&self.shared.disk, &self.shared.dir, first, &sealed).await;
        }
    }

    /// Takes note of records that were written to a segment from an offset on.
    fn written(&self, first: u64, mut offset: u64, written: &[(u64, usize)]) {
        let mut records = self.shared.records();
        for (record, len) in written {
            // One that was forgotten meanwhile does not wait any more.
            let waited = records.pending.remove(record);
            if let Some(task) = &waited {
                self.shared.pending_bytes.fetch_sub(weight(task), Ordering::Relaxed);
            }
            let segment = records.segments.entry(first).or_default();
            segment.push(record - first, Place { offset, len: *len }, waited.is_some());
            offset += *len as u64;
        }
        drop(records);
        self.shared.note_written();
    }

    /// Returns the first segment that is one of these.
    fn find(&self, is_one: impl Fn(&Segment) -> bool) -> Option<u64> {
        let records = self.shared.records();
        records.segments.iter().find(|(_, segment)| is_one(segment)).map(|(first, _)| *first)
    }

    /// Removes a sparse segment, or writes it again. If that fails, it stays as it is until nothing of it is needed, or
    /// until the next start.
    async fn tidy(&self, first: u64) {
        let is_empty = self.shared.records().segments.get(&first).is_none_or(Segment::is_empty);
        let tidied = if is_empty { self.remove(first).await } else { self.write_again(first).await };
        if let Err(problem) = tidied {
            warn!(first, error = %problem, "a segment of the archive could not be made smaller");
            if let Some(segment) = self.shared.records().segments.get_mut(&first) {
                segment.is_given_up = true;
            }
        }
    }

    async fn remove(&self, first: u64) -> io::Result<()> {
        let Shared { disk, dir, .. } = &*self.shared;
        {
            let mut records = self.shared.records();
            records.segments.remove(&first);
            records.files.remove(&first);
        }
        for path in [segment::path(dir, first), segment::index_path(dir, first)] {
            match disk.remove(&path).await {
                Err(problem) if problem.kind() != io::ErrorKind::NotFound => return Err(problem),
                Ok(()) | Err(_) => {}
            }
        }
        disk.sync_dir(dir).await
    }

    /// Writes a segment again without the records that are not needed any more, and has it replace the old one.
    async fn write_again(&self, first: u64) -> io::Result<()> {
        let Shared { disk, dir, .. } = &*self.shared;
        let old = self.shared.records().segments.get(&first).cloned().unwrap_or_default();
        let file = disk.open(&segment::path(dir, first), false).await?;
        let content = file.read_at(0, old.end as usize).await?;
        let (content, smaller) = compute(|| without_gaps(&old, first, &content));
        let aside = segment::aside_path(dir, first);
        let written = async { disk.open(&aside, true).await?.write_at_and_sync(0, content).await };
        if let Err(problem) = written.await {
            drop(disk.remove(&aside).await);
            return Err(problem);
        }
        // Until the places are those in the new file, readers read the old one.
        self.shared.keep_open(first, &file);
        disk.rename(&aside, &segment::path(dir, first)).await?;
        self.replace(first, &old, smaller.clone());
        index::write(disk, dir, first, &smaller).await;
        disk.sync_dir(dir).await
    }

    /// Takes note that a segment was written again. What was forgotten meanwhile is not needed in the new one, either.
    fn replace(&self, first: u64, old: &Segment, mut smaller: Segment) {
        let mut records = self.shared.records();
        if let Some(now) = records.segments.get(&first) {
            for entry in old.needed().filter(|entry| now.place(entry.record.into()).is_none()) {
                smaller.forget(entry.record.into());
            }
        }
        records.segments.insert(first, smaller);
        records.files.remove(&first);
    }
}

/// Returns the frames of the needed records of a segment, one after the other, and where they are then. Damaged ones
/// are left out.
fn without_gaps(old: &Segment, first: u64, content: &Bytes) -> (Bytes, Segment) {
    let (mut kept, mut smaller) = (BytesMut::new(), Segment::default());
    for entry in old.needed() {
        let (start, len) = (entry.offset as usize, entry.len as usize);
        let frame = frame::decode_at(segment::SALT, content, start);
        if frame.is_some_and(|(record, _)| record == first + u64::from(entry.record)) {
            smaller.push(entry.record.into(), Place { offset: kept.len() as u64, len }, true);
            kept.extend_from_slice(&content[start..start + len]);
        }
    }
    smaller.seal();
    (kept.freeze(), smaller)
}
