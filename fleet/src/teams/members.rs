//! How the members of teams, their leaders and their paths change.

use std::{collections::BTreeSet, sync::Arc};

use super::{Team, score::leader_of};
use crate::{
    AgentId, AgentState, Effect, Fleet, Refusal, Reply, SessionId, TeamId,
    config::invalid,
    limits::MAX_TEAM_SIZE,
    sabotage::{Mistake, planted},
    steps::Jobs,
};

/// The agents whose state, role or skills have changed since the last step, in the order of their changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct ChangedAgents(Vec<AgentId>);

impl ChangedAgents {
    /// Records that an agent may have to leave its team, or may fit a team that lacks members.
    pub(crate) fn note(&mut self, agent: AgentId) {
        if self.0.last() != Some(&agent) {
            self.0.push(agent);
        }
    }
}

impl Fleet {
    /// Changes anything of a team but its number, and updates all indexes. Does nothing if there is no such team.
    pub(super) fn change_team<R>(&mut self, seq: u64, change: impl FnOnce(&mut Team) -> R) -> Option<R> {
        let indexes = &mut self.indexes;
        self.state.teams.kept.change(seq, &self.snapshots, |team| {
            indexes.leave_team(team);
            let result = change(team);
            indexes.enter_team(team);
            result
        })
    }

    /// Records that the team of an agent has changed, which the directory shows.
    pub(super) fn note_team_of(&mut self, agent: &Arc<str>) {
        // Watchers of the directory resume by the revision.
        self.next_revision();
        self.directory.note(agent);
    }

    /// Replaces members that are not live or do not fit any more, and gives agents that have become live or fit now to
    /// teams that lack members. Called after each step, so that the result does not depend on how the steps of a command
    /// are divided.
    pub(crate) fn settle_teams(&mut self, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        if self.changed_agents.0.is_empty() {
            // Few steps change any.
            return;
        }
        for id in std::mem::take(&mut self.changed_agents.0) {
            let agent = self.state.agents.known.get(&id).filter(|agent| agent.state == AgentState::Live);
            let seq = self.indexes.teams.of_agent.get(&id).copied();
            let team = seq.and_then(|seq| self.state.teams.kept.get(seq));
            if agent.zip(team).is_some_and(|(agent, team)| team.needs.fit(agent)) {
                continue;
            }
            if let Some(seq) = seq {
                self.replace_member(seq, id, jobs, effects);
            }
            self.staff(id, jobs, effects);
        }
    }

    /// Removes a member that is not live or does not fit any more, and adds the best agent that is free in its place,
    /// if there is one. What the member runs it finishes, unless it is lost.
    fn replace_member(&mut self, seq: u64, gone: AgentId, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        let changed = self.change_team(seq, |team| {
            let removed = team.place_of(gone).map(|place| team.members.remove(place).name);
            for member in &mut team.members {
                member.reaches.retain(|reached| *reached != gone);
            }
            team.settle();
            (removed, team.needs.clone())
        });
        let Some((removed, needs)) = changed else { return };
        if let Some(name) = removed {
            self.note_team_of(&name);
        }
        if let Some(agent) = self.state.agents.known.get(&gone) {
            self.indexes.teams.free.insert(agent);
        }
        match self.indexes.teams.free.best(&needs, 1, &self.state.agents.known).first().copied() {
            Some(next) => self.hire(seq, next, jobs, effects),
            None => self.lead_on(seq, effects),
        }
    }

    /// Makes an agent a member of the first team that lacks members and that it fits, if there is one and the agent is
    /// live and in no team.
    pub(crate) fn staff(&mut self, id: AgentId, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        let Some(agent) = self.state.agents.known.get(&id) else { return };
        let is_free = agent.state == AgentState::Live && !self.indexes.teams.of_agent.contains_key(&id);
        if !is_free {
            return;
        }
        let lacking = self.indexes.teams.lacking.iter().filter(|(needs, _)| needs.fit(agent));
        if let Some(seq) = lacking.filter_map(|(_, teams)| teams.first().copied()).min() {
            self.hire(seq, id, jobs, effects);
        }
    }

    /// Adds a member to a team that lacks one. It is given the team's tasks that wait once those that the member before
    /// it has lost wait as well.
    fn hire(&mut self, seq: u64, agent: AgentId, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        self.add_member(seq, agent);
        self.change_team(seq, |team| team.totals.replaced = team.totals.replaced.saturating_add(1));
        self.lead_on(seq, effects);
        jobs.pull_afterwards(agent);
    }

    /// Elects a leader if the team has none among its members, and reports that the team has changed.
    fn lead_on(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(team) = self.state.teams.kept.get(seq) else { return };
        let id = team.id;
        if team.leader.is_none_or(|leader| team.member(leader).is_none()) {
            self.elect(seq);
        }
        effects.push(Effect::TeamChanged { id });
    }

    /// Elects the member with the highest score, under the next term. A team without members has no leader, and the
    /// term of its last one is over as well.
    pub(super) fn elect(&mut self, seq: u64) {
        let Some(team) = self.state.teams.kept.get(seq) else { return };
        let (now, known) = (self.state.now, &self.state.agents.known);
        let members = team.members.iter().filter_map(|member| known.get(&member.agent));
        let elected = leader_of(members.map(|agent| &**agent), now.fleet);
        self.change_team(seq, |team| {
            team.leader = elected.map(|(id, _)| id);
            team.leader_score = elected.map(|(_, terms)| terms).unwrap_or_default();
            team.term += u64::from(team.term == 0 || !planted(Mistake::TermStays));
            team.elected_at = now;
        });
    }

    /// Records the paths that a member reports.
    pub(super) fn note_paths(
        &mut self,
        id: TeamId,
        (agent, session): (AgentId, SessionId),
        reaches: Vec<AgentId>,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if reaches.len() > MAX_TEAM_SIZE as usize {
            let problem = format!("has {} entries, the most is {MAX_TEAM_SIZE}", reaches.len());
            return Reply::Refused(invalid("reaches", problem));
        }
        let known = self.state.agents.known.get(&agent);
        if !known.is_some_and(|known| known.session == session && known.state != AgentState::Lost) {
            return Reply::Refused(Refusal::StaleSession);
        }
        let seq = match self.open_team(id) {
            Ok(seq) => seq,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let Some(team) = self.state.teams.kept.get(seq) else { return Reply::Done };
        // It may have left the team, which it can't know yet.
        let Some(place) = team.place_of(agent) else { return Reply::Done };
        let others = reaches.into_iter().filter(|other| *other != agent && team.member(*other).is_some());
        let reaches: BTreeSet<AgentId> = others.collect();
        let is_same = team.members.get(place).is_some_and(|member| member.reaches.iter().eq(&reaches));
        if is_same {
            return Reply::Done;
        }
        let changed = self.change_team(seq, |team| {
            let before = team.state;
            if let Some(member) = team.members.get_mut(place) {
                member.reaches = reaches.into_iter().collect();
            }
            team.settle();
            before != team.state
        });
        if changed == Some(true) {
            effects.push(Effect::TeamChanged { id });
        }
        Reply::Done
    }
}
