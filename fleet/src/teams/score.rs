//! The score by which the leader of a team is elected: 0.3 experience + 0.3 reliability + 0.2 resources + 0.2
//! availability. Each term is from 0 to 1, in integers so that every coordinator computes the same.

use std::cmp::Reverse;

use bilrost::Message;

use crate::{Agent, AgentId, FleetMillis, TrackRecord};

/// An agent with this many attempts that succeeded has an experience of one half.
const HALF_EXPERIENCE: u64 = 32;
/// An agent whose session is this old has an availability of one half, ms of fleet time: ten minutes.
const HALF_AVAILABILITY_MS: u64 = 600_000;

/// The terms of an agent's score as a leader, in millionths.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct LeaderTerms {
    /// How much it has done: `n / (n + 32)` for `n` attempts that succeeded.
    #[bilrost(1)]
    pub experience: u32,
    /// The share of its attempts that succeeded, as a moving average.
    #[bilrost(2)]
    pub reliability: u32,
    /// The share of its slots that are free; 0 for an agent without slots.
    #[bilrost(3)]
    pub resources: u32,
    /// How long it has been in the fleet without a break: `t / (t + 10 min)` for the age `t` of its session.
    #[bilrost(4)]
    pub availability: u32,
}

impl LeaderTerms {
    /// Returns the score in tenths of millionths, which is exact: 0 to 10,000,000.
    pub fn total(&self) -> u64 {
        let weighted = [(3, self.experience), (3, self.reliability), (2, self.resources), (2, self.availability)];
        weighted.into_iter().map(|(weight, term)| weight * u64::from(term)).sum()
    }

    /// Returns the terms of an agent at the time `now`.
    pub(crate) fn of(agent: &Agent, now: FleetMillis) -> Self {
        let free = u64::from(agent.slots.saturating_sub(agent.used_slots()));
        let age = now.saturating_sub(agent.joined_at.fleet);
        Self {
            experience: saturation(agent.record.succeeded, HALF_EXPERIENCE),
            reliability: agent.record.success,
            resources: share(free, u64::from(agent.slots)),
            availability: saturation(age, HALF_AVAILABILITY_MS),
        }
    }

    pub(crate) fn is_sound(&self) -> bool {
        let terms = [self.experience, self.reliability, self.resources, self.availability];
        terms.into_iter().all(|term| term <= TrackRecord::ONE)
    }
}

/// Returns `part` of `whole` in millionths; 0 of nothing.
fn share(part: u64, whole: u64) -> u32 {
    let millionths = u128::from(part.min(whole)) * u128::from(TrackRecord::ONE) / u128::from(whole.max(1));
    millionths as u32
}

/// Returns `value / (value + half)` in millionths.
fn saturation(value: u64, half: u64) -> u32 {
    share(value, value.saturating_add(half))
}

/// Returns which of these agents should lead: the one with the highest score, and of equals the one with the lowest
/// number.
pub(super) fn leader_of<'a>(
    agents: impl Iterator<Item = &'a Agent>,
    now: FleetMillis,
) -> Option<(AgentId, LeaderTerms)> {
    let scored = agents.map(|agent| (agent.id, LeaderTerms::of(agent, now)));
    scored.max_by_key(|(id, terms)| (terms.total(), Reverse(*id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_its_weighted_terms() {
        let terms = LeaderTerms { experience: 1_000_000, reliability: 500_000, resources: 250_000, availability: 0 };
        assert_eq!(terms.total(), 3_000_000 + 1_500_000 + 500_000);
        let all = LeaderTerms { reliability: 1_000_000, resources: 1_000_000, availability: 1_000_000, ..terms };
        assert_eq!((all.total(), all.is_sound()), (10_000_000, true));
        assert!(!LeaderTerms { experience: 1_000_001, ..all }.is_sound());
    }

    #[test]
    fn every_term_is_from_0_to_1_whatever_it_is_computed_of() {
        assert_eq!([share(0, 0), share(1, 0), share(1, 4)], [0, 0, 250_000]);
        assert_eq!([share(4, 4), share(9, 4)], [1_000_000, 1_000_000]);
        assert_eq!([saturation(0, 32), saturation(32, 32), saturation(96, 32)], [0, 500_000, 750_000]);
        assert!(saturation(u64::MAX, 600_000) <= 1_000_000);
    }
}
