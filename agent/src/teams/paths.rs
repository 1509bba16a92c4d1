//! Which other members of its team an agent reaches, and when it probes each of them again. Pure: the caller passes in
//! the time.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use robeing_platform::{Random, jittered};
use tokio::time::Instant;

/// How often a member that answers is probed.
pub const PROBE_EVERY: Duration = Duration::from_secs(15);
/// How soon a member is probed again that did not answer; twice as long after each further time.
pub const PROBE_AGAIN: Duration = Duration::from_secs(2);
/// How often a member is probed at least, whether it answers or not.
pub const PROBE_AT_LEAST: Duration = Duration::from_secs(60);
/// A member that was reached counts as reached until it has not answered this many probes in a row: it may be busy.
pub const MISSES: u32 = 3;

/// What became of attempts in a row, and when the next one is due.
#[derive(Clone, Copy, Debug)]
struct Attempts {
    misses: u32,
    due: Instant,
}

impl Attempts {
    fn note(&mut self, has_succeeded: bool, now: Instant, random: &dyn Random) {
        self.misses = if has_succeeded { 0 } else { self.misses.saturating_add(1) };
        let pause = match self.misses {
            0 => PROBE_EVERY,
            misses => PROBE_AGAIN.saturating_mul(1 << (misses - 1).min(8)).min(PROBE_AT_LEAST),
        };
        self.due = now + jittered(random, pause);
    }
}

#[derive(Clone, Copy, Debug)]
struct Path {
    is_reached: bool,
    probes: Attempts,
}

/// The paths to the other members of one team.
#[derive(Debug, Default)]
pub struct Paths {
    members: BTreeMap<Arc<str>, Path>,
    /// The report that has failed, if the last one has.
    report: Option<Attempts>,
}

impl Paths {
    /// Sets who the other members are. Those that are new are probed at once.
    pub fn follow(&mut self, others: &BTreeSet<Arc<str>>, now: Instant) {
        self.members.retain(|name, _| others.contains(name));
        for name in others {
            let new = Path { is_reached: false, probes: Attempts { misses: 0, due: now } };
            self.members.entry(Arc::clone(name)).or_insert(new);
        }
    }

    /// Returns the members that are to be probed now.
    pub fn due(&self, now: Instant) -> Vec<Arc<str>> {
        let due = self.members.iter().filter(|(_, path)| path.probes.due <= now);
        due.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// Returns whether a report that has failed is to be sent again now.
    pub fn is_report_due(&self, now: Instant) -> bool {
        self.report.is_some_and(|report| report.due <= now)
    }

    /// Takes whether a member has answered a probe.
    pub fn note(&mut self, name: &str, has_answered: bool, now: Instant, random: &dyn Random) {
        if let Some(path) = self.members.get_mut(name) {
            path.probes.note(has_answered, now, random);
            path.is_reached = has_answered || (path.is_reached && path.probes.misses < MISSES);
        }
    }

    /// Takes whether a coordinator has taken the report.
    pub fn note_report(&mut self, is_taken: bool, now: Instant, random: &dyn Random) {
        if is_taken {
            self.report = None;
        } else {
            self.report.get_or_insert(Attempts { misses: 0, due: now }).note(false, now, random);
        }
    }

    /// Returns the names of the members that are reached.
    pub fn reached(&self) -> Vec<String> {
        let reached = self.members.iter().filter(|(_, path)| path.is_reached);
        reached.map(|(name, _)| name.to_string()).collect()
    }

    /// Returns when there is something to do; `None` if the agent is alone or in no team.
    pub fn next_due(&self) -> Option<Instant> {
        let probes = self.members.values().map(|path| path.probes.due);
        probes.chain(self.report.map(|report| report.due)).min()
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::simulated::SeededRandom;

    use super::*;

    fn of(names: &[&str], now: Instant) -> Paths {
        let mut paths = Paths::default();
        paths.follow(&names.iter().map(|name| Arc::from(*name)).collect(), now);
        paths
    }

    /// Probes a member when it is due, which does or does not answer. Returns how long that took.
    fn probe(paths: &mut Paths, now: &mut Instant, answers: bool) -> Duration {
        let due = paths.next_due().expect("there is a member");
        let waited = due.saturating_duration_since(*now);
        *now = due;
        for name in paths.due(due) {
            paths.note(&name, answers, due, &SeededRandom::new(1));
        }
        waited
    }

    #[tokio::test]
    async fn a_member_that_does_not_answer_is_probed_less_and_less_and_gone_only_after_some_times() {
        let mut now = Instant::now();
        let mut paths = of(&["b"], now);
        assert_eq!(probe(&mut paths, &mut now, true), Duration::ZERO, "a new one is probed at once");
        for _ in 1..MISSES {
            probe(&mut paths, &mut now, false);
            assert_eq!(paths.reached(), ["b"], "it may be busy");
        }
        probe(&mut paths, &mut now, false);
        assert_eq!(paths.reached(), [""; 0]);
        let waited: Vec<Duration> = (0..40).map(|_| probe(&mut paths, &mut now, false)).collect();
        assert!(waited.iter().all(|waited| *waited <= PROBE_AT_LEAST), "{waited:?}");
        assert!(waited[8..].iter().all(|waited| *waited >= PROBE_AT_LEAST / 2), "{waited:?}");
        probe(&mut paths, &mut now, true);
        assert_eq!(paths.reached(), ["b"]);
        assert!(probe(&mut paths, &mut now, true) <= PROBE_EVERY);
    }

    #[tokio::test]
    async fn a_change_of_the_team_probes_only_those_that_are_new() {
        let now = Instant::now();
        let mut paths = of(&["b", "c"], now);
        for name in ["b", "c"] {
            paths.note(name, true, now, &SeededRandom::new(1));
        }
        paths.follow(&["c", "d"].into_iter().map(Arc::from).collect(), now);
        assert_eq!((paths.due(now), paths.reached()), (vec!["d".into()], vec!["c".to_owned()]));
        assert_eq!(Paths::default().next_due(), None);
    }

    #[tokio::test]
    async fn a_report_that_was_not_taken_is_sent_again() {
        let now = Instant::now();
        let mut paths = Paths::default();
        paths.note_report(false, now, &SeededRandom::new(1));
        assert!(!paths.is_report_due(now) && paths.is_report_due(now + PROBE_AGAIN));
        assert!(paths.next_due().is_some_and(|next| next <= now + PROBE_AGAIN));
        paths.note_report(true, now, &SeededRandom::new(1));
        assert!(!paths.is_report_due(now + PROBE_AGAIN));
    }
}
