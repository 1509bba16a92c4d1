//! What a receiver remembers of handled packets across restarts: a file in the agent's data folder, to which the
//! outcomes of packets are appended before they are reported.
//!
//! An outcome is recorded after the handler has decided and before the sender learns of it. If the process dies in
//! between, the packet was handled but is not on record; its sender has no outcome and sends it again, marked as
//! `resent`, and it is handled a second time. No journal can prevent that, because the handler's effect is elsewhere:
//! a handler for which it matters recognizes the id itself.
//!
//! Records that arrive while a write is under way are written together by the next one ([`Journal::append`] takes them
//! all), with one sync. The file is rewritten with what is still remembered when it is larger than [`REWRITE_AT`] and
//! twice its size after the last rewriting. It is extended by [`FILL`] zeros at a time, so that most writes change no
//! metadata: such a sync does not wait for what other programs do on the same disk. A crash may tear the last frame, which was never reported; it is cut off
//! when the file is read. Should the disk fail, outcomes are reported nevertheless, and remembered in memory alone: the
//! next append rewrites the file.
//!
//! Without a data folder all this is in memory, and a restarted agent remembers nothing.

pub mod format;

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use robeing_platform::{AtomicFile, Disk, DiskFile, compute};
use robeing_settings::settings::MAX_AGENT_DATA;
use tracing::warn;

pub use self::format::Record;
use self::format::{Content, FILE_HEADER, MAX_BODY};
use super::memory::{KEPT_REPLIES, KEPT_REPLY, Memory, WINDOW};

/// Name of the file in the data folder.
pub const FILE: &str = "messages.journal";
/// The file is rewritten when it is larger than this, in bytes, and twice as large as after the last rewriting: 4 MiB.
pub const REWRITE_AT: u64 = 4 << 20;
/// A file larger than this was not written by a journal, and is replaced by an empty one: 192 MiB.
pub const MAX_FILE: u64 = 192 << 20;
/// The file is extended by zeros up to a multiple of this length, in bytes, before frames are written there: 1 MiB.
pub const FILL: u64 = 1 << 20;
/// Maximum number of records that are written together.
pub const MAX_GROUP: usize = 1_024;
/// The size from which a frame gets no further record, in bytes: 1 MiB.
const PIECE: usize = 1 << 20;
const _: () = assert!(PIECE + 2 * KEPT_REPLY <= MAX_BODY);

/// The size of all that is remembered, in bytes, and of the records that are written together, each with the longest
/// name and reason, and frames around them.
const REMEMBERED: u64 = (WINDOW * 800 + KEPT_REPLIES) as u64;
const GROUP: u64 = (MAX_GROUP * (KEPT_REPLY + 800)) as u64;
// A file that is due to be rewritten is read back, also if one more group was written to it.
const _: () = assert!(2 * REMEMBERED + GROUP + FILL < MAX_FILE);
// The file and the one that replaces it fit the folder.
const _: () = assert!(MAX_FILE + REMEMBERED < MAX_AGENT_DATA);

/// Why a journal can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("the journal of messages in {folder} can't be opened: {source}; without it, messages may be handled twice")]
pub struct JournalError {
    /// The data folder.
    pub folder: String,
    /// The disk's error.
    #[source]
    pub source: io::Error,
}

/// The file of a journal.
struct File {
    disk: Arc<dyn Disk>,
    whole: AtomicFile,
    /// `None` after a failure: the file must be rewritten before anything is appended.
    open: Option<Arc<dyn DiskFile>>,
    /// Where the frames end, where they ended after the last rewriting, and number of the next frame.
    end: u64,
    rewritten: u64,
    next: u64,
    /// Up to here the file is extended. What follows the frames is zero.
    filled: u64,
}

/// What a receiver remembers across restarts.
pub struct Journal {
    id: u64,
    file: Option<File>,
}

impl Journal {
    /// Creates a journal in memory, with this random id.
    pub fn in_memory(id: u64) -> Self {
        Self { id, file: None }
    }

    /// Opens the journal in a folder, or creates it with this random id. Returns what it remembers, as if it had been
    /// handled at `now`, in milliseconds of the clock of [`Memory`].
    ///
    /// # Errors
    /// [`JournalError`] if the disk fails.
    pub async fn open(disk: Arc<dyn Disk>, folder: &Path, id: u64, now: u64) -> Result<(Self, Memory), JournalError> {
        let failed = |source| JournalError { folder: folder.display().to_string(), source };
        Self::open_file(disk, folder, id, now).await.map_err(failed)
    }

    async fn open_file(disk: Arc<dyn Disk>, folder: &Path, id: u64, now: u64) -> io::Result<(Self, Memory)> {
        disk.create_dir_all(folder).await?;
        let whole = AtomicFile::open(Arc::clone(&disk), &folder.join(FILE)).await?;
        let content = read(&*disk, &whole).await?;
        let mut memory = Memory::default();
        for Record { sender, id, outcome } in content.iter().flat_map(|(content, _)| &content.records) {
            memory.done(now, sender, *id, outcome);
        }
        let file = File { disk, whole, open: None, end: 0, rewritten: 0, next: 1, filled: 0 };
        let mut journal = Self { id: content.as_ref().map_or(id, |(content, _)| content.journal), file: Some(file) };
        match content {
            Some((content, len)) if content.is_whole => journal.resume(&content, len as u64).await?,
            // A torn frame is removed, so that nothing of it can be mistaken for one later.
            _ => journal.rewrite(&memory).await?,
        }
        Ok((journal, memory))
    }

    /// Returns the id, by which senders see whether the memory of a receiver is the same as before.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns whether the journal survives a restart.
    pub fn is_durable(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.open.is_some())
    }

    /// Returns whether the next append rewrites the file, for which it needs all that is remembered.
    pub fn needs_memory(&self) -> bool {
        self.file.as_ref().is_some_and(|file| file.open.is_none() || file.is_due())
    }

    /// Appends records with one sync. Returns once they are durable.
    ///
    /// # Errors
    /// The disk's error. The records are not durable then; the next append needs the memory, and makes them so.
    pub async fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let Some(open) = &file.open else { return Err(io::Error::other("the journal has to be rewritten first")) };
        let frames = frames(self.id, file.next, records);
        let bytes: Vec<u8> = frames.concat();
        let (end, next) = (file.end + bytes.len() as u64, file.next + frames.len() as u64);
        if end > file.filled {
            file.filled = end.next_multiple_of(FILL);
            // If it fails, writing takes longer, and nothing else: zeros need not be durable.
            let _ = open.fill_to(file.filled).await;
        }
        match open.write_at_and_sync(file.end, bytes.into()).await {
            Ok(()) => {
                (file.end, file.next) = (end, next);
                Ok(())
            }
            Err(error) => {
                // After a failed sync it is unknown what is on disk.
                file.open = None;
                Err(error)
            }
        }
    }

    /// Replaces the file by one with what is remembered.
    ///
    /// # Errors
    /// The disk's error.
    pub async fn rewrite(&mut self, memory: &Memory) -> io::Result<()> {
        self.replace(&records_of(memory)).await
    }

    /// Replaces the file by one with these records, all that is remembered ([`records_of`]).
    ///
    /// # Errors
    /// The disk's error.
    pub async fn replace(&mut self, records: &[Record]) -> io::Result<()> {
        let id = self.id;
        let Some(file) = &mut self.file else { return Ok(()) };
        file.open = None;
        let pieces = compute(|| {
            let mut pieces = vec![format::header(id)];
            pieces.extend(frames(id, 1, records));
            pieces
        });
        file.whole.replace_pieces(&pieces).await?;
        let open = file.disk.open(file.whole.path(), false).await?;
        file.end = pieces.iter().map(|piece| piece.len() as u64).sum();
        (file.rewritten, file.filled, file.next) = (file.end, file.end, pieces.len() as u64);
        file.open = Some(open);
        Ok(())
    }

    /// Continues a file that was read as a whole.
    async fn resume(&mut self, content: &Content, len: u64) -> io::Result<()> {
        let Some(file) = &mut self.file else { return Ok(()) };
        file.open = Some(file.disk.open(file.whole.path(), false).await?);
        (file.end, file.rewritten, file.next) = (content.end as u64, FILE_HEADER as u64, content.next);
        file.filled = len;
        Ok(())
    }
}

/// Returns all that is remembered, as records, oldest first.
pub fn records_of(memory: &Memory) -> Vec<Record> {
    let handled = memory.handled();
    handled.map(|(sender, id, outcome)| Record { sender: Arc::clone(sender), id, outcome: outcome.clone() }).collect()
}

/// Returns frames of these records, numbered from `next` on, none of which is too large to be read back.
fn frames(journal: u64, next: u64, records: &[Record]) -> Vec<Bytes> {
    let (mut frames, mut group, mut bytes) = (Vec::new(), Vec::new(), 0);
    let mut records = records.iter().peekable();
    while let Some(record) = records.next() {
        bytes += format::len(record);
        group.push(record);
        if bytes >= PIECE || records.peek().is_none() {
            let number = next + frames.len() as u64;
            frames.push(format::frame(journal, number, group.drain(..)));
            bytes = 0;
        }
    }
    frames
}

impl File {
    fn is_due(&self) -> bool {
        self.end > REWRITE_AT && self.end > 2 * self.rewritten
    }
}

/// Reads the file, and its length. `None`: there is none that can be used.
async fn read(disk: &dyn Disk, whole: &AtomicFile) -> io::Result<Option<(Content, usize)>> {
    let file = match disk.open(whole.path(), false).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len().await?;
    let content = if len > MAX_FILE { None } else { Some(whole.read().await?) };
    let read = content.and_then(|content| Some((format::read(&content)?, content.len())));
    match &read {
        None => warn!(
            file = %whole.path().display(), len,
            "the journal of messages can't be read and is replaced by an empty one: messages may be handled twice"
        ),
        Some((content, len)) if !content.is_whole => warn!(
            file = %whole.path().display(), bytes = len - content.end,
            "the end of the journal of messages was torn by a crash, or is damaged, and is cut off"
        ),
        Some(_) => {}
    }
    Ok(read)
}

#[cfg(test)]
mod tests {
    use robeing_platform::simulated::SimulatedDisk;

    use super::*;
    use crate::messaging::{Outcome, tests::fixture::record};

    const DIR: &str = "/data";

    async fn open(disk: &SimulatedDisk, id: u64) -> (Journal, Memory) {
        Journal::open(Arc::new(disk.clone()), Path::new(DIR), id, 0).await.expect("a journal")
    }

    fn remembered(memory: &Memory) -> Vec<u128> {
        memory.handled().map(|(_, id, _)| id.0).collect()
    }

    /// Appends one record, rewriting the file first if that is due.
    async fn append(journal: &mut Journal, memory: &mut Memory, id: u128) -> io::Result<()> {
        let record = record(id);
        memory.done(0, &record.sender, record.id, &record.outcome);
        if journal.needs_memory() { journal.rewrite(memory).await } else { journal.append(&[record]).await }
    }

    #[tokio::test]
    async fn what_was_appended_is_remembered_after_a_crash() {
        let disk = SimulatedDisk::new(1);
        let (mut journal, _) = open(&disk, 77).await;
        journal.append(&[record(1), record(2)]).await.unwrap();
        journal.append(&[record(3)]).await.unwrap();
        disk.crash(1);
        let (mut journal, memory) = open(&disk, 88).await;
        assert_eq!((journal.id(), remembered(&memory)), (77, vec![1, 2, 3]));
        assert!(journal.is_durable());
        journal.append(&[record(4)]).await.unwrap();
        disk.crash(2);
        assert_eq!(remembered(&open(&disk, 99).await.1), [1, 2, 3, 4]);
    }

    #[tokio::test]
    async fn the_power_may_go_during_any_operation() {
        const RECORDS: u128 = 12;
        let script = async |disk: &SimulatedDisk| {
            let opened = Journal::open(Arc::new(disk.clone()), Path::new(DIR), 7, 0).await;
            let Ok((mut journal, mut memory)) = opened else { return 0 };
            for id in 1..=RECORDS {
                if id == 6 && journal.rewrite(&memory).await.is_err()
                    || append(&mut journal, &mut memory, id).await.is_err()
                {
                    return id - 1;
                }
            }
            RECORDS
        };
        let whole = SimulatedDisk::new(0);
        assert_eq!(script(&whole).await, RECORDS);
        assert!(whole.operations() > 15);
        for operation in 1..=whole.operations() {
            for seed in 0..4 {
                let disk = SimulatedDisk::new(0);
                disk.power_off_during(operation);
                let durable = script(&disk).await;
                disk.crash(seed);
                let (mut journal, mut memory) = open(&disk, 7).await;
                let found = remembered(&memory);
                let expected: Vec<u128> = (1..=durable).collect();
                assert!(found.starts_with(&expected), "operation {operation}, seed {seed}: {found:?}");
                assert!(found.len() as u128 <= durable + 1, "operation {operation}, seed {seed}: {found:?}");
                append(&mut journal, &mut memory, 99).await.unwrap();
                disk.crash(seed);
                assert_eq!(remembered(&open(&disk, 7).await.1).last(), Some(&99));
            }
        }
    }

    #[tokio::test]
    async fn a_torn_or_damaged_end_is_cut_off_and_a_foreign_file_replaced() {
        let disk = SimulatedDisk::new(1);
        let (mut journal, _) = open(&disk, 7).await;
        journal.append(&[record(1)]).await.unwrap();
        journal.append(&[record(2)]).await.unwrap();
        let path = Path::new(DIR).join(FILE);
        let file = disk.content(&path).unwrap();
        let (len, end) = (file.len() as u64, format::read(&file).unwrap().end as u64);
        assert!(end < len, "zeros follow");
        disk.flip(&path, end - 1, 3).unwrap();
        let (_, memory) = open(&disk, 8).await;
        assert_eq!(remembered(&memory), [1]);
        assert!((disk.content(&path).unwrap().len() as u64) < len, "the rest is gone");
        disk.overwrite(&path, 0, b"something else").unwrap();
        let (journal, memory) = open(&disk, 9).await;
        assert_eq!((journal.id(), remembered(&memory)), (9, vec![]));
    }

    #[tokio::test]
    async fn after_a_failed_sync_the_next_append_makes_everything_durable() {
        let disk = SimulatedDisk::new(1);
        let (mut journal, mut memory) = open(&disk, 7).await;
        append(&mut journal, &mut memory, 1).await.unwrap();
        disk.fail_sync_after(0);
        append(&mut journal, &mut memory, 2).await.unwrap_err();
        assert!(journal.needs_memory() && !journal.is_durable());
        assert!(journal.append(&[record(3)]).await.is_err(), "nothing is appended to an unknown file");
        append(&mut journal, &mut memory, 3).await.unwrap();
        disk.crash(5);
        assert_eq!(remembered(&open(&disk, 8).await.1), [1, 2, 3]);
    }

    #[tokio::test]
    async fn the_file_stays_bounded() {
        let disk = SimulatedDisk::new(1);
        let (mut journal, mut memory) = open(&disk, 7).await;
        let large = |id| Record { outcome: Outcome::accepted(Some(vec![0; 60_000].into())), ..record(id) };
        let mut most = 0;
        for id in 0..500 {
            let record = large(id);
            memory.done(0, &record.sender, record.id, &record.outcome);
            if journal.needs_memory() {
                journal.rewrite(&memory).await.unwrap();
            } else {
                journal.append(&[record]).await.unwrap();
            }
            if id % 10 == 0 {
                most = most.max(disk.content(&Path::new(DIR).join(FILE)).unwrap().len());
            }
        }
        let limit = 2 * KEPT_REPLIES + (1 << 20) + FILL as usize;
        assert!(most < limit, "{most} bytes of {limit}");
        assert_eq!(open(&disk, 8).await.1.len(), 500);
    }

    #[tokio::test]
    async fn the_file_is_extended_once_for_many_records_and_read_back_with_what_is_left() {
        let disk = SimulatedDisk::new(1);
        let path = Path::new(DIR).join(FILE);
        let size = || disk.content(&path).unwrap().len() as u64;
        let (mut journal, _) = open(&disk, 7).await;
        for id in 1..=3 {
            journal.append(&[record(id)]).await.unwrap();
            assert_eq!(size(), FILL);
        }
        let (mut journal, memory) = open(&disk, 8).await;
        assert_eq!((journal.id(), remembered(&memory), size()), (7, vec![1, 2, 3], FILL), "zeros are no damage");
        let large = Outcome::accepted(Some(vec![0; KEPT_REPLY].into()));
        let filling = FILL as usize / KEPT_REPLY;
        let group: Vec<Record> =
            (0..filling).map(|id| Record { outcome: large.clone(), ..record(10 + id as u128) }).collect();
        journal.append(&group).await.unwrap();
        assert_eq!(size(), 2 * FILL, "what does not fit any more extends it again");
        disk.crash(1);
        assert_eq!(open(&disk, 8).await.1.len(), 3 + filling);
    }

    #[tokio::test]
    async fn what_is_torn_after_zeros_is_cut_off() {
        let disk = SimulatedDisk::new(1);
        let (mut journal, _) = open(&disk, 7).await;
        journal.append(&[record(1)]).await.unwrap();
        let path = Path::new(DIR).join(FILE);
        disk.overwrite(&path, FILL - 4, b"torn").unwrap();
        let (journal, memory) = open(&disk, 8).await;
        assert_eq!((journal.id(), remembered(&memory)), (7, vec![1]));
        assert!((disk.content(&path).unwrap().len() as u64) < FILL);
    }

    #[tokio::test]
    async fn records_that_are_too_large_for_one_frame_are_read_back() {
        let disk = SimulatedDisk::new(1);
        let (mut journal, _) = open(&disk, 7).await;
        let reply = Outcome::accepted(Some(vec![0; KEPT_REPLY].into()));
        let group: Vec<Record> =
            (0..=MAX_BODY / KEPT_REPLY).map(|id| Record { outcome: reply.clone(), ..record(id as u128) }).collect();
        journal.append(&group).await.unwrap();
        journal.append(&[record(9_999)]).await.unwrap();
        disk.crash(1);
        assert_eq!(open(&disk, 8).await.1.len(), group.len() + 1);
    }

    #[tokio::test]
    async fn a_journal_in_memory_needs_no_disk() {
        let mut journal = Journal::in_memory(5);
        journal.append(&[record(1)]).await.unwrap();
        assert_eq!((journal.id(), journal.is_durable(), journal.needs_memory()), (5, false, false));
    }
}
