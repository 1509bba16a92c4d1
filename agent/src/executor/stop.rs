//! What ends an attempt before it ends by itself.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// What can stop an attempt from outside.
pub(super) struct Stop {
    pub(super) cancel: CancellationToken,
    /// The time limit, and when it passes.
    pub(super) limit: Option<(Duration, Instant)>,
}

/// What stopped an attempt.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    Cancelled,
    /// The time limit has passed, which was this long.
    TimedOut(Duration),
}

impl Stop {
    pub(super) fn new(time_limit: Option<Duration>, cancel: CancellationToken) -> Self {
        // A limit that the clock can't represent counts as none.
        let limit = time_limit.and_then(|limit| Some((limit, Instant::now().checked_add(limit)?)));
        Self { cancel, limit }
    }

    /// Waits until the attempt is to stop, and returns why. Cancel-safe.
    pub(super) async fn requested(&self) -> Why {
        let at_limit = async {
            match self.limit {
                Some((limit, at)) => {
                    sleep_until(at).await;
                    Why::TimedOut(limit)
                }
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.cancel.cancelled() => Why::Cancelled,
            why = at_limit => why,
        }
    }
}
