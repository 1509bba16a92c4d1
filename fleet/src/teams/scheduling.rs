//! Which agent takes a task, and which task an agent takes, where teams play a part: a task that is addressed to a team
//! goes to its members alone, who take other tasks as well.

use std::sync::Arc;

use crate::{
    Agent, AgentId, Fleet, Role, Task, TeamId,
    sabotage::{Mistake, planted},
    schedule::{
        columns::{general_columns, own_columns},
        free_agents::Needs,
        line::Rules,
        place_of,
        queue::{Found, ReadyQueue},
    },
    tasks::skips::Skips,
};

impl Fleet {
    /// Returns the agent with a free slot that should take this task; `None` if there is none, or a limit holds the task
    /// back.
    pub(crate) fn best_for(&self, task: &Task) -> Option<AgentId> {
        if self.is_held_back(task) {
            return None;
        }
        if let Some(claim) = &task.resources {
            return self.best_with_room(task, &claim.asked);
        }
        let weights = &self.state.config.weights;
        let needs = task.needs();
        let excluded = self.excluded(task);
        let Some(team) = task.team.filter(|_| !planted(Mistake::OutsiderRuns)) else {
            let agents = &self.state.agents.known;
            let best = |excluded: &[AgentId]| self.indexes.schedule.free.best(needs, excluded, agents, weights);
            // An agent that has a part in what it judges is only taken if no other one is free.
            let others = self.involved(task).and_then(|involved| best(&involved));
            return others.or_else(|| best(&excluded));
        };
        let members = self.free_members(team, needs).filter(|agent| !excluded.contains(&agent.id));
        members.min_by_key(|agent| place_of(agent, needs, weights)).map(|agent| agent.id)
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
        let agents = &self.state.agents.known;
        let is_free = |id: &AgentId| agents.get(id).is_some_and(|agent| needs.can_go_to(agent));
        let excluded = excluded.iter().filter(|id| is_free(id)).count() as u32;
        self.indexes.schedule.free.count(needs, agents).saturating_sub(excluded)
    }

    /// Returns the members of a team that fit and have as many slots free as the task takes.
    fn free_members<'a>(&'a self, team: TeamId, needs: Needs<'a>) -> impl Iterator<Item = &'a Arc<Agent>> {
        let members = self.team(team).into_iter().flat_map(|team| &team.members);
        let agents = members.filter_map(move |member| self.state.agents.known.get(&member.agent));
        agents.filter(move |agent| needs.can_go_to(agent))
    }

    /// Returns the task that an agent with a free slot should take next: one of everyone's, one of its team's, one that takes
    /// several slots or skills, or one that needs resources which it has free. It takes no member of a task of which it has
    /// had its turn.
    pub(crate) fn next_for(&mut self, id: AgentId) -> Option<Found> {
        let everyones = if self.indexes.schedule.queue.is_empty() { None } else { self.first_of_all(id) };
        let teams = if self.indexes.schedule.teams.is_empty() { None } else { self.first_of_its_team(id) };
        let (needing, wide) = (self.next_needing(id), self.next_wide(id));
        let all = everyones.into_iter().chain(teams).chain(needing).chain(wide);
        all.fold(None, Found::preferred).map(|(_, found)| found)
    }

    fn first_of_all(&mut self, id: AgentId) -> Option<(bool, Found)> {
        let Fleet { state, indexes, .. } = self;
        let agent = state.agents.known.get(&id)?;
        let rules = Rules { shares: &state.queues.shares, gate: &indexes.schedule.gate };
        let skips = Skips::new(state, &indexes.tasks, &indexes.agents);
        first_for(&mut indexes.schedule.queue, agent, rules, skips)
    }

    fn first_of_its_team(&mut self, id: AgentId) -> Option<(bool, Found)> {
        let team = self.team_of(id)?.id;
        let Fleet { state, indexes, .. } = self;
        let agent = state.agents.known.get(&id)?;
        let rules = Rules { shares: &state.queues.shares, gate: &indexes.schedule.gate };
        let skips = Skips::new(state, &indexes.tasks, &indexes.agents);
        first_for(indexes.schedule.teams.get_mut(&team)?, agent, rules, skips)
    }
}

/// Returns the task of some queues that an agent should take next if it has a free slot, and whether it is no task of a
/// specialist's domain. A specialist takes a task of its domain first; other agents, and a specialist without such a task,
/// take any.
fn first_for(tasks: &mut ReadyQueue, agent: &Agent, rules: Rules<'_>, skips: Skips<'_>) -> Option<(bool, Found)> {
    if agent.free_slots() == 0 {
        return None;
    }
    let skip = |seq: u64| skips.of(seq, agent);
    let is_specialist = agent.role == Role::Specialist;
    if is_specialist && let Some(found) = tasks.first(own_columns(agent), rules, &skip) {
        return Some((false, found));
    }
    let own = (!is_specialist).then(|| own_columns(agent)).into_iter().flatten();
    tasks.first(general_columns(agent.role).chain(own), rules, &skip).map(|found| (true, found))
}
