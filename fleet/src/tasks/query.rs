//! Reads of tasks.

use std::{ops::Bound, sync::Arc};

use crate::{
    Fleet, Task, TaskId, TaskState,
    limits::{MAX_PAGE, MAX_SCANNED},
};

/// Which tasks a listing is about. Empty: all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskFilter {
    /// In any of these states.
    pub states: Vec<TaskState>,
    /// Of this kind.
    pub kind: Option<String>,
    /// From this submitter.
    pub submitter: Option<String>,
    /// Whose newest attempt went to the agent of this name.
    pub agent: Option<String>,
}

impl TaskFilter {
    /// Whether `task` is one of them.
    pub fn matches(&self, task: &Task) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|w| w == value);
        let agent = task.attempts.last().map(|a| a.agent_name.as_ref());
        (self.states.is_empty() || self.states.contains(&task.state))
            && is(&self.kind, &task.kind)
            && is(&self.submitter, &task.submitter)
            && self.agent.as_deref().is_none_or(|w| agent == Some(w))
    }
}

/// A page of a listing.
#[derive(Debug)]
pub struct TaskPage<'a> {
    /// Oldest first.
    pub tasks: Vec<&'a Arc<Task>>,
    /// Where the next page starts after; `None` if this is the last one.
    pub next: Option<u64>,
}

/// Tasks that are kept, by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Waiting.
    pub queued: u32,
    /// Given to an agent.
    pub assigned: u32,
    /// Finished so.
    pub succeeded: u32,
    /// Finished so.
    pub failed: u32,
    /// Finished so.
    pub cancelled: u32,
    /// Finished so.
    pub dead_lettered: u32,
}

impl Fleet {
    /// A task, unless it never existed or was forgotten. A clone of the `Arc` keeps it as it is now.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        let seq = self.indexes.tasks.ids.get(&id)?;
        self.state.tasks.kept.get(seq)
    }

    /// The tasks that changed after `revision`, each once, by their newest change.
    pub fn changed_tasks_since(&self, revision: u64) -> impl Iterator<Item = &Arc<Task>> + '_ {
        self.indexes
            .tasks
            .revisions
            .range((Bound::Excluded(revision), Bound::Unbounded))
            .filter_map(|(_, seq)| self.state.tasks.kept.get(seq))
    }

    /// At most `limit` (at least 1, at most [`MAX_PAGE`]) tasks in order of acceptance, from after the cursor. Looks at no
    /// more than [`MAX_SCANNED`] tasks, so a page may be short, even empty, and have a next one.
    pub fn tasks(&self, filter: &TaskFilter, after: Option<u64>, limit: usize) -> TaskPage<'_> {
        let limit = limit.clamp(1, MAX_PAGE);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut tasks = Vec::new();
        let mut last = None;
        for (scanned, (seq, task)) in self.state.tasks.kept.range((start, Bound::Unbounded)).enumerate() {
            if tasks.len() == limit || scanned == MAX_SCANNED {
                return TaskPage { tasks, next: last };
            }
            last = Some(*seq);
            if filter.matches(task) {
                tasks.push(task);
            }
        }
        TaskPage { tasks, next: None }
    }

    /// Tasks that are kept, by state.
    pub fn counts(&self) -> Counts {
        let count = |state: TaskState| self.indexes.tasks.counts[state as usize];
        Counts {
            queued: count(TaskState::Queued),
            assigned: count(TaskState::Assigned),
            succeeded: count(TaskState::Succeeded),
            failed: count(TaskState::Failed),
            cancelled: count(TaskState::Cancelled),
            dead_lettered: count(TaskState::DeadLettered),
        }
    }

    /// Bytes that count against [`FleetConfig::max_bytes`].
    pub fn stored_bytes(&self) -> u64 {
        self.indexes.tasks.bytes
    }
}
