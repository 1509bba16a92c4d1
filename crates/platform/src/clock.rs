//! Wall-clock time.

use std::time::{SystemTime, UNIX_EPOCH};

/// A source of wall-clock time, which may jump. For durations use `tokio::time::Instant`.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn unix_millis(&self) -> u64;
}

/// The system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_millis(&self) -> u64 {
        // Before 1970 counts as 1970: the state machine never lets time run backwards anyway.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}
