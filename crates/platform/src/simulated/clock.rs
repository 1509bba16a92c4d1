//! A wall clock that can be wrong.

use std::sync::{Arc, Mutex, PoisonError};

use crate::Clock;

/// How a clock deviates from the right time.
#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    /// Milliseconds the clock was ahead when it was set; negative if behind.
    ahead: i64,
    /// Milliseconds gained per 1,000 ms.
    drift: i64,
    /// The right time at the first reading after it was set.
    since: Option<u64>,
}

/// A machine's wall clock that can be set and made to drift while in use. Clones are the same clock.
#[derive(Clone)]
pub struct WrongClock {
    right: Arc<dyn Clock>,
    fault: Arc<Mutex<Fault>>,
}

impl WrongClock {
    /// Creates a clock that is right until it is set.
    pub fn new(right: Arc<dyn Clock>) -> Self {
        Self { right, fault: Arc::default() }
    }

    /// Sets the clock `ahead` milliseconds ahead of the right time (behind if negative), and makes it gain `drift` ms
    /// per 1,000 ms from the next reading on.
    pub fn set(&self, ahead: i64, drift: i64) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Fault { ahead, drift, since: None };
    }
}

impl Clock for WrongClock {
    fn unix_millis(&self) -> u64 {
        let right = self.right.unix_millis();
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = right.saturating_sub(*fault.since.get_or_insert(right)).cast_signed();
        right.saturating_add_signed(fault.ahead.saturating_add(passed.saturating_mul(fault.drift) / 1_000))
    }

    fn elapsed_millis(&self) -> u64 {
        self.right.elapsed_millis()
    }
}
