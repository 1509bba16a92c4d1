//! The stored state of tasks.

use std::{collections::BTreeMap, sync::Arc};

use super::Task;

/// The tasks' part of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tasks {
    /// The tasks, by their numbers in the order of acceptance.
    pub kept: BTreeMap<u64, Arc<Task>>,
    /// The number of the next accepted task.
    pub next_seq: u64,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), next_seq: 1 }
    }
}
