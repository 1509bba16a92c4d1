//! Tells whether the policies in the state may have changed, and whether there are any, at the cost of one atomic load.

use std::sync::atomic::{AtomicU8, Ordering::SeqCst};

use robeing_policy::Event;
use tokio::sync::watch;

/// Set for each event on which policies may have to be evaluated.
const ALL: u8 = u8::MAX;

fn bit(event: Event) -> u8 {
    1 << event as u8
}

/// What is known about the policies without reading the state.
pub struct PolicyNews {
    /// How many times the policies may have changed.
    changes: watch::Sender<u64>,
    /// The events on which policies may have to be evaluated. All of them until somebody has looked.
    events: AtomicU8,
}

impl Default for PolicyNews {
    fn default() -> Self {
        Self { changes: watch::Sender::new(1), events: AtomicU8::new(ALL) }
    }
}

impl PolicyNews {
    /// Reports that the policies in the state may have changed.
    pub fn changed(&self) {
        self.changes.send_modify(|changes| *changes += 1);
        self.events.store(ALL, SeqCst);
    }

    /// Returns whether policies may have to be evaluated on an event.
    pub fn concerns(&self, event: Event) -> bool {
        self.events.load(SeqCst) & bit(event) != 0
    }

    /// Returns how many times the policies may have changed. Call it before reading the state.
    pub fn changes(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Returns a watch of the changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Remembers on which events the policies, as of a number of changes, are to be evaluated. A change that is reported
    /// meanwhile counts.
    pub fn looked(&self, changes: u64, events: impl IntoIterator<Item = Event>) {
        let events = events.into_iter().fold(0, |events, event| events | bit(event));
        self.events.store(events, SeqCst);
        if self.changes() != changes {
            self.events.store(ALL, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_counts_until_somebody_has_looked_and_after_each_change() {
        let news = PolicyNews::default();
        assert!(Event::ALL.into_iter().all(|event| news.concerns(event)));
        news.looked(news.changes(), [Event::Result]);
        assert_eq!(Event::ALL.map(|event| news.concerns(event)), [false, true, false]);
        news.changed();
        assert!(Event::ALL.into_iter().all(|event| news.concerns(event)));
        let before = news.changes();
        news.changed();
        news.looked(before, []);
        assert!(Event::ALL.into_iter().all(|event| news.concerns(event)), "it has changed since");
        news.looked(news.changes(), []);
        assert!(!Event::ALL.into_iter().any(|event| news.concerns(event)));
    }
}
