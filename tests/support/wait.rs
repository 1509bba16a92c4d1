//! Waiting for conditions, always with a deadline.

use std::{fmt::Debug, time::Duration};

use tokio::time::{Instant, sleep};

/// Time within which anything that is waited for must happen, on a machine that is busy with other tests, too.
pub const PATIENCE: Duration = Duration::from_secs(45);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks again and again until there is an answer.
///
/// # Panics
/// When there is none within [`PATIENCE`], with what was seen last.
pub async fn eventually<T, S: Debug>(expected: &str, mut look: impl AsyncFnMut() -> Result<T, S>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= until => {
                panic!("within {PATIENCE:?} not seen: {expected}; instead: {seen:#?}")
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// Waits for a future.
///
/// # Panics
/// When it has not ended within [`PATIENCE`].
pub async fn in_time<T>(expected: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(done) => done,
        Err(_) => panic!("within {PATIENCE:?} not done: {expected}"),
    }
}

/// `Ok` when this holds, else what was seen instead: for [`eventually`].
pub fn check<T, S>(holds: bool, found: T, seen: S) -> Result<T, S> {
    if holds { Ok(found) } else { Err(seen) }
}
