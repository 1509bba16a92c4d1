//! Waits for conditions, always with a deadline.

use std::{fmt::Debug, time::Duration};

use tokio::time::{Instant, sleep};

/// The time within which everything that a test waits for must happen, even on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// The pause between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Calls `look` repeatedly until it returns `Ok`, and returns that value.
///
/// # Panics
/// If it does not within [`PATIENCE`]; the message contains the last `Err`.
pub async fn eventually<T, S: Debug>(expected: &str, look: impl AsyncFnMut() -> Result<T, S>) -> T {
    eventually_within(PATIENCE, expected, look).await
}

/// Like [`eventually`], for what happens only now and then.
///
/// # Panics
/// If `look` does not return `Ok` within this time; the message contains the last `Err`.
pub async fn eventually_within<T, S: Debug>(
    patience: Duration,
    expected: &str,
    mut look: impl AsyncFnMut() -> Result<T, S>,
) -> T {
    let until = Instant::now() + patience;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= until => {
                panic!("waited {patience:?} for {expected}; last seen: {seen:#?}")
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// Waits for a future.
///
/// # Panics
/// If it does not complete within [`PATIENCE`].
pub async fn in_time<T>(expected: &str, future: impl Future<Output = T>) -> T {
    in_time_within(PATIENCE, expected, future).await
}

/// Like [`in_time`], for what takes longer.
///
/// # Panics
/// If the future does not complete within this time.
pub async fn in_time_within<T>(patience: Duration, expected: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(patience, future).await {
        Ok(done) => done,
        Err(_) => panic!("{expected}: not done within {patience:?}"),
    }
}

/// Returns `Ok(found)` if `holds`, else `Err(seen)`: for the closures of [`eventually`].
pub fn check<T, S>(holds: bool, found: T, seen: S) -> Result<T, S> {
    if holds { Ok(found) } else { Err(seen) }
}
