//! The profile of a seed's run. Runs differ in kind, not only in detail: each seed draws which tasks there are and how
//! many, which faults happen and how often, so that a problem that needs several of these together is found by some
//! seed (swarm testing).

use std::{collections::BTreeMap, time::Duration};

use robeing_platform::{Random, simulated::SeededRandom};
use robeing_settings::AgentRole;

use crate::{clients::below, faults::Kind, mail::Traffic, operator::Changes, tasks::Mix};

/// The number of submitters.
pub const SUBMITTERS: usize = 3;
/// The number of correspondents.
pub const CORRESPONDENTS: usize = 2;
/// The minimum and maximum number of tasks of one submitter.
const TASKS: (u64, u64) = (14, 36);
/// The number of tasks of one submitter if agents have hundreds of slots and all are to be used.
const CROWD: usize = 120;
/// The number of slots of agents with many.
const MANY_SLOTS: u32 = 300;
/// The number of ballots, from the first bound to the second, exclusive.
const BALLOTS: (u64, u64) = (5, 9);
/// The work for each slot of every agent in milliseconds, without the tasks before hard combinations: part of what the
/// fleet can do while faults happen, or more than that.
const WORK: (u64, u64) = (5_000, 16_000);

/// The profile of a run.
#[derive(Clone, Debug)]
pub struct Profile {
    /// The number of slots of every agent.
    pub slots: u32,
    /// The role of the last agent, which has the same specialization as the one before it.
    pub odd_role: AgentRole,
    /// The number of tasks of each submitter.
    pub tasks: usize,
    /// The mix of the tasks.
    pub mix: Mix,
    /// The administrator's changes.
    pub changes: Changes,
    /// The longest delivery while nothing is wrong.
    pub network: Duration,
    /// The longest sync while nothing is wrong.
    pub disk: Duration,
    /// The interval of health checks.
    pub health_checks: Duration,
    /// The faults.
    pub swarm: Swarm,
    /// The messages.
    pub traffic: Traffic,
    /// The number of ballots.
    pub ballots: usize,
}

/// Which faults happen, and how often.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// The relative frequency of each kind; if empty, there are no single faults at all.
    pub weights: BTreeMap<Kind, u64>,
    /// The average time from one fault to the next, in milliseconds.
    pub apart: u64,
    /// One of this many faults may outlast every timeout.
    pub long_one_of: u64,
    /// Whether there are hard combinations of faults.
    pub has_hard: bool,
    /// Whether segments are lost for a while.
    pub is_lossy: bool,
    /// Whether wall clocks are set wrong.
    pub wrong_clocks: bool,
    /// Whether a coordinator's disk is emptied, or one of its bits flips.
    pub loses_disk: bool,
}

impl Profile {
    /// Returns the profile of a seed.
    pub fn of(seed: u64) -> Self {
        let random = SeededRandom::new(seed ^ 0x5157_4152_4d00);
        let one_of = |n| below(&random, n) == 0;
        let slots = match below(&random, 8) {
            0 => MANY_SLOTS,
            1 | 2 => 1,
            3 => 4,
            _ => 2,
        };
        let mix = Mix::draw(&random, slots);
        let crowd = slots == MANY_SLOTS && one_of(2);
        let work = between(&random, WORK) * u64::from(slots.min(4)) * 4;
        let tasks = (work / mix.average() / SUBMITTERS as u64).clamp(TASKS.0, TASKS.1) as usize;
        Self {
            slots,
            odd_role: match below(&random, 4) {
                0 => AgentRole::Messenger,
                1 => AgentRole::Guardian,
                _ => AgentRole::Specialist,
            },
            tasks: if crowd { CROWD } else { tasks },
            mix,
            changes: Changes { members: one_of(3), leader: one_of(2), pools: one_of(2) },
            network: Duration::from_millis(1 + below(&random, 15)),
            disk: Duration::from_millis(below(&random, 6)),
            health_checks: if one_of(4) { Duration::from_secs(10) } else { Duration::from_millis(1_000) },
            swarm: Swarm::draw(&random),
            traffic: Traffic::draw(&random),
            ballots: between(&random, BALLOTS) as usize,
        }
    }

    /// Returns the number of long tasks that each submitter submits at once before a hard combination: for more than
    /// half of all slots, but not for all of them, if agents have at most 4.
    pub fn pulse(&self) -> usize {
        self.slots.min(4) as usize
    }
}

impl Swarm {
    fn draw(random: &dyn Random) -> Self {
        let one_of = |n| below(random, n) == 0;
        let is_calm = one_of(6);
        let weights = Kind::ALL.iter().filter(|_| !one_of(2) && !is_calm).map(|kind| (*kind, 1 + below(random, 4)));
        Self {
            weights: weights.collect(),
            apart: between(random, (200, 3_000)),
            long_one_of: if one_of(3) { 2 } else { 5 },
            has_hard: !one_of(8),
            is_lossy: one_of(3),
            wrong_clocks: !one_of(3),
            loses_disk: one_of(3),
        }
    }
}

/// Returns a random number from the first bound, inclusive, to the second, exclusive.
pub fn between(random: &dyn Random, (from, to): (u64, u64)) -> u64 {
    from + below(random, to - from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn fifty_seeds_have_everything() {
        let all: Vec<Profile> = (0..50).map(Profile::of).collect();
        let slots: BTreeSet<u32> = all.iter().map(|profile| profile.slots).collect();
        assert_eq!(slots.into_iter().collect::<Vec<_>>(), [1, 2, 4, MANY_SLOTS]);
        for kind in Kind::ALL {
            assert!(all.iter().any(|profile| profile.swarm.weights.contains_key(kind)), "{kind:?}");
            assert!(all.iter().any(|profile| !profile.swarm.weights.contains_key(kind)), "{kind:?}");
        }
        assert!(all.iter().any(|profile| profile.swarm.weights.is_empty() && profile.swarm.has_hard));
        assert!(all.iter().any(|profile| profile.tasks == CROWD));
        for role in [AgentRole::Messenger, AgentRole::Guardian, AgentRole::Specialist] {
            assert!(all.iter().any(|profile| profile.odd_role == role), "{role:?}");
        }
    }
}
