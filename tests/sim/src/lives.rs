//! Checks the lives of tasks, from what was submitted, what executors saw, and what clients read at the end: how many
//! attempts there were, why another one was or was not made, and that nothing happened too early. Also checks that no
//! agent loses its session without a reason.

use std::time::Duration;

use robeing_proto::v1::{self, AttemptState, FailureKind, TaskState};

use crate::{
    checks::Check,
    record::{Applied, Notes, ROUNDING},
};

/// The number of attempts of a task whose submitter sets none.
const DEFAULT_ATTEMPTS: u32 = 5;
/// The pause before the second attempt of a task whose submitter sets none.
const DEFAULT_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// Each further pause is longer by this factor.
const GROWTH: u32 = 2;
/// How long before `calm_from` an agent's process must have started for its session to be one that must be kept.
const SETTLED: Duration = Duration::from_secs(5);

/// What a submitter asked for.
pub struct Asked {
    /// When it submitted first.
    at: Duration,
    attempts: u32,
    pause: Duration,
    /// By how many percent a pause may be shortened.
    jitter: u32,
    deadline: Option<Duration>,
    timeout: Option<Duration>,
    /// The checksum of the input.
    checksum: u32,
    /// How many slots it takes.
    pub slots: usize,
}

/// What was seen of an attempt.
#[derive(Default)]
pub struct Seen {
    /// When the command that assigned it was stamped.
    pub assigned: Option<Duration>,
    /// When an executor started it.
    pub begun: Option<Duration>,
    /// When it failed in the executor, if it may be retried.
    pub failed: Option<Duration>,
}

fn duration(wire: Option<prost_types::Duration>) -> Option<Duration> {
    wire.and_then(|wire| Duration::try_from(wire).ok())
}

/// Returns the shortest pause after this many counted attempts.
fn pause(asked: &Asked, counted: u32) -> Duration {
    let grown = GROWTH.saturating_pow(counted.saturating_sub(1));
    asked.pause.saturating_mul(grown).min(LONGEST_PAUSE) * (100 - asked.jitter) / 100
}

/// Returns whether `passed` is too short for something that takes `lasts`: whatever clocks do, fleet time is at most 5
/// % fast.
pub fn is_early(lasts: Duration, passed: Duration) -> bool {
    passed + ROUNDING < lasts.mul_f64(0.95)
}

fn counts(attempt: &v1::Attempt) -> bool {
    !matches!(attempt.state(), AttemptState::HandedBack | AttemptState::Suspended)
}

fn is_retryable(attempt: &v1::Attempt) -> bool {
    attempt.failure.as_ref().is_some_and(|failure| failure.retryable)
}

/// Returns what is wrong with the number of attempts of a finished task, or with its end.
fn miscounted(task: &v1::Task, asked: &Asked) -> Option<String> {
    let counted = task.attempts.iter().filter(|attempt| counts(attempt)).count() as u32;
    let numbered = (1..).zip(&task.attempts).all(|(number, attempt)| number == attempt.number);
    if !numbered || task.attempt as usize != task.attempts.len() {
        return Some("its attempts are not numbered consecutively".to_owned());
    }
    if (task.max_attempts, task.attempts_used) != (asked.attempts, counted) || counted > asked.attempts {
        let told = format!("{} of {} attempts count", task.attempts_used, task.max_attempts);
        return Some(format!("it reports that {told}, but there were {counted} of {}", asked.attempts));
    }
    let (last, earlier) = task.attempts.split_last()?;
    let goes_on = |attempt: &v1::Attempt| match attempt.state() {
        AttemptState::HandedBack | AttemptState::Lost | AttemptState::Suspended => true,
        AttemptState::Failed | AttemptState::TimedOut => is_retryable(attempt),
        _ => false,
    };
    if !earlier.iter().all(goes_on) {
        return Some("it continued after an end".to_owned());
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
    (!fine).then(|| "it must not end like this".to_owned())
}

impl Notes {
    /// Records a submission, if it is the first of its task.
    pub fn ask(&mut self, spec: &v1::TaskSpec) {
        let retry = spec.retry.clone().unwrap_or_default();
        let asked = Asked {
            at: self.now,
            attempts: if retry.max_attempts == 0 { DEFAULT_ATTEMPTS } else { retry.max_attempts },
            pause: duration(retry.initial_backoff).unwrap_or(DEFAULT_PAUSE),
            jitter: retry.jitter_percent,
            deadline: duration(spec.deadline_in),
            timeout: duration(spec.attempt_timeout),
            checksum: crc32c::crc32c(&spec.input),
            slots: spec.slots.max(1) as usize,
        };
        self.asked.entry(spec.id.clone()).or_insert(asked);
    }

    /// Checks that an attempt gets the input that was submitted.
    pub fn check_input(&mut self, task: &str, input: &[u8]) {
        let checksum = crc32c::crc32c(input);
        if !self.fleeting.contains(task) && self.asked.get(task).is_some_and(|asked| asked.checksum != checksum) {
            let start = input[..input.len().min(64)].escape_ascii();
            self.violation(Check::Input, format!("task {task} got another input of {} bytes: {start}", input.len()));
        }
    }

    /// Checks a finished task, as a client read it, against what was submitted and what executors saw.
    pub fn check_life(&mut self, task: &v1::Task) {
        // Some responses omit the attempts.
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

    /// Returns what happened too early in a task's life.
    fn early(&self, task: &v1::Task, asked: &Asked) -> Option<String> {
        let on_time = task.failure.as_ref().is_some_and(|failure| failure.kind() == FailureKind::Deadline);
        if let (Some(deadline), Some(finished)) = (asked.deadline, self.finished_at.get(&task.id))
            && on_time
            && is_early(deadline, finished.saturating_sub(asked.at))
        {
            return Some(format!(
                "it had {deadline:?} from {:?} on, but its deadline had passed at {finished:?}",
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
                return Some(format!("attempt {} has {timeout:?}, but ran {assigned:?} to {failed:?}", attempt.number));
            }
            let pause = pause(asked, counted);
            if let Some(next) = task.attempts.get(n + 1).and_then(seen).and_then(|seen| seen.begun)
                && attempt.state() == AttemptState::Failed
                && is_early(pause, next.saturating_sub(failed))
            {
                return Some(format!(
                    "attempt {} failed at {failed:?}, and its backoff is {pause:?}, but the next one \
                                     was started at {next:?}",
                    attempt.number
                ));
            }
        }
        None
    }

    /// Checks that healthy agents keep their sessions once nothing but clocks is wrong.
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
                    format!("{name} runs since {since:?} and is healthy, but its session ended at {:?}", self.now);
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
        use AttemptState::{Failed, HandedBack, Lost, Succeeded, Suspended, TimedOut};
        let fine = [
            task(TaskState::Succeeded, 2, &[Lost, HandedBack, Succeeded]),
            task(TaskState::Succeeded, 2, &[Suspended, Lost, Succeeded]),
            task(TaskState::Failed, 2, &[Lost, Failed]),
            task(TaskState::DeadLettered, 2, &[Failed, TimedOut]),
            task(TaskState::Cancelled, 0, &[]),
        ];
        let wrong = [
            task(TaskState::Succeeded, 3, &[Lost, Failed, Succeeded]),
            task(TaskState::Succeeded, 1, &[Lost, Succeeded]),
            task(TaskState::Succeeded, 1, &[Suspended]),
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
