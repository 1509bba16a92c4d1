//! The time by which certificates are judged.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use robeing_platform::Clock;
use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// The time by which this process judges certificates: the fleet's wall time, from the moment it was last learned, plus
/// what has passed since. Until the fleet's time is known, it is this machine's own wall clock, which may be wrong.
pub struct TrustClock {
    own: Arc<dyn Clock>,
    learned: Mutex<Option<Learned>>,
}

#[derive(Clone, Copy)]
struct Learned {
    /// The fleet's wall time, Unix milliseconds.
    wall: u64,
    /// When it was learned, by [`Clock::elapsed_millis`].
    at: u64,
}

impl fmt::Debug for TrustClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrustClock").field("now", &self.now()).field("is_known", &self.is_known()).finish()
    }
}

impl TrustClock {
    /// Creates a clock that doesn't know the fleet's time yet.
    pub fn new(own: Arc<dyn Clock>) -> Self {
        Self { own, learned: Mutex::new(None) }
    }

    fn learned(&self) -> Option<Learned> {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the time now, Unix milliseconds.
    pub fn now(&self) -> u64 {
        match self.learned() {
            Some(Learned { wall, at }) => wall.saturating_add(self.own.elapsed_millis().saturating_sub(at)),
            None => self.own.unix_millis(),
        }
    }

    /// Returns whether the fleet's time is known.
    pub fn is_known(&self) -> bool {
        self.learned().is_some()
    }

    /// Sets the fleet's wall time, Unix milliseconds.
    pub fn learn(&self, wall: u64) {
        self.learn_at(wall, self.own.elapsed_millis());
    }

    /// Sets what the fleet's wall time was at a moment of [`Clock::elapsed_millis`], which another process of this
    /// machine has learned.
    pub fn learn_at(&self, wall: u64, at: u64) {
        *self.learned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Learned { wall, at });
    }

    /// Returns what [`TrustClock::learn_at`] takes, if the fleet's time is known.
    pub fn what_is_learned(&self) -> Option<(u64, u64)> {
        self.learned().map(|Learned { wall, at }| (wall, at))
    }
}

impl TimeProvider for TrustClock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.now())))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// A wall clock that stands, and the time that passes.
    struct Hands(AtomicU64);

    impl Clock for Hands {
        fn unix_millis(&self) -> u64 {
            7
        }
        fn elapsed_millis(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn the_fleets_time_counts_as_soon_as_it_is_known() {
        let hands = Arc::new(Hands(AtomicU64::new(1_000)));
        let clock = TrustClock::new(Arc::clone(&hands) as _);
        assert_eq!((clock.now(), clock.is_known()), (7, false));
        clock.learn(50_000);
        hands.0.store(1_250, Ordering::Relaxed);
        assert_eq!((clock.now(), clock.is_known()), (50_250, true));
        clock.learn(40_000);
        assert_eq!(clock.now(), 40_000);
    }
}
