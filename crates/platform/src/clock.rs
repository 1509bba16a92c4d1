//! Wall-clock time.

use std::time::{SystemTime, UNIX_EPOCH};

/// A source of wall-clock time, which may jump. To measure durations, use `tokio::time::Instant`.
pub trait Clock: Send + Sync + 'static {
    /// Returns the milliseconds since the Unix epoch.
    fn unix_millis(&self) -> u64;
}

/// The system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_millis(&self) -> u64 {
        // A time before 1970 counts as 1970: the state machine never lets time go backwards anyway.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}
