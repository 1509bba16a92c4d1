//! The fleet's state machine behind the consensus library's storage trait: applies committed batches in order, and
//! writes and installs snapshots.

use std::{io, path::Path, sync::Arc};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder,
    entry::RaftEntry,
    storage::{EntryResponder, RaftStateMachine},
    vote::RaftLeaderId,
};
use robeing_fleet::{
    Agent, Ballot, Command, ControlCommand, Effect, Fleet, Letter, Progress, Reply, Stamp, Task, TaskId, Unfinished,
    decode_command, known_version,
    sabotage::{Mistake, planted},
};
use robeing_platform::{
    Disk, compute, is_full,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tracing::info;

use super::{
    Applied, Batch, LogId, Replies, SnapshotMeta, StoredMembership, TypeConfig,
    audit::{self, SNAPSHOT_INSTALLED, SNAPSHOT_WRITTEN},
    network::Snapshot,
    snapshot::{Kept, SnapshotError, SnapshotFile, SnapshotStats},
};
use crate::{
    archive::{Archive, Opened, archived_task},
    clock::{FleetClock, Leadership},
    raft::log::Log,
};

/// Maximum number of commands, or of steps of a large one, that are applied before the lock is released for readers of
/// the state.
const MAX_STEPS_AT_ONCE: usize = 128;
/// Maximum number of tasks or agents that a snapshot takes before the lock is released for commands.
const MAX_TAKEN_AT_ONCE: usize = 512;

/// An effect, and the part of the state that is reported to the observer with it.
#[derive(Debug)]
pub struct Told {
    /// The effect.
    pub effect: Effect,
    /// The task of [`Effect::Finished`], as it was right after the effect.
    pub task: Option<Arc<Task>>,
    /// The agent of an effect on an agent's session, as it was right after the effect.
    pub agent: Option<Arc<Agent>>,
    /// The letter of [`Effect::LetterSettled`], as it was right after the effect.
    pub letter: Option<Arc<Letter>>,
    /// The ballot of [`Effect::BallotClosed`], as it was right after the effect.
    pub ballot: Option<Arc<Ballot>>,
    /// The time of the effect.
    pub now: Stamp,
}

impl Told {
    /// Takes the reported part of the state right after the effect: shared, not copied. A task may have been archived
    /// since by one of these effects.
    fn new(fleet: &Fleet, effect: &Effect, effects: &[Effect]) -> Self {
        let archived =
            |id: TaskId| effects.iter().find_map(|effect| archived_task(effect).filter(|task| task.id == id));
        let (task, agent) = match effect {
            Effect::Finished { task } => (fleet.task(*task).or_else(|| archived(*task)), None),
            Effect::SessionStarted { agent, .. }
            | Effect::Redistributed { from: agent, .. }
            | Effect::StandbyActivated { agent }
            | Effect::Recovery { agent, .. } => (None, fleet.agent(*agent)),
            Effect::Assign { .. }
            | Effect::Stop { .. }
            | Effect::SessionEnded { .. }
            | Effect::TrustChanged
            | Effect::DirectoryChanged { .. }
            | Effect::EnrolmentChanged { .. }
            | Effect::Barred { .. }
            | Effect::PoliciesChanged
            | Effect::Mail { .. }
            | Effect::LetterSettled { .. }
            | Effect::BallotOpened { .. }
            | Effect::VoteCast { .. }
            | Effect::BallotClosed { .. }
            | Effect::TeamChanged { .. }
            | Effect::AllocationChanged { .. }
            | Effect::SchedulesChanged
            | Effect::Archived { .. }
            | Effect::RecordExpired { .. } => (None, None),
        };
        let letter = match effect {
            Effect::LetterSettled { id } => fleet.letter(*id),
            _ => None,
        };
        let ballot = match effect {
            Effect::BallotClosed { id } => fleet.ballot(*id),
            _ => None,
        };
        let (task, agent) = (task.cloned(), agent.cloned());
        let (letter, ballot) = (letter.cloned(), ballot.cloned());
        Self { effect: effect.clone(), task, agent, letter, ballot, now: fleet.now() }
    }
}

/// Gets notified of what was applied, in the order of the log, before the command is answered. The state is not locked
/// during a call, but can't change either: nothing is applied before the call returns. Implementations must not block.
pub trait Observer: Send + Sync + 'static {
    /// Reports the effects of what was just applied, up to this revision and this record of the audit log.
    fn applied(&self, revision: u64, audited: u64, told: Vec<Told>);
    /// Reports that the whole state was replaced by one of this revision.
    fn installed(&self, revision: u64, audited: u64);
    /// Reports that everything up to this log index is applied.
    fn progressed(&self, index: u64);
}

/// The fleet's state, shared by the state machine, which writes it, and the services, which read it.
#[derive(Clone)]
pub struct SharedFleet(Arc<RwLock<Fleet>>);

impl SharedFleet {
    /// Shares this fleet.
    pub fn new(fleet: Fleet) -> Self {
        Self(Arc::new(RwLock::new(fleet)))
    }

    /// Locks the current state for reading. Hold it only briefly: applying waits.
    pub fn read(&self) -> RwLockReadGuard<'_, Fleet> {
        // Poisoned means that a reader or `apply` panicked; openraft stops the node for the latter.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the state. The old one is dropped outside the lock, so that readers don't wait for it.
    fn replace(&self, with: Fleet) {
        let old = self.write().replace(with);
        compute(|| drop(old));
    }

    fn write(&self) -> RwLockWriteGuard<'_, Fleet> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state machine.
pub struct StateMachine {
    fleet: SharedFleet,
    observer: Arc<dyn Observer>,
    file: SnapshotFile,
    archive: Archive,
    applied: Option<LogId>,
    /// How much of the log is applied, shared with the log.
    noted: Applied,
    membership: StoredMembership,
    effects: Vec<Effect>,
    clock: FleetClock,
}

impl StateMachine {
    /// Opens the state machine with the snapshot and the archive in the data directory `dir`, or with this fleet if there
    /// is no snapshot. Records what is applied in `log`, and its time in `clock`.
    ///
    /// # Errors
    /// The snapshot is damaged, can't be read by this version, or does not reach to where the log begins.
    pub async fn open(
        disk: Arc<dyn Disk>,
        dir: &Path,
        fleet: SharedFleet,
        observer: Arc<dyn Observer>,
        log: &Log,
        clock: FleetClock,
    ) -> Result<Self, SnapshotError> {
        let (mut applied, mut membership) = (None, StoredMembership::default());
        let (file, found) = SnapshotFile::open(Arc::clone(&disk), dir).await?;
        if let Some((meta, data)) = found {
            fleet.replace(compute(|| decode(&data))?);
            (applied, membership) = (meta.last_log_id, meta.last_membership);
            let (revision, audited) = newest(&fleet.read());
            observer.installed(revision, audited);
        }
        let records = fleet.read().records();
        let Opened { archive, writer } = Archive::open(disk, dir, records).await?;
        tokio::spawn(writer.run());
        archive.follow(&fleet.read());
        // Only what a durable snapshot covers is purged. Without this check the library would start with an empty
        // state.
        if let Some(purged) =
            log.purged().filter(|&purged| applied.is_none_or(|applied| applied.index() < purged.index()))
        {
            return Err(file.too_old(applied, purged));
        }
        if let Some(applied) = applied {
            log.applied().note(applied.index());
            clock.applied(leadership(applied), fleet.read().now());
        }
        let noted = log.applied().clone();
        Ok(Self { fleet, observer, file, archive, applied, noted, membership, effects: Vec::new(), clock })
    }

    /// Opens the state machine without a snapshot on this disk, and without a log.
    #[cfg(test)]
    pub async fn modelled(
        disk: Arc<dyn Disk>,
        dir: &Path,
        fleet: SharedFleet,
        observer: Arc<dyn Observer>,
        clock: FleetClock,
    ) -> Self {
        let Opened { archive, .. } = Archive::open(Arc::clone(&disk), dir, 0).await.expect("there is no archive yet");
        let (file, _) = SnapshotFile::open(disk, dir).await.expect("there is no snapshot yet");
        let (membership, noted) = (StoredMembership::default(), Applied::default());
        Self { fleet, observer, file, archive, applied: None, noted, membership, effects: Vec::new(), clock }
    }

    /// Applies one entry and returns the replies.
    #[cfg(test)]
    pub fn apply_now(&mut self, id: LogId, batch: &Batch) -> Vec<Reply> {
        self.applied = Some(id);
        self.apply_batch(id, batch).expect("the commands can be applied")
    }

    /// Returns this coordinator's archive.
    pub fn archive(&self) -> Archive {
        self.archive.clone()
    }

    /// Returns the statistics of this coordinator's snapshots.
    pub fn stats(&self) -> Arc<SnapshotStats> {
        Arc::clone(self.file.stats())
    }

    /// Applies a batch completely, or returns an error that must stop this node, because its state would diverge from
    /// the others'.
    fn apply_batch(&mut self, id: LogId, batch: &Batch) -> io::Result<Vec<Reply>> {
        let halt = |e: &dyn std::fmt::Display| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("a committed command can't be applied: {e}; run a version that supports it"),
            )
        };
        let (now, commands) = batch.open().map_err(|e| halt(&e))?;
        let commands: Vec<_> =
            commands.into_iter().map(|bytes| decode_command(&bytes)).collect::<Result<_, _>>().map_err(|e| halt(&e))?;
        // The others apply a `RaiseVersion` to a version that this binary does not know, so its state would diverge
        // from theirs.
        if let Some(version) = commands.iter().find_map(unknown_version) {
            return Err(halt(&version));
        }
        self.effects.clear();
        let mut slices = Slices { now, commands: commands.into_iter(), current: None, replies: Vec::new() };
        while self.apply_slice(&mut slices) {}
        let fleet = self.fleet.read();
        self.clock.applied(leadership(id), fleet.now());
        audit::tell_time(id.index(), now, &fleet);
        drop(fleet);
        Ok(slices.replies)
    }

    /// Applies at most [`MAX_STEPS_AT_ONCE`] commands or steps, and reports their effects. Returns whether more is
    /// left. In between, a reader may see a command half applied; a reader that waits for the whole entry never does.
    fn apply_slice(&mut self, slices: &mut Slices) -> bool {
        let first = self.effects.len();
        let mut fleet = self.fleet.write();
        let (mut left, mut steps) = (true, MAX_STEPS_AT_ONCE);
        while steps > 0 {
            let progress = match slices.current.take() {
                Some(half_done) => fleet.advance(half_done, steps, &mut self.effects),
                None => match slices.commands.next() {
                    Some(command) => fleet.begin(slices.now, command, steps, &mut self.effects),
                    None => {
                        left = false;
                        break;
                    }
                },
            };
            let reply = match progress {
                Progress::Done(reply) => reply,
                Progress::Halfway(half_done) => {
                    slices.current = Some(half_done);
                    break;
                }
            };
            slices.replies.push(reply);
            steps -= 1;
        }
        let effects = &self.effects[first..];
        // While the state is locked, so that a reader finds what it does not find there any more.
        effects.iter().for_each(|effect| self.archive.note(effect));
        let told = effects.iter().map(|effect| Told::new(&fleet, effect, effects)).collect();
        let (revision, audited) = newest(&fleet);
        drop(fleet);
        self.observer.applied(revision, audited, told);
        left
    }
}

/// Returns the revision of a fleet, and the number of the newest record of its audit log.
fn newest(fleet: &Fleet) -> (u64, u64) {
    (fleet.revision(), fleet.audit_last())
}

/// A batch that is being applied.
struct Slices {
    now: Stamp,
    commands: std::vec::IntoIter<Command>,
    /// The command that is half applied.
    current: Option<Unfinished>,
    replies: Vec<Reply>,
}

/// Returns the leadership that an entry was proposed under.
fn leadership(id: LogId) -> Leadership {
    let leader = id.committed_leader_id();
    (leader.term(), leader.node_id)
}

/// Returns the error message for a `RaiseVersion` to a version that this binary does not know.
fn unknown_version(command: &Command) -> Option<String> {
    match command {
        Command::Control(ControlCommand::RaiseVersion(version)) if *version > known_version() => Some(format!(
            "the fleet was raised to fleet version {version}, and this program supports versions up to {}",
            known_version()
        )),
        _ => None,
    }
}

fn decode(data: &Bytes) -> io::Result<Fleet> {
    Fleet::decode(data)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot's content can't be read: {e}")))
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Bytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let id = entry.log_id();
            self.archive.until_room().await?;
            // Noted before the entry is applied, so that no entry is ever applied without being noted.
            self.noted.note(id.index());
            if planted(Mistake::ProgressBeforeApply) {
                self.observer.progressed(id.index());
                tokio::task::yield_now().await;
            }
            let replies = match entry.payload {
                EntryPayload::Blank => Vec::new(),
                EntryPayload::Normal(batch) => {
                    let replies = self.apply_batch(id, &batch)?;
                    audit::tell(id.index(), &self.fleet.read(), &self.effects);
                    // What was archived leaves the memory, also if nothing follows.
                    self.effects.clear();
                    replies
                }
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(id), membership);
                    Vec::new()
                }
            };
            self.applied = Some(id);
            self.observer.progressed(id.index());
            if let Some(responder) = responder {
                responder.send(Replies { all: Arc::new(replies) });
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        // Begun here, between two entries, so that state, log id and membership match.
        let taking = self.fleet.write().begin_snapshot();
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let records = taking.records();
        let (fleet, file, archive) = (self.fleet.clone(), self.file.clone(), self.archive.clone());
        SnapshotBuilder { meta, taking: Some(taking), fleet, file, archive, records }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> Result<(), io::Error> {
        let fleet = compute(|| decode(&snapshot))?;
        let up_to = meta.last_log_id.map(|id| id.index());
        // Written to disk first: once this returns, the library purges the log up to there.
        let kept = self.file.write(meta, &snapshot).await?;
        if meta.last_log_id <= self.applied {
            info!(?up_to, applied = ?self.applied.map(|id| id.index()), "an obsolete snapshot was dropped");
            return Ok(());
        }
        info!(bytes = snapshot.len(), ?up_to, ?kept, "{SNAPSHOT_INSTALLED}");
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        if let Some(last) = meta.last_log_id {
            self.clock.applied(leadership(last), fleet.now());
        }
        self.fleet.replace(fleet);
        self.archive.follow(&self.fleet.read());
        let (revision, audited) = newest(&self.fleet.read());
        self.observer.installed(revision, audited);
        if let Some(last) = meta.last_log_id {
            self.observer.progressed(last.index());
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let found = self.file.read().await.map_err(io::Error::other)?;
        Ok(found.map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

/// Takes and writes one snapshot while commands continue to be applied.
pub struct SnapshotBuilder {
    meta: SnapshotMeta,
    taking: Option<robeing_fleet::Snapshot>,
    fleet: SharedFleet,
    file: SnapshotFile,
    archive: Archive,
    /// The number below which are the records of all archived tasks in the snapshot.
    records: u64,
}

impl SnapshotBuilder {
    /// Takes and encodes the state part by part. The lock is held only while a part is taken, not while it is encoded.
    async fn encode(&mut self) -> io::Result<Bytes> {
        let once = || io::Error::other("a snapshot is built once");
        let mut taking = self.taking.take().ok_or_else(once)?;
        loop {
            let part = taking.take(&self.fleet.read(), MAX_TAKEN_AT_ONCE);
            let Some(part) = part else { break };
            compute(|| {
                taking.encode(&part);
                // This may be the last reference to its content.
                drop(part);
            });
            tokio::task::yield_now().await;
        }
        let data = compute(|| taking.finish()).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(data.into())
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let data = self.encode().await?;
        let up_to = self.meta.last_log_id.map(|id| id.index());
        // Once the snapshot is written, the log that could archive them again may be purged.
        let kept = match self.archive.flush(self.records).await {
            Ok(()) => self.file.write_if_room(&self.meta, &data).await?,
            Err(error) if is_full(&error) => self.file.skip(&error, data.len()),
            Err(error) => return Err(error),
        };
        match kept {
            Kept::Written => info!(bytes = data.len(), ?up_to, "{SNAPSHOT_WRITTEN}"),
            // A leader's snapshot was installed meanwhile. The library keeps the newer log id, as it does for a
            // snapshot that was written.
            Kept::Obsolete => {
                info!(?up_to, "a snapshot was dropped: the one on disk covers as much of the log or more")
            }
            // An error would stop the library, and the entries that this snapshot would have covered must not be
            // purged: an empty snapshot changes nothing for the library.
            Kept::Skipped => self.meta = SnapshotMeta::default(),
        }
        Ok(Snapshot { meta: self.meta.clone(), snapshot: data })
    }
}
