//! Queries about schedules.

use std::{ops::Bound, sync::Arc};

use super::Schedule;
use crate::{Fleet, TaskId, UnixMillis, limits::MAX_PAGE};

/// Numbers of schedules.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ScheduleCounts {
    /// All schedules.
    pub kept: u32,
    /// Those that are parts of the fleet's resource.
    pub managed: u32,
}

impl Fleet {
    /// Returns the schedule of this name. A clone of the `Arc` keeps it as it is now.
    pub fn schedule(&self, name: &str) -> Option<&Arc<Schedule>> {
        self.state.schedules.kept.get(*self.indexes.schedules.names.get(name)?)
    }

    /// Returns at most `limit` (clamped to 1 to [`MAX_PAGE`]) schedules with names after this one, by name.
    pub fn schedules_after(&self, name: &str, limit: usize) -> Vec<&Arc<Schedule>> {
        let names = self.indexes.schedules.names.range::<str, _>((Bound::Excluded(name), Bound::Unbounded));
        let found = names.filter_map(|(_, seq)| self.state.schedules.kept.get(*seq));
        found.take(limit.clamp(1, MAX_PAGE)).collect()
    }

    /// Returns the schedules that are due next, the earliest first, with when that is.
    pub fn due_schedules(&self) -> impl Iterator<Item = (UnixMillis, &Arc<Schedule>)> + '_ {
        let due = self.indexes.schedules.due.iter();
        due.filter_map(|(due, seq)| Some((*due, self.state.schedules.kept.get(*seq)?)))
    }

    /// Returns the numbers of schedules.
    pub fn schedule_counts(&self) -> ScheduleCounts {
        ScheduleCounts { kept: self.state.schedules.kept.len() as u32, managed: self.indexes.schedules.managed }
    }

    /// Returns the tasks of a schedule's runs that are not finished, also of those that had ended and are tried again.
    pub fn active_runs(&self, schedule: &Schedule) -> Vec<TaskId> {
        let is_active = |id: &TaskId| self.task(*id).is_some_and(|task| !task.state.is_final());
        schedule.runs.iter().map(|run| run.task).filter(is_active).collect()
    }
}
