//! Power-of-two histograms: the part of the `base2histogram` API that the consensus library (openraft) uses.
//!
//! The crates.io crate of this name computes 26 MB of tables on first use, for precisions that nothing here needs; they
//! would make up most of an idle coordinator's memory. openraft only records into its histograms; reading them is
//! behind a feature that is off. This crate replaces it: the same names, with one counter per bit length. It has no
//! dependencies.

use std::{fmt, marker::PhantomData};

/// The number of bit lengths a `u64` can have: 0 to 64.
const LENGTHS: usize = u64::BITS as usize + 1;

/// Counts values by bit length. `T` is unused; it exists because the replaced crate has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    counts: [u64; LENGTHS],
    of: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Histogram<T> {
    /// Creates an empty histogram.
    pub fn new() -> Self {
        Self { counts: [0; LENGTHS], of: PhantomData }
    }

    /// Records one value.
    pub fn record(&mut self, value: u64) {
        self.record_n(value, 1);
    }

    /// Records a value `times` times. The counter saturates.
    pub fn record_n(&mut self, value: u64, times: u64) {
        let count = &mut self.counts[(u64::BITS - value.leading_zeros()) as usize];
        *count = count.saturating_add(times);
    }

    /// Returns the number of recorded values, saturating at `u64::MAX`.
    pub fn total(&self) -> u64 {
        self.counts.iter().fold(0, |total, count| total.saturating_add(*count))
    }

    /// Returns the value at this rank, in thousandths, rounded down to a power of two; 0 for an empty histogram.
    fn per_mille(&self, thousandths: u64) -> u64 {
        let rank = u128::from(self.total()) * u128::from(thousandths) / 1000;
        let mut below = 0;
        for (length, count) in self.counts.iter().enumerate() {
            below += u128::from(*count);
            if below > rank {
                return length.checked_sub(1).map_or(0, |zeros| 1 << zeros);
            }
        }
        0
    }

    /// Returns the common percentiles.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats {
            samples: self.total(),
            p0_1: self.per_mille(1),
            p1: self.per_mille(10),
            p5: self.per_mille(50),
            p10: self.per_mille(100),
            p50: self.per_mille(500),
            p90: self.per_mille(900),
            p99: self.per_mille(990),
            p99_9: self.per_mille(999),
        }
    }
}

/// Percentiles of a histogram, each rounded down to a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PercentileStats {
    /// Number of recorded values.
    pub samples: u64,
    /// The 0.1th percentile.
    pub p0_1: u64,
    /// The 1st percentile.
    pub p1: u64,
    /// The 5th percentile.
    pub p5: u64,
    /// The 10th percentile.
    pub p10: u64,
    /// The median.
    pub p50: u64,
    /// The 90th percentile.
    pub p90: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The 99.9th percentile.
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, p50, p90, p99, .. } = self;
        write!(f, "{samples} values, half from {p50}, a tenth from {p90}, a hundredth from {p99}")
    }
}

/// Prints several histograms, one line each.
#[derive(Clone, Debug, Default)]
pub struct AsciiChart(Vec<(String, PercentileStats)>);

impl AsciiChart {
    /// Creates an empty chart.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line for this histogram.
    #[must_use]
    pub fn add<T>(mut self, name: impl Into<String>, histogram: Histogram<T>) -> Self {
        self.0.push((name.into(), histogram.percentile_stats()));
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(name, stats)| writeln!(f, "{name}: {stats}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_rounded_down_to_a_power_of_two() {
        let mut histogram = Histogram::<()>::new();
        assert_eq!(histogram.percentile_stats().p50, 0);
        (0..1000).for_each(|value| histogram.record(value));
        let stats = histogram.percentile_stats();
        assert_eq!((stats.samples, stats.p0_1, stats.p1, stats.p50, stats.p99_9), (1000, 1, 8, 256, 512));
        assert_eq!(stats.to_string(), "1000 values, half from 256, a tenth from 512, a hundredth from 512");
    }

    #[test]
    fn the_least_and_the_largest_value_are_counted() {
        let mut histogram = Histogram::<()>::new();
        histogram.record(0);
        assert_eq!(histogram.percentile_stats().p99_9, 0);
        histogram.record_n(u64::MAX, u64::MAX);
        assert_eq!(histogram.percentile_stats().p99_9, 1 << 63);
        assert_eq!(histogram.total(), u64::MAX, "as many as can be counted");
    }

    /// The small size is the reason this crate exists.
    #[test]
    fn it_is_small() {
        assert!(size_of::<Histogram>() <= 1024);
    }
}
