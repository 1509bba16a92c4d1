//! Helpers that executors share: the formatting of deadlines, time limits and bytes. Uses timers, but no I/O.

use std::time::{Duration, UNIX_EPOCH};

use nix::errno::Errno;

use super::{Failure, FailureKind};

/// The latest time that RFC 3339 can represent: 9999-12-31T23:59:59.999Z, in Unix milliseconds.
const LATEST_RFC3339_MS: u64 = 253_402_300_799_999;

/// Formats a deadline as RFC 3339 in UTC with milliseconds, capped at the latest time the format can represent.
pub(crate) fn rfc3339(unix_ms: u64) -> String {
    let since_epoch = Duration::from_millis(unix_ms.min(LATEST_RFC3339_MS));
    humantime::format_rfc3339_millis(UNIX_EPOCH + since_epoch).to_string()
}

/// Returns the message for an errno that means that no further file or connection can be opened; `None` for any other.
pub(super) fn too_many_files(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::EMFILE => Some("the agent has too many files open; raise its limit (ulimit -n), or give it fewer slots"),
        Errno::ENFILE => Some("this machine has too many files open"),
        _ => None,
    }
}

/// Converts bytes of unknown encoding to text, replacing invalid UTF-8.
pub(super) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Returns the failure of an attempt that was stopped at its time limit. `limit` is what was left of the original limit
/// when the attempt arrived here, so it is rounded up to a value that a user is likely to have set.
pub(super) fn timed_out(limit: Duration) -> Failure {
    let ms = u64::try_from(limit.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    let step = match ms {
        ..50 => 1,
        50..1_000 => 10,
        1_000..10_000 => 50,
        10_000.. => 500,
    };
    let limit = Duration::from_millis(ms.div_ceil(step).saturating_mul(step));
    Failure::new(
        FailureKind::TimedOut,
        true,
        format!("the attempt was stopped at its time limit of {}", humantime::format_duration(limit)),
    )
}

/// Tells that a command reached its limit of memory, bytes, and what to do.
pub(super) fn needs_more(limit: u64) -> String {
    format!("it reached the memory limit of {limit} bytes that its task was granted: submit the task with more memory")
}

/// Returns the failure of a command that its limit of memory, bytes, does not let start. Another attempt has no more.
pub(super) fn not_started_within(program: &str, limit: u64) -> Failure {
    let message = format!("the command {program:?} can't be started: {}", needs_more(limit));
    Failure::new(FailureKind::Spawn, false, message)
}

/// Waits until the time limit of an attempt has passed, and returns its failure. Without a limit it never completes.
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
    fn a_time_limit_is_told_as_it_may_have_been_set() {
        for (limit, told) in [
            (Duration::from_nanos(1), "1ms"),
            (Duration::from_micros(99_100), "100ms"),
            (Duration::from_nanos(1_997_002_605), "2s"),
            (Duration::from_millis(1_500), "1s 500ms"),
            (Duration::from_millis(59_960), "1m"),
        ] {
            let message = timed_out(limit).message;
            assert!(message.ends_with(&format!(" of {told}")), "{message}");
        }
        assert!(!timed_out(Duration::MAX).message.is_empty());
    }

    #[test]
    fn a_deadline_is_written_as_rfc3339_up_to_the_last_it_can_write() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_795_428_000_123), "2026-11-23T10:00:00.123Z");
        assert_eq!(rfc3339(LATEST_RFC3339_MS), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
