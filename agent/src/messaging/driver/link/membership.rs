//! Whether the peer of a stream is in the fleet.

use std::time::Duration;

use tokio::time::Instant;

use crate::messaging::routing::{Presence, Snapshot};

/// How long a peer has a stream that this agent's directory does not know, and has not known since the link began: it may
/// have joined a moment ago.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(10);

/// What the directory has said of a peer so far.
#[derive(Debug, Default)]
pub struct Membership {
    /// The directory has known it, so it is no newcomer if it is missing there.
    was_known: bool,
    /// Until when its stream stays although the directory does not know it.
    until: Option<Instant>,
}

impl Membership {
    /// Notes that the directory knows the peer.
    pub fn is_known(&mut self) {
        (self.was_known, self.until) = (true, None);
    }

    /// Notes that another stream begins.
    pub fn begins(&mut self) {
        self.until = None;
    }

    /// Returns whether the peer has left the fleet, so that its stream must end.
    pub fn has_left(&mut self, snapshot: &Snapshot, peer: &str) -> bool {
        if let Some(entry) = snapshot.get(peer) {
            self.is_known();
            return entry.presence == Presence::Away;
        }
        if self.was_known {
            return true;
        }
        // Nobody is known yet.
        if snapshot.is_empty() {
            return false;
        }
        let now = Instant::now();
        now >= *self.until.get_or_insert(now + UNKNOWN_FOR)
    }

    /// Returns when it has to be looked again, if that is so before the directory changes.
    pub fn look_at(&self) -> Option<Instant> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::{Entry, tests::fixture::entry};

    fn knows(entries: impl IntoIterator<Item = Entry>) -> Snapshot {
        entries.into_iter().collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_was_known_has_left_once_it_is_away_or_missing() {
        let (with, without) = (knows([entry("a", 0.5), entry("b", 0.5)]), knows([entry("b", 0.5)]));
        let away = knows([Entry { presence: Presence::Away, ..entry("a", 0.5) }]);
        let mut membership = Membership::default();
        assert!(!membership.has_left(&with, "a"));
        assert!(membership.has_left(&away, "a"));
        assert!(membership.has_left(&without, "a"));
        membership.begins();
        assert!(membership.has_left(&without, "a"), "another stream makes it no newcomer");
        assert!(!membership.has_left(&with, "a"), "it has joined again");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_has_a_while_to_become_known() {
        let (with, without) = (knows([entry("a", 0.5), entry("b", 0.5)]), knows([entry("b", 0.5)]));
        let mut membership = Membership::default();
        assert!(!membership.has_left(&Snapshot::default(), "a"));
        assert_eq!(membership.look_at(), None, "nobody is known yet");
        assert!(!membership.has_left(&without, "a"));
        let until = Instant::now() + UNKNOWN_FOR;
        assert_eq!(membership.look_at(), Some(until));
        tokio::time::advance(UNKNOWN_FOR - Duration::from_millis(1)).await;
        assert!(!membership.has_left(&without, "a"));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(membership.has_left(&without, "a"));
        membership.begins();
        assert!(!membership.has_left(&without, "a"), "its next stream");
        assert!(!membership.has_left(&with, "a"));
        assert_eq!(membership.look_at(), None);
    }
}
