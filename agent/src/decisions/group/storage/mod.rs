//! What a member of a group keeps on its disk, in a folder of the group:
//!
//! | file | content |
//! |---|---|
//! | `identity` | the random identity of this disk, and the key's seed: written once |
//! | `records` | what the replica must not forget: synced before anything is said that depends on it |
//! | `records-N`, `initial-N` | the same in the epoch N, and the state with which that starts; older ones are removed |
//! | `request-ids` | up to which number requests of this member may have been numbered |
//! | `decisions-…` | the decisions; see [`decision_log`] |
//! | `group.json` | the description of the group; from then on the member may have voted |
//! | `enrolled` | when the member enrolled last: a key that no group can be formed with any more may be removed |
//! | `lock` | held by the process that is the member |
//!
//! Invariants:
//!
//! 1. **Nothing is said before it is synced.** [`Store::save`] returns when everything is on the disk.
//! 2. **A lost disk does not come back.** Once there is a description of the group, nothing that is missing is made
//!    again, and nothing that is damaged is used: the member does not start. A torn end of the records is cut off: a
//!    crash tears only what is not synced yet, on which nothing depends. Damage of the very last record, and of nothing
//!    else, looks the same.
//! 3. **Decisions are on the disk twice until they are once.** The records contain the decisions since the last stable
//!    checkpoint. They are in the log before the records drop them. The log never has a decision that the records, or a
//!    checkpoint in them, do not know: if it does, the records are older than what was said, and the member does not
//!    start.
//!
//! What can't be found out is that all files were replaced by older copies of themselves: never restore a backup.

mod decision_log;
mod epochs;
mod frames;
mod identity;
mod reading;
#[cfg(test)]
mod tests;

use std::{
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use robeing_bft::{certificate::Decision, record::Record, replica::Sync, wire::Wire};
use robeing_groups::{Group, GroupFile, MAX_GROUP_FILE_BYTES};
use robeing_platform::{AtomicFile, Disk, DiskLock, Platform, Random};

use self::{
    decision_log::DecisionLog,
    epochs::records_of,
    frames::{FrameError, FrameFile},
    reading::Found,
};
pub use self::{identity::Identity, reading::Reading};

/// The file with the description of the group.
const GROUP: &str = "group.json";
const IDENTITY: &str = "identity";
const RECORDS: &str = "records";
const REQUEST_IDS: &str = "request-ids";
const ENROLLED: &str = "enrolled";
const LOCK: &str = "lock";
/// Number of requests for which numbers are reserved at once.
const RESERVED_AT_ONCE: u64 = 1_024;
/// Number of decisions that are in the records alone, at most, before they are written to the log.
const MAX_UNLOGGED: usize = 64;

/// Why a member can't use its disk.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk's error.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Another process is the member.
    #[error("another process uses {}; a member runs once", .0.display())]
    Locked(PathBuf),
    /// Something is gone that was there when the member was admitted.
    #[error(
        "{} is gone, so this disk was lost; a member must not forget what it has said, and does not come back under \
         its old identity: remove the folder, and have the members decide on a next epoch", .0.display()
    )]
    Lost(PathBuf),
    /// Something is not what was written.
    #[error(
        "{} can't be used: {problem}; a member must not forget what it has said, and does not come back under its old \
         identity: remove the folder, and have the members decide on a next epoch", .file.display()
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl StoreError {
    /// Returns whether the same disk may be usable later.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::Io(_) | Self::Locked(_))
    }

    fn damaged(file: &Path, problem: impl ToString) -> Self {
        Self::Damaged { file: file.to_owned(), problem: problem.to_string() }
    }

    fn of(file: &Path, error: FrameError) -> Self {
        match error {
            FrameError::Io(error) if error.kind() == io::ErrorKind::NotFound => Self::Lost(file.to_owned()),
            FrameError::Io(error) => Self::Io(error),
            FrameError::Damaged(problem) => Self::damaged(file, problem),
        }
    }
}

/// The folder of one group.
#[derive(Clone)]
pub struct Folder {
    disk: Arc<dyn Disk>,
    random: Arc<dyn Random>,
    path: PathBuf,
}

impl Folder {
    /// Names the folder of a group. The group's name must be one.
    pub fn new(platform: &Platform, groups: &Path, group: &str) -> Self {
        let (disk, random) = (Arc::clone(&platform.disk), Arc::clone(&platform.random));
        Self { disk, random, path: groups.join(group) }
    }

    async fn read(&self, file: &str) -> Result<Option<Bytes>, StoreError> {
        match self.disk.read(&self.path.join(file)).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn replace(&self, file: &str, content: Bytes) -> Result<(), StoreError> {
        let mut file = AtomicFile::open(Arc::clone(&self.disk), &self.path.join(file)).await?;
        Ok(file.replace(content).await?)
    }

    /// Returns the identity of the member, which is made if the group is not formed yet and there is none.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails, or was lost.
    pub async fn identity(&self, new: Identity) -> Result<Identity, StoreError> {
        if let Some(identity) = self.known_identity().await? {
            return Ok(identity);
        }
        if self.read(GROUP).await?.is_some() {
            return Err(StoreError::Lost(self.path.join(IDENTITY)));
        }
        // Nothing was said yet: whatever is there is of an enrolment that was interrupted.
        self.disk.create_dir_all(&self.path).await?;
        self.replace(REQUEST_IDS, Bytes::copy_from_slice(&0_u64.to_be_bytes())).await?;
        let records = [pack(&[Record::Identity(new.incarnation)])];
        FrameFile::create(&self.disk, &self.path.join(RECORDS), self.random.next_u64(), &records).await?;
        self.replace(IDENTITY, new.to_bytes()).await?;
        Ok(new)
    }

    /// Notes when the member enrolled, Unix milliseconds, or later, if its key is to be kept for longer.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    pub async fn enrolled_at(&self, at_ms: u64) -> Result<(), StoreError> {
        self.replace(ENROLLED, Bytes::copy_from_slice(&at_ms.to_be_bytes())).await
    }

    /// Returns when the member enrolled last, Unix milliseconds; 0 if it is not known. `None` if the group was formed:
    /// its key is never removed.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    pub async fn unformed_since(&self) -> Result<Option<u64>, StoreError> {
        if self.read(GROUP).await?.is_some() {
            return Ok(None);
        }
        let at = self.read(ENROLLED).await?.and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok());
        Ok(Some(at.map_or(0, u64::from_be_bytes)))
    }

    /// Removes the key of a group that was not formed, and all that belongs to it.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails. It may be removed again.
    pub async fn discard(&self) -> Result<(), StoreError> {
        if self.read(GROUP).await?.is_some() {
            return Err(StoreError::damaged(&self.path.join(GROUP), "its group was formed meanwhile"));
        }
        // Without an identity, the rest is of an enrolment that was interrupted.
        let mut files = self.disk.list(&self.path).await?;
        files.sort_by_key(|file| file != IDENTITY);
        for file in files {
            self.disk.remove(&self.path.join(file)).await?;
        }
        self.disk.sync_dir(&self.path).await?;
        self.disk.remove_dir(&self.path).await?;
        if let Some(groups) = self.path.parent() {
            self.disk.sync_dir(groups).await?;
        }
        Ok(())
    }

    /// Returns the identity of the member, if there is one.
    ///
    /// # Errors
    /// [`StoreError`] if it can't be read, or is not what was written.
    pub async fn known_identity(&self) -> Result<Option<Identity>, StoreError> {
        let Some(bytes) = self.read(IDENTITY).await? else { return Ok(None) };
        let damaged = || StoreError::damaged(&self.path.join(IDENTITY), "it is not what was written");
        Identity::from_bytes(&bytes).map(Some).ok_or_else(damaged)
    }

    /// Returns the description of the group, if the member is in it.
    ///
    /// # Errors
    /// [`StoreError`] if it can't be read, or was changed.
    pub async fn group(&self) -> Result<Option<Group>, StoreError> {
        let Some(json) = self.read(GROUP).await? else { return Ok(None) };
        let group = GroupFile::from_json(&json).and_then(GroupFile::verify);
        group.map(Some).map_err(|error| StoreError::damaged(&self.path.join(GROUP), error))
    }

    /// Keeps the description of the group: the member may vote from now on.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    pub async fn admit(&self, group: &Group) -> Result<(), StoreError> {
        let json = group.file().to_json();
        if json.len() > MAX_GROUP_FILE_BYTES {
            return Err(StoreError::damaged(&self.path.join(GROUP), "it is too large to be read again"));
        }
        self.replace(GROUP, json.into()).await
    }

    /// Opens the member's records in the first epoch of the group, as [`Folder::open_in`] does.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails, was lost or is damaged, or another process is the member.
    #[cfg(test)]
    pub async fn open(&self) -> Result<(Store, Identity, Vec<Record>), StoreError> {
        self.open_in(0).await
    }

    /// Opens the member's records in an epoch of the group. Returns them with who the member is.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails, was lost or is damaged, or another process is the member.
    pub async fn open_in(&self, epoch: u64) -> Result<(Store, Identity, Vec<Record>), StoreError> {
        let lock = self.disk.lock(&self.path.join(LOCK)).await.map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => StoreError::Locked(self.path.clone()),
            _ => error.into(),
        })?;
        let lost = |file: &str| StoreError::Lost(self.path.join(file));
        let identity = self.known_identity().await?.ok_or_else(|| lost(IDENTITY))?;
        let path = self.path.join(records_of(epoch));
        let opened = FrameFile::open(&self.disk, &path, self.random.next_u64()).await;
        let (file, payloads) = opened.map_err(|error| StoreError::of(&path, error))?;
        let mut records = Vec::new();
        for payload in payloads {
            unpack(&payload, &mut records).map_err(|problem| StoreError::damaged(&path, problem))?;
        }
        if records.first() != Some(&Record::Identity(identity.incarnation)) {
            return Err(StoreError::damaged(&path, "it is of another identity than the one beside it"));
        }
        let ids = self.read(REQUEST_IDS).await?.ok_or_else(|| lost(REQUEST_IDS))?;
        let number = <[u8; 8]>::try_from(&ids[..]);
        let number = number.map_err(|_| StoreError::damaged(&self.path.join(REQUEST_IDS), "it has no number"))?;
        let next = u64::from_be_bytes(number);
        let log = DecisionLog::open(Arc::clone(&self.disk), Arc::clone(&self.random), &self.path).await?;
        let folder = self.clone();
        let store = Store { folder, records: file, log, unlogged: Vec::new(), next, reserved: next, _lock: lock };
        Ok((store, identity, records))
    }
}

/// Writes records that are synced together as one payload.
fn pack(records: &[Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        let bytes = record.encode();
        out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&bytes);
    }
    out
}

/// Reads the records of a payload.
fn unpack(mut payload: &[u8], records: &mut Vec<Record>) -> Result<(), String> {
    while !payload.is_empty() {
        let (length, rest) = payload.split_first_chunk::<4>().ok_or("a record is cut")?;
        let length = u32::from_be_bytes(*length) as usize;
        let (record, rest) = rest.split_at_checked(length).ok_or("a record is cut")?;
        records.push(Record::decode(record).map_err(|error| error.to_string())?);
        payload = rest;
    }
    Ok(())
}

/// The open disk of a member. After an error, it must be opened again: what is on it is not known.
pub struct Store {
    folder: Folder,
    records: FrameFile,
    log: DecisionLog,
    /// Decisions that are in the records, and not in the log yet, in order.
    unlogged: Vec<(u64, Vec<u8>)>,
    next: u64,
    reserved: u64,
    _lock: Box<dyn DiskLock>,
}

impl Store {
    /// Carries out the changes of the records of one or more steps, and keeps their decisions. Everything is synced
    /// when this returns. What is in `decided`, and no change appends, is in the records already.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    pub async fn save(&mut self, changes: Vec<Sync>, decided: &[Decision]) -> Result<(), StoreError> {
        let appends = |number: u64| {
            let is_it = |change: &Sync| matches!(change, Sync::Append(Record::Decided(one)) if one.seq().0 == number);
            changes.iter().any(is_it)
        };
        for decision in decided {
            if !appends(decision.seq().0) {
                self.keep(decision);
            }
        }
        let mut appended = Vec::new();
        for change in changes {
            match change {
                Sync::Append(record) => appended.push(record),
                Sync::Replace(records) => {
                    self.append(&mut appended).await?;
                    self.flush().await?;
                    let single = |record: &Record| pack(std::slice::from_ref(record));
                    let payloads: Vec<Vec<u8>> = records.iter().map(single).collect();
                    self.records.replace(self.folder.random.next_u64(), &payloads).await?;
                }
            }
        }
        self.append(&mut appended).await?;
        if self.unlogged.len() >= MAX_UNLOGGED {
            self.flush().await?;
        }
        Ok(())
    }

    /// Appends records, all of which are there after a crash or none. The decisions in them may be logged only then.
    async fn append(&mut self, records: &mut Vec<Record>) -> Result<(), StoreError> {
        if records.is_empty() {
            return Ok(());
        }
        self.records.append(&[pack(records)]).await?;
        for record in records.drain(..) {
            if let Record::Decided(decision) = record {
                self.keep(&decision);
            }
        }
        Ok(())
    }

    /// Keeps a decision that is in the records until it is in the log.
    fn keep(&mut self, decision: &Decision) {
        let number = decision.seq().0;
        if !self.has(number) {
            self.unlogged.push((number, decision.encoded()));
        }
    }

    /// Writes decisions to the log that are only in the records.
    async fn flush(&mut self) -> Result<(), StoreError> {
        if !self.unlogged.is_empty() {
            self.log.append(&self.unlogged).await?;
            self.unlogged.clear();
        }
        Ok(())
    }

    /// Keeps decisions that this member has missed, and that were verified: those of them that are `wanted`. The last
    /// one that is must be executed, and the records that say so synced: the log never knows more than they.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    pub async fn fill(&mut self, decisions: &[Decision], wanted: RangeInclusive<u64>) -> Result<(), StoreError> {
        let mut missing: Vec<(u64, Vec<u8>)> = Vec::new();
        for decision in decisions {
            let number = decision.seq().0;
            let is_new = !self.has(number) && missing.iter().all(|(known, _)| *known != number);
            if is_new && wanted.contains(&number) {
                missing.push((number, decision.encoded()));
            }
        }
        if missing.is_empty() { Ok(()) } else { Ok(self.log.append(&missing).await?) }
    }

    fn has(&self, number: u64) -> bool {
        self.log.has(number) || self.unlogged.iter().any(|(known, _)| *known == number)
    }

    /// Checks that the replica knows all decisions that are in the log: it has executed up to this number.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it does not: the records are older than what the member has said.
    pub fn check_age(&self, executed: u64) -> Result<(), StoreError> {
        if self.log.last() > executed {
            let problem = format!("it ends at the decision {executed}, and the log has {}", self.log.last());
            return Err(StoreError::damaged(&self.folder.path.join(RECORDS), problem));
        }
        Ok(())
    }

    /// Finds decisions from a number on: at most so many, and of at most so many bytes, but one in any case. They are
    /// read by [`Reading::read`], for which the member need not wait.
    pub fn find(&self, from: u64, limit: usize, most: usize) -> Reading {
        let logged = self.log.numbers_from(from);
        let unlogged = self.unlogged.iter().map(|(number, _)| *number).filter(|number| *number >= from);
        let mut numbers: Vec<u64> = logged.take(limit).collect();
        numbers.extend(unlogged);
        numbers.sort_unstable();
        let (mut found, mut bytes) = (Vec::new(), 0_u64);
        for number in numbers.into_iter().take(limit) {
            let unlogged = self.unlogged.iter().find(|(known, _)| *known == number);
            let decision = match unlogged {
                Some((_, decision)) => Some(Found::Here(Bytes::copy_from_slice(decision))),
                None => self.log.get(number).map(Found::Stored),
            };
            let Some(decision) = decision else { continue };
            bytes = bytes.saturating_add(decision.size());
            if bytes > most as u64 && !found.is_empty() {
                break;
            }
            found.push(decision);
        }
        Reading(found)
    }

    /// Returns the first decision up to this one that is missing, from a number on. Those that had to be removed
    /// because the log is full are not missing.
    pub fn first_missing(&self, from: u64, executed: u64) -> Option<u64> {
        let from = if self.log.is_cut() { self.log.first().map_or(from, |first| first.max(from)) } else { from };
        let end = self.unlogged.first().map_or(executed, |(number, _)| number.saturating_sub(1).min(executed));
        self.log.first_missing(from, end)
    }

    /// Returns a number for a request that no earlier one has.
    ///
    /// # Errors
    /// [`StoreError`] if the disk fails.
    pub async fn next_request(&mut self) -> Result<u64, StoreError> {
        if self.next == self.reserved {
            let reserved = self.reserved.saturating_add(RESERVED_AT_ONCE);
            self.folder.replace(REQUEST_IDS, Bytes::copy_from_slice(&reserved.to_be_bytes())).await?;
            self.reserved = reserved;
        }
        self.next += 1;
        Ok(self.next)
    }
}
