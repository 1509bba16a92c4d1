//! What is known of the tasks in queues, and the checks of their limits and shares.

use std::collections::{BTreeMap, BTreeSet};

use super::{BURST, KEYED, KEYED_AT_ONCE, PACE, PACED, SHARED, SHARED_AT_ONCE};
use crate::{
    checks::{Check, Wrong},
    record::{Applied, Assigned},
};

/// How many tasks the one with many may be ahead of their turn by: the one whose turn it is when the other one comes,
/// and those that begin while both have none that runs.
const AHEAD: usize = 3;

/// The number of running tasks by queue and key; the key is empty for those without one.
pub type Running = BTreeMap<(String, String), u32>;

/// All tasks in queues.
#[derive(Default)]
pub struct QueueLedger {
    /// The tasks of the one who has many, and of the other one.
    many: BTreeSet<String>,
    few: BTreeSet<String>,
    /// Whether all tasks of both were accepted, so that both have turns.
    both_wait: bool,
    /// How many tasks of each began since then.
    turns: [usize; 2],
    /// The tasks of the queue with a pace, and when attempts at them began, ms of fleet time.
    paced: BTreeSet<String>,
    begun: Vec<u64>,
    /// The number of tasks that have ended.
    ended: usize,
}

impl QueueLedger {
    /// Records that a task is submitted to the shared queue by the one who has many, or by the other one.
    pub fn shares(&mut self, task: &str, has_many: bool) {
        let tasks = if has_many { &mut self.many } else { &mut self.few };
        tasks.insert(task.to_owned());
    }

    /// Records that a task is submitted to the queue with a pace.
    pub fn paces(&mut self, task: &str) {
        self.paced.insert(task.to_owned());
    }

    /// Records that all tasks of both submitters were accepted.
    pub fn both_wait(&mut self) {
        self.both_wait = true;
    }

    /// Records that a task has ended.
    pub fn ends(&mut self) {
        self.ended += 1;
    }

    /// Returns the number of tasks that have ended, and of attempts in the queue with a pace.
    pub fn counts(&self) -> [usize; 2] {
        [self.ended, self.begun.len()]
    }

    /// Checks a log entry, after which it is `now`, ms of fleet time, if that is known, and what runs after it. Entries come
    /// in their order. Paces are kept in fleet time; whether that passes as it should is checked elsewhere.
    pub fn applied(&mut self, applied: &Applied, now: Option<u64>, running: &Running) -> Result<(), Wrong> {
        let begins = applied.assigned.iter().map(|assigned| self.begins(assigned, now));
        let wrong = begins.filter_map(Result::err).collect::<Vec<_>>().into_iter().next();
        wrong.map_or_else(|| check_running(running), Err)
    }

    fn begins(&mut self, assigned: &Assigned, now: Option<u64>) -> Result<(), Wrong> {
        if self.paced.contains(&assigned.task) {
            self.begun.extend(now);
            return self.check_pace(&assigned.task);
        }
        // Another attempt is no other turn of its submitter's, but that of a task that had begun.
        match assigned.attempt {
            1 if self.both_wait => self.check_turn(&assigned.task),
            _ => {
                self.few.remove(&assigned.task);
                Ok(())
            }
        }
    }

    /// Checks that no more attempts have begun in any time than the pace and the burst allow.
    fn check_pace(&self, task: &str) -> Result<(), Wrong> {
        let Some((last, before)) = self.begun.split_last() else { return Ok(()) };
        for (n, first) in before.iter().enumerate() {
            let (count, passed) = ((before.len() - n + 1) as u64, last.saturating_sub(*first));
            if count.saturating_sub(BURST.into()) * PACE > passed {
                let what = format!("task {task} is the {count}th of queue {PACED} that begins within {passed} ms");
                return Err((Check::Limited, what));
            }
        }
        Ok(())
    }

    /// Checks that the one with many tasks takes turns with the other one, for as long as that one has some.
    fn check_turn(&mut self, task: &str) -> Result<(), Wrong> {
        if self.few.remove(task) {
            self.turns[1] += 1;
        } else if !self.few.is_empty() && self.many.contains(task) {
            self.turns[0] += 1;
        }
        let [many, few] = self.turns;
        if many > few + AHEAD {
            let what = format!("{many} tasks of one submitter began and {few} of another one, who has more");
            return Err((Check::Fair, what));
        }
        Ok(())
    }
}

/// Checks that no more run at a time than the limits allow.
fn check_running(running: &Running) -> Result<(), Wrong> {
    let shared: u32 = running.iter().filter(|((queue, _), _)| queue == SHARED).map(|(_, count)| count).sum();
    if shared > SHARED_AT_ONCE {
        return Err((Check::Limited, format!("{shared} tasks of queue {SHARED} run")));
    }
    let mut keyed = running.iter().filter(|((queue, _), _)| queue == KEYED);
    match keyed.find(|(_, count)| **count > KEYED_AT_ONCE) {
        Some(((_, key), count)) => Err((Check::Limited, format!("{count} tasks of key {key} of queue {KEYED} run"))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assigned(task: &str) -> Applied {
        let assigned = Assigned { agent: "a".to_owned(), slots: 1, task: task.to_owned(), attempt: 1 };
        Applied { checksum: 0, finished: vec![], assigned: vec![assigned], sessions: vec![], silent: vec![] }
    }

    fn running(queue: &str, key: &str, count: u32) -> Running {
        Running::from([((queue.to_owned(), key.to_owned()), count)])
    }

    #[test]
    fn no_more_run_at_a_time_than_the_limits_allow() {
        let check = |running: Running| check_running(&running).is_ok();
        assert!(check(running(SHARED, "", SHARED_AT_ONCE)) && !check(running(SHARED, "", SHARED_AT_ONCE + 1)));
        assert!(check(running(KEYED, "k", KEYED_AT_ONCE)) && !check(running(KEYED, "k", KEYED_AT_ONCE + 1)));
        let two_keys = running(KEYED, "k", 1).into_iter().chain(running(KEYED, "l", 1)).collect();
        assert!(check(two_keys) && check(running("another", "", 100)));
    }

    #[test]
    fn attempts_begin_no_faster_than_their_pace() {
        let begin = |ledger: &mut QueueLedger, ms| {
            ledger.paces("t");
            ledger.applied(&assigned("t"), Some(ms), &Running::new())
        };
        let mut ledger = QueueLedger::default();
        for ms in [5_000, 5_000, 5_000 + PACE, 5_000 + 2 * PACE, 20_000, 20_000] {
            assert!(begin(&mut ledger, ms).is_ok(), "{ms}");
        }
        assert!(begin(&mut ledger, 20_000 + PACE - 1).is_err());
    }

    #[test]
    fn a_few_tasks_of_one_take_turns_with_the_many_of_another() {
        let mut ledger = QueueLedger::default();
        (0..9).for_each(|n| ledger.shares(&format!("m{n}"), true));
        (0..2).for_each(|n| ledger.shares(&format!("f{n}"), false));
        let begin = |ledger: &mut QueueLedger, task: &str| ledger.applied(&assigned(task), None, &Running::new());
        assert!((0..2).all(|n| begin(&mut ledger, &format!("m{n}")).is_ok()), "the other one may be unknown yet");
        ledger.both_wait();
        assert!((2..5).all(|n| begin(&mut ledger, &format!("m{n}")).is_ok()));
        assert!(begin(&mut ledger, "f0").is_ok() && begin(&mut ledger, "m5").is_ok());
        assert!(begin(&mut ledger, "m6").is_err());
        assert!(begin(&mut ledger, "f1").is_ok() && (7..9).all(|n| begin(&mut ledger, &format!("m{n}")).is_ok()));
    }
}
