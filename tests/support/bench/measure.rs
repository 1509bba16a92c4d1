//! Percentiles. Pure.

use std::time::Duration;

use serde::Serialize;

/// What a number of durations were like, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// Half took no longer.
    pub p50_ms: f64,
    /// 99 of 100 took no longer.
    pub p99_ms: f64,
    /// None took longer.
    pub max_ms: f64,
}

impl Spread {
    /// Of durations in any order; nothing of none.
    pub fn of(mut durations: Vec<Duration>) -> Self {
        durations.sort_unstable();
        let at = |share: f64| {
            // The nearest rank: the smallest value that so large a share of all does not exceed.
            let rank = (share * durations.len() as f64).ceil() as usize;
            durations.get(rank.saturating_sub(1)).map_or(0.0, |d| d.as_secs_f64() * 1e3)
        };
        Self { p50_ms: at(0.5), p99_ms: at(0.99), max_ms: at(1.0) }
    }
}

/// The middle one; of an even number, the lower of the two. The values are ordered by `key`.
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
