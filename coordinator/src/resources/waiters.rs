//! Those who wait for allocations to change. The state machine waits for what is done here, so it only wakes them.

use std::{collections::BTreeMap, sync::Arc};

use robeing_fleet::AllocationId;
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// Those who wait for allocations to change at one coordinator. How many there are limits
/// [`MAX_WAITING`](super::MAX_WAITING).
#[derive(Default)]
pub struct AllocationWaiters(Mutex<BTreeMap<AllocationId, watch::Sender<()>>>);

impl AllocationWaiters {
    fn waited(&self) -> MutexGuard<'_, BTreeMap<AllocationId, watch::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to wait for an allocation. Call it before reading the state, or a change may be missed.
    pub fn wait_for(self: &Arc<Self>, allocation: AllocationId) -> Waiting {
        let changes = self.waited().entry(allocation).or_insert_with(|| watch::Sender::new(())).subscribe();
        Waiting { waiters: Arc::clone(self), allocation, changes: Some(changes) }
    }

    /// Wakes those who wait for this allocation.
    pub fn changed(&self, allocation: AllocationId) {
        if let Some(waiting) = self.waited().get(&allocation) {
            waiting.send_replace(());
        }
    }

    /// Wakes all: the whole state has changed.
    pub fn changed_all(&self) {
        self.waited().values().for_each(|waiting| waiting.send_replace(()));
    }

    fn forget(&self, allocation: AllocationId) {
        let mut waited = self.waited();
        if waited.get(&allocation).is_some_and(|changes| changes.receiver_count() == 0) {
            waited.remove(&allocation);
        }
    }
}

/// A call's wait for an allocation, which ends when this is dropped.
pub struct Waiting {
    waiters: Arc<AllocationWaiters>,
    allocation: AllocationId,
    /// `None` only while this is dropped.
    changes: Option<watch::Receiver<()>>,
}

impl Waiting {
    /// Waits until the allocation has changed since the last call, or since the wait began. Cancellation-safe.
    pub async fn changed(&mut self) {
        if let Some(changes) = &mut self.changes
            && changes.changed().await.is_ok()
        {
            return;
        }
        // The sender is kept while somebody waits, so this is never reached; callers have a deadline anyway.
        std::future::pending().await
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.changes = None;
        self.waiters.forget(self.allocation);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn only_those_wake_who_wait_for_the_allocation_and_nothing_is_kept_of_them() {
        let waiters = Arc::new(AllocationWaiters::default());
        let [mut one, mut same, mut other] = [1, 1, 2].map(|id| waiters.wait_for(AllocationId(id)));
        waiters.changed(AllocationId(1));
        assert!(one.changed().now_or_never().is_some() && same.changed().now_or_never().is_some());
        assert!(one.changed().now_or_never().is_none(), "once");
        assert!(other.changed().now_or_never().is_none());
        waiters.changed_all();
        assert!(one.changed().now_or_never().is_some() && other.changed().now_or_never().is_some());
        drop(one);
        assert_eq!(waiters.waited().len(), 2);
        drop((same, other));
        assert!(waiters.waited().is_empty());
    }
}
