//! Turns for opening sessions.

use std::collections::BTreeSet;

use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Turns for opening sessions: sessions of agents with the same name are opened one after the other, so that the second
/// of two processes with one name finds the outcome of the first.
#[derive(Default)]
pub(super) struct Turns {
    names: Mutex<BTreeSet<String>>,
    freed: Notify,
}

impl Turns {
    pub(super) fn names(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn take(&self, name: &str) -> Turn<'_> {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            // Enabled before the check, so that a turn that ends in between is not missed.
            freed.as_mut().enable();
            if self.names().insert(name.to_owned()) {
                return Turn { turns: self, name: name.to_owned() };
            }
            freed.await;
        }
    }
}

/// A turn, held while a connection is opened.
pub struct Turn<'a> {
    turns: &'a Turns,
    name: String,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.turns.names().remove(&self.name);
        self.turns.freed.notify_waiters();
    }
}
