//! The backoff before a failed watch is restarted. It grows with consecutive failures, regardless of the events between
//! them: a watcher emits a start event before it sends its request, so a backoff that each event resets would never
//! grow.

use std::time::Duration;

use backon::ExponentialBuilder;
use kube_runtime::{
    utils::{Backoff, ResetTimerBackoff},
    watcher::ExponentialBackoff,
};

/// The first pause, before jitter adds up to as much again; each pause is twice the previous one.
const FIRST: Duration = Duration::from_millis(800);
/// The longest pause, before jitter: how much later than the API server itself the caches may recover.
const LONGEST: Duration = Duration::from_secs(10);
/// Time without a failure after which the backoff is reset.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// The pauses of one watch.
pub(crate) struct WatchBackoff(ResetTimerBackoff<ExponentialBackoff>);

impl Default for WatchBackoff {
    fn default() -> Self {
        let growing = ExponentialBuilder::default().with_min_delay(FIRST).with_max_delay(LONGEST).with_factor(2.0);
        let endless = growing.with_jitter().without_max_times();
        Self(ResetTimerBackoff::new(ExponentialBackoff::from(endless), FORGOTTEN_AFTER))
    }
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next()
    }
}

impl Backoff for WatchBackoff {
    /// Does nothing: only time resets the backoff.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_to_the_longest_and_start_anew_after_a_while() {
        let mut backoff = WatchBackoff::default();
        let mut pauses = Vec::new();
        for _ in 0..8 {
            pauses.extend(backoff.next());
            backoff.reset();
        }
        assert!(pauses[0] >= FIRST && pauses[0] < FIRST * 2, "{pauses:?}");
        assert!(pauses[3] >= FIRST * 8, "{pauses:?}");
        assert!(pauses[7] >= LONGEST && pauses[7] < LONGEST * 2, "{pauses:?}");
        tokio::time::advance(FORGOTTEN_AFTER + Duration::from_millis(1)).await;
        assert!(backoff.next() < Some(FIRST * 2));
    }
}
