//! The few things that executors do alike: deadlines, time limits, and bytes shown to people. Knows timers, and no I/O.

use std::time::{Duration, UNIX_EPOCH};

use super::{Failure, FailureKind};

/// The last instant RFC 3339 can write: 9999-12-31T23:59:59.999Z, in Unix milliseconds.
const LATEST_RFC3339_MS: u64 = 253_402_300_799_999;

/// A deadline as RFC 3339 in UTC with milliseconds. Later ones than the format can write become the last it can.
pub(super) fn rfc3339(unix_ms: u64) -> String {
    let since_epoch = Duration::from_millis(unix_ms.min(LATEST_RFC3339_MS));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).to_string()
}

/// Bytes of unknown encoding as text, with what is not UTF-8 replaced.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The failure of an attempt that was stopped at its time limit, which is told in whole milliseconds.
pub(super) fn timed_out(limit: Duration) -> Failure {
    let limit = Duration::from_millis(u64::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
    Failure::new(
        FailureKind::TimedOut,
        true,
        format!("the attempt was stopped at its time limit of {}", humantime::format_duration(limit)),
    )
}

/// Waits until the time limit of an attempt has passed, and gives its failure. Without a limit that is never.
pub(super) async fn at_limit(limit: Option<Duration>) -> Failure {
    match limit {
        Some(limit) => {
            tokio::time::sleep(limit).await;
            timed_out(limit)
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_is_told_in_whole_milliseconds() {
        let told = |limit| timed_out(limit).message;
        assert!(
            told(Duration::from_nanos(2_000_997_395)).ends_with(" of 2s 1ms"),
            "{}",
            told(Duration::from_nanos(2_000_997_395))
        );
        assert!(told(Duration::from_nanos(1)).ends_with(" of 1ms"));
        assert!(told(Duration::from_millis(1500)).ends_with(" of 1s 500ms"));
    }

    #[test]
    fn a_deadline_is_written_as_rfc3339_up_to_the_last_it_can_write() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_428_000_123), "2026-11-23T10:00:00.123Z");
        assert_eq!(rfc3339(LATEST_RFC3339_MS), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
