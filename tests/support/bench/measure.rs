//! Percentiles. This module is pure.

use std::time::Duration;

use serde::Serialize;

/// The distribution of a number of durations, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// The median.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The maximum.
    pub max_ms: f64,
}

impl Spread {
    /// Returns the distribution of durations in any order; zeros if there are none.
    pub fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |share: f64| {
            // The nearest rank: the smallest value that is at least as large as this share of all values.
            let rank = (share * durations.len() as f64).ceil() as usize;
            durations.get(rank.saturating_sub(1)).map_or(0.0, |d| d.as_secs_f64() * 1e3)
        };
        Self { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

/// Returns the median by `key`; for an even number of values, the lower of the two in the middle.
pub fn median<T>(mut values: Vec<T>, key: impl Fn(&T) -> f64) -> Option<T> {
    values.sort_by(|a, b| key(a).total_cmp(&key(b)));
    let middle = values.len().saturating_sub(1) / 2;
    (!values.is_empty()).then(|| values.swap_remove(middle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_by_nearest_rank() {
        let spread = Spread::of((1..=100).rev().map(Duration::from_millis).collect());
        assert_eq!(spread, Spread { p50_ms: 50.0, p99_ms: 99.0, max_ms: 100.0 });
        let spread = Spread::of((1..=20).map(Duration::from_millis).collect());
        assert_eq!(spread, Spread { p50_ms: 10.0, p99_ms: 20.0, max_ms: 20.0 });
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }

    #[test]
    fn the_median_is_one_of_the_values() {
        assert_eq!(median(vec![3.0, 1.0, 2.0], |v| *v), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0], |v| *v), Some(2.0));
        assert_eq!(median(Vec::<f64>::new(), |v| *v), None);
    }
}
