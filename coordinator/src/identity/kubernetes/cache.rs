//! Remembers decisions for a while. Pure: the time is passed in.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use tokio::time::Instant;

/// For how long an allowed decision is used without asking again.
pub const ALLOWED_FOR: Duration = Duration::from_secs(30);
/// For how long a denied decision is used without asking again. It is short: the user may just have been granted a
/// right.
pub const DENIED_FOR: Duration = Duration::from_secs(5);
/// For how long a decision is used while the API server can't be asked.
pub const USED_IN_OUTAGE_FOR: Duration = Duration::from_secs(5 * 60);
/// Maximum number of decisions.
pub const MAX_DECISIONS: usize = 10_000;

/// What a decision is about: a digest of the question.
pub type Key = [u8; 32];

/// A decision of the API server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<T> {
    /// Yes; with what was asked for.
    Allowed(T),
    /// No; with the reason, if the API server gives one.
    Denied(String),
}

impl<T> Decision<T> {
    /// Returns whether the decision is yes.
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allowed(_))
    }
}

#[derive(Debug)]
struct Entry<T> {
    decision: Decision<T>,
    decided: Instant,
    number: u64,
}

/// Decisions, each with when it was made. When there are too many, those that are denied go first, since anybody can
/// have them made; among them the oldest.
#[derive(Debug)]
pub struct DecisionCache<T> {
    entries: HashMap<Key, Entry<T>>,
    /// The keys of allowed and denied decisions, oldest first.
    allowed: BTreeMap<u64, Key>,
    denied: BTreeMap<u64, Key>,
    next: u64,
}

impl<T> Default for DecisionCache<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), allowed: BTreeMap::new(), denied: BTreeMap::new(), next: 0 }
    }
}

impl<T: Clone> DecisionCache<T> {
    /// Returns the decision if it need not be made again yet.
    pub fn fresh(&self, key: &Key, now: Instant) -> Option<Decision<T>> {
        let entry = self.entries.get(key)?;
        let used_for = if entry.decision.is_allowed() { ALLOWED_FOR } else { DENIED_FOR };
        (now.saturating_duration_since(entry.decided) < used_for).then(|| entry.decision.clone())
    }

    /// Returns the decision if it may be used while it can't be made again.
    pub fn in_outage(&self, key: &Key, now: Instant) -> Option<Decision<T>> {
        let entry = self.entries.get(key)?;
        (now.saturating_duration_since(entry.decided) < USED_IN_OUTAGE_FOR).then(|| entry.decision.clone())
    }

    /// Remembers a decision that was made now, in place of an earlier one.
    pub fn insert(&mut self, key: Key, decision: Decision<T>, now: Instant) {
        self.remove(&key);
        self.forget_old(now);
        while self.entries.len() >= MAX_DECISIONS {
            let oldest = self.denied.first_key_value().or_else(|| self.allowed.first_key_value());
            match oldest.map(|(_, key)| *key) {
                Some(key) => self.remove(&key),
                None => break,
            }
        }
        let number = self.next;
        self.next += 1;
        if decision.is_allowed() { &mut self.allowed } else { &mut self.denied }.insert(number, key);
        self.entries.insert(key, Entry { decision, decided: now, number });
    }

    /// Removes what can't be used any more.
    fn forget_old(&mut self, now: Instant) {
        for is_allowed in [true, false] {
            loop {
                let order = if is_allowed { &self.allowed } else { &self.denied };
                let Some(key) = order.first_key_value().map(|(_, key)| *key) else { break };
                if self.in_outage(&key, now).is_some() {
                    break;
                }
                self.remove(&key);
            }
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.allowed.remove(&entry.number);
            self.denied.remove(&entry.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(n: usize) -> Key {
        let mut key = Key::default();
        key[..8].copy_from_slice(&n.to_le_bytes());
        key
    }

    fn denied() -> Decision<usize> {
        Decision::Denied("no".into())
    }

    const ONE_MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_decision_is_used_for_its_time_and_longer_only_in_an_outage() {
        let (mut cache, start) = (DecisionCache::default(), Instant::now());
        cache.insert(key(1), Decision::Allowed(1), start);
        cache.insert(key(2), denied(), start);
        for (number, decision, used_for) in [(1, Decision::Allowed(1), ALLOWED_FOR), (2, denied(), DENIED_FOR)] {
            let last = start + used_for - ONE_MS;
            assert_eq!(cache.fresh(&key(number), last), Some(decision.clone()));
            assert_eq!(cache.fresh(&key(number), last + ONE_MS), None);
            let last = start + USED_IN_OUTAGE_FOR - ONE_MS;
            assert_eq!(cache.in_outage(&key(number), last), Some(decision));
            assert_eq!(cache.in_outage(&key(number), last + ONE_MS), None);
        }
        assert_eq!(cache.fresh(&key(3), start), None);
        // The next decision drives out what can't be used.
        cache.insert(key(3), denied(), start + USED_IN_OUTAGE_FOR);
        assert_eq!(cache.entries.len(), 1);
    }

    #[test]
    fn a_decision_replaces_the_earlier_one() {
        let (mut cache, start) = (DecisionCache::default(), Instant::now());
        cache.insert(key(1), Decision::Allowed(1), start);
        cache.insert(key(1), denied(), start + ONE_MS);
        assert_eq!(cache.fresh(&key(1), start + ONE_MS), Some(denied()));
        assert_eq!((cache.entries.len(), cache.allowed.len(), cache.denied.len()), (1, 0, 1));
    }

    #[test]
    fn when_there_are_too_many_the_oldest_denied_ones_go_first() {
        let (mut cache, now) = (DecisionCache::default(), Instant::now());
        let halves = MAX_DECISIONS / 2;
        (0..halves).for_each(|n| cache.insert(key(n), Decision::Allowed(n), now));
        (halves..MAX_DECISIONS).for_each(|n| cache.insert(key(n), denied(), now));
        assert_eq!(cache.entries.len(), MAX_DECISIONS);
        (MAX_DECISIONS..3 * MAX_DECISIONS).for_each(|n| cache.insert(key(n), denied(), now));
        assert_eq!(cache.entries.len(), MAX_DECISIONS);
        assert!((0..halves).all(|n| cache.fresh(&key(n), now) == Some(Decision::Allowed(n))));
        assert_eq!(cache.fresh(&key(3 * MAX_DECISIONS - halves - 1), now), None);
        assert!((3 * MAX_DECISIONS - halves..3 * MAX_DECISIONS).all(|n| cache.fresh(&key(n), now).is_some()));
        // Of allowed ones alone, the oldest goes.
        (0..MAX_DECISIONS + 1).for_each(|n| cache.insert(key(n), Decision::Allowed(n), now));
        assert_eq!((cache.entries.len(), cache.fresh(&key(0), now)), (MAX_DECISIONS, None));
        assert!(cache.fresh(&key(1), now).is_some());
    }

    proptest! {
        #[test]
        fn a_cache_agrees_with_a_list_of_all_decisions(
            steps in prop::collection::vec((0_usize..6, any::<bool>(), 0_u64..120_000), 1..60)
        ) {
            let (mut cache, mut now) = (DecisionCache::default(), Instant::now());
            let mut made: Vec<(usize, Decision<usize>, Instant)> = Vec::new();
            for (about, is_allowed, ms) in steps {
                now += Duration::from_millis(ms);
                for asked in 0..6 {
                    let last = made.iter().rev().find(|(about, ..)| *about == asked);
                    let within = |time: Duration| last.filter(|(.., at)| now - *at < time).map(|(_, one, _)| one.clone());
                    let used_for = match last { Some((_, Decision::Allowed(_), _)) => ALLOWED_FOR, _ => DENIED_FOR };
                    prop_assert_eq!(cache.fresh(&key(asked), now), within(used_for));
                    prop_assert_eq!(cache.in_outage(&key(asked), now), within(USED_IN_OUTAGE_FOR));
                }
                let decision = if is_allowed { Decision::Allowed(about) } else { denied() };
                cache.insert(key(about), decision.clone(), now);
                made.push((about, decision, now));
                prop_assert_eq!(cache.entries.len(), cache.allowed.len() + cache.denied.len());
            }
        }
    }
}
