//! Which agent takes a task whose needs or kind leave the order of the sets undecided: the first few agents of each set are
//! looked at one by one. However many agents there are, a choice takes a bounded number of looks.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{
    free_agents::{ByRole, FreeAgents, Known, Needs, ROLES, Rank},
    score::score,
};
use crate::{
    Agent, AgentId, Role, Weights,
    limits::{MAX_KIND_LOOKS, MAX_WIDE_FOUND, MAX_WIDE_LOOKS},
};

/// An agent's place among those that can take a task; the first one takes it. The score (best first), whether it does not
/// match, its role, its load, its number.
pub(crate) type Place = (Reverse<i64>, bool, Role, u32, AgentId);

/// Returns the place of an agent for a task that requires this.
pub(crate) fn place_of(agent: &Agent, needs: Needs<'_>, weights: &Weights) -> Place {
    let matched = agent.has_specialization(needs.domain);
    let total = score(weights, agent, needs.kind, matched).total;
    (Reverse(total), !matched, agent.role, agent.load(), agent.id)
}

/// The best agent that was found so far.
struct Best<'a> {
    needs: Needs<'a>,
    agents: &'a Known,
    weights: &'a Weights,
    found: Option<Place>,
}

impl Best<'_> {
    /// Looks at an agent. Returns whether its performance for the task's kind is that for everything.
    fn look(&mut self, id: AgentId) -> bool {
        let Some(agent) = self.agents.get(&id) else { return false };
        let place = place_of(agent, self.needs, self.weights);
        if self.found.is_none_or(|found| place < found) {
            self.found = Some(place);
        }
        agent.performance_of(self.needs.kind) == agent.record.performance()
    }
}

impl FreeAgents {
    /// Returns the sets that have all agents with the required role and specialization, and whether those of a set match. An
    /// agent may be in two of them.
    fn fitting<'a>(&'a self, needs: Needs<'a>) -> impl Iterator<Item = (Role, bool, &'a BTreeSet<Rank>)> {
        let matching = self.specialized.get(needs.domain);
        ROLES.into_iter().flat_map(move |role| {
            let matched = matching.filter(|_| needs.fit(role, true)).map(|sets| (role, true, &sets[role as usize]));
            let any = needs.fit(role, false).then(|| (role, false, &self.any[role as usize]));
            [matched, any].into_iter().flatten()
        })
    }

    /// Returns whether an agent with a free slot has the required role and specialization.
    pub(crate) fn has_any(&self, needs: Needs<'_>) -> bool {
        self.fitting(needs).any(|(_, _, set)| !set.is_empty())
    }

    /// Returns the best agent for a task of a kind for which these agents have another performance than for everything: it
    /// is the first of them, or the first other one of a set. Where many of them come before the first other one, that is
    /// passed over.
    pub(super) fn best_of_kind(
        &self,
        of_kind: &[ByRole; 2],
        needs: Needs<'_>,
        excluded: &[AgentId],
        agents: &Known,
        weights: &Weights,
    ) -> Option<AgentId> {
        let mut best = Best { needs, agents, weights, found: None };
        let is_taken = |(.., id): &&Rank| excluded.contains(id);
        // Else a task requires a specialization by which those of the kind are not told apart.
        let is_of_domain = needs.domain == needs.kind;
        for (role, matched) in ROLES.into_iter().flat_map(|role| [(role, false), (role, true)]) {
            if is_of_domain && needs.fit(role, matched) {
                self.step();
                let set = &of_kind[usize::from(matched)][role as usize];
                if let Some((.., id)) = set.iter().find(|rank| !is_taken(rank)) {
                    best.look(*id);
                }
            }
        }
        for (role, matched, set) in self.fitting(needs) {
            let [others, matching] = of_kind.each_ref().map(|sets| sets[role as usize].len());
            let deviate = if matched { matching } else { others + matching };
            if is_of_domain && deviate == set.len() {
                continue;
            }
            for (.., id) in set.iter().filter(|rank| !is_taken(rank)).take(MAX_KIND_LOOKS) {
                self.step();
                if best.look(*id) && is_of_domain {
                    break;
                }
            }
        }
        best.found.map(|(.., id)| id)
    }

    /// Returns the best agent that was found for a task that takes several slots or skills, or an object store.
    pub(super) fn best_of_many(
        &self,
        needs: Needs<'_>,
        excluded: &[AgentId],
        agents: &Known,
        weights: &Weights,
    ) -> Option<AgentId> {
        let mut best = Best { needs, agents, weights, found: None };
        let can_take = |id: &AgentId| !excluded.contains(id) && agents.get(id).is_some_and(|of| needs.can_go_to(of));
        for (_, _, set) in self.fitting(needs) {
            let looked_at = set.iter().take(MAX_WIDE_LOOKS).inspect(|_| self.step()).map(|(.., id)| *id);
            for id in looked_at.filter(can_take).take(MAX_WIDE_FOUND) {
                best.look(id);
            }
        }
        best.found.map(|(.., id)| id)
    }

    /// Returns how many agents are compared of those that can take a task that takes several slots or skills, or an object
    /// store.
    pub(super) fn count_many(&self, needs: Needs<'_>, agents: &Known) -> u32 {
        let count_of = |set: &BTreeSet<Rank>| {
            let looked_at = set.iter().take(MAX_WIDE_LOOKS).filter_map(|(.., id)| agents.get(id));
            looked_at.filter(|agent| needs.can_go_to(agent)).take(MAX_WIDE_FOUND).count() as u32
        };
        let matching = self.specialized.get(needs.domain);
        let mut count = 0;
        for role in ROLES {
            // A matching agent is also in its role's set, and is counted there if that set counts at all.
            if needs.fit(role, false) {
                count += count_of(&self.any[role as usize]);
            } else if let Some(sets) = matching
                && needs.fit(role, true)
            {
                count += count_of(&sets[role as usize]);
            }
        }
        count
    }
}
