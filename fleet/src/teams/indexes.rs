//! The indexes of teams.

use std::collections::{BTreeMap, BTreeSet};

use super::{Team, TeamNeeds, TeamState, unteamed::Unteamed};
use crate::{Agent, AgentId, FleetMillis, Task, TeamId, fixed_map::FixedMap};

/// The indexes of teams. They refer to teams by their numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct TeamIndexes {
    pub ids: FixedMap<TeamId, u64>,
    /// The team of each agent that is in one.
    pub of_agent: BTreeMap<AgentId, u64>,
    /// The teams that are not disbanded.
    pub open: BTreeSet<u64>,
    /// How many teams that are not disbanded each has formed who has formed any.
    pub of_former: BTreeMap<String, usize>,
    /// The teams that lack members, by what these must be: whether an agent fits is found out once for all of them.
    pub lacking: BTreeMap<TeamNeeds, BTreeSet<u64>>,
    /// The teams that are disbanded, the one that was disbanded first in front.
    pub disbanded: BTreeSet<(FleetMillis, u64)>,
    /// Number of teams by state.
    pub counts: [u32; 4],
    /// The live agents that are in no team.
    pub free: Unteamed,
    /// The unfinished tasks that are addressed to each team that has any, by their numbers.
    pub tasks: BTreeMap<TeamId, BTreeSet<u64>>,
}

impl TeamIndexes {
    /// Indexes a team, or its new state after a change. The agents that have become members must have been removed from
    /// those that are free.
    pub(crate) fn enter(&mut self, team: &Team) {
        self.ids.insert(team.id, team.seq);
        self.counts[team.state as usize] += 1;
        self.of_agent.extend(team.members.iter().map(|member| (member.agent, team.seq)));
        if team.is_open() {
            self.open.insert(team.seq);
            match self.of_former.get_mut(&team.formed_by) {
                Some(count) => *count += 1,
                None => {
                    self.of_former.insert(team.formed_by.clone(), 1);
                }
            }
        }
        if team.missing() > 0 {
            match self.lacking.get_mut(&team.needs) {
                Some(teams) => teams.insert(team.seq),
                None => self.lacking.entry(team.needs.clone()).or_default().insert(team.seq),
            };
        }
        self.disbanded.extend(team.disbanded_at.map(|at| (at.fleet, team.seq)));
    }

    /// Removes a team, or its old state before a change.
    pub(crate) fn leave(&mut self, team: &Team) {
        self.ids.remove(&team.id);
        self.counts[team.state as usize] -= 1;
        for member in &team.members {
            self.of_agent.remove(&member.agent);
        }
        if self.open.remove(&team.seq)
            && let Some(count) = self.of_former.get_mut(&team.formed_by)
        {
            *count -= 1;
            if *count == 0 {
                self.of_former.remove(&team.formed_by);
            }
        }
        if let Some(teams) = self.lacking.get_mut(&team.needs) {
            teams.remove(&team.seq);
            if teams.is_empty() {
                self.lacking.remove(&team.needs);
            }
        }
        if let Some(at) = team.disbanded_at {
            self.disbanded.remove(&(at.fleet, team.seq));
        }
    }

    /// Indexes an agent after a change of anything but its team.
    pub(crate) fn enter_agent(&mut self, agent: &Agent) {
        if !self.of_agent.contains_key(&agent.id) {
            self.free.insert(agent);
        }
    }

    /// Removes an agent before a change of anything but its team.
    pub(crate) fn leave_agent(&mut self, agent: &Agent) {
        if !self.of_agent.contains_key(&agent.id) {
            self.free.remove(agent);
        }
    }

    /// Moves an agent after a change of its performance alone, which was another `before`.
    pub(crate) fn rerank(&mut self, agent: &Agent, before: u32) {
        if !self.of_agent.contains_key(&agent.id) {
            self.free.rerank(agent, before);
        }
    }

    /// Indexes a task after a change. A member of a task that runs on several agents ends with that one.
    pub(crate) fn enter_task(&mut self, task: &Task) {
        if let Some(team) = task.team
            && task.member_of.is_none()
            && !task.state.is_final()
        {
            self.tasks.entry(team).or_default().insert(task.seq);
        }
    }

    /// Removes a task before a change.
    pub(crate) fn leave_task(&mut self, task: &Task) {
        let Some(team) = task.team else { return };
        let Some(tasks) = self.tasks.get_mut(&team) else { return };
        tasks.remove(&task.seq);
        if tasks.is_empty() {
            self.tasks.remove(&team);
        }
    }

    /// Returns the number of teams in a state.
    pub(crate) fn count(&self, state: TeamState) -> u32 {
        self.counts[state as usize]
    }
}
