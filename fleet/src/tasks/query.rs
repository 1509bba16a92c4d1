//! Queries about tasks.

use std::{ops::Bound, sync::Arc};

use crate::{
    Fleet, Task, TaskId, TaskState,
    limits::{MAX_PAGE, MAX_SCANNED},
};

/// A filter for listings of tasks. The default matches all tasks but the members of those with several runs, which nobody
/// has submitted.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskFilter {
    /// Tasks in any of these states; all if empty.
    pub states: Vec<TaskState>,
    /// Tasks of this kind.
    pub kind: Option<String>,
    /// Tasks from this submitter.
    pub submitter: Option<String>,
    /// Tasks whose newest attempt was given to the agent with this name.
    pub agent: Option<String>,
}

impl TaskFilter {
    /// Returns whether `task` matches the filter.
    pub fn matches(&self, task: &Task) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|w| w == value);
        let agent = task.attempts.last().map(|a| a.agent_name.as_ref());
        task.member_of.is_none()
            && (self.states.is_empty() || self.states.contains(&task.state))
            && is(&self.kind, &task.kind)
            && is(&self.submitter, &task.submitter)
            && self.agent.as_deref().is_none_or(|w| agent == Some(w))
    }
}

/// A page of a listing.
#[derive(Debug)]
pub struct TaskPage<'a> {
    /// The tasks, oldest first.
    pub tasks: Vec<&'a Arc<Task>>,
    /// The cursor after which the next page starts; `None` if this is the last page.
    pub next: Option<u64>,
}

/// Number of kept tasks by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Tasks in state `Queued`.
    pub queued: u32,
    /// Tasks in state `Assigned`.
    pub assigned: u32,
    /// Tasks in state `Succeeded`.
    pub succeeded: u32,
    /// Tasks in state `Failed`.
    pub failed: u32,
    /// Tasks in state `Cancelled`.
    pub cancelled: u32,
    /// Tasks in state `DeadLettered`.
    pub dead_lettered: u32,
}

impl Fleet {
    /// Returns a task in memory, or `None` if it never existed, was archived or was forgotten; see
    /// [`Fleet::kept_task`]. A clone of the `Arc` keeps it as it is now.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        let seq = self.indexes.tasks.ids.get(&id)?;
        self.state.tasks.kept.get(seq)
    }

    /// Returns the tasks in memory that changed after `revision`, each once, ordered by their newest change.
    pub fn changed_tasks_since(&self, revision: u64) -> impl Iterator<Item = &Arc<Task>> + '_ {
        self.indexes
            .tasks
            .revisions
            .range((Bound::Excluded(revision), Bound::Unbounded))
            .filter_map(|(_, seq)| self.state.tasks.kept.get(seq))
    }

    /// Returns at most `limit` (clamped to 1 to [`MAX_PAGE`]) tasks in memory in the order of acceptance, starting after the
    /// cursor `after`. Scans at most [`MAX_SCANNED`] tasks, so a page may be short, even empty, and still have a next
    /// one.
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

    /// Returns the number of kept tasks by state, also of archived ones.
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

    /// Returns the bytes that count against [`FleetConfig::max_bytes`](crate::FleetConfig::max_bytes), in memory and
    /// archived.
    pub fn stored_bytes(&self) -> u64 {
        self.indexes.tasks.bytes + self.indexes.archive.bytes
    }
}
