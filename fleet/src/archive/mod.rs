//! Results outside memory. Of a task that has ended, what its users read is not needed to decide anything. So the tasks
//! that ended first are handed over to an archive, which each coordinator has on its disk, and the state keeps a row of
//! each: as much as it takes to answer every command as if the task were still there.
//!
//! What is handed over follows from the log alone: the records of an archive have numbers in the order in which they
//! are made, and the same record is the same task everywhere.

pub(crate) mod audit;
mod block;
pub(crate) mod indexes;
pub(crate) mod packed;
pub(crate) mod pairs;
mod query;
pub(crate) mod taking;

use self::packed::Packed;
pub use self::query::{Kept, KeptPage};
use crate::{
    ChildOf, Effect, Fleet, FleetMillis, Refusal, Reply, SubmitTask, Task, TaskId, TaskState,
    tasks::{dead::check_epoch, keys::Content, links::passed_as_dependency},
};

/// Default of the number of results that coordinators keep in memory.
pub const DEFAULT_RECENT_RESULTS: u32 = 8_192;
/// What each result in memory may count for on average, bytes; beyond it, fewer are kept there.
pub const RECENT_RESULT_BYTES: u64 = 4 * 1024;
/// Most tasks that are archived in one step of a command.
pub const MAX_ARCHIVED_AT_ONCE: usize = 4;

/// What the state keeps of an archived task: its row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Archived {
    /// The task's number in the order of acceptance.
    pub seq: u64,
    /// The number of its record in the archive.
    pub record: u64,
    /// The fleet's revision at the task's last change.
    pub revision: u64,
    /// When the task is forgotten, unless another one depends on it.
    pub expires_at: FleetMillis,
    /// The task's id, of which a single number would take more room.
    pub(crate) id: [u64; 2],
    /// The length of its input, bytes, also of one in the object store.
    pub(crate) input: u32,
    /// The checksum of what was submitted, and of its parent's id.
    pub(crate) checksum: u32,
    /// What the task counts for against the fleet's budget, bytes.
    pub(crate) bytes: u32,
    /// What its result counts for that is passed on to a task that depends on it, bytes.
    pub(crate) passed: u32,
    /// How far its parent is before it in the order of acceptance; 0: it has none.
    pub(crate) parent: u32,
    /// How far the topmost task of its tree is before it in the order of acceptance.
    pub(crate) root: u32,
    /// Its number among its siblings.
    pub(crate) index: u32,
    /// How many times it was a dead letter that was tried again.
    pub(crate) epoch: u16,
    /// Whether it had parts or subtasks.
    pub(crate) has_children: bool,
    /// The task's final state.
    pub state: TaskState,
}

fn short(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Returns the checksum of what was submitted as a task, or as a child of this one.
fn checksum_of(content: Content, parent: Option<TaskId>) -> u32 {
    parent.map_or(content.checksum, |id| crc32c::crc32c_append(content.checksum, &id.0.to_be_bytes()))
}

pub(crate) fn halves(id: TaskId) -> [u64; 2] {
    [(id.0 >> 64) as u64, id.0 as u64]
}

impl Archived {
    /// Returns the row of a task that has ended, whose record has this number.
    fn of(task: &Task, record: u64) -> Self {
        let content = Content::of(&task.kind, task.team, &task.input, task.input_ref.as_deref());
        let place = task.child_of();
        let before = |seq: u64| short(task.seq.saturating_sub(seq));
        Self {
            seq: task.seq,
            record,
            revision: task.revision,
            expires_at: task.expires_at.unwrap_or_default(),
            id: halves(task.id),
            input: short(content.bytes),
            checksum: checksum_of(content, place.map(|of| of.task)),
            bytes: short(task.stored_bytes()),
            passed: short(passed_as_dependency(task)),
            parent: place.map_or(0, |of| before(of.seq)),
            root: before(task.root()),
            index: place.map_or(0, |of| of.index),
            epoch: u16::try_from(task.epoch()).unwrap_or(u16::MAX),
            has_children: task.children().is_some(),
            state: task.state,
        }
    }

    /// Returns the task's id.
    pub fn id(&self) -> TaskId {
        let [high, low] = self.id;
        TaskId(u128::from(high) << 64 | u128::from(low))
    }

    /// Returns whether this is the row of a task.
    pub fn is_of(&self, task: &Task) -> bool {
        (self.seq, self.id(), self.revision, self.state) == (task.seq, task.id, task.revision, task.state)
    }

    /// Returns the number of the task whose child it is, if it is one.
    pub(crate) fn parent(&self) -> Option<u64> {
        (self.parent > 0).then(|| self.seq.saturating_sub(u64::from(self.parent)))
    }

    /// Returns the number of the topmost task of its tree, its own one if it has no parent.
    pub(crate) fn root(&self) -> u64 {
        self.seq.saturating_sub(u64::from(self.root))
    }

    /// Returns its place among the children of its parent, if it has one.
    pub(crate) fn place(&self) -> Option<(u64, u32)> {
        Some((self.parent()?, self.index))
    }

    /// Returns whether a submission is that of the task.
    fn is_as_submitted(&self, submission: &SubmitTask) -> bool {
        let SubmitTask { kind, team, input, input_ref, .. } = submission;
        let content = Content::of(kind, *team, input, input_ref.as_deref());
        let part = submission.part_of();
        (u64::from(self.input), self.checksum) == (content.bytes, checksum_of(content, part.map(|of| of.task)))
            && self.place().map(|(_, index)| index) == part.map(|of| of.index)
    }

    /// Returns the reply to a command that tries it again as a dead letter, which it is not.
    pub(crate) fn retried(&self, epoch: Option<u32>) -> Reply {
        let current = u32::from(self.epoch);
        match check_epoch(epoch, current) {
            Err(refusal) => Reply::Refused(refusal),
            Ok(()) if epoch.is_some_and(|epoch| epoch < current) => {
                Reply::DeadRetried { epoch: current, existing: true }
            }
            Ok(()) => self.not_dead(),
        }
    }

    /// Returns the reply to a command that drops it as a dead letter, which it may have been.
    pub(crate) fn dropped(&self, epoch: Option<u32>) -> Reply {
        let was_dead = matches!(self.state, TaskState::Failed | TaskState::DeadLettered);
        let current = u32::from(self.epoch);
        match check_epoch(epoch, current) {
            Err(refusal) => Reply::Refused(refusal),
            Ok(()) if was_dead && epoch.is_none_or(|epoch| epoch == current) => Reply::DeadDropped { existing: true },
            Ok(()) => self.not_dead(),
        }
    }

    fn not_dead(&self) -> Reply {
        Reply::Refused(Refusal::NotDead { task: self.id(), state: self.state })
    }
}

#[cfg(test)]
impl Archived {
    /// Returns the row of a task that succeeded, and is linked to no other.
    pub(crate) fn plain(seq: u64) -> Self {
        Self {
            seq,
            record: seq,
            revision: seq,
            expires_at: 1,
            id: [0, seq],
            input: 0,
            checksum: 0,
            bytes: 0,
            passed: 0,
            parent: 0,
            root: 0,
            index: 0,
            epoch: 0,
            has_children: false,
            state: TaskState::Succeeded,
        }
    }
}

/// The archive's part of the state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Archive {
    /// The rows.
    pub kept: Packed,
    /// The number of the next record.
    pub records: u64,
}

impl Task {
    /// Returns whether the task may be archived as far as it is up to itself.
    pub(crate) fn is_archivable(&self) -> bool {
        let has_place = |of: &ChildOf| u32::try_from(self.seq.saturating_sub(of.root)).is_ok();
        self.state.is_final()
            && !self.dead
            && self.member_of.is_none()
            && self.verification.is_none()
            && self.child_of().is_none_or(has_place)
            && u16::try_from(self.epoch()).is_ok()
    }
}

impl Fleet {
    /// Archives the tasks that changed first until as few are in memory as the configuration says; at most
    /// [`MAX_ARCHIVED_AT_ONCE`]. None while the ends of tasks still matter to others.
    pub(crate) fn archive_excess(&mut self, effects: &mut Vec<Effect>) {
        let recent = self.state.config.recent_results;
        if recent == 0 || !self.unsettled.is_empty() {
            return;
        }
        for _ in 0..MAX_ARCHIVED_AT_ONCE {
            let Some(seq) = self.indexes.archive.excess(recent) else { return };
            self.archive(seq, effects);
        }
    }

    fn archive(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.remove(&seq) else { return };
        self.snapshots.save_task(&task);
        self.indexes.drop_task(&task);
        let row = Archived::of(&task, self.state.archive.records);
        self.state.archive.records += 1;
        self.state.archive.kept.insert(row);
        self.indexes.enter_archived(&row);
        self.hold_key(&task);
        effects.push(Effect::Archived { record: row.record, task });
    }

    /// Returns the reply to a submission that is known by its id or its key, which an archived task has.
    pub(crate) fn submitted_as(&self, row: &Archived, submission: &SubmitTask, what: &str) -> Reply {
        let later = submission.part_of().and_then(|of| self.kept_seq(of.task)).filter(|now| Some(*now) != row.parent());
        if row.is_as_submitted(submission) && later.is_none() {
            return Reply::Submitted { task: row.id(), existing: true };
        }
        Reply::Refused(Refusal::Conflict { what: what.to_owned(), task: row.id() })
    }

    /// Forgets an archived task that has expired.
    pub(crate) fn forget_archived(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(row) = self.state.archive.kept.remove(seq) else { return };
        self.snapshots.save_archived(&row);
        self.indexes.leave_archived(&row);
        self.release_key(seq);
        self.next_revision();
        effects.push(Effect::RecordExpired { record: row.record });
    }
}
