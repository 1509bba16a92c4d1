//! How long tasks of a kind take in this fleet, to judge the speed of an agent. The number of kinds is bounded: the
//! kind not seen for longest is dropped first.

use std::collections::BTreeMap;

use bilrost::Message;

use crate::{
    TrackRecord,
    limits::{MAX_DURATION_MS, MAX_TIMED_KINDS},
};

/// Mean durations by kind.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub(crate) struct KindTimes {
    #[bilrost(1)]
    kinds: BTreeMap<String, KindTime>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
struct KindTime {
    /// Moving average over the fleet, microseconds, at least 1.
    #[bilrost(1)]
    mean_us: u64,
    /// The fleet's revision when the kind was last seen.
    #[bilrost(2)]
    seen: u64,
}

/// A new duration has a weight of one in this many.
const MEMORY: u64 = 16;

impl KindTimes {
    /// Records a duration and returns the speed it shows, in millionths: `mean / (mean + ran)`, so half is as fast as
    /// the mean. `seen` is the fleet's revision.
    pub(crate) fn note(&mut self, kind: &str, ran_us: u64, seen: u64) -> u32 {
        let ran = ran_us.clamp(1, MAX_DURATION_MS * 1000);
        if let Some(time) = self.kinds.get_mut(kind) {
            let mean = time.mean_us;
            time.mean_us = ((mean * (MEMORY - 1) + ran) / MEMORY).max(1);
            time.seen = seen;
            let one = u128::from(TrackRecord::ONE);
            return (u128::from(mean) * one / u128::from(mean + ran)) as u32;
        }
        if self.kinds.len() >= MAX_TIMED_KINDS {
            self.forget_oldest();
        }
        self.kinds.insert(kind.to_owned(), KindTime { mean_us: ran, seen });
        TrackRecord::ONE / 2
    }

    /// Returns how long attempts at tasks of a kind take on average, microseconds; `None` if that is not known.
    pub(crate) fn mean(&self, kind: &str) -> Option<u64> {
        self.kinds.get(kind).map(|time| time.mean_us)
    }

    fn forget_oldest(&mut self) {
        let oldest = self.kinds.iter().min_by_key(|(_, time)| time.seen);
        if let Some(kind) = oldest.map(|(kind, _)| kind.clone()) {
            self.kinds.remove(&kind);
        }
    }

    /// Returns whether everything is within bounds, which is checked for everything read from a snapshot.
    pub(crate) fn is_sound(&self) -> bool {
        self.kinds.len() <= MAX_TIMED_KINDS
            && self.kinds.values().all(|t| (1..=MAX_DURATION_MS * 1000).contains(&t.mean_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_as_long_as_the_mean_is_half_speed_and_a_faster_one_is_more() {
        let mut times = KindTimes::default();
        assert_eq!(times.note("k", 1000, 1), 500_000, "the first sets the mean");
        assert_eq!(times.note("k", 1000, 2), 500_000);
        assert_eq!(times.note("k", 500, 3), 666_666);
        assert!(times.note("k", 3000, 4) < 250_000);
    }

    #[test]
    fn the_kind_not_seen_for_longest_makes_room() {
        let mut times = KindTimes::default();
        for n in 0..MAX_TIMED_KINDS as u64 {
            times.note(&format!("k{n}"), 10, n);
        }
        times.note("k0", 10, 1000);
        times.note("new", 10, 1001);
        assert_eq!(times.kinds.len(), MAX_TIMED_KINDS);
        assert!(times.kinds.contains_key("k0"));
        assert!(!times.kinds.contains_key("k1"));
        assert!(times.is_sound());
    }

    #[test]
    fn absurd_durations_are_taken_as_the_nearest_bound() {
        let mut times = KindTimes::default();
        times.note("k", u64::MAX, 1);
        times.note("k", u64::MAX, 2);
        times.note("k", 0, 3);
        assert!(times.is_sound());
    }
}
