//! What is usual for one signal of one agent.

/// Weight of a new window in mean and variance, once there are enough earlier ones.
const WEIGHT: f64 = 0.05;
/// Standard deviations above the mean up to which a window is usual.
const DEVIATIONS: f64 = 6.0;
/// Multiple of the mean up to which a window is usual: no agent whose windows are within half and one and a half times
/// its rate is ever beyond it.
const TIMES_MEAN: f64 = 4.0;
/// Multiple of the highest recent window up to which a window is usual, for agents that work in bursts.
const TIMES_PEAK: f64 = 2.0;
/// What is left of the highest recent window after another one: half after 693.
const PEAK_DECAY: f64 = 0.999;
/// How many times higher the highest recent window becomes at most by one that is beyond the limit.
const PEAK_GROWTH: f64 = 1.5;
/// Multiple of the limit from which an anomaly is severe.
pub(super) const SEVERE_TIMES: f64 = 2.0;

/// The usual number of a signal in a window: exponentially weighted mean and variance, and the highest recent number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter {
    mean: f64,
    variance: f64,
    peak: f64,
}

impl Meter {
    /// Returns the mean of a window.
    pub(super) fn mean(&self) -> f64 {
        self.mean
    }

    /// Returns the highest number that is usual. Even perfectly regular counts have the deviation of random ones.
    fn limit(&self, floor: u64) -> f64 {
        let deviation = self.variance.max(self.mean + 1.0).sqrt();
        let by_mean = (self.mean + DEVIATIONS * deviation).max(TIMES_MEAN * self.mean);
        // Below the floor nothing is an anomaly, so that the limit of what was never seen is just below it.
        let floor = floor.saturating_sub(1) as f64;
        if self.peak == 0.0 { floor } else { by_mean.max(TIMES_PEAK * self.peak).max(floor) }
    }

    /// Returns how many times its limit a number is, if it is beyond it.
    pub(super) fn judge(&self, count: u64, floor: u64) -> Option<f64> {
        let limit = self.limit(floor);
        (count as f64 > limit).then(|| count as f64 / limit.max(1.0))
    }

    /// Learns from a number, after some earlier windows. With a floor, a number beyond the limit counts as the limit,
    /// so that a burst does not make itself usual at once, but what lasts becomes usual.
    pub(super) fn learn(&mut self, count: u64, windows: u64, floor: Option<u64>) {
        let limit = floor.map_or(f64::INFINITY, |floor| self.limit(floor));
        let is_beyond = count as f64 > limit;
        let count = (count as f64).min(limit);
        let weight = WEIGHT.max(1.0 / (windows as f64 + 1.0));
        let difference = count - self.mean;
        self.mean += weight * difference;
        self.variance = (1.0 - weight) * (self.variance + weight * difference * difference);
        // If anomalies raised the peak at once, the third one of a row would hardly be severe any more.
        let peak = if is_beyond { (self.peak * PEAK_GROWTH).max(count / TIMES_PEAK).min(count) } else { count };
        self.peak = peak.max(self.peak * PEAK_DECAY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_learns_mean_and_variance() {
        let mut meter = Meter::default();
        for window in 0..1_000 {
            meter.learn(if window % 2 == 0 { 90 } else { 110 }, window, None);
        }
        assert!((meter.mean - 100.0).abs() < 1.0, "{meter:?}");
        assert!((meter.variance.sqrt() - 10.0).abs() < 1.0, "{meter:?}");
        assert_eq!(meter.peak, 110.0);
        assert_eq!(meter.judge(400, 20), None, "four times the mean");
        assert!(meter.judge(402, 20).is_some());
    }

    #[test]
    fn what_was_never_seen_is_beyond_the_limit_from_the_floor() {
        let mut meter = Meter::default();
        meter.learn(0, 0, None);
        assert_eq!(meter.judge(4, 5), None);
        assert_eq!(meter.judge(5, 5), Some(1.25));
    }

    #[test]
    fn what_lasts_becomes_usual() {
        let mut meter = Meter::default();
        (0..60).for_each(|window| meter.learn(10, window, None));
        let unusual = (60..200).filter(|window| {
            let is_unusual = meter.judge(1_000, 20).is_some();
            meter.learn(1_000, *window, Some(20));
            is_unusual
        });
        let unusual = unusual.count();
        assert!((3..20).contains(&unusual), "{unusual} windows");
    }

    #[test]
    fn the_highest_counts_stay_finite() {
        let mut meter = Meter::default();
        for window in 0..100 {
            meter.learn(u64::MAX, window, (window > 60).then_some(5));
        }
        assert!(meter.mean.is_finite() && meter.variance.is_finite() && meter.limit(5).is_finite());
    }
}
