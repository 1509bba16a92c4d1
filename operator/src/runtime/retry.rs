//! Requests that were recently refused and are not retried at once: each refused request is retried after a pause that
//! doubles each time, unless the request changes.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use crate::controller::requeue;

/// The first pause.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The longest pause if an object of someone else is in the way: only a request shows whether it is gone.
pub const LONGEST_FOREIGN_PAUSE: Duration = Duration::from_secs(8);

/// A refusal that has not been superseded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The message, as a sentence.
    pub sentence: String,
    /// Whether the object belongs to someone else.
    pub foreign: bool,
    wish: u64,
    until: Instant,
    pause: Duration,
}

/// The refusals of one cluster, by kind and name of the object.
#[derive(Debug, Default)]
pub struct Refusals(BTreeMap<(String, String), Refusal>);

impl Refusals {
    /// Returns whether a request about this object was refused and has not succeeded since.
    pub fn knows(&self, kind: &str, name: &str) -> bool {
        self.0.contains_key(&(kind.to_owned(), name.to_owned()))
    }

    /// Returns the refusal that forbids making this request now, if any. `wish` is a number that identifies the request
    /// and the state of its object: if the object has changed, the response may differ.
    pub fn of(&self, kind: &str, name: &str, wish: u64, now: Instant) -> Option<&Refusal> {
        let refusal = self.0.get(&(kind.to_owned(), name.to_owned()))?;
        Some(refusal).filter(|refusal| refusal.wish == wish && now < refusal.until)
    }

    /// Returns when, after `now`, the first refused request may be retried. A request that could have been retried and
    /// was not is no longer desired.
    pub fn next(&self, now: Instant) -> Option<Instant> {
        self.0.values().map(|refusal| refusal.until).filter(|until| *until > now).min()
    }

    /// Records a refusal: whether the object belongs to someone else, and the message. `chance`, in 0..1, shortens the
    /// pause, so that requests that were refused together, for example by one quota, are not retried together.
    pub fn note(
        &mut self,
        (kind, name, wish): (&str, &str, u64),
        (foreign, sentence): (bool, String),
        now: Instant,
        chance: f64,
    ) {
        let key = (kind.to_owned(), name.to_owned());
        let before = self.0.get(&key).filter(|before| before.wish == wish).map(|before| before.pause);
        let longest = if foreign { LONGEST_FOREIGN_PAUSE } else { LONGEST_PAUSE };
        let pause = before.map_or(FIRST_PAUSE, |before| (before * 2).min(longest));
        let until = now + requeue::shortened(pause, chance);
        self.0.insert(key, Refusal { sentence, foreign, wish, until, pause });
    }

    /// Records that the request succeeded.
    pub fn done(&mut self, kind: &str, name: &str) {
        self.0.remove(&(kind.to_owned(), name.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_again_and_again_is_asked_ever_more_seldom_until_it_changes() {
        let (mut refusals, start) = (Refusals::default(), Instant::now());
        let (mut asked, mut changed) = (0, start);
        for second in 0..600 {
            let now = start + Duration::from_secs(second);
            if refusals.of("Service", "a", 1, now).is_none() {
                asked += 1;
                refusals.note(("Service", "a", 1), (false, "no".into()), now, 0.0);
                changed = now;
            }
        }
        // 1, 2, 4, 8, 16 and 32 seconds, then every minute.
        assert_eq!(asked, 7 + 8);
        assert!(refusals.of("Service", "a", 1, changed).is_some_and(|refusal| refusal.sentence == "no"));
        assert!(refusals.of("Service", "a", 2, changed).is_none(), "it is another request");
        refusals.note(("Service", "a", 2), (false, "no".into()), changed, 0.0);
        assert!(refusals.of("Service", "a", 2, changed + FIRST_PAUSE).is_none(), "with a pause of its own");
        assert!(refusals.of("Service", "b", 1, changed).is_none());
        assert_eq!(refusals.next(changed), Some(changed + FIRST_PAUSE));
        assert_eq!(refusals.next(changed + FIRST_PAUSE), None, "it was not retried");
        refusals.note(("Service", "b", 1), (false, "no".into()), changed, 1.0);
        assert!(refusals.next(changed) < Some(changed + FIRST_PAUSE), "jitter keeps fleets apart");
        refusals.done("Service", "b");
        refusals.done("Service", "a");
        assert_eq!(refusals.next(changed), None);
        assert!(refusals.of("Service", "a", 2, changed).is_none());
    }
}
