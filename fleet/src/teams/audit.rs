//! Invariants of teams.

use std::collections::{BTreeMap, BTreeSet};

use super::{Team, TeamMember, TeamTotals, command::check_content, unteamed::Unteamed};
use crate::{
    AgentId, AgentState, Feature, Fleet, TeamId,
    audit::{COUNTER_ROOM, Check, ensure},
    fleet::State,
    limits::MAX_TEAMS,
};

/// Checks each team, that no agent is in two, and that unfinished tasks are addressed to teams that work.
pub(crate) fn check_teams(state: &State) -> Check {
    let teams = &state.teams.kept;
    ensure(state.version >= Feature::Teams.since() || state.teams == Default::default(), || {
        "teams before their version".to_owned()
    })?;
    teams.check(MAX_TEAMS)?;
    let (mut ids, mut open): (BTreeSet<TeamId>, BTreeSet<TeamId>) = Default::default();
    let mut members = BTreeSet::new();
    for team in teams.iter() {
        let alone = team.members.iter().all(|member| members.insert(member.agent));
        ensure(is_sound(team, state) && alone && ids.insert(team.id), || format!("team {}", team.id))?;
        if team.is_open() {
            open.insert(team.id);
        }
    }
    let mut unfinished: BTreeMap<TeamId, u64> = BTreeMap::new();
    for task in state.tasks.kept.values().filter(|task| !task.state.is_final()) {
        let Some(team) = task.team else { continue };
        ensure(open.contains(&team), || format!("task {} of no team", task.id))?;
        // A member of a task that runs on several agents was addressed by nobody.
        *unfinished.entry(team).or_default() += u64::from(task.member_of.is_none());
    }
    for team in teams.iter() {
        let left = unfinished.get(&team.id).copied().unwrap_or_default();
        ensure(team.totals.add_up(left), || format!("the tasks of team {}", team.id))?;
    }
    let before = state.version < Feature::Teams.since();
    let addressed = state.tasks.kept.values().find(|task| before && task.team.is_some());
    ensure(addressed.is_none(), || "a task of a team before its version".to_owned())
}

/// Checks that no team lacks a member while an agent that fits is free, where none could have been missed.
pub(crate) fn check_staffed(fleet: &Fleet) -> Check {
    let agents = fleet.state.agents.next as usize;
    let is_sure = |team: &Team| team.missing() > 0 && Unteamed::misses_none(&team.needs, agents);
    for team in fleet.state.teams.kept.iter().filter(|team| is_sure(team)) {
        let free = fleet.indexes.teams.free.best(&team.needs, 1, &fleet.state.agents.known);
        ensure(free.is_empty(), || format!("team {} lacks a member though agent {free:?} is free", team.id))?;
    }
    Ok(())
}

impl TeamTotals {
    /// Returns whether every task that was addressed to the team has ended or is one of so many unfinished ones.
    fn add_up(&self, unfinished: u64) -> bool {
        let counts = [self.tasks, self.succeeded, self.failed, self.latency_ms, self.messages, self.replaced];
        counts.into_iter().all(|count| count < COUNTER_ROOM) && self.succeeded + self.failed + unfinished == self.tasks
    }
}

fn is_sound(team: &Team, state: &State) -> bool {
    let now = state.now.fleet;
    let past = [Some(team.created_at), Some(team.elected_at), team.disbanded_at];
    let has_leader = team.leader.is_some_and(|leader| team.member(leader).is_some());
    check_content(&team.formed_by, &team.purpose, team.asked, &team.needs).is_ok()
        && (1..=team.asked).contains(&team.size)
        && (team.partial || team.size == team.asked)
        && team.members.len() as u64 <= u64::from(team.size)
        && (team.is_open() || team.members.is_empty())
        && team.members.is_sorted_by(|one, next| one.agent < next.agent)
        && team.members.iter().all(|member| is_sound_member(team, member, state))
        && (if team.members.is_empty() { team.leader.is_none() } else { has_leader })
        && (1..COUNTER_ROOM).contains(&team.term)
        && team.leader_score.is_sound()
        && team.state == team.state_now()
        && past.into_iter().flatten().all(|at| at.fleet <= now)
}

fn is_sound_member(team: &Team, member: &TeamMember, state: &State) -> bool {
    let fits = |id: AgentId, name: &str| {
        let agent = state.agents.known.get(&id).filter(|agent| agent.state == AgentState::Live);
        agent.is_some_and(|agent| *agent.name == *name && team.needs.fit(agent))
    };
    fits(member.agent, &member.name)
        && (team.created_at.fleet..=state.now.fleet).contains(&member.since.fleet)
        && member.reaches.is_sorted_by(|one, next| one < next)
        && member.reaches.iter().all(|reached| *reached != member.agent && team.member(*reached).is_some())
}
