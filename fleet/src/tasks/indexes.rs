//! Indexes of tasks, so that no operation has to search them.

use std::collections::BTreeMap;

use super::dead::DeadLetters;
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
    /// The tasks whose results the members verify, by the members.
    pub members: BTreeMap<u64, u64>,
    /// Number of unfinished tasks whose results are verified.
    pub verified: u32,
    /// The dead letters.
    pub dead: DeadLetters,
}

impl TaskIndexes {
    /// Indexes the id and key of a new task.
    pub(crate) fn add(&mut self, task: &Task) {
        self.ids.insert(task.id, task.seq);
        if let Some(key) = &task.idempotency_key {
            self.keys.insert(key.clone(), task.seq);
        }
        if let Some(parent) = task.member_of {
            self.members.insert(task.seq, parent);
        }
    }

    /// Removes the id and key of a task that is forgotten.
    pub(crate) fn drop(&mut self, task: &Task) {
        self.ids.remove(&task.id);
        if let Some(key) = &task.idempotency_key {
            self.keys.remove(key);
        }
        if task.member_of.is_some() {
            self.members.remove(&task.seq);
        }
    }

    /// Indexes a task after a change.
    pub(crate) fn enter(&mut self, task: &Task) {
        self.revisions.insert(task.revision, task.seq);
        self.counts[task.state as usize] += 1;
        self.bytes += task.stored_bytes();
        self.verified += u32::from(is_verified(task));
        self.dead.enter(task);
    }

    /// Removes a task before a change.
    pub(crate) fn leave(&mut self, task: &Task) {
        self.revisions.remove(&task.revision);
        self.counts[task.state as usize] -= 1;
        self.bytes -= task.stored_bytes();
        self.verified -= u32::from(is_verified(task));
        self.dead.leave(task);
    }
}

fn is_verified(task: &Task) -> bool {
    task.verification.is_some() && !task.state.is_final()
}
