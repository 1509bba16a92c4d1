//! How far a webhook was at which time, to look back when a messenger is gone. Pure.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::HANDOVER;

/// The time between two entries, at least.
const APART: Duration = Duration::from_secs(1);
/// Maximum number of entries. Beyond that, every second one is forgotten, so that a look back goes further than it has
/// to.
pub const MAX_REACHED: usize = 1_024;

/// When which revision was reached; the oldest first.
#[derive(Debug, Default)]
pub struct Reached(VecDeque<(Instant, u64)>);

impl Reached {
    /// Notes how far the webhook is. It remembers what was reached up to [`HANDOVER`] before the task at the revision
    /// `undelivered` ended, the oldest whose event is not delivered: whoever is gone may have left one that is as old.
    pub fn note(&mut self, revision: u64, undelivered: Option<u64>, now: Instant) {
        let since = match undelivered {
            Some(undelivered) => {
                let before = self.0.iter().rev().find(|(_, reached)| *reached < undelivered).or_else(|| self.0.front());
                before.map_or(now, |(at, _)| *at)
            }
            None => now,
        };
        // One that is older is kept, since the revision was the same since then.
        while self.0.get(1).is_some_and(|(at, _)| since.duration_since(*at) > HANDOVER) {
            self.0.pop_front();
        }
        if self.0.back().is_none_or(|(at, _)| now.duration_since(*at) >= APART) {
            self.0.push_back((now, revision));
        }
        if self.0.len() > MAX_REACHED {
            let mut is_kept = false;
            self.0.retain(|_| {
                is_kept = !is_kept;
                is_kept
            });
        }
    }

    /// Returns the revision to which to look back; `None` before anything was noted.
    pub fn oldest(&self) -> Option<u64> {
        self.0.front().map(|(_, revision)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns what is remembered after this many seconds, in each of which one revision was reached.
    fn after(seconds: u64, undelivered: Option<u64>) -> Reached {
        let (mut reached, start) = (Reached::default(), Instant::now());
        for second in 1..=seconds {
            let undelivered = undelivered.filter(|undelivered| *undelivered <= second);
            reached.note(second, undelivered, start + Duration::from_secs(second));
        }
        reached
    }

    #[test]
    fn it_looks_back_to_a_minute_ago() {
        assert_eq!(Reached::default().oldest(), None);
        assert_eq!(after(30, None).oldest(), Some(1));
        assert_eq!(after(500, None).oldest(), Some(500 - HANDOVER.as_secs() - 1));
    }

    #[test]
    fn it_looks_back_to_a_minute_before_the_oldest_event_that_is_not_delivered() {
        assert_eq!(after(500, Some(200)).oldest(), Some(199 - HANDOVER.as_secs() - 1));
        assert_eq!(after(500, Some(1)).oldest(), Some(1));
    }

    #[test]
    fn it_remembers_so_much_and_rather_looks_back_too_far() {
        let reached = after(10 * MAX_REACHED as u64, Some(100));
        assert!(reached.0.len() <= MAX_REACHED);
        assert!(reached.oldest().is_some_and(|oldest| oldest < 100), "{:?}", reached.oldest());
    }
}
