//! Indexes of tasks, so that no operation has to search them.

use std::collections::BTreeMap;

use crate::{Task, TaskId, fixed_map::FixedMap};

/// The indexes of tasks. They refer to tasks by their numbers in the order of acceptance.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct TaskIndexes {
    pub ids: FixedMap<TaskId, u64>,
    pub keys: FixedMap<String, u64>,
    pub revisions: BTreeMap<u64, u64>,
    /// Number of tasks by state.
    pub counts: [u32; 6],
    pub bytes: u64,
}

impl TaskIndexes {
    /// Indexes the id and key of a new task.
    pub(crate) fn add(&mut self, task: &Task) {
        self.ids.insert(task.id, task.seq);
        if let Some(key) = &task.idempotency_key {
            self.keys.insert(key.clone(), task.seq);
        }
    }

    /// Removes the id and key of a task that is forgotten.
    pub(crate) fn drop(&mut self, task: &Task) {
        self.ids.remove(&task.id);
        if let Some(key) = &task.idempotency_key {
            self.keys.remove(key);
        }
    }

    /// Indexes a task after a change.
    pub(crate) fn enter(&mut self, task: &Task) {
        self.revisions.insert(task.revision, task.seq);
        self.counts[task.state as usize] += 1;
        self.bytes += task.stored_bytes();
    }

    /// Removes a task before a change.
    pub(crate) fn leave(&mut self, task: &Task) {
        self.revisions.remove(&task.revision);
        self.counts[task.state as usize] -= 1;
        self.bytes -= task.stored_bytes();
    }
}
