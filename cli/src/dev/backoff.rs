//! How long to wait before a process that died is restarted. Pure: randomness and time are parameters.

use std::time::Duration;

/// Pause after the first death.
pub(super) const FIRST: Duration = Duration::from_millis(200);
/// The longest pause, before jitter.
pub(super) const LONGEST: Duration = Duration::from_secs(10);
/// A process that ran this long was healthy, so its count of deaths starts from zero.
pub(super) const HEALTHY: Duration = Duration::from_secs(10);
/// Fraction of a pause that is random, so that processes that died together do not restart together.
const JITTER: f64 = 0.25;

/// The consecutive deaths of one process.
#[derive(Debug)]
pub(super) struct Backoff {
    deaths: u32,
    longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::up_to(LONGEST)
    }
}

impl Backoff {
    /// Creates a backoff whose pauses are at most `longest`.
    pub(super) fn up_to(longest: Duration) -> Self {
        Self { deaths: 0, longest: longest.min(LONGEST) }
    }

    /// Returns the pause after a death. `ran` is how long the process ran; `random` is between 0 and 1.
    pub(super) fn after_death(&mut self, ran: Duration, random: f64) -> Duration {
        if ran >= HEALTHY {
            self.deaths = 0;
        }
        let doubled = FIRST.saturating_mul(1_u32.checked_shl(self.deaths).unwrap_or(u32::MAX)).min(self.longest);
        self.deaths = self.deaths.saturating_add(1);
        doubled.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u128> = (0..40).map(|_| backoff.after_death(Duration::ZERO, 0.0).as_millis()).collect();
        assert_eq!(pauses[..7], [200, 400, 800, 1_600, 3_200, 6_400, 10_000]);
        assert!(pauses[7..].iter().all(|pause| *pause == LONGEST.as_millis()), "{pauses:?}");
    }

    #[test]
    fn a_healthy_while_ends_the_count() {
        let mut backoff = Backoff::default();
        backoff.after_death(Duration::ZERO, 0.0);
        backoff.after_death(Duration::ZERO, 0.0);
        assert_eq!(backoff.after_death(HEALTHY - Duration::from_millis(1), 0.0), FIRST * 4);
        assert_eq!(backoff.after_death(HEALTHY, 0.0), FIRST);
    }

    #[test]
    fn jitter_only_shortens() {
        assert_eq!(Backoff::default().after_death(Duration::ZERO, 1.0), FIRST.mul_f64(0.75));
    }
}
