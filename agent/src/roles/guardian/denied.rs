//! What agents were denied. Coordinators record denials in the audit log in batches, each of several seconds; they are
//! counted over as many windows, so that a batch is no burst. Pure.

use std::collections::BTreeMap;

use robeing_policy::{
    anomaly::{Signal, WINDOW_MS},
    limits::MAX_WATCHED_AGENTS,
};

/// The signals that the audit log tells of.
const SIGNALS: [Signal; 3] = [Signal::FailedAuthentication, Signal::Disagreement, Signal::Overuse];
/// Number of windows of which a record of a refused call tells: as often, coordinators record them.
pub const CALL_WINDOWS: u64 = 5_000 / WINDOW_MS;
/// Number of windows of which a record of what a policy denied tells.
pub const POLICY_WINDOWS: u64 = 10_000 / WINDOW_MS;
/// Number of windows of which a record of an outvoted agent tells.
pub const OUTVOTED_WINDOWS: u64 = 10_000 / WINDOW_MS;

/// Denials of one kind that are still to be counted.
#[derive(Clone, Copy, Debug, Default)]
struct Batch {
    left: u64,
    /// The windows over which they are spread.
    windows: u64,
}

impl Batch {
    fn add(&mut self, times: u64, windows: u64) {
        self.left = self.left.saturating_add(times);
        self.windows = self.windows.max(windows);
    }

    /// Takes what is to be counted in the next windows.
    fn take(&mut self, windows: u64) -> u64 {
        if windows >= self.windows {
            return std::mem::take(self).left;
        }
        let share = self.left.div_ceil(self.windows).saturating_mul(windows).min(self.left);
        self.left -= share;
        self.windows -= windows;
        share
    }
}

/// The denials that are still to be counted, by agent: of [`MAX_WATCHED_AGENTS`] at most.
#[derive(Debug, Default)]
pub struct Denied(BTreeMap<String, [Batch; SIGNALS.len()]>);

impl Denied {
    /// Notes what a record tells of this many windows before it.
    pub fn add(&mut self, agent: &str, signal: Signal, times: u64, windows: u64) {
        if self.0.len() >= MAX_WATCHED_AGENTS && !self.0.contains_key(agent) {
            return;
        }
        let batches = self.0.entry(agent.to_owned()).or_default();
        if let Some((batch, _)) = batches.iter_mut().zip(SIGNALS).find(|(_, known)| *known == signal) {
            batch.add(times, windows);
        }
    }

    /// Takes the denials of an agent that are to be counted in the next windows.
    pub fn take(&mut self, agent: &str, windows: u64) -> [(Signal, u64); SIGNALS.len()] {
        let mut batches = self.0.get_mut(agent).into_iter().flatten();
        SIGNALS.map(|signal| (signal, batches.next().map_or(0, |batch| batch.take(windows))))
    }

    /// Forgets what an agent was denied.
    pub fn forget(&mut self, agent: &str) {
        self.0.remove(agent);
    }

    /// Returns the agents of which something is to be counted.
    pub fn agents(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// Forgets agents of which all is counted.
    pub fn forget_counted(&mut self) {
        self.0.retain(|_, batches| batches.iter().any(|batch| batch.left > 0));
    }

    /// Returns whether all is counted.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Returns how often something occurred, as a record tells it: `…, 7 times` or `…, 7 times: …`. What comes after the
/// colon is the text of a policy or of the payload, which may have numbers of its own.
pub fn times(detail: &str) -> u64 {
    let told = detail.split(':').next().and_then(|told| told.strip_suffix(" times"));
    told.and_then(|told| told.rsplit(", ").next()?.parse().ok()).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_spread_evenly_and_none_of_it_is_lost() {
        let mut batch = Batch::default();
        batch.add(9, 5);
        assert_eq!([1, 1, 2, 7, 1].map(|windows| batch.take(windows)), [2, 2, 4, 1, 0]);
        batch.add(u64::MAX, 5);
        batch.add(1, 10);
        assert_eq!((batch.left, batch.windows), (u64::MAX, 10));
    }

    #[test]
    fn who_was_told_of_in_full_is_forgotten() {
        let mut denied = Denied::default();
        denied.add("a", Signal::Overuse, 2, 2);
        let overuse = |times| [(Signal::FailedAuthentication, 0), (Signal::Disagreement, 0), (Signal::Overuse, times)];
        assert_eq!(denied.take("a", 1), overuse(1));
        denied.forget_counted();
        assert_eq!(denied.agents().collect::<Vec<_>>(), ["a"]);
        assert_eq!(denied.take("a", 1), overuse(1));
        denied.forget_counted();
        assert!(denied.is_empty());
    }

    #[test]
    fn the_denials_of_so_many_agents_are_kept() {
        let mut denied = Denied::default();
        (0..=MAX_WATCHED_AGENTS).for_each(|agent| denied.add(&agent.to_string(), Signal::Overuse, 1, 1));
        assert_eq!(denied.agents().count(), MAX_WATCHED_AGENTS);
        denied.add("0", Signal::Overuse, 1, 1);
        assert_eq!(denied.take("0", 1)[2], (Signal::Overuse, 2), "one that is known");
    }

    #[test]
    fn records_tell_how_often_something_occurred() {
        for (detail, expected) in [
            ("PermissionDenied", 1),
            ("PermissionDenied, 12 times", 12),
            ("on Result, 7 times: why 3 times", 7),
            ("on Result, once: at times", 1),
            ("on Result, once: it may run 30 times a day", 1),
            ("on Message, 2 times: x, 900 times", 2),
            ("", 1),
        ] {
            assert_eq!(times(detail), expected, "{detail}");
        }
    }
}
