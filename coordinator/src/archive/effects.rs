//! What the effects of commands, and snapshots, mean for the archive.

use std::sync::Arc;

use robeing_fleet::{Effect, Fleet, Task};
use tracing::warn;

use super::Archive;

/// Returns the task that an effect has archived.
pub fn archived_task(effect: &Effect) -> Option<&Arc<Task>> {
    match effect {
        Effect::Archived { task, .. } => Some(task),
        _ => None,
    }
}

impl Archive {
    /// Does what an effect says, if it is about the archive.
    pub fn note(&self, effect: &Effect) {
        match effect {
            Effect::Archived { record, task } => self.put(*record, task),
            Effect::RecordExpired { record } => self.forget(*record),
            _ => {}
        }
    }

    /// Keeps the records that a state needs which was read from a snapshot, and drops others.
    pub fn follow(&self, fleet: &Fleet) {
        let mut needed: Vec<u64> = fleet.archived_tasks().map(|row| row.record).collect();
        needed.sort_unstable();
        let missing = self.keep_only(&needed, fleet.records());
        if missing > 0 {
            warn!(missing, "results are missing in the archive; they are read from other coordinators");
        }
    }
}
