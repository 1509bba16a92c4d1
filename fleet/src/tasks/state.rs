//! What is stored of tasks.

use std::{collections::BTreeMap, sync::Arc};

use super::Task;

/// The tasks' part of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Tasks {
    /// By order of acceptance.
    pub kept: BTreeMap<u64, Arc<Task>>,
    /// The number of the next one.
    pub next_seq: u64,
}

impl Default for Tasks {
    fn default() -> Self {
        Self { kept: BTreeMap::new(), next_seq: 1 }
    }
}
