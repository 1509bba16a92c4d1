//! What is known of every task with rules about its time and its retries, and the checks of what becomes of it.

use std::{collections::BTreeMap, time::Duration};

use robeing_proto::v1::{self, FailureKind, TaskState};

use super::DOOM;
use crate::{
    checks::{Check, Wrong},
    lives::is_early,
    record::Notes,
    results::is_final,
};

/// What is to become of a task.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// No agent fits it: it fails once it has waited for so long.
    Expires(Duration),
    /// Its first attempt makes no progress, and is ended after so long or a little later. Another one succeeds.
    Stalls(Duration),
    /// Its attempts make progress, and run for longer than they may without.
    Steady,
    /// Every attempt fails in a way that is not tried again.
    Dies,
}

/// A task that a client has asked for.
struct Known {
    plan: Plan,
    /// When the client asked for it first.
    at: Duration,
    /// How many times it was tried again as a dead letter.
    epoch: u32,
    /// The number of its attempts in earlier epochs.
    earlier: u32,
    is_dropped: bool,
    has_ended: bool,
    /// An attempt of it was ended because it made no progress.
    has_stalled: bool,
}

/// The tasks of a run with rules about their time and their retries.
#[derive(Default)]
pub struct TimedLedger {
    tasks: BTreeMap<String, Known>,
}

fn kind(failure: Option<&v1::Failure>) -> Option<FailureKind> {
    failure.map(|failure| failure.kind())
}

/// Returns the attempts that were ended because they made no progress.
fn stalled(task: &v1::Task) -> impl Iterator<Item = &v1::Attempt> {
    task.attempts.iter().filter(|attempt| kind(attempt.failure.as_ref()) == Some(FailureKind::Stalled))
}

/// Returns what is wrong with the end of a task that was to succeed.
fn wrong_success(task: &v1::Task) -> Option<String> {
    let is_wrong = is_final(task) && task.state() != TaskState::Succeeded;
    is_wrong.then(|| format!("would succeed, but has ended with {:?}", kind(task.failure.as_ref())))
}

fn wrong_expiry(task: &v1::Task, within: Duration, lasted: Option<Duration>) -> Option<String> {
    if !task.attempts.is_empty() {
        return Some("was given to an agent, although none fits it".to_owned());
    }
    if !is_final(task) {
        return None;
    }
    let ended = kind(task.failure.as_ref());
    if ended != Some(FailureKind::Expired) {
        return Some(format!("may wait for an agent for {within:?}, and has ended with {ended:?}"));
    }
    let lasted = lasted.filter(|lasted| is_early(within, *lasted));
    lasted.map(|lasted| format!("may wait for an agent for {within:?}, and has failed after {lasted:?}"))
}

fn wrong_stall(task: &v1::Task, within: Duration, ran: impl Fn(&v1::Attempt) -> Option<Duration>) -> Option<String> {
    let early = stalled(task).find_map(|attempt| {
        let ran = ran(attempt).filter(|ran| is_early(within, *ran))?;
        let number = attempt.number;
        Some(format!("may be without progress for {within:?}, and its attempt {number} was ended after {ran:?}"))
    });
    early.or_else(|| wrong_success(task))
}

impl Known {
    fn wrong_death(&self, task: &v1::Task) -> Option<String> {
        if task.epoch != self.epoch {
            return Some(format!("is in its epoch {}, and was tried again {} times", task.epoch, self.epoch));
        }
        let is_doomed = |attempt: &&v1::Attempt| attempt.failure.as_ref().is_some_and(|failure| failure.name == DOOM);
        let of_epoch = task.attempts.iter().filter(|attempt| attempt.number > self.earlier);
        let doomed: Vec<u32> = of_epoch.filter(is_doomed).map(|attempt| attempt.number).collect();
        let is_over = doomed.first().is_some_and(|first| doomed.len() > 1 || *first < task.attempt);
        if is_over {
            return Some(format!("has gone on after its attempt {}, which failed for good", doomed[0]));
        }
        if !is_final(task) {
            return (!doomed.is_empty()).then(|| "goes on after it has failed for good".to_owned());
        }
        let failure = task.failure.as_ref();
        let has_died = failure.is_some_and(|failure| failure.name == DOOM && !failure.retryable);
        if !has_died || task.state() != TaskState::Failed {
            return Some(format!("is {:?} with {failure:?}", task.state()));
        }
        let is_wrong = task.dead == self.is_dropped;
        is_wrong.then(|| format!("is a dead letter: {}, and was dropped: {}", task.dead, self.is_dropped))
    }

    /// Returns what is wrong with a task that ended `lasted` after the client asked for it, and whose attempts that
    /// were told to stop ran for as long as `ran` says.
    fn wrong(
        &self,
        task: &v1::Task,
        lasted: Option<Duration>,
        ran: impl Fn(&v1::Attempt) -> Option<Duration>,
    ) -> Option<Wrong> {
        let what = match self.plan {
            Plan::Expires(within) => wrong_expiry(task, within, lasted),
            Plan::Stalls(within) => wrong_stall(task, within, ran),
            Plan::Steady => match stalled(task).next() {
                Some(attempt) => Some(format!("makes progress, but its attempt {} was ended", attempt.number)),
                None => wrong_success(task),
            },
            Plan::Dies => return Some((Check::Dead, format!("task {} {}", task.id, self.wrong_death(task)?))),
        };
        Some((Check::Timed, format!("task {} {}", task.id, what?)))
    }
}

impl TimedLedger {
    /// Records that a client asks for a task.
    pub fn asks(&mut self, id: &str, plan: Plan, now: Duration) {
        let known =
            Known { plan, at: now, epoch: 0, earlier: 0, is_dropped: false, has_ended: false, has_stalled: false };
        self.tasks.insert(id.to_owned(), known);
    }

    /// Records that a dead letter, as a client has read it, is tried again in this epoch.
    ///
    /// # Errors
    /// It is not the next one.
    pub fn retried(&mut self, task: &v1::Task, epoch: u32) -> Result<(), Wrong> {
        let Some(known) = self.tasks.get_mut(&task.id) else { return Ok(()) };
        let before = known.epoch;
        (known.epoch, known.earlier) = (epoch, task.attempt);
        let what = || format!("task {} is tried again in epoch {epoch}, and has died in epoch {before}", task.id);
        if epoch == before + 1 { Ok(()) } else { Err((Check::Dead, what())) }
    }

    /// Records that a dead letter was dropped.
    pub fn dropped(&mut self, id: &str) {
        if let Some(known) = self.tasks.get_mut(id) {
            known.is_dropped = true;
        }
    }

    /// Returns how many times a task may end.
    pub fn lives(&self, id: &str) -> usize {
        1 + self.tasks.get(id).map_or(0, |known| known.epoch as usize)
    }

    /// Returns the number of tasks that have ended, of those with an attempt that made no progress, and how many times
    /// dead letters were tried again.
    pub fn counts(&self) -> [usize; 3] {
        let of = |is_so: fn(&&Known) -> bool| self.tasks.values().filter(is_so).count();
        let again = self.tasks.values().map(|known| known.epoch as usize).sum();
        [of(|known| known.has_ended), of(|known| known.has_stalled), again]
    }
}

impl Notes {
    /// Checks a task with rules about its time and its retries, as a client reads it with all its attempts.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check_timed(&mut self, task: &v1::Task) -> Result<(), Wrong> {
        let ran = |attempt: &v1::Attempt| {
            let key = (task.id.clone(), attempt.number);
            let begun = self.seen.get(&key)?.begun?;
            Some(self.ran.get(&key)?.at.saturating_sub(begun))
        };
        let Some(known) = self.timed.tasks.get(&task.id) else { return Ok(()) };
        let lasted = self.finished_at.get(&task.id).map(|ended| ended.saturating_sub(known.at));
        if let Some(wrong) = known.wrong(task, lasted, ran) {
            return Err(wrong);
        }
        if let Some(known) = self.timed.tasks.get_mut(&task.id) {
            known.has_ended |= is_final(task);
            known.has_stalled |= stalled(task).next().is_some();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::{Attempt, AttemptState, Failure};

    use super::*;

    const ID: &str = "t";
    const WITHIN: Duration = Duration::from_secs(2);

    fn attempt(number: u32, kind: FailureKind, name: &str) -> Attempt {
        let failure = Failure { kind: kind.into(), name: name.to_owned(), ..Failure::default() };
        Attempt { number, state: AttemptState::Failed.into(), failure: Some(failure), ..Attempt::default() }
    }

    /// Returns a task with these attempts, which has failed as the last one did.
    fn failed(attempts: &[Attempt]) -> v1::Task {
        v1::Task {
            id: ID.to_owned(),
            state: TaskState::Failed.into(),
            attempt: attempts.last().map_or(0, |last| last.number),
            attempts: attempts.to_vec(),
            failure: attempts.last().and_then(|last| last.failure.clone()),
            ..v1::Task::default()
        }
    }

    fn succeeded(attempts: &[Attempt]) -> v1::Task {
        v1::Task { state: TaskState::Succeeded.into(), failure: None, ..failed(attempts) }
    }

    /// Returns whether a task may become this, which ended after so long, and whose attempts ran for so long.
    fn may_be(plan: Plan, task: &v1::Task, lasted: Duration) -> bool {
        let mut notes = Notes::default();
        notes.timed.asks(ID, plan, Duration::ZERO);
        notes.finished_at.insert(ID.to_owned(), lasted);
        for attempt in &task.attempts {
            let key = (ID.to_owned(), attempt.number);
            notes.seen.entry(key.clone()).or_default().begun = Some(Duration::ZERO);
            notes.ran.insert(key, crate::record::Ran { agent: "a".to_owned(), at: lasted });
        }
        notes.check_timed(task).is_ok()
    }

    #[test]
    fn a_task_that_no_agent_fits_expires_at_its_time_without_an_attempt() {
        use FailureKind::{Deadline, Expired};
        let ended = |kind: FailureKind| {
            let failure = Some(Failure { kind: kind.into(), ..Failure::default() });
            v1::Task { failure, ..failed(&[]) }
        };
        let plan = Plan::Expires(WITHIN);
        assert!(may_be(plan, &ended(Expired), WITHIN));
        assert!(!may_be(plan, &ended(Expired), WITHIN / 2), "it is too early");
        assert!(!may_be(plan, &ended(Deadline), WITHIN * 2));
        assert!(!may_be(plan, &failed(&[attempt(1, Expired, "")]), WITHIN));
    }

    #[test]
    fn only_attempts_without_progress_are_ended_for_that_and_not_too_early() {
        use FailureKind::{Deadline, Stalled};
        let stalls = [attempt(1, Stalled, ""), attempt(2, FailureKind::AgentLost, "")];
        assert!(may_be(Plan::Stalls(WITHIN), &succeeded(&stalls), WITHIN));
        assert!(!may_be(Plan::Stalls(WITHIN), &succeeded(&stalls), WITHIN / 2));
        assert!(!may_be(Plan::Stalls(WITHIN), &failed(&[attempt(1, Deadline, "")]), WITHIN));
        assert!(may_be(Plan::Steady, &succeeded(&[]), WITHIN) && !may_be(Plan::Steady, &succeeded(&stalls), WITHIN));
        assert!(!may_be(Plan::Steady, &failed(&[]), WITHIN));
    }

    #[test]
    fn a_task_that_fails_for_good_is_a_dead_letter_until_it_is_tried_again_or_dropped() {
        let doomed = |number| attempt(number, FailureKind::Exit, DOOM);
        let lost = attempt(1, FailureKind::AgentLost, "");
        let dead = |attempts: &[Attempt], epoch| v1::Task { dead: true, epoch, ..failed(attempts) };
        let mut notes = Notes::default();
        notes.timed.asks(ID, Plan::Dies, Duration::ZERO);
        let first = dead(&[lost.clone(), doomed(2)], 0);
        assert!(notes.check_timed(&first).is_ok());
        assert!(notes.check_timed(&dead(&[doomed(1), doomed(2)], 0)).is_err(), "it went on");
        let goes_on = v1::Task { state: TaskState::Queued.into(), failure: None, ..dead(&[doomed(1)], 0) };
        assert!(notes.check_timed(&goes_on).is_err());
        assert!(notes.check_timed(&dead(&[lost], 0)).is_err(), "this is tried again");
        assert!(notes.timed.retried(&first, 1).is_ok() && notes.timed.lives(ID) == 2);
        assert!(notes.check_timed(&first).is_err(), "this is another epoch");
        let second = dead(&[doomed(2), doomed(3)], 1);
        assert!(notes.check_timed(&second).is_ok());
        assert!(notes.timed.retried(&second, 1).is_err(), "it has the same epoch");
        notes.timed.dropped(ID);
        assert!(notes.check_timed(&second).is_err(), "it is still there");
    }
}
