//! When a fleet is reconciled next, unless a change triggers it earlier. Watches report changes in Kubernetes, and the
//! coordinators report changes in a fleet. So a fleet at rest is reconciled rarely, and a fleet that is not at rest
//! less and less often while nothing happens.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// The pause while a change is in progress.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// The longest pause while a change is in progress or something is wrong, and nothing happens.
pub(crate) const UNSETTLED: Duration = Duration::from_secs(10);
/// The pause of a healthy fleet whose coordinators report changes. It bounds the delay of what they don't report: that
/// the leader can't reach another coordinator whose pod is ready, and warnings.
pub(crate) const WELL: Duration = Duration::from_secs(60);
/// The pause of a fleet without a coordinator that could be called: it changes only through watches and time.
pub(crate) const UNREACHED: Duration = Duration::from_secs(300);
/// The time since the last activity is divided by this to get the pause of a fleet that is not at rest.
const OF_QUIET: u32 = 10;
/// The largest fraction by which jitter shortens a pause, so that fleets created together are not reconciled together.
const CHANCE: f64 = 0.25;
/// The shortest pause if something changes merely because time passes.
const SHORTEST: Duration = Duration::from_millis(100);

/// The result of a reconciliation, as far as it determines when the next one runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// Whether there is a coordinator that could be called.
    pub(crate) reachable: bool,
    /// Whether an object was just applied and is not in the caches yet.
    pub(crate) applying: bool,
    /// Whether a change is in progress.
    pub(crate) moving: bool,
    /// Whether nothing is wrong.
    pub(crate) well: bool,
    /// Whether a coordinator reports changes.
    pub(crate) told: bool,
    /// Time since the last activity.
    pub(crate) quiet: Duration,
    /// Time until something changes merely because time passes.
    pub(crate) due: Option<Duration>,
}

/// Returns the pause before the next reconciliation. `poll` is the pause of a healthy fleet whose coordinators can't
/// report changes; `chance` is in 0..1.
pub(crate) fn next_look(outlook: &Outlook, poll: Duration, chance: f64) -> Duration {
    let Outlook { reachable, applying, moving, well, told, quiet, due } = *outlook;
    let unsettled = |first: Duration| (quiet / OF_QUIET).clamp(first, UNSETTLED.max(first));
    let pause = match () {
        () if applying => poll.min(SOON),
        () if !reachable => UNREACHED,
        () if moving => unsettled(poll.min(SOON)),
        () if !well => unsettled(poll),
        () if told => WELL.max(poll),
        () => poll,
    };
    let pause = shortened(pause, chance);
    due.map_or(pause, |due| pause.min(due.max(SHORTEST)))
}

/// Returns the pause, shortened by up to [`CHANCE`] of it, in proportion to `chance` in 0..1.
pub(crate) fn shortened(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(1.0 - CHANCE * chance)
}

/// Returns an unpredictable number in 0..1.
pub(crate) fn chance() -> f64 {
    // Each `RandomState` has its own keys.
    let drawn = RandomState::new().build_hasher().finish();
    (drawn >> 11) as f64 / (1_u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: Duration = Duration::from_secs(3);
    const AT_REST: Outlook = Outlook {
        reachable: true,
        applying: false,
        moving: false,
        well: true,
        told: true,
        quiet: Duration::from_secs(3_600),
        due: None,
    };

    /// Returns the longest pause: the one without jitter.
    fn longest(outlook: Outlook) -> Duration {
        next_look(&outlook, POLL, 0.0)
    }

    #[test]
    fn a_fleet_at_rest_is_looked_at_seldom() {
        assert_eq!(longest(AT_REST), WELL);
        assert_eq!(longest(Outlook { told: false, ..AT_REST }), POLL, "an older coordinator reports nothing");
        assert_eq!(longest(Outlook { reachable: false, told: false, ..AT_REST }), UNREACHED);
        let waits = Outlook { reachable: false, moving: true, well: false, told: false, ..AT_REST };
        assert_eq!(longest(waits), UNREACHED, "a fleet whose pods can't be scheduled costs nothing");
        let hourly = Duration::from_secs(3_600);
        assert_eq!(next_look(&AT_REST, hourly, 0.0), hourly, "the poll interval is the minimum");
    }

    #[test]
    fn a_fleet_that_is_not_at_rest_is_looked_at_often_and_then_ever_more_seldom() {
        let after = |seconds: u64| longest(Outlook { moving: true, quiet: Duration::from_secs(seconds), ..AT_REST });
        assert_eq!([0, 5, 10, 50, 100, 1_000].map(|s| after(s).as_secs()), [1, 1, 1, 5, 10, 10]);
        let after = |seconds: u64| longest(Outlook { well: false, quiet: Duration::from_secs(seconds), ..AT_REST });
        assert_eq!([0, 30, 50, 100, 1_000].map(|s| after(s).as_secs()), [3, 3, 5, 10, 10]);
        let applying = Outlook { applying: true, reachable: false, ..AT_REST };
        assert_eq!(longest(applying), SOON, "the caches show soon what was applied");
        let often = Duration::from_millis(500);
        assert_eq!(next_look(&Outlook { moving: true, quiet: Duration::ZERO, ..AT_REST }, often, 0.0), often);
    }

    #[test]
    fn what_time_alone_changes_is_not_missed() {
        let due = |due: u64| longest(Outlook { due: Some(Duration::from_secs(due)), reachable: false, ..AT_REST });
        assert_eq!(due(7), Duration::from_secs(7));
        assert_eq!(due(0), SHORTEST);
        assert_eq!(due(100_000), UNREACHED);
    }

    #[test]
    fn fleets_that_were_made_together_drift_apart() {
        let pauses: Vec<Duration> = (0..1_000).map(|_| next_look(&AT_REST, POLL, chance())).collect();
        assert!(pauses.iter().all(|pause| *pause <= WELL && *pause >= WELL.mul_f64(1.0 - CHANCE)));
        let in_part = |part: u32| {
            let from = WELL.mul_f64(1.0 - CHANCE) + WELL.mul_f64(CHANCE / 4.0) * part;
            pauses.iter().filter(|pause| **pause >= from && **pause < from + WELL.mul_f64(CHANCE / 4.0)).count()
        };
        assert!((0..4).all(|part| in_part(part) > 150), "{:?}", [0, 1, 2, 3].map(in_part));
    }
}
