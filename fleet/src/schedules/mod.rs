//! Schedules: tasks that are submitted again and again, by a cron expression in a time zone.
//!
//! The state machine knows no calendars: versions of the time zones differ. It keeps when each schedule is due next, which
//! the coordinator that sets it, and later the leader, computes. A leader proposes a firing for that moment, with the moment
//! after it. A firing counts only if its moment is the stored one, and stores the next; so each moment is decided once,
//! whoever leads.

pub(crate) mod audit;
pub(crate) mod command;
mod firing;
pub(crate) mod indexes;
pub(crate) mod query;
mod setting;
pub(crate) mod state;

use bilrost::{Enumeration, Message};

use crate::{
    Stamp, SubmitTask, TaskId, TaskState, UnixMillis,
    limits::MAX_KEPT_RUNS,
    numbered::Entry,
    snapshot::{Rest, Untaken},
};

/// Which runs of a schedule start that could not when they were due: nobody led, or there was no room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum MissedRuns {
    /// Only the newest, and only within a short time.
    Skip = 0,
    /// Only the newest.
    Latest = 1,
    /// All of them, at most [`ScheduleSpec::missed_limit`] of the newest.
    All = 2,
}

/// What becomes of a run that is due while an earlier one of its schedule is not finished.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum Concurrency {
    /// It starts, unless [`MAX_ACTIVE_RUNS`](crate::limits::MAX_ACTIVE_RUNS) are unfinished.
    Allow = 0,
    /// It is skipped.
    Forbid = 1,
    /// It starts, and the earlier ones are cancelled.
    Replace = 2,
}

/// What a schedule does, and when. The state machine does not read the expression and the time zone.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct ScheduleSpec {
    /// The cron expression; 1 to [`MAX_CRON_BYTES`](crate::limits::MAX_CRON_BYTES).
    #[bilrost(1)]
    pub cron: String,
    /// The name of the time zone; at most [`MAX_ZONE_BYTES`](crate::limits::MAX_ZONE_BYTES). Empty: UTC.
    #[bilrost(2)]
    pub time_zone: String,
    /// Which runs start that were missed.
    #[bilrost(3)]
    pub missed: MissedRuns,
    /// How long after it was due a run may start, ms. `None`: for [`MissedRuns::Skip`] the default, else any time.
    #[bilrost(4)]
    pub start_within: Option<u64>,
    /// How many runs that were missed start at most; 1 to [`MAX_MISSED_RUNS`](crate::limits::MAX_MISSED_RUNS). Only for
    /// [`MissedRuns::All`].
    #[bilrost(5)]
    pub missed_limit: u32,
    /// What becomes of a run that is due while an earlier one is not finished.
    #[bilrost(6)]
    pub concurrency: Concurrency,
    /// Whether nothing is due.
    #[bilrost(7)]
    pub suspended: bool,
    /// The task of each run. Its id is not used: each run has its own.
    #[bilrost(8)]
    pub task: SubmitTask,
}

/// Who has set a schedule.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Setter {
    /// The name; at most [`MAX_SENDER_BYTES`](crate::limits::MAX_SENDER_BYTES).
    #[bilrost(1)]
    pub name: String,
    /// The name that policies see; at most [`MAX_SENDER_BYTES`](crate::limits::MAX_SENDER_BYTES).
    #[bilrost(2)]
    pub user: String,
    /// The rights that policies see; at most [`MAX_SETTER_RIGHTS`](crate::limits::MAX_SETTER_RIGHTS).
    #[bilrost(3)]
    pub rights: Vec<String>,
}

/// How the task of a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct RunEnd {
    /// The task's final state.
    #[bilrost(1)]
    pub state: TaskState,
    /// When it ended.
    #[bilrost(2)]
    pub at: Stamp,
}

/// A run that has started.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct ScheduleRun {
    /// When it was due; if it was started by hand, when that was.
    #[bilrost(1)]
    pub due: UnixMillis,
    /// Its task.
    #[bilrost(2)]
    pub task: TaskId,
    /// When its task was accepted.
    #[bilrost(3)]
    pub started: Stamp,
    /// How its task ended; `None` while that is not finished.
    #[bilrost(4)]
    pub end: Option<RunEnd>,
    /// Whether it was started by hand.
    #[bilrost(5)]
    pub by_hand: bool,
}

/// What has become of the runs of a schedule since it was first set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct ScheduleTotals {
    /// Runs that started.
    #[bilrost(1)]
    pub started: u64,
    /// Runs that succeeded.
    #[bilrost(2)]
    pub succeeded: u64,
    /// Runs that ended otherwise.
    #[bilrost(3)]
    pub unsuccessful: u64,
    /// Runs that were missed and did not start later.
    #[bilrost(4)]
    pub missed: u64,
    /// Runs that did not start because of earlier ones.
    #[bilrost(5)]
    pub busy: u64,
    /// Runs whose tasks were refused.
    #[bilrost(6)]
    pub refused: u64,
}

/// Why a run did not start.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct ScheduleProblem {
    /// When it was due.
    #[bilrost(1)]
    pub due: UnixMillis,
    /// The reason; at most [`MAX_PROBLEM_BYTES`](crate::limits::MAX_PROBLEM_BYTES).
    #[bilrost(2)]
    pub reason: String,
}

/// The schedule that a task is a run of.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct ScheduledFor {
    /// The schedule's name.
    #[bilrost(1)]
    pub schedule: String,
    /// When the run was due.
    #[bilrost(2)]
    pub due: UnixMillis,
}

/// A schedule.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Schedule {
    /// The schedule's number, which is never reused: one that is removed and set again is another one.
    #[bilrost(1)]
    pub seq: u64,
    /// The name.
    #[bilrost(2)]
    pub name: String,
    /// What it does, and when.
    #[bilrost(3)]
    pub spec: ScheduleSpec,
    /// How often it was changed, counting from 1. A firing that was computed before a change does not count.
    #[bilrost(4)]
    pub generation: u64,
    /// Whether it is a part of the fleet's resource, and is changed there alone.
    #[bilrost(5)]
    pub managed: bool,
    /// Who has set it last.
    #[bilrost(6)]
    pub set_by: Setter,
    /// When it was first set.
    #[bilrost(7)]
    pub created_at: Stamp,
    /// When it was set last.
    #[bilrost(8)]
    pub changed_at: Stamp,
    /// When it is due next; `None` if it is suspended, or is never due again.
    #[bilrost(9)]
    pub next: Option<UnixMillis>,
    /// The newest moment that was decided. What is due next is always later, also after a change.
    #[bilrost(10)]
    pub decided: UnixMillis,
    /// The runs that are not finished, and the newest [`MAX_KEPT_RUNS`] of the others, in the order in which they started.
    #[bilrost(11)]
    pub runs: Vec<ScheduleRun>,
    /// What has become of its runs.
    #[bilrost(12)]
    pub totals: ScheduleTotals,
    /// The newest run that did not start.
    #[bilrost(13)]
    pub problem: Option<ScheduleProblem>,
    /// When the newest run was due of those that succeeded.
    #[bilrost(14)]
    pub last_success: Option<UnixMillis>,
}

impl Schedule {
    /// Returns the newest run that has started.
    pub fn last_run(&self) -> Option<&ScheduleRun> {
        self.runs.last()
    }

    /// Drops the oldest finished runs if there are too many.
    fn forget_old_runs(&mut self) {
        let ended = self.runs.iter().filter(|run| run.end.is_some()).count();
        let mut surplus = ended.saturating_sub(MAX_KEPT_RUNS);
        self.runs.retain(|run| {
            let is_dropped = surplus > 0 && run.end.is_some();
            surplus -= usize::from(is_dropped);
            !is_dropped
        });
    }
}

impl Entry for Schedule {
    const FIELD: u32 = 140;
    const NAME: &str = "schedules";

    fn number(&self) -> u64 {
        self.seq
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.schedules
    }
}
