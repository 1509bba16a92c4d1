//! What kinds of tasks need unless a task says otherwise. What is set counts for tasks that are accepted from then on; those
//! that were accepted before keep what they have.

pub(crate) mod audit;
pub(crate) mod command;
mod defaults;

use std::sync::Arc;

use bilrost::Message;

use crate::{Fleet, Role, TaskResources, Timing};

/// What a kind of task needs by default.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct TaskKind {
    /// The kind's name, unique in the fleet.
    #[bilrost(1)]
    pub name: String,
    /// The role that an agent must have.
    #[bilrost(2)]
    pub role: Option<Role>,
    /// The specializations that an agent must have; at most [`MAX_TASK_SKILLS`](crate::limits::MAX_TASK_SKILLS), each once.
    /// A task that requires any itself requires none of these.
    #[bilrost(3)]
    pub skills: Vec<String>,
    /// How many slots of its agent an attempt takes; 0 means one.
    #[bilrost(4)]
    pub slots: u32,
    /// The resources that a task needs while it runs.
    #[bilrost(5)]
    pub resources: Option<Box<TaskResources>>,
    /// How long after its acceptance a task fails if it is not finished, ms.
    #[bilrost(6)]
    pub deadline_in: Option<u64>,
    /// The longest time an attempt may take, ms.
    #[bilrost(7)]
    pub attempt_timeout: Option<u64>,
    /// How often a task is attempted, and the backoff between attempts.
    #[bilrost(8)]
    pub retry: RetryDefaults,
    /// The rules about time and retries that only some tasks have. The seed of the jitter does not count: each task has
    /// one of its own.
    #[bilrost(9)]
    pub timing: Option<Box<Timing>>,
    /// The queue in which tasks wait that need no resources and name no queue, [`DEFAULT_QUEUE`](crate::limits::DEFAULT_QUEUE)
    /// if it is empty. Empty if there are `resources`, which name one.
    #[bilrost(10)]
    pub queue: String,
}

/// The parts of a retry policy that a kind sets. The others are those of the fleet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct RetryDefaults {
    /// Total number of attempts.
    #[bilrost(1)]
    pub max_attempts: Option<u32>,
    /// Backoff before the second attempt, ms.
    #[bilrost(2)]
    pub initial_backoff: Option<u64>,
    /// Longest backoff, ms.
    #[bilrost(3)]
    pub max_backoff: Option<u64>,
    /// Factor from one backoff to the next, percent.
    #[bilrost(4)]
    pub multiplier_percent: Option<u32>,
}

/// All kinds that are set.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct TaskKindList {
    /// The fleet's revision when they were set.
    #[bilrost(1)]
    pub revision: u64,
    /// The kinds, by name; at most [`MAX_TASK_KINDS`](crate::limits::MAX_TASK_KINDS).
    #[bilrost(2)]
    pub kinds: Vec<TaskKind>,
}

/// The kinds' part of the state: `None` until an administrator sets them.
pub(crate) type TaskKinds = Option<Arc<TaskKindList>>;

impl Fleet {
    /// Returns the kinds whose defaults are set; `None` if none ever were.
    pub fn task_kinds(&self) -> Option<&Arc<TaskKindList>> {
        self.state.task_kinds.as_ref()
    }

    /// Returns what tasks of this kind need by default; `None` if that is not set.
    pub fn task_kind(&self, name: &str) -> Option<&TaskKind> {
        let kinds = &self.state.task_kinds.as_ref()?.kinds;
        let place = kinds.binary_search_by(|kind| kind.name.as_str().cmp(name)).ok()?;
        kinds.get(place)
    }
}
