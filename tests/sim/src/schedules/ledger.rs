//! What is known of every schedule, and the checks that each moment at which one is due is decided once, and no run is
//! missed beyond what its policy says.

use std::collections::{BTreeMap, BTreeSet};

use robeing_proto::v1::{self, ConcurrencyPolicy};

use super::{
    MINUTE, Report,
    draft::Draft,
    report::{Scheduled, Started},
};
use crate::checks::{Check, Wrong};

/// A schedule as it was after the log entry before. One that is removed and set again is another one.
struct Known {
    last: Scheduled,
    /// The moments for which a run has started.
    started: BTreeSet<u64>,
    /// How many moments have passed since the leader began to decide about them, and how many of them were not missed.
    passed: u64,
    taken: u64,
}

/// A run of a schedule.
struct Run {
    schedule: String,
    /// Whether the policy lets the next run replace it.
    is_replaced: bool,
    has_ended: bool,
}

/// All schedules of a run of the simulator.
#[derive(Default)]
pub struct ScheduleLedger {
    known: BTreeMap<u64, Known>,
    runs: BTreeMap<String, Run>,
    /// The runs that a client has started.
    by_hand: BTreeSet<String>,
    /// The names that a client was told of, and has not removed.
    acknowledged: BTreeSet<String>,
    /// The tasks of runs that nobody else knows yet.
    fresh: Vec<String>,
    /// How many runs were missed.
    missed: u64,
    is_closed: bool,
}

fn wrong(check: Check, name: &str, what: impl std::fmt::Display) -> Wrong {
    (check, format!("schedule {name}: {what}"))
}

impl Known {
    fn new(scheduled: &Scheduled) -> Self {
        let last = Scheduled { decided: 0, counts: [0; 4], runs: Vec::new(), ..scheduled.clone() };
        Self { last, started: BTreeSet::new(), passed: 0, taken: 0 }
    }

    /// Checks a run that has started at a moment.
    fn check_start(&mut self, run: &Started, now: &Scheduled, wall: u64) -> Result<(), Wrong> {
        let Started { due, task, .. } = run;
        let failed = |what: String| Err(wrong(Check::Due, &now.name, format!("task {task}, due at {due}, {what}")));
        if due % MINUTE != 0 {
            return failed("was never due".to_owned());
        }
        if *due > wall {
            return failed(format!("has started at {wall}"));
        }
        if !self.started.insert(*due) {
            return failed("has started twice".to_owned());
        }
        if *due <= self.last.decided {
            return failed(format!("has started after {}", self.last.decided));
        }
        if self.last.next.is_none() && self.last.generation == now.generation {
            return failed("has started while the schedule was suspended".to_owned());
        }
        Ok(())
    }

    /// Checks how many of the moments that have passed were missed. `taken`: how many were not.
    fn check_missed(&mut self, now: &Scheduled, taken: u64, wall: u64) -> Result<(), Wrong> {
        let missed = now.counts[1].saturating_sub(self.last.counts[1]);
        let (Some(from), Some(to), Some(draft)) = (self.last.next, now.next, Draft::named(&now.name)) else {
            return Ok(());
        };
        // A change may have come with the same entry.
        if self.last.generation != now.generation || from >= to {
            (self.passed, self.taken) = (0, 0);
            return Ok(());
        }
        let passed = (to - from) / MINUTE;
        if taken + missed != passed {
            let what = format!("{passed} moments have passed, of which {taken} were not missed and {missed} were");
            return Err(wrong(Check::Overdue, &now.name, what));
        }
        self.passed += passed;
        self.taken += taken;
        // Others that have passed are decided by the next entries.
        if to <= wall {
            return Ok(());
        }
        let (passed, taken) = (std::mem::take(&mut self.passed), std::mem::take(&mut self.taken));
        if taken < passed.min(draft.most_late()) {
            let what = format!("of {passed} moments, only {taken} were not missed: {draft:?}");
            return Err(wrong(Check::Overdue, &now.name, what));
        }
        Ok(())
    }
}

impl ScheduleLedger {
    /// Records that a client is about to start a run by hand.
    pub fn starts(&mut self, task: &str) {
        self.by_hand.insert(task.to_owned());
    }

    /// Records that a client was told that a schedule is set.
    pub fn acknowledges(&mut self, name: &str) {
        self.acknowledged.insert(name.to_owned());
    }

    /// Records that a client is about to remove a schedule.
    pub fn removes(&mut self, name: &str) {
        self.acknowledged.remove(name);
    }

    /// Records that there will be no more runs.
    pub fn close(&mut self) {
        self.is_closed = true;
    }

    /// Checks a schedule that a client reads.
    ///
    /// # Errors
    /// If it is not what was asked for.
    pub fn told(&self, shown: &v1::Schedule) -> Result<(), Wrong> {
        match Draft::named(&shown.name) {
            Some(draft) if draft.is_shown_as(shown) => Ok(()),
            _ => Err(wrong(Check::Scheduled, &shown.name, format!("it is shown as {shown:?}"))),
        }
    }

    /// Checks that a client that starts a run again is told so. `existing`: what it was told.
    ///
    /// # Errors
    /// If it was told that another one has started.
    pub fn started_again(&self, name: &str, existing: bool) -> Result<(), Wrong> {
        if existing { Ok(()) } else { Err(wrong(Check::Due, name, "a run with one id has started twice by hand")) }
    }

    /// Records what the schedules are after a log entry, with which these tasks have finished.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn applied(&mut self, finished: &[String], report: &Report) -> Result<(), Wrong> {
        for scheduled in &report.schedules {
            self.follow(scheduled, report.wall)?;
        }
        for task in finished {
            if let Some(run) = self.runs.get_mut(task) {
                run.has_ended = true;
            }
        }
        let is_there = |name: &&String| report.schedules.iter().any(|scheduled| scheduled.name == **name);
        match self.acknowledged.iter().find(|name| !is_there(name)) {
            Some(name) => Err(wrong(Check::Scheduled, name, "it was set, and is gone")),
            None => Ok(()),
        }
    }

    fn follow(&mut self, now: &Scheduled, wall: u64) -> Result<(), Wrong> {
        let policy = Draft::named(&now.name).map(|draft| draft.concurrency);
        let known = self.known.entry(now.seq).or_insert_with(|| Known::new(now));
        if known.last == *now {
            return Ok(());
        }
        let mut begun = [0; 2];
        for run in &now.runs {
            if self.runs.contains_key(&run.task) {
                continue;
            }
            if run.by_hand && !self.by_hand.contains(&run.task) {
                return Err(wrong(Check::Due, &now.name, format!("nobody has started {run:?}")));
            }
            if !run.by_hand {
                known.check_start(run, now, wall)?;
            }
            begun[usize::from(run.by_hand)] += 1;
            let is_replaced = policy == Some(ConcurrencyPolicy::Replace);
            let noted = Run { schedule: now.name.clone(), is_replaced, has_ended: false };
            self.runs.insert(run.task.clone(), noted);
            self.fresh.push(run.task.clone());
        }
        let [on_time, by_hand] = begun;
        let [started, missed, busy, refused] = [0, 1, 2, 3].map(|n| now.counts[n].saturating_sub(known.last.counts[n]));
        if started != on_time + by_hand {
            let what = format!("{} runs have begun, and it counts {started}", on_time + by_hand);
            return Err(wrong(Check::Due, &now.name, what));
        }
        let unfinished = now.runs.iter().filter(|run| !run.has_ended).count();
        if policy == Some(ConcurrencyPolicy::Forbid) && unfinished > 1 {
            return Err(wrong(
                Check::Overlap,
                &now.name,
                format!("{unfinished} runs are not finished: {:?}", now.runs),
            ));
        }
        if now.next.is_some_and(|next| next <= now.decided) {
            let what = format!("it is due at {:?} again, and {} was decided", now.next, now.decided);
            return Err(wrong(Check::Due, &now.name, what));
        }
        self.missed += missed;
        let checked = known.check_missed(now, on_time + busy + refused, wall);
        known.last = now.clone();
        checked
    }

    /// Returns the tasks of runs that have started since this was called last.
    pub fn take_fresh(&mut self) -> Vec<String> {
        std::mem::take(&mut self.fresh)
    }

    /// Returns whether a task may be cancelled without a client that asks for it: the next run replaces it.
    pub fn may_end_task(&self, task: &str) -> bool {
        self.runs.get(task).is_some_and(|run| run.is_replaced)
    }

    /// Returns whether there will be no more runs, and all have ended.
    pub fn is_over(&self) -> bool {
        self.is_closed && self.runs.values().all(|run| run.has_ended)
    }

    /// Returns the runs whose tasks have not ended, with the names of their schedules.
    pub fn unfinished(&self) -> Vec<(String, String)> {
        let unfinished = self.runs.iter().filter(|(_, run)| !run.has_ended);
        unfinished.map(|(task, run)| (task.clone(), run.schedule.clone())).collect()
    }

    /// Returns the number of schedules, of runs, and of runs that were missed.
    pub fn counts(&self) -> [usize; 3] {
        [self.known.len(), self.runs.len(), self.missed as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUE: u64 = 1_000 * MINUTE;

    fn at(minutes: u64) -> u64 {
        DUE + minutes * MINUTE
    }

    /// Returns a schedule that is due next after so many minutes, with the runs for these minutes.
    fn scheduled(name: &str, next: u64, counts: [u64; 4], runs: &[u64]) -> Scheduled {
        let run =
            |minute: &u64| Started { due: at(*minute), task: format!("t{minute}"), by_hand: false, has_ended: false };
        Scheduled {
            name: name.to_owned(),
            seq: 1,
            generation: 1,
            next: Some(at(next)),
            decided: if next == 0 { 0 } else { at(next - 1) },
            counts,
            runs: runs.iter().map(run).collect(),
        }
    }

    /// Applies these schedules one after the other, each so many minutes after the first moment; returns the check that
    /// fails.
    fn check(states: &[(u64, Scheduled)]) -> Option<Check> {
        let mut ledger = ScheduleLedger::default();
        let of = |(minutes, scheduled): &(u64, Scheduled)| {
            let report = Report { wall: at(*minutes), schedules: vec![scheduled.clone()] };
            ledger.applied(&[], &report).err()
        };
        states.iter().find_map(of).map(|(check, _)| check)
    }

    #[test]
    fn each_moment_has_one_run_that_is_not_early() {
        let new = (0, scheduled("all", 0, [0; 4], &[]));
        let first = (0, scheduled("all", 1, [1, 0, 0, 0], &[0]));
        let second = (1, scheduled("all", 2, [2, 0, 0, 0], &[0, 1]));
        assert_eq!(check(&[new.clone(), first.clone(), second]), None);
        assert_eq!(
            check(&[new.clone(), (0, scheduled("all", 2, [1, 0, 0, 0], &[1]))]),
            Some(Check::Due),
            "it is early"
        );
        let twice = Started { task: "u".to_owned(), ..first.1.runs[0].clone() };
        let twice = Scheduled { counts: [2, 0, 0, 0], runs: vec![first.1.runs[0].clone(), twice], ..first.1.clone() };
        assert_eq!(check(&[new.clone(), first.clone(), (0, twice)]), Some(Check::Due));
        let again = Scheduled { next: Some(at(0)), ..first.1.clone() };
        assert_eq!(check(&[new.clone(), (0, again)]), Some(Check::Due));
        let odd = Started { due: at(0) - 1, ..first.1.runs[0].clone() };
        assert_eq!(check(&[new.clone(), (0, Scheduled { runs: vec![odd], ..first.1.clone() })]), Some(Check::Due));
        let suspended = Scheduled { next: None, ..new.1.clone() };
        assert_eq!(check(&[(0, suspended), first.clone()]), Some(Check::Due));
        let by_hand = Started { by_hand: true, ..first.1.runs[0].clone() };
        assert_eq!(check(&[new, (0, Scheduled { runs: vec![by_hand], ..first.1 })]), Some(Check::Due), "nobody did it");
    }

    #[test]
    fn no_more_runs_are_missed_than_the_policy_says() {
        let new = |name| (0, scheduled(name, 0, [0; 4], &[]));
        let late = |name, counts, runs: &[u64]| check(&[new(name), (9, scheduled(name, 10, counts, runs))]);
        assert_eq!(late("all", [5, 5, 0, 0], &[5, 6, 7, 8, 9]), None);
        assert_eq!(late("all", [4, 5, 1, 0], &[5, 6, 7, 8]), None, "one was skipped for an earlier one");
        assert_eq!(late("all", [4, 6, 0, 0], &[6, 7, 8, 9]), Some(Check::Overdue));
        assert_eq!(late("all", [5, 4, 0, 0], &[5, 6, 7, 8, 9]), Some(Check::Overdue), "nobody knows of one");
        assert_eq!(late("newest", [1, 9, 0, 0], &[9]), None);
        assert_eq!(late("newest", [0, 10, 0, 0], &[]), Some(Check::Overdue));
        let parts =
            [(9, scheduled("all", 6, [1, 5, 0, 0], &[5])), (9, scheduled("all", 10, [5, 5, 0, 0], &[5, 6, 7, 8, 9]))];
        assert_eq!(check(&[vec![new("all")], parts.to_vec()].concat()), None, "they may come one by one");
    }

    #[test]
    fn runs_overlap_only_if_the_policy_allows_it() {
        let two = |name| check(&[(0, scheduled(name, 0, [0; 4], &[])), (1, scheduled(name, 2, [2, 0, 0, 0], &[0, 1]))]);
        assert_eq!((two("all"), two("one-by-one")), (None, Some(Check::Overlap)));
    }

    #[test]
    fn what_was_set_stays_and_runs_are_followed_to_their_ends() {
        let mut ledger = ScheduleLedger::default();
        let states = [scheduled("all-in-turn", 0, [0; 4], &[]), scheduled("all-in-turn", 1, [1, 0, 0, 0], &[0])];
        let reports = states.map(|scheduled| Report { wall: at(0), schedules: vec![scheduled] });
        assert!(reports.iter().all(|report| ledger.applied(&[], report).is_ok()));
        ledger.close();
        assert_eq!((ledger.take_fresh(), ledger.is_over()), (vec!["t0".to_owned()], false));
        assert_eq!(ledger.unfinished(), [("t0".to_owned(), "all-in-turn".to_owned())]);
        assert!(ledger.may_end_task("t0") && !ledger.may_end_task("u"));
        assert!(ledger.applied(&["t0".to_owned()], &reports[1]).is_ok() && ledger.is_over());
        assert_eq!(ledger.counts(), [1, 1, 0]);
        ledger.acknowledges("all-in-turn");
        assert!(ledger.applied(&[], &Report::default()).is_err(), "it is gone");
        ledger.removes("all-in-turn");
        assert!(ledger.applied(&[], &Report::default()).is_ok());
    }
}
