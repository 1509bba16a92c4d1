//! Wall-clock time.

use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

/// A source of wall-clock time, which may jump. To measure durations, use `tokio::time::Instant`.
pub trait Clock: Send + Sync + 'static {
    /// Returns the milliseconds since the Unix epoch.
    fn unix_millis(&self) -> u64;

    /// Returns the milliseconds since some moment in the past, which never jump. Unlike `tokio::time::Instant`, they
    /// include the time in which the machine was suspended.
    fn elapsed_millis(&self) -> u64 {
        // This can only fail on a kernel without the clock, which came with Linux 2.6.39.
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0, |time| {
            let seconds = u64::try_from(time.tv_sec()).unwrap_or_default();
            let nanos = u64::try_from(time.tv_nsec()).unwrap_or_default();
            seconds.saturating_mul(1_000).saturating_add(nanos / 1_000_000)
        })
    }
}

/// The system's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_millis(&self) -> u64 {
        // A time before 1970 counts as 1970: the state machine never lets time go backwards anyway.
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
    }
}
