//! Teams.

use robeing_fleet::{AgentId, LeaderTerms, Stamp, Team, TeamMember, TeamNeeds, TeamState};
use robeing_proto::v1;

use super::{
    BadField,
    agents::{agent_role, role},
    bad, happened,
};
use crate::teams::Shown;

/// Reads what members of a team must be.
///
/// # Errors
/// If the role is none that agents have.
pub fn team_needs(role: i32, skills: Vec<String>) -> Result<TeamNeeds, BadField> {
    let role = match v1::Role::try_from(role) {
        Ok(v1::Role::Unspecified) => None,
        Ok(role) => Some(agent_role(role)?),
        Err(_) => return Err(bad("role", format!("unknown role {role}"))),
    };
    Ok(TeamNeeds { role, skills })
}

fn state(state: TeamState) -> v1::TeamState {
    match state {
        TeamState::Forming => v1::TeamState::Forming,
        TeamState::Active => v1::TeamState::Active,
        TeamState::Degraded => v1::TeamState::Degraded,
        TeamState::Disbanded => v1::TeamState::Disbanded,
    }
}

fn name_of(team: &Team, agent: AgentId) -> String {
    team.member(agent).map(|member| member.name.to_string()).unwrap_or_default()
}

/// Converts a team to its API form, as of `now`.
pub fn team(shown: &Shown, now: Stamp) -> v1::Team {
    let Shown { team, unfinished, .. } = shown;
    v1::Team {
        id: team.id.to_string(),
        purpose: team.purpose.clone(),
        state: state(team.state).into(),
        leader: team.leader.map(|leader| name_of(team, leader)).unwrap_or_default(),
        term: team.term,
        elected_at: Some(happened(team.elected_at)),
        leader_score: team.leader.map(|_| score(&team.leader_score)),
        members: team.members.iter().map(|of| member(shown, of, now)).collect(),
        size: team.size,
        asked: team.asked,
        partial: team.partial,
        role: team.needs.role.map(|needed| role(needed).into()).unwrap_or_default(),
        skills: team.needs.skills.clone(),
        formed_by: team.formed_by.clone(),
        created_at: Some(happened(team.created_at)),
        disbanded_at: team.disbanded_at.map(happened),
        totals: Some(totals(team, *unfinished)),
    }
}

fn member(shown: &Shown, member: &TeamMember, now: Stamp) -> v1::team::Member {
    let slots = shown.agents.iter().find(|agent| agent.id == member.agent).map_or(1, |agent| agent.slots.max(1));
    let lasted = now.fleet.saturating_sub(member.since.fleet);
    let work = member.work;
    v1::team::Member {
        name: member.name.to_string(),
        since: Some(happened(member.since)),
        reaches: member.reaches.iter().map(|reached| name_of(&shown.team, *reached)).collect(),
        succeeded: work.succeeded,
        failed: work.failed,
        busy_ms: work.busy_ms,
        messages: work.messages,
        utilisation: ratio(work.busy_ms, lasted.saturating_mul(u64::from(slots))).min(1.0),
    }
}

fn totals(team: &Team, unfinished: u32) -> v1::team::Totals {
    let totals = team.totals;
    v1::team::Totals {
        tasks: totals.tasks,
        succeeded: totals.succeeded,
        failed: totals.failed,
        mean_latency_ms: ratio(totals.latency_ms, totals.succeeded),
        messages: totals.messages,
        replaced: totals.replaced,
        unfinished,
    }
}

fn score(terms: &LeaderTerms) -> v1::team::LeaderScore {
    let share = |millionths: u32| f64::from(millionths) / 1e6;
    v1::team::LeaderScore {
        experience: share(terms.experience),
        reliability: share(terms.reliability),
        resources: share(terms.resources),
        availability: share(terms.availability),
        total: terms.total() as f64 / 1e7,
    }
}

/// Returns a quotient; 0 of nothing. For people, so that it need not be exact.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
