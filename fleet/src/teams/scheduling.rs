//! Which agent takes a task, and which task an agent takes, where teams play a part: a task that is addressed to a team
//! goes to its members alone, who take other tasks as well.

use std::{cmp::Reverse, sync::Arc};

use crate::{
    Agent, AgentId, Fleet, Task, TeamId,
    sabotage::{Mistake, planted},
    schedule::{free_agents::Needs, score::score},
};

impl Fleet {
    /// Returns the agent with a free slot that should take this task; `None` if there is none.
    pub(crate) fn best_for(&self, task: &Task) -> Option<AgentId> {
        if let Some(claim) = &task.resources {
            return self.best_with_room(task, &claim.asked);
        }
        let weights = &self.state.config.weights;
        let needs = task.needs();
        let excluded = self.excluded(task);
        let Some(team) = task.team.filter(|_| !planted(Mistake::OutsiderRuns)) else {
            let best = |excluded: &[AgentId]| self.indexes.schedule.free.best(needs, excluded, weights);
            // An agent that has a part in what it judges is only taken if no other one is free.
            let others = self.involved(task).and_then(|involved| best(&involved));
            return others.or_else(|| best(&excluded));
        };
        let rank = |agent: &&Arc<Agent>| {
            let matched = agent.has_specialization(needs.domain);
            (Reverse(score(weights, agent, matched).total), !matched, agent.role, agent.load(), agent.id)
        };
        let members = self.free_members(team, needs).filter(|agent| !excluded.contains(&agent.id));
        members.min_by_key(rank).map(|agent| agent.id)
    }

    /// Returns how many agents with a free slot can take this task; if it needs resources, how many are found.
    pub(crate) fn candidates_for(&self, task: &Task) -> u32 {
        if let Some(claim) = &task.resources {
            return self.with_room(task, &claim.asked).len() as u32;
        }
        let (needs, excluded) = (task.needs(), self.excluded(task));
        if let Some(team) = task.team {
            let members = self.free_members(team, needs).filter(|agent| !excluded.contains(&agent.id));
            return members.count() as u32;
        }
        let is_free = |id: &AgentId| {
            let agent = self.state.agents.known.get(id).filter(|agent| agent.free_slots() > 0);
            agent.is_some_and(|agent| needs.fit(agent.role, agent.has_specialization(needs.domain)))
        };
        let excluded = excluded.iter().filter(|id| is_free(id)).count() as u32;
        self.indexes.schedule.free.count(needs).saturating_sub(excluded)
    }

    /// Returns the members of a team that fit and have a free slot.
    fn free_members<'a>(&'a self, team: TeamId, needs: Needs<'a>) -> impl Iterator<Item = &'a Arc<Agent>> {
        let members = self.team(team).into_iter().flat_map(|team| &team.members);
        let agents = members.filter_map(move |member| self.state.agents.known.get(&member.agent));
        let fits = move |agent: &Agent| needs.fit(agent.role, agent.has_specialization(needs.domain));
        agents.filter(move |agent| agent.free_slots() > 0 && fits(agent))
    }

    /// Returns the number of the task that an agent should take next: one of everyone's, one of its team's, or one
    /// that needs resources which it has free. It takes no member of a task of which it has had its turn.
    pub(crate) fn next_for(&self, agent: &Agent) -> Option<u64> {
        let schedule = &self.indexes.schedule;
        let skip = |seq: u64| self.skipped(seq, agent);
        let everyones = schedule.queue.next_for(agent, &skip);
        let teams = match schedule.teams.is_empty() {
            true => None,
            false => self.team_of(agent.id).and_then(|team| schedule.teams.get(&team.id)?.next_for(agent, &skip)),
        };
        let needing = if schedule.needing.ready == 0 { None } else { self.next_needing(agent) };
        everyones.into_iter().chain(teams).chain(needing).min().map(|(_, (_, seq))| seq)
    }
}
