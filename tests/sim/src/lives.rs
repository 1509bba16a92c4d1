//! The lives of tasks: as they were asked for, as executors saw them, and as clients are told them at their end. How many
//! attempts there were, why there was another one or none, and whether nothing came before its time. And of agents: that none
//! is taken for lost without a reason.

use std::time::Duration;

use robeing_proto::v1::{self, AttemptState, FailureKind, TaskState};

use crate::{
    checks::Check,
    record::{Applied, Notes, ROUNDING},
};

/// Attempts of a task whose submitter does not say how many.
const DEFAULT_ATTEMPTS: u32 = 5;
/// The pause before the second attempt of a task whose submitter does not say how long.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Each further pause is so many times as long.
const GROWTH: u32 = 2;
/// Since when, before nothing is wrong any more, an agent's process must have run for its session to be one that is kept.
const SETTLED: Duration = Duration::from_secs(5);

/// What a submitter asks for.
pub struct Asked {
    /// When it asked first.
    at: Duration,
    attempts: u32,
    pause: Duration,
    deadline: Option<Duration>,
    timeout: Option<Duration>,
    /// Of its input.
    checksum: u32,
}

/// What was seen of an attempt.
#[derive(Default)]
pub struct Seen {
    /// When the command was stamped by which it was given to an agent.
    pub assigned: Option<Duration>,
    /// When an executor began it.
    pub begun: Option<Duration>,
    /// When it failed there, to be tried again.
    pub failed: Option<Duration>,
}

fn duration(wire: Option<prost_types::Duration>) -> Option<Duration> {
    wire.and_then(|wire| Duration::try_from(wire).ok())
}

/// The pause after so many attempts that count.
fn pause(asked: &Asked, counted: u32) -> Duration {
    let grown = GROWTH.saturating_pow(counted.saturating_sub(1));
    asked.pause.saturating_mul(grown).min(LONGEST_PAUSE)
}

/// Whether something that lasts so long may be over after this time: whatever clocks do, fleet time is 5 % fast at most.
fn is_early(lasts: Duration, passed: Duration) -> bool {
    passed + ROUNDING < lasts.mul_f64(0.95)
}

fn counts(attempt: &v1::Attempt) -> bool {
    attempt.state() != AttemptState::HandedBack
}

fn is_retryable(attempt: &v1::Attempt) -> bool {
    attempt.failure.as_ref().is_some_and(|failure| failure.retryable)
}

/// What is wrong with the number of attempts of a finished task, or with its end.
fn miscounted(task: &v1::Task, asked: &Asked) -> Option<String> {
    let counted = task.attempts.iter().filter(|attempt| counts(attempt)).count() as u32;
    let numbered = (1..).zip(&task.attempts).all(|(number, attempt)| number == attempt.number);
    if !numbered || task.attempt as usize != task.attempts.len() {
        return Some("its attempts are not numbered one after the other".to_owned());
    }
    if (task.max_attempts, task.attempts_used) != (asked.attempts, counted) || counted > asked.attempts {
        let told = format!("{} of {} attempts count", task.attempts_used, task.max_attempts);
        return Some(format!("it is told that {told}, and there were {counted} of {}", asked.attempts));
    }
    let (last, earlier) = task.attempts.split_last()?;
    let goes_on = |attempt: &v1::Attempt| match attempt.state() {
        AttemptState::HandedBack | AttemptState::Lost => true,
        AttemptState::Failed | AttemptState::TimedOut => is_retryable(attempt),
        _ => false,
    };
    if !earlier.iter().all(goes_on) {
        return Some("it went on after an end".to_owned());
    }
    let used_up = counted == asked.attempts;
    let on_time = task.failure.as_ref().is_some_and(|failure| failure.kind() == FailureKind::Deadline);
    let fine = match task.state() {
        TaskState::Succeeded => last.state() == AttemptState::Succeeded,
        TaskState::Failed if on_time => asked.deadline.is_some(),
        TaskState::Failed => last.state() == AttemptState::Failed && (used_up || !is_retryable(last)),
        TaskState::DeadLettered => used_up && matches!(last.state(), AttemptState::Lost | AttemptState::TimedOut),
        _ => true,
    };
    (!fine).then(|| "it must not end so".to_owned())
}

impl Notes {
    /// Notes what is asked for, the first time.
    pub fn ask(&mut self, spec: &v1::TaskSpec) {
        let retry = spec.retry.unwrap_or_default();
        let asked = Asked {
            at: self.now,
            attempts: if retry.max_attempts == 0 { DEFAULT_ATTEMPTS } else { retry.max_attempts },
            pause: duration(retry.initial_backoff).unwrap_or(DEFAULT_PAUSE),
            deadline: duration(spec.deadline_in),
            timeout: duration(spec.attempt_timeout),
            checksum: crc32c::crc32c(&spec.input),
        };
        self.asked.entry(spec.id.clone()).or_insert(asked);
    }

    /// An attempt gets the input that was asked for.
    pub fn check_input(&mut self, task: &str, input: &[u8]) {
        let checksum = crc32c::crc32c(input);
        if !self.fleeting.contains(task) && self.asked.get(task).is_some_and(|asked| asked.checksum != checksum) {
            let start = input[..input.len().min(64)].escape_ascii();
            self.violation(
                Check::Input,
                format!("task {task} arrived with another input of {} bytes: {start}", input.len()),
            );
        }
    }

    /// Holds a finished task, as a client is told it, to what was asked for and what executors saw.
    pub fn check_life(&mut self, task: &v1::Task) {
        // Some answers leave the attempts out.
        let Some(asked) = self.asked.get(&task.id).filter(|_| task.attempts.len() == task.attempt as usize) else {
            return;
        };
        let wrong = miscounted(task, asked).map(|what| (Check::Attempts, what));
        if let Some((check, what)) = wrong.or_else(|| self.early(task, asked).map(|what| (Check::Time, what))) {
            let attempts: Vec<_> = task.attempts.iter().map(|attempt| (attempt.number, attempt.state())).collect();
            let what = format!("task {} is {:?} after {attempts:?}: {what}", task.id, task.state());
            self.violation(check, what);
        }
    }

    /// What came too early in a task's life.
    fn early(&self, task: &v1::Task, asked: &Asked) -> Option<String> {
        let on_time = task.failure.as_ref().is_some_and(|failure| failure.kind() == FailureKind::Deadline);
        if let (Some(deadline), Some(finished)) = (asked.deadline, self.finished_at.get(&task.id))
            && on_time
            && is_early(deadline, finished.saturating_sub(asked.at))
        {
            return Some(format!(
                "it has {deadline:?} since {:?}, and its deadline had passed at {finished:?}",
                asked.at
            ));
        }
        let seen = |attempt: &v1::Attempt| self.seen.get(&(task.id.clone(), attempt.number));
        let mut counted = 0;
        for (n, attempt) in task.attempts.iter().enumerate() {
            counted += u32::from(counts(attempt));
            let Some(failed) = seen(attempt).and_then(|seen| seen.failed) else { continue };
            if let (Some(timeout), Some(assigned)) = (asked.timeout, seen(attempt).and_then(|seen| seen.assigned))
                && attempt.state() == AttemptState::TimedOut
                && is_early(timeout, failed.saturating_sub(assigned))
            {
                return Some(format!("attempt {} has {timeout:?}, from {assigned:?} to {failed:?}", attempt.number));
            }
            let pause = pause(asked, counted);
            if let Some(next) = task.attempts.get(n + 1).and_then(seen).and_then(|seen| seen.begun)
                && attempt.state() == AttemptState::Failed
                && is_early(pause, next.saturating_sub(failed))
            {
                return Some(format!(
                    "attempt {} failed at {failed:?}, and after {pause:?} another is made; it \
                                     was begun at {next:?}",
                    attempt.number
                ));
            }
        }
        None
    }

    /// Agents that are in order keep their sessions, once nothing is wrong but clocks.
    pub fn check_kept(&mut self, applied: &Applied) {
        if self.now < self.calm_from {
            return;
        }
        let ended = applied.sessions.iter().filter(|(_, begins)| begins.is_none());
        let lost: Vec<String> = ended.filter_map(|(session, _)| self.sessions.get(session).cloned()).collect();
        for name in lost {
            let since = self.agents.get(&name).and_then(|agent| agent.started.last()).copied().unwrap_or_default();
            if since + SETTLED < self.calm_from && !self.ill.contains_key(&name) && !self.retired.contains(&name) {
                let what =
                    format!("{name} runs since {since:?}, nothing ails it, and its session ended at {:?}", self.now);
                self.violation(Check::Kept, what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(number: u32, state: AttemptState) -> v1::Attempt {
        let failure = v1::Failure { retryable: true, ..v1::Failure::default() };
        v1::Attempt { number, state: state.into(), failure: Some(failure), ..v1::Attempt::default() }
    }

    fn task(state: TaskState, used: u32, attempts: &[AttemptState]) -> v1::Task {
        v1::Task {
            id: "t".to_owned(),
            state: state.into(),
            max_attempts: 2,
            attempts_used: used,
            attempt: attempts.len() as u32,
            attempts: (1..).zip(attempts).map(|(number, state)| attempt(number, *state)).collect(),
            ..v1::Task::default()
        }
    }

    fn noted() -> Notes {
        let mut notes = Notes::default();
        let retry = v1::RetryPolicy { max_attempts: 2, ..v1::RetryPolicy::default() };
        notes.ask(&v1::TaskSpec { id: "t".to_owned(), retry: Some(retry), ..v1::TaskSpec::default() });
        notes
    }

    fn violations(task: &v1::Task) -> usize {
        let mut notes = noted();
        notes.check_life(task);
        notes.violations.len()
    }

    #[test]
    fn ends_that_the_attempts_allow_are_fine_and_others_are_not() {
        use AttemptState::{Failed, HandedBack, Lost, Succeeded, TimedOut};
        let fine = [
            task(TaskState::Succeeded, 2, &[Lost, HandedBack, Succeeded]),
            task(TaskState::Failed, 2, &[Lost, Failed]),
            task(TaskState::DeadLettered, 2, &[Failed, TimedOut]),
            task(TaskState::Cancelled, 0, &[]),
        ];
        let wrong = [
            task(TaskState::Succeeded, 3, &[Lost, Failed, Succeeded]),
            task(TaskState::Succeeded, 1, &[Lost, Succeeded]),
            task(TaskState::Failed, 1, &[Failed]),
            task(TaskState::DeadLettered, 2, &[Lost, Failed]),
            task(TaskState::DeadLettered, 1, &[HandedBack, Lost]),
            task(TaskState::Failed, 2, &[Succeeded, Failed]),
        ];
        assert!(fine.iter().all(|task| violations(task) == 0));
        for task in wrong {
            assert_eq!(violations(&task), 1, "{task:?}");
        }
    }

    #[test]
    fn a_pause_that_is_too_short_is_noticed() {
        for (begun, found) in [(960, 0), (900, 1)] {
            let mut notes = noted();
            let at = |ms| Some(Duration::from_millis(ms));
            notes.seen.insert(("t".to_owned(), 1), Seen { failed: at(0), ..Seen::default() });
            notes.seen.insert(("t".to_owned(), 2), Seen { begun: at(begun), ..Seen::default() });
            notes.check_life(&task(TaskState::Succeeded, 2, &[AttemptState::Failed, AttemptState::Succeeded]));
            assert_eq!(notes.violations.len(), found, "{begun} ms");
        }
    }

    #[test]
    fn an_agent_in_order_that_loses_its_session_is_noticed_once_nothing_is_wrong() {
        for (now, ill, found) in [(16, false, 0), (18, false, 1), (18, true, 0)] {
            let mut notes = noted();
            (notes.now, notes.calm_from) = (Duration::from_secs(now), Duration::from_secs(17));
            notes.sessions.insert(1, "agent-0".to_owned());
            if ill {
                notes.sicken("agent-0".to_owned(), crate::faults::Ill::Failed);
            }
            let ended =
                Applied { checksum: 0, finished: vec![], assigned: vec![], sessions: vec![(1, None)], silent: vec![] };
            notes.check_kept(&ended);
            assert_eq!(notes.violations.len(), found, "{now} s");
        }
    }
}
