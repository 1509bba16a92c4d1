//! Messages that are to be sent before the fleet's agents are known: they wait, and go in the order in which they came.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// The messages that wait. Whoever has the turn is the first of them.
pub(super) struct Early {
    /// The fleet's agents were known once.
    is_known: AtomicBool,
    waiting: AtomicUsize,
    turns: Semaphore,
}

impl Default for Early {
    fn default() -> Self {
        // A semaphore is fair: who asked first gets the permit first.
        Self { is_known: AtomicBool::new(false), waiting: AtomicUsize::new(0), turns: Semaphore::new(1) }
    }
}

impl Early {
    /// Returns whether the fleet's agents are known, which `knows` says until they are, and no message waits, so that one
    /// that is to be sent now overtakes none.
    pub fn is_over(&self, knows: impl FnOnce() -> bool) -> bool {
        if !self.is_known.load(Ordering::Acquire) {
            if !knows() {
                return false;
            }
            self.is_known.store(true, Ordering::Release);
        }
        self.waiting.load(Ordering::Acquire) == 0
    }

    /// Waits for the turn of a message, which ends when the result is dropped. Cancellation-safe.
    pub async fn turn(&self) -> Turn<'_> {
        let waiting = Waiting::among(&self.waiting);
        let permit = self.turns.acquire().await.ok();
        Turn { _permit: permit, _waiting: waiting }
    }
}

/// The turn of a message that waited.
pub(super) struct Turn<'a> {
    // The next one is let go before this one counts as gone, so that no message overtakes it.
    _permit: Option<SemaphorePermit<'a>>,
    _waiting: Waiting<'a>,
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn among(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::AcqRel);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
