//! The indexes of schedules.

use std::collections::{BTreeMap, BTreeSet};

use super::Schedule;
use crate::{TaskId, UnixMillis};

/// The indexes of schedules. They refer to schedules by their numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct ScheduleIndexes {
    pub names: BTreeMap<String, u64>,
    /// When each is due next, the earliest first.
    pub due: BTreeSet<(UnixMillis, u64)>,
    /// The schedules of runs that are not finished, by their tasks.
    pub running: BTreeMap<TaskId, u64>,
    /// Number of schedules that are parts of the fleet's resource.
    pub managed: u32,
}

impl ScheduleIndexes {
    /// Indexes a schedule, or its new state after a change.
    pub(crate) fn enter(&mut self, schedule: &Schedule) {
        self.names.insert(schedule.name.clone(), schedule.seq);
        self.due.extend(schedule.next.map(|due| (due, schedule.seq)));
        self.running.extend(unfinished(schedule).map(|task| (task, schedule.seq)));
        self.managed += u32::from(schedule.managed);
    }

    /// Removes a schedule, or its old state before a change.
    pub(crate) fn leave(&mut self, schedule: &Schedule) {
        self.names.remove(&schedule.name);
        if let Some(due) = schedule.next {
            self.due.remove(&(due, schedule.seq));
        }
        for task in unfinished(schedule) {
            self.running.remove(&task);
        }
        self.managed -= u32::from(schedule.managed);
    }
}

/// Returns the tasks of the runs that are not finished.
fn unfinished(schedule: &Schedule) -> impl Iterator<Item = TaskId> + '_ {
    schedule.runs.iter().filter(|run| run.end.is_none()).map(|run| run.task)
}
