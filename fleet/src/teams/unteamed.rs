//! The live agents that are in no team, in sets per role and per skill and role, ordered by their performance. However
//! many agents there are, the best ones are the first of a few sets.
//!
//! The order is that of [`TrackRecord::twentieths`](crate::TrackRecord::twentieths), so that results of tasks rarely
//! change it, and not that of the load: a team lasts longer than a task.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::TeamNeeds;
use crate::{Agent, AgentId, AgentState, limits::MAX_TEAM_CANDIDATES, schedule::free_agents::ROLES};

/// An agent's place in a set: performance in twentieths (best first), number.
type Rank = (Reverse<u32>, AgentId);

type ByRole = [BTreeSet<Rank>; 4];

/// The agents that may become members.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Unteamed {
    any: ByRole,
    skilled: BTreeMap<Arc<str>, ByRole>,
}

impl Unteamed {
    /// Adds an agent if it is live.
    pub(crate) fn insert(&mut self, agent: &Agent) {
        if agent.state == AgentState::Live {
            self.insert_as(agent, agent.record.twentieths());
        }
    }

    /// Removes an agent, whose state, role, skills and performance must not have changed since it was added.
    pub(crate) fn remove(&mut self, agent: &Agent) {
        if agent.state == AgentState::Live {
            self.remove_as(agent, agent.record.twentieths());
        }
    }

    /// Moves an agent, whose performance was another when it was added.
    pub(crate) fn rerank(&mut self, agent: &Agent, before: u32) {
        if agent.state == AgentState::Live {
            self.remove_as(agent, before);
            self.insert_as(agent, agent.record.twentieths());
        }
    }

    fn insert_as(&mut self, agent: &Agent, twentieths: u32) {
        let (rank, role) = ((Reverse(twentieths), agent.id), agent.role as usize);
        self.any[role].insert(rank);
        for skill in &agent.specializations {
            match self.skilled.get_mut(skill.as_ref()) {
                Some(sets) => sets[role].insert(rank),
                None => self.skilled.entry(Arc::clone(skill)).or_default()[role].insert(rank),
            };
        }
    }

    fn remove_as(&mut self, agent: &Agent, twentieths: u32) {
        let (rank, role) = ((Reverse(twentieths), agent.id), agent.role as usize);
        self.any[role].remove(&rank);
        for skill in &agent.specializations {
            let Some(sets) = self.skilled.get_mut(skill.as_ref()) else { continue };
            sets[role].remove(&rank);
            if sets.iter().all(BTreeSet::is_empty) {
                self.skilled.remove(skill.as_ref());
            }
        }
    }

    /// Returns the best agents that fit, at most `most`: those that perform best, and of equals those with the lowest
    /// numbers. If several skills are needed, at most [`MAX_TEAM_CANDIDATES`] of the agents with the rarest of them are
    /// looked at, so that some that fit may be missed.
    pub(crate) fn best(&self, needs: &TeamNeeds, most: usize, agents: &BTreeMap<AgentId, Arc<Agent>>) -> Vec<AgentId> {
        let Some(sets) = self.smallest(needs) else { return Vec::new() };
        let fits = |rank: &&Rank| needs.skills.len() < 2 || agents.get(&rank.1).is_some_and(|agent| needs.fit(agent));
        let roles = ROLES.into_iter().filter(|role| needs.fit_role(*role));
        let sets: Vec<_> = roles.map(|role| &sets[role as usize]).filter(|set| !set.is_empty()).collect();
        let share = MAX_TEAM_CANDIDATES / sets.len().max(1);
        let looked_at = sets.into_iter().flat_map(|set| set.iter().take(share).filter(fits).take(most));
        let mut found: Vec<Rank> = looked_at.copied().collect();
        found.sort_unstable();
        found.truncate(most);
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Returns whether no agent that fits is missed, if there were never more than so many agents.
    pub(crate) fn misses_none(needs: &TeamNeeds, agents: usize) -> bool {
        needs.skills.len() < 2 || agents <= MAX_TEAM_CANDIDATES / ROLES.len()
    }

    /// Returns the sets of the rarest of the needed skills, or of all agents; `None` if no agent has one of the skills.
    fn smallest(&self, needs: &TeamNeeds) -> Option<&ByRole> {
        let mut smallest = None;
        for skill in &needs.skills {
            let sets = self.skilled.get(skill.as_str())?;
            let count: usize = sets.iter().map(BTreeSet::len).sum();
            if smallest.is_none_or(|(least, _)| count < least) {
                smallest = Some((count, sets));
            }
        }
        Some(smallest.map_or(&self.any, |(_, sets)| sets))
    }
}
