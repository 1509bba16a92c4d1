//! Reads of tasks that are kept, be they in memory or archived.

use std::{ops::Bound, sync::Arc};

use super::Archived;
use crate::{
    Fleet, Task, TaskFilter, TaskId, TaskState,
    limits::{MAX_PAGE, MAX_SCANNED},
};

/// A task that is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Kept {
    /// It is in memory.
    Here(Arc<Task>),
    /// It is archived.
    Archived(Archived),
}

impl Kept {
    /// Returns the task's number in the order of acceptance.
    pub fn seq(&self) -> u64 {
        match self {
            Kept::Here(task) => task.seq,
            Kept::Archived(row) => row.seq,
        }
    }

    /// Returns the task's id.
    pub fn id(&self) -> TaskId {
        match self {
            Kept::Here(task) => task.id,
            Kept::Archived(row) => row.id(),
        }
    }

    /// Returns the fleet's revision at the task's last change.
    pub fn revision(&self) -> u64 {
        match self {
            Kept::Here(task) => task.revision,
            Kept::Archived(row) => row.revision,
        }
    }
}

/// A page of a listing of tasks that are kept.
#[derive(Debug)]
pub struct KeptPage {
    /// The tasks, oldest first. Those that are archived may not match the filter.
    pub tasks: Vec<Kept>,
    /// The cursor after which the next page starts; `None` if this is the last page.
    pub next: Option<u64>,
}

impl TaskFilter {
    /// Returns whether the task of a row may match; only the task itself says whether it does.
    pub fn may_match(&self, row: &Archived) -> bool {
        self.states.is_empty() || self.states.contains(&row.state)
    }
}

/// Merges tasks in memory and archived ones, which are sorted by the same number.
fn merged<'a>(
    tasks: impl Iterator<Item = &'a Arc<Task>>,
    rows: impl Iterator<Item = Archived>,
    of_task: fn(&Task) -> u64,
    of_row: fn(&Archived) -> u64,
) -> impl Iterator<Item = Kept> {
    let (mut tasks, mut rows) = (tasks.peekable(), rows.peekable());
    std::iter::from_fn(move || {
        let task = tasks.peek().map(|task| of_task(task));
        let row = rows.peek().map(of_row);
        let is_archived = match (task, row) {
            (Some(task), Some(row)) => row < task,
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if is_archived {
            rows.next().map(Kept::Archived)
        } else {
            tasks.next().map(|task| Kept::Here(Arc::clone(task)))
        }
    })
}

impl Fleet {
    /// Returns the row of an archived task.
    pub fn archived(&self, id: TaskId) -> Option<Archived> {
        self.indexes.archive.row_of(id, &self.state.archive.kept)
    }

    /// Returns a task, be it in memory or archived; `None` if it never existed or was forgotten.
    pub fn kept_task(&self, id: TaskId) -> Option<Kept> {
        let here = self.task(id).map(|task| Kept::Here(Arc::clone(task)));
        here.or_else(|| self.archived(id).map(Kept::Archived))
    }

    /// Returns the number in the order of acceptance of a task that is kept.
    pub(crate) fn kept_seq(&self, id: TaskId) -> Option<u64> {
        self.indexes.tasks.ids.get(&id).copied().or_else(|| self.archived(id).map(|row| row.seq))
    }

    /// Returns the task with this number in the order of acceptance, be it in memory or archived.
    pub(crate) fn kept_at(&self, seq: u64) -> Option<Kept> {
        let here = self.state.tasks.kept.get(&seq).map(|task| Kept::Here(Arc::clone(task)));
        here.or_else(|| self.state.archive.kept.get(seq).map(Kept::Archived))
    }

    /// Returns whether the record of an archived task is still needed.
    pub fn needs_record(&self, row: &Archived) -> bool {
        self.state.archive.kept.get(row.seq).is_some_and(|kept| kept.record == row.record)
    }

    /// Returns a task's state; `None` if it never existed or was forgotten.
    pub fn state_of(&self, id: TaskId) -> Option<TaskState> {
        self.task(id).map(|task| task.state).or_else(|| self.archived(id).map(|row| row.state))
    }

    /// As [`Fleet::tasks`], also of archived tasks, of which it looks at the states alone.
    pub fn kept_tasks(&self, filter: &TaskFilter, after: Option<u64>, limit: usize) -> KeptPage {
        let limit = limit.clamp(1, MAX_PAGE);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let first = after.map_or(0, |after| after.saturating_add(1));
        let here = self.state.tasks.kept.range((start, Bound::Unbounded)).map(|(_, task)| task);
        let rows = self.state.archive.kept.starting_at(first);
        let (mut tasks, mut last) = (Vec::new(), None);
        for (scanned, kept) in merged(here, rows, |task| task.seq, |row| row.seq).enumerate() {
            if tasks.len() == limit || scanned == MAX_SCANNED {
                return KeptPage { tasks, next: last };
            }
            last = Some(kept.seq());
            let may_match = match &kept {
                Kept::Here(task) => filter.matches(task),
                Kept::Archived(row) => filter.may_match(row),
            };
            if may_match {
                tasks.push(kept);
            }
        }
        KeptPage { tasks, next: None }
    }

    /// As [`Fleet::changed_tasks_since`], also of archived tasks.
    pub fn kept_changed_since(&self, revision: u64) -> impl Iterator<Item = Kept> + '_ {
        let rows = self.indexes.archive.revisions.starting_at((revision.saturating_add(1), 0));
        let rows = rows.filter_map(|(_, seq)| self.state.archive.kept.get(seq));
        merged(self.changed_tasks_since(revision), rows, |task| task.revision, |row| row.revision)
    }

    /// Returns the number of tasks that are kept, in memory or archived.
    pub fn kept_count(&self) -> usize {
        self.state.tasks.kept.len() + self.state.archive.kept.len()
    }

    /// Returns the bytes in memory that count against [`FleetConfig::max_bytes`](crate::FleetConfig::max_bytes).
    pub fn bytes_in_memory(&self) -> u64 {
        self.indexes.tasks.bytes
    }

    /// Returns how many tasks are archived.
    pub fn archived_count(&self) -> usize {
        self.state.archive.kept.len()
    }

    /// Returns the rows of all archived tasks. The cost is linear in their number.
    pub fn archived_tasks(&self) -> impl Iterator<Item = Archived> {
        self.state.archive.kept.iter()
    }

    /// Returns the number of the next record of the archive.
    pub fn records(&self) -> u64 {
        self.state.archive.records
    }
}
