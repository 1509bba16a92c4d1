//! Indexes of archived tasks, and of those that are archived next.

use std::collections::BTreeSet;

use super::{
    Archived, RECENT_RESULT_BYTES, halves,
    packed::{Keyed, Packed},
};
use crate::{Task, TaskId, fleet::State, indexes::Indexes};

/// An archived task by its id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct ById {
    id: [u64; 2],
    seq: u64,
}

impl Keyed for ById {
    type Key = [u64; 2];

    fn key(&self) -> [u64; 2] {
        self.id
    }
}

/// The indexes of archived tasks. They refer to tasks by their numbers in the order of acceptance.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct ArchiveIndexes {
    ids: Packed<ById>,
    /// The archived tasks by their revisions.
    pub(super) revisions: Packed<(u64, u64)>,
    /// What the archived tasks count for, bytes.
    pub bytes: u64,
    /// The tasks in memory that may be archived, by their revisions.
    recent: BTreeSet<(u64, u64)>,
    /// What these count for, bytes.
    recent_bytes: u64,
}

impl ArchiveIndexes {
    fn enter(&mut self, row: &Archived) {
        self.ids.insert(ById { id: row.id, seq: row.seq });
        self.revisions.insert((row.revision, row.seq));
        self.bytes += u64::from(row.bytes);
    }

    fn leave(&mut self, row: &Archived) {
        self.ids.remove(row.id);
        self.revisions.remove((row.revision, row.seq));
        self.bytes -= u64::from(row.bytes);
    }

    /// Returns the number of the archived task with this id.
    pub(super) fn seq_of(&self, id: TaskId) -> Option<u64> {
        self.ids.get(halves(id)).map(|found| found.seq)
    }

    /// Returns the task that is archived next, if more are in memory than should be.
    pub(super) fn excess(&self, most: u32) -> Option<u64> {
        let is_full = self.recent.len() > most as usize;
        let is_large = self.recent_bytes > u64::from(most).saturating_mul(RECENT_RESULT_BYTES);
        if is_full || is_large { self.recent.first().map(|(_, seq)| *seq) } else { None }
    }

    /// Notes a task in memory, after a change, that may be archived.
    fn note_recent(&mut self, task: &Task) {
        if self.recent.insert((task.revision, task.seq)) {
            self.recent_bytes += task.stored_bytes();
        }
    }

    /// Removes a task in memory, before a change, that may be archived.
    fn forget_recent(&mut self, task: &Task) {
        if task.is_archivable() && self.recent.remove(&(task.revision, task.seq)) {
            self.recent_bytes -= task.stored_bytes();
        }
    }

    /// Indexes all rows of a state.
    fn enter_all(&mut self, state: &State) {
        let rows = || state.archive.kept.iter();
        let mut ids: Vec<ById> = rows().map(|row| ById { id: row.id, seq: row.seq }).collect();
        let mut revisions: Vec<(u64, u64)> = rows().map(|row| (row.revision, row.seq)).collect();
        ids.sort_unstable();
        revisions.sort_unstable();
        self.ids = Packed::of_sorted(&ids);
        self.revisions = Packed::of_sorted(&revisions);
        self.bytes = rows().map(|row| u64::from(row.bytes)).sum();
    }
}

impl Indexes {
    /// Indexes a task that was archived.
    pub(super) fn enter_archived(&mut self, row: &Archived) {
        self.archive.enter(row);
        self.links.enter_archived(row);
        self.timers.set_archived(row);
        self.tasks.counts[row.state as usize] += 1;
    }

    /// Removes an archived task that is forgotten.
    pub(super) fn leave_archived(&mut self, row: &Archived) {
        self.archive.leave(row);
        self.links.leave_archived(row);
        self.timers.clear_archived(row);
        self.tasks.counts[row.state as usize] -= 1;
    }

    /// Indexes the archived tasks of a state, before the links of others to them.
    pub(crate) fn enter_archive(&mut self, state: &State) {
        self.archive.enter_all(state);
        self.timers.set_all_archived(state.archive.kept.iter());
        for row in state.archive.kept.iter() {
            self.links.enter_archived(row);
            self.tasks.counts[row.state as usize] += 1;
        }
    }

    /// Notes a task that may be archived, after a change, unless it is kept for others.
    pub(crate) fn enter_recent(&mut self, task: &Task) {
        if task.is_archivable() && !self.timers.is_pinned(task.seq) {
            self.archive.note_recent(task);
        }
    }

    /// Removes a task, before a change, from those that may be archived.
    pub(crate) fn leave_recent(&mut self, task: &Task) {
        self.archive.forget_recent(task);
    }
}
