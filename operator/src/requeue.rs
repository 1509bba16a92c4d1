//! When a fleet is looked at next, unless something is told of it before. What changes in Kubernetes is told by watches, and what
//! changes in a fleet by its coordinators; so a fleet at rest is looked at seldom, and one that is not at rest ever more seldom while
//! nothing happens.

use std::{
    hash::{BuildHasher as _, Hasher as _, RandomState},
    time::Duration,
};

/// Pause while something is on its way.
pub(crate) const SOON: Duration = Duration::from_secs(1);
/// The longest pause while something is on its way or wrong, and nothing happens.
pub(crate) const UNSETTLED: Duration = Duration::from_secs(10);
/// The pause of a fleet that is well and whose coordinators tell what changes. What they don't tell is seen by then: that the
/// leader does not reach another coordinator whose pod is ready, and warnings.
pub(crate) const WELL: Duration = Duration::from_secs(60);
/// The pause of a fleet without a coordinator that could be asked: only watches tell of it, and time.
pub(crate) const UNREACHED: Duration = Duration::from_secs(300);
/// Of the time since something happened, the part after which it is looked at again.
const OF_QUIET: u32 = 10;
/// The largest part by which chance shortens a pause, so that fleets that were made together are not looked at together.
const CHANCE: f64 = 0.25;
/// The shortest pause, where a moment is about to come at which something is due.
const SHORTEST: Duration = Duration::from_millis(100);

/// What a look at a fleet found, as far as it says when to look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outlook {
    /// There is a coordinator that could be asked.
    pub(crate) reachable: bool,
    /// An object was just applied, and is not in the caches yet.
    pub(crate) applying: bool,
    /// Something is on its way.
    pub(crate) moving: bool,
    /// Nothing is wrong.
    pub(crate) well: bool,
    /// A coordinator tells what changes.
    pub(crate) told: bool,
    /// Time since something happened.
    pub(crate) quiet: Duration,
    /// Time until something changes by time alone.
    pub(crate) due: Option<Duration>,
}

/// The pause. `poll` is the one of a fleet that is well and whose coordinators can't tell what changes; `chance` is in 0..1.
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

/// A pause as chance has it.
pub(crate) fn shortened(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(1.0 - CHANCE * chance)
}

/// A number in 0..1 that nobody knows before.
pub(crate) fn chance() -> f64 {
    // A new one has keys of its own.
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

    /// The longest pause that chance allows.
    fn longest(outlook: Outlook) -> Duration {
        next_look(&outlook, POLL, 0.0)
    }

    #[test]
    fn a_fleet_at_rest_is_looked_at_seldom() {
        assert_eq!(longest(AT_REST), WELL);
        assert_eq!(longest(Outlook { told: false, ..AT_REST }), POLL, "an older coordinator tells nothing");
        assert_eq!(longest(Outlook { reachable: false, told: false, ..AT_REST }), UNREACHED);
        let waits = Outlook { reachable: false, moving: true, well: false, told: false, ..AT_REST };
        assert_eq!(longest(waits), UNREACHED, "a fleet whose pods no node takes costs nothing");
        let hourly = Duration::from_secs(3_600);
        assert_eq!(next_look(&AT_REST, hourly, 0.0), hourly, "nobody is asked more often than wanted");
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
