//! What a leader does about a schedule that is due. Pure.

use robeing_cron::{Overdue, Timetable};
use robeing_fleet::{
    MissedRuns, ScheduleSpec, UnixMillis,
    limits::DEFAULT_START_WITHIN_MS,
    sabotage::{Mistake, planted},
};

/// A firing: it decides about all moments from the one at which the schedule is due up to the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Firing {
    /// When the schedule is due.
    pub due: UnixMillis,
    /// The moment whose run starts; `None` if none does.
    pub run_at: Option<UnixMillis>,
    /// How many runs are missed.
    pub missed: u64,
    /// When the schedule is due after this.
    pub next: Option<UnixMillis>,
}

/// Returns the firings of a schedule that is due at `due`, which was, at `now`, in their order.
pub fn firings(timetable: &Timetable, spec: &ScheduleSpec, due: UnixMillis, now: UnixMillis) -> Vec<Firing> {
    let keep = match spec.missed {
        MissedRuns::All if !planted(Mistake::MissedForgotten) => spec.missed_limit as usize,
        MissedRuns::All | MissedRuns::Skip | MissedRuns::Latest => 1,
    };
    let within = match (spec.missed, spec.start_within) {
        (MissedRuns::Skip, None) => Some(DEFAULT_START_WITHIN_MS),
        (_, within) => within,
    };
    let Overdue { mut newest, others, next } = timetable.overdue(due, now, keep);
    let found = newest.len();
    newest.retain(|at| within.is_none_or(|within| now.saturating_sub(*at) <= within));
    let mut missed = others + (found - newest.len()) as u64;
    if newest.is_empty() {
        return vec![Firing { due, run_at: None, missed, next }];
    }
    let nexts = newest.iter().skip(1).copied().map(Some).chain([next]);
    let dues = [due].into_iter().chain(newest.iter().skip(1).copied());
    let runs = newest.iter().zip(dues).zip(nexts);
    runs.map(|((at, due), next)| Firing { due, run_at: Some(*at), missed: std::mem::take(&mut missed), next }).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use robeing_fleet::{Concurrency, SubmitTask, TaskId};

    use super::*;

    const MINUTE: u64 = 60_000;
    /// A whole minute.
    const DUE: u64 = 29_000_000 * MINUTE;

    fn minutely() -> Timetable {
        Timetable::parse("* * * * *", "").expect("it is right")
    }

    fn spec(missed: MissedRuns, start_within: Option<u64>, missed_limit: u32) -> ScheduleSpec {
        ScheduleSpec {
            cron: "* * * * *".to_owned(),
            time_zone: String::new(),
            missed,
            start_within,
            missed_limit,
            concurrency: Concurrency::Allow,
            suspended: false,
            task: SubmitTask::new(TaskId::default(), "k", bytes::Bytes::new()),
        }
    }

    fn fire(due: u64, run_at: Option<u64>, missed: u64, next: u64) -> Firing {
        let at = |minutes| DUE + minutes * MINUTE;
        Firing { due: at(due), run_at: run_at.map(at), missed, next: Some(at(next)) }
    }

    fn planned(missed: MissedRuns, within: Option<u64>, limit: u32, late: u64) -> Vec<Firing> {
        firings(&minutely(), &spec(missed, within, limit), DUE, DUE + late)
    }

    #[test]
    fn what_is_due_starts() {
        for missed in [MissedRuns::Skip, MissedRuns::Latest, MissedRuns::All] {
            assert_eq!(planned(missed, None, 10, 0), [fire(0, Some(0), 0, 1)], "{missed:?}");
        }
    }

    #[test]
    fn of_what_was_missed_the_newest_starts_unless_it_is_too_late() {
        let late = 5 * MINUTE + 30_000;
        for missed in [MissedRuns::Skip, MissedRuns::Latest] {
            assert_eq!(planned(missed, None, 10, late), [fire(0, Some(5), 5, 6)], "{missed:?}");
            assert_eq!(planned(missed, Some(29_999), 10, late), [fire(0, None, 6, 6)], "{missed:?}");
            assert_eq!(planned(missed, Some(30_000), 10, late), [fire(0, Some(5), 5, 6)], "{missed:?}");
        }
        let hourly = Timetable::parse("0 * * * *", "").expect("it is right");
        let due = hourly.next_after(DUE).expect("one");
        let run_at = |missed, late| firings(&hourly, &spec(missed, None, 10), due, due + late)[0].run_at;
        assert_eq!(run_at(MissedRuns::Skip, DEFAULT_START_WITHIN_MS), Some(due));
        assert_eq!(run_at(MissedRuns::Skip, DEFAULT_START_WITHIN_MS + 1), None);
        assert_eq!(run_at(MissedRuns::Latest, DEFAULT_START_WITHIN_MS + 1), Some(due));
    }

    #[test]
    fn all_that_was_missed_starts_up_to_a_limit() {
        let all = |within, limit| planned(MissedRuns::All, within, limit, 3 * MINUTE + 1);
        let one_by_one =
            [fire(0, Some(0), 0, 1), fire(1, Some(1), 0, 2), fire(2, Some(2), 0, 3), fire(3, Some(3), 0, 4)];
        assert_eq!(all(None, 10), one_by_one);
        assert_eq!(all(None, 4), one_by_one);
        assert_eq!(all(None, 2), [fire(0, Some(2), 2, 3), fire(3, Some(3), 0, 4)]);
        assert_eq!(all(Some(MINUTE + 1), 10), [fire(0, Some(2), 2, 3), fire(3, Some(3), 0, 4)]);
        assert_eq!(all(Some(1), 10), [fire(0, Some(3), 3, 4)]);
        assert_eq!(planned(MissedRuns::All, Some(1), 10, 3 * MINUTE + 2), [fire(0, None, 4, 4)]);
    }

    proptest! {
        #[test]
        fn each_firing_goes_on_where_the_one_before_ended_and_every_moment_is_decided(
            missed in prop::sample::select(vec![MissedRuns::Skip, MissedRuns::Latest, MissedRuns::All]),
            within in prop::option::of(1..20 * MINUTE),
            limit in 1..=100_u32,
            late in 0..200 * MINUTE,
        ) {
            let planned = planned(missed, within, limit, late);
            let (mut due, mut decided) = (DUE, 0);
            for firing in &planned {
                prop_assert_eq!(firing.due, due);
                let newest = firing.run_at.unwrap_or(due);
                prop_assert!((due..=DUE + late).contains(&newest));
                due = firing.next.expect("it goes on");
                prop_assert!(due > newest);
                decided += firing.missed + u64::from(firing.run_at.is_some());
            }
            prop_assert!(due > DUE + late, "nothing is left that is due");
            prop_assert_eq!(decided, late / MINUTE + 1);
        }
    }
}
