//! A wall clock that is wrong.

use std::sync::{Arc, Mutex, PoisonError};

use crate::Clock;

/// By how much a clock is wrong.
#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    /// Milliseconds that it was ahead when it was set; negative: behind.
    ahead: i64,
    /// Milliseconds that it gains in each thousand.
    drift: i64,
    /// When it was first read like this, by the right clock.
    since: Option<u64>,
}

/// A machine's wall clock that can be set and made to drift while it is read. Clones are the same clock.
#[derive(Clone)]
pub struct WrongClock {
    right: Arc<dyn Clock>,
    fault: Arc<Mutex<Fault>>,
}

impl WrongClock {
    /// One that is right until it is set.
    pub fn new(right: Arc<dyn Clock>) -> Self {
        Self { right, fault: Arc::default() }
    }

    /// Sets it ahead of the right time by so many milliseconds, and lets it gain `drift` in each thousand from its next reading
    /// on.
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
}
