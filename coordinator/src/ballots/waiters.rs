//! Those who wait for ballots to close. The state machine waits for what is done here, so it only passes on the ballot.

use std::{collections::BTreeMap, sync::Arc};

use robeing_fleet::{Ballot, BallotId};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Maximum number of calls that wait for ballots to close at one coordinator.
pub const MAX_WAITING: usize = 4_096;

/// A ballot once it has closed.
type End = Option<Arc<Ballot>>;

#[derive(Default)]
struct Waited {
    by_ballot: BTreeMap<BallotId, watch::Sender<End>>,
    count: usize,
}

/// Those who wait for ballots to close at one coordinator.
#[derive(Default)]
pub struct BallotWaiters(Mutex<Waited>);

impl BallotWaiters {
    fn waited(&self) -> MutexGuard<'_, Waited> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for a ballot. Call it before reading the state, or its end may be missed. `None`: too many wait
    /// ([`MAX_WAITING`]).
    pub fn wait_for(self: &Arc<Self>, ballot: BallotId) -> Option<Waiting> {
        let mut waited = self.waited();
        if waited.count >= MAX_WAITING {
            return None;
        }
        waited.count += 1;
        let end = waited.by_ballot.entry(ballot).or_insert_with(|| watch::Sender::new(None)).subscribe();
        drop(waited);
        Some(Waiting { waiters: Arc::clone(self), ballot, end: Some(end) })
    }

    /// Passes a ballot that has closed to those who wait for it.
    pub fn closed(&self, ballot: &Arc<Ballot>) {
        if let Some(waiting) = self.waited().by_ballot.get(&ballot.id) {
            waiting.send_replace(Some(Arc::clone(ballot)));
        }
    }

    fn forget(&self, ballot: BallotId) {
        let mut waited = self.waited();
        waited.count = waited.count.saturating_sub(1);
        if waited.by_ballot.get(&ballot).is_some_and(|end| end.receiver_count() == 0) {
            waited.by_ballot.remove(&ballot);
        }
    }
}

/// A call's wait for a ballot, which ends when this is dropped.
pub struct Waiting {
    waiters: Arc<BallotWaiters>,
    ballot: BallotId,
    /// `None` only while this is dropped.
    end: Option<watch::Receiver<End>>,
}

impl Waiting {
    /// Returns the ballot once it has closed. Cancellation-safe.
    pub async fn closed(&mut self) -> Arc<Ballot> {
        if let Some(end) = &mut self.end {
            let ended = end.wait_for(Option::is_some).await.ok().and_then(|ended| ended.clone());
            if let Some(ballot) = ended {
                return ballot;
            }
        }
        // The sender is kept while somebody waits, so this is never reached; whoever waits has a deadline anyway.
        std::future::pending().await
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        drop(self.end.take());
        self.waiters.forget(self.ballot);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::fixture::closed_ballot;

    #[test]
    fn all_who_wait_for_a_ballot_are_told_that_it_has_closed() {
        let waiters = Arc::new(BallotWaiters::default());
        let [mut one, mut two, mut other] = [1, 1, 2].map(|id| waiters.wait_for(BallotId(id)).expect("there is room"));
        assert!(one.closed().now_or_never().is_none(), "it is open");
        waiters.closed(&closed_ballot(1));
        waiters.closed(&closed_ballot(3));
        for waiting in [&mut one, &mut two] {
            assert_eq!(waiting.closed().now_or_never().map(|ballot| ballot.id), Some(BallotId(1)));
        }
        assert!(other.closed().now_or_never().is_none());
        let counts = || {
            let waited = waiters.waited();
            (waited.count, waited.by_ballot.len())
        };
        drop((one, other));
        assert_eq!(counts(), (1, 1));
        drop(two);
        assert_eq!(counts(), (0, 0));
    }

    #[test]
    fn so_many_calls_wait_and_one_more_is_refused() {
        let waiters = Arc::new(BallotWaiters::default());
        let mut all: Vec<Waiting> =
            (0..MAX_WAITING).map(|n| waiters.wait_for(BallotId(n as u128 % 7)).expect("there is room")).collect();
        assert!(waiters.wait_for(BallotId(1)).is_none());
        all.pop();
        assert!(waiters.wait_for(BallotId(1)).is_some());
    }
}
