//! Schedules as a client sets them.

use robeing_proto::v1::{self, ConcurrencyPolicy, MissedRuns, SetScheduleRequest};

use crate::executor::{Course, Needs};

/// When all of them are due: every minute, which is as often as possible.
const CRON: &str = "* * * * *";
/// How many runs that were missed start at most, where all do.
const LIMIT: u32 = 5;
/// How long a run takes, in milliseconds.
const LASTS: u64 = 300;

/// A schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Draft {
    /// Its name.
    pub name: &'static str,
    /// Which runs start that were missed.
    pub missed: MissedRuns,
    /// What becomes of a run while an earlier one is not finished.
    pub concurrency: ConcurrencyPolicy,
}

const fn draft(name: &'static str, missed: MissedRuns, concurrency: ConcurrencyPolicy) -> Draft {
    Draft { name, missed, concurrency }
}

/// The schedule of which a run is started by hand.
pub const STARTED: Draft = draft("started", MissedRuns::Skip, ConcurrencyPolicy::Allow);
/// The schedule that is suspended for a while.
pub const SUSPENDED: Draft = draft("suspended", MissedRuns::All, ConcurrencyPolicy::Allow);
/// The schedule that is removed, and set again.
pub const REMOVED: Draft = draft("removed", MissedRuns::Latest, ConcurrencyPolicy::Allow);

/// All schedules: each policy for missed runs and each for concurrent ones is among them.
pub const ALL: [Draft; 7] = [
    STARTED,
    SUSPENDED,
    REMOVED,
    draft("all", MissedRuns::All, ConcurrencyPolicy::Allow),
    draft("one-by-one", MissedRuns::All, ConcurrencyPolicy::Forbid),
    draft("newest", MissedRuns::Latest, ConcurrencyPolicy::Replace),
    draft("all-in-turn", MissedRuns::All, ConcurrencyPolicy::Replace),
];

impl Draft {
    /// Returns the schedule of this name.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|draft| draft.name == name)
    }

    /// Returns how many of the runs that were missed start at most.
    pub fn most_late(self) -> u64 {
        if self.missed == MissedRuns::All { LIMIT.into() } else { 1 }
    }

    /// Returns the schedule as a request sets it.
    pub fn request(self, submitter: &str) -> SetScheduleRequest {
        let task = v1::TaskSpec {
            kind: Needs::Nothing.kind(),
            input: Course::Succeed(LASTS).input(0),
            submitter: submitter.to_owned(),
            ..v1::TaskSpec::default()
        };
        let spec = v1::ScheduleSpec {
            cron: CRON.to_owned(),
            missed: self.missed.into(),
            missed_limit: LIMIT,
            concurrency: self.concurrency.into(),
            task: Some(task),
            ..v1::ScheduleSpec::default()
        };
        SetScheduleRequest { name: self.name.to_owned(), spec: Some(spec), managed: false }
    }

    /// Returns whether a schedule that is shown is this one.
    pub fn is_shown_as(self, shown: &v1::Schedule) -> bool {
        let Some(spec) = &shown.spec else { return false };
        let is_named = shown.name == self.name && spec.cron == CRON;
        is_named && spec.missed() == self.missed && spec.concurrency() == self.concurrency
    }
}
