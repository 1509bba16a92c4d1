//! How long a task waits before its next attempt, and after which failures there is none.
//!
//! Backoffs are exponential with a cap ([`RetryPolicy::backoff`](crate::RetryPolicy::backoff)). Those of a task with
//! jitter are shortened by chance, so that tasks that failed together are not tried again together. The state machine
//! draws nothing: the coordinator that proposes a task draws a seed, which is in the command, and every coordinator
//! computes the same pauses from it.

use bilrost::Message;

use crate::{
    Failure, FailureKind, Refusal, SubmitTask, Task,
    config::{check_length, invalid},
    limits::{MAX_FAILURE_NAME_BYTES, MAX_JITTER_PERCENT, MAX_RETRY_AFTER_MS},
    sabotage::{Mistake, planted},
};

/// By how much backoffs are shortened by chance.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Jitter {
    /// The largest part of a backoff by which it is shortened, percent; 1 to [`MAX_JITTER_PERCENT`].
    #[bilrost(1)]
    pub percent: u32,
    /// The random number from which the parts are computed. The coordinator that proposes the task draws it.
    #[bilrost(2)]
    pub seed: u64,
}

/// Failures that are meant by what is the same in all of them. What is `None` may be anything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct FailureMatch {
    /// The kind of failure.
    #[bilrost(1)]
    pub kind: Option<FailureKind>,
    /// The exit code, signal number, HTTP status, or the code of an attached process. Only with one of the others,
    /// because it says nothing alone.
    #[bilrost(2)]
    pub code: Option<i32>,
    /// What the handler calls the failure; see [`Failure::name`]. At most [`MAX_FAILURE_NAME_BYTES`].
    #[bilrost(3)]
    pub name: Option<String>,
}

/// Returns a number that is as good as random for each pair of a seed and a count (SplitMix64).
fn mixed(seed: u64, count: u64) -> u64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut bits = seed.wrapping_add(count.wrapping_add(1).wrapping_mul(STEP));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl Jitter {
    /// Refuses what is out of bounds.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if !(1..=MAX_JITTER_PERCENT).contains(&self.percent) {
            let problem = format!("is {}, must be 1 to {MAX_JITTER_PERCENT}; leave it out for none", self.percent);
            return Err(invalid("retry.jitter_percent", problem));
        }
        Ok(())
    }

    /// Returns `pause`, ms, shortened by up to [`Jitter::percent`] of it. It is another part for each task that has the
    /// same seed, by the task's number, and after each number of attempts.
    pub(crate) fn shorten(&self, pause: u64, seq: u64, used: u32) -> u64 {
        let most = u128::from(pause) * u128::from(self.percent.min(MAX_JITTER_PERCENT)) / 100;
        let drawn = mixed(mixed(self.seed, seq), u64::from(used));
        // Of equally likely numbers, each up to `most` is as likely as the others.
        let less = (u128::from(drawn) * (most + 1)) >> u64::BITS;
        pause.saturating_sub(less as u64)
    }
}

impl FailureMatch {
    /// Refuses what is out of bounds.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        const FIELD: &str = "retry.non_retryable";
        if self.kind.is_none() && self.name.is_none() {
            let problem = if self.code.is_some() { "names a code alone; name a kind, too" } else { "names nothing" };
            return Err(invalid(FIELD, problem));
        }
        let Some(name) = &self.name else { return Ok(()) };
        if name.is_empty() {
            return Err(invalid(FIELD, "has an empty name; leave it out"));
        }
        check_length(FIELD, name, MAX_FAILURE_NAME_BYTES)
    }

    pub(super) fn stored_bytes(&self) -> usize {
        self.name.as_ref().map_or(0, String::len)
    }

    /// Returns whether this failure is meant.
    pub fn matches(&self, failure: &Failure) -> bool {
        self.kind.is_none_or(|kind| kind == failure.kind)
            && self.code.is_none_or(|code| Some(code) == failure.code)
            && self.name.as_ref().is_none_or(|name| *name == failure.name)
    }
}

impl SubmitTask {
    /// Draws the seed of its jitter, if it has any. A coordinator does this before it proposes the task.
    pub fn draw_jitter(&mut self, draw: impl FnOnce() -> u64) {
        if let Some(jitter) = self.timing.as_mut().and_then(|timing| timing.jitter.as_mut()) {
            jitter.seed = draw();
        }
    }
}

impl Failure {
    /// Returns whether only fleets with [`Feature::Timing`](crate::Feature::Timing) know such failures.
    pub(crate) fn needs_timing(&self) -> bool {
        matches!(self.kind, FailureKind::Expired | FailureKind::Stalled) || !self.name.is_empty()
    }
}

impl Task {
    /// Notes at a failure that the task is not to be tried again after it, if its rules say so.
    pub(crate) fn judge(&self, failure: &mut Failure) {
        let Some(timing) = &self.timing else { return };
        let is_final = timing.asked.non_retryable.iter().any(|of| of.matches(failure));
        if is_final && !planted(Mistake::NonRetryableRetried) {
            failure.retryable = false;
        }
    }

    /// Returns the pause before the next attempt after this failure, ms: the backoff, or what the failure asks for if
    /// that is more. None follows an attempt that made no progress: it has taken long enough.
    pub(crate) fn pause_after(&self, failure: &Failure) -> u64 {
        if failure.kind == FailureKind::Stalled {
            return 0;
        }
        let backoff = self.retry.backoff(self.attempts_used);
        let jitter = self.timing.as_ref().and_then(|timing| timing.asked.jitter);
        let backoff = jitter.map_or(backoff, |jitter| jitter.shorten(backoff, self.seq, self.attempts_used));
        backoff.max(failure.retry_after_ms.min(MAX_RETRY_AFTER_MS))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::{arbitrary::any, prop_assert, proptest};

    use super::*;

    proptest! {
        #[test]
        fn a_pause_is_shortened_by_no_more_than_its_part_and_never_grows(
            percent in 1..=MAX_JITTER_PERCENT, seed in any::<u64>(), pause in any::<u64>(), seq in any::<u64>(),
            used in any::<u32>(),
        ) {
            let jitter = Jitter { percent, seed };
            let drawn = jitter.shorten(pause, seq, used);
            let least = u128::from(pause) - u128::from(pause) * u128::from(percent) / 100;
            prop_assert!(drawn <= pause && u128::from(drawn) >= least, "{drawn} of {pause}");
            prop_assert!(drawn == jitter.shorten(pause, seq, used), "the same on every coordinator");
        }
    }

    #[test]
    fn pauses_reach_both_ends_and_differ_by_seed_task_and_attempt() {
        let half = Jitter { percent: 50, seed: 7 };
        let drawn: BTreeSet<u64> = (0..1_000).map(|used| half.shorten(10, 1, used)).collect();
        assert_eq!(drawn, (5..=10).collect());
        let other = Jitter { seed: 8, ..half };
        let pauses = |jitter: Jitter, seq| (1..9).map(|used| jitter.shorten(60_000, seq, used)).collect::<Vec<_>>();
        assert_ne!(pauses(half, 1), pauses(other, 1));
        assert_ne!(pauses(half, 1), pauses(half, 2));
        assert_eq!((half.shorten(0, 1, 1), half.shorten(1, 1, 1)), (0, 1), "half a millisecond is none");
    }
}
