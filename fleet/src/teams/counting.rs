//! What teams and their members do, counted as the log has it. Counting changes no index.

use super::{Team, TeamMember};
use crate::{AgentId, Fleet, TaskState, TeamId};

/// Begins the addresses of letters to teams.
const TEAM_ADDRESS: &str = "team:";

fn add(count: &mut u64, by: u64) {
    *count = count.saturating_add(by);
}

impl Fleet {
    /// Changes the counts of a team, if it is kept.
    fn count_of_team(&mut self, id: TeamId, count: impl FnOnce(&mut Team)) {
        if let Some(seq) = self.indexes.teams.ids.get(&id).copied() {
            self.state.teams.kept.change(seq, &self.snapshots, count);
        }
    }

    /// Changes the counts of a member, if the agent is one now.
    fn count_of_member(&mut self, id: TeamId, agent: AgentId, count: impl FnOnce(&mut TeamMember)) {
        self.count_of_team(id, |team| {
            if let Some(member) = team.place_of(agent).and_then(|place| team.members.get_mut(place)) {
                count(member);
            }
        });
    }

    /// Counts a task that was addressed to a team.
    pub(crate) fn count_team_task(&mut self, team: Option<TeamId>) {
        if let Some(id) = team {
            self.count_of_team(id, |team| add(&mut team.totals.tasks, 1));
        }
    }

    /// Counts a task of a team that has ended.
    pub(crate) fn count_team_end(&mut self, seq: u64) {
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        let Some(id) = task.team else { return };
        let took = self.state.now.fleet.saturating_sub(task.submitted_at.fleet);
        let has_succeeded = task.state == TaskState::Succeeded;
        self.count_of_team(id, |team| {
            if has_succeeded {
                add(&mut team.totals.succeeded, 1);
                add(&mut team.totals.latency_ms, took);
            } else {
                add(&mut team.totals.failed, 1);
            }
        });
    }

    /// Counts the current attempt of a task of a team, before it is ended.
    pub(crate) fn count_team_attempt(&mut self, seq: u64, has_succeeded: bool) {
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        let (Some(id), Some(attempt)) = (task.team, task.current()) else { return };
        let (agent, took) = (attempt.agent, self.state.now.fleet.saturating_sub(attempt.assigned_at.fleet));
        self.count_work(id, agent, took, has_succeeded);
    }

    /// Counts an attempt at a task of a team that runs on several agents, once it is known whether its output was right.
    pub(crate) fn count_team_answer(&mut self, seq: u64, number: u32, is_right: bool) {
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        let attempt = task.attempts.iter().find(|attempt| attempt.number == number);
        let (Some(id), Some(attempt)) = (task.team, attempt) else { return };
        let ended = attempt.ended_at.unwrap_or(self.state.now).fleet;
        let (agent, took) = (attempt.agent, ended.saturating_sub(attempt.assigned_at.fleet));
        self.count_work(id, agent, took, is_right);
    }

    fn count_work(&mut self, id: TeamId, agent: AgentId, took: u64, has_succeeded: bool) {
        self.count_of_member(id, agent, |member| {
            add(if has_succeeded { &mut member.work.succeeded } else { &mut member.work.failed }, 1);
            add(&mut member.work.busy_ms, took);
        });
    }

    /// Counts a letter that was posted to a member of a team because it was sent to the team.
    pub(crate) fn count_team_letter(&mut self, to: &str, receiver: &str) {
        let Some(text) = to.strip_prefix(TEAM_ADDRESS) else { return };
        let Some(agent) = self.agent_by_name(receiver).map(|agent| agent.id) else { return };
        let Some(seq) = self.indexes.teams.of_agent.get(&agent).copied() else { return };
        let Some(id) = self.state.teams.kept.get(seq).map(|team| team.id) else { return };
        if id.to_string() == text {
            self.count_of_team(id, |team| add(&mut team.totals.messages, 1));
            self.count_of_member(id, agent, |member| add(&mut member.work.messages, 1));
        }
    }
}
