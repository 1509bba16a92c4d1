//! Indexes of archived tasks, and of those that are archived next.

use std::{collections::BTreeSet, sync::LazyLock};

use ahash::RandomState;

use super::{
    Archived, RECENT_RESULT_BYTES, halves,
    packed::Packed,
    pairs::{Pair, Pairs},
};
use crate::{Task, TaskId, fleet::State, indexes::Indexes};

/// The random keys of the hashes of ids, so that no client can choose ids that collide. They are the same for all indexes
/// of a process, so that these can be compared, and must not affect the state.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// Returns the hash of an id: 32 bits, so that in a block with what belongs to it, it takes no more.
fn hash_of(id: TaskId) -> u64 {
    KEYS.hash_one(id) >> 32
}

/// The hash of a task's id, and its number.
fn by_hash(row: &Archived) -> Pair {
    (hash_of(row.id()), row.seq)
}

/// The indexes of archived tasks. They refer to tasks by their numbers in the order of acceptance.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct ArchiveIndexes {
    /// The archived tasks by the hashes of their ids. Some have the same, so their rows say which is meant.
    ids: Pairs,
    /// The archived tasks by their revisions.
    pub(super) revisions: Pairs,
    /// What the archived tasks count for, bytes.
    pub bytes: u64,
    /// The tasks in memory that may be archived, by their revisions.
    recent: BTreeSet<(u64, u64)>,
    /// What these count for, bytes.
    recent_bytes: u64,
}

impl ArchiveIndexes {
    fn enter(&mut self, row: &Archived) {
        self.ids.insert(by_hash(row));
        self.revisions.insert((row.revision, row.seq));
        self.bytes += u64::from(row.bytes);
    }

    fn leave(&mut self, row: &Archived) {
        self.ids.remove(by_hash(row));
        self.revisions.remove((row.revision, row.seq));
        self.bytes -= u64::from(row.bytes);
    }

    /// Returns the archived task with this id, which is one of these.
    pub(super) fn row_of(&self, id: TaskId, rows: &Packed) -> Option<Archived> {
        let (hash, id) = (hash_of(id), halves(id));
        let with_hash = self.ids.starting_at((hash, 0)).take_while(|(found, _)| *found == hash);
        with_hash.filter_map(|(_, seq)| rows.get(seq)).find(|row| row.id == id)
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
        self.ids = Pairs::of(rows().map(|row| by_hash(&row)).collect());
        self.revisions = Pairs::of(rows().map(|row| (row.revision, row.seq)).collect());
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
            self.links.enter_archived(&row);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_with_the_same_hash_are_told_apart_by_their_rows() {
        let (mut rows, mut indexes) = (Packed::default(), ArchiveIndexes::default());
        // Whatever the keys are, two of these have the hash of the third one here.
        for (seq, id) in [(1, 10), (2, 11), (3, 12)] {
            rows.insert(Archived { id: halves(TaskId(id)), ..Archived::plain(seq) });
            indexes.ids.insert((hash_of(TaskId(11)), seq));
        }
        let found = |id: u128| indexes.row_of(TaskId(id), &rows).map(|row| row.seq);
        assert_eq!((found(11), found(13)), (Some(2), None));
        indexes.ids.remove((hash_of(TaskId(11)), 2));
        assert_eq!(indexes.row_of(TaskId(11), &rows), None);
    }
}
