//! Teams: agents that are brought together for a purpose, with a leader among them. A team consists of live agents,
//! each of which is in one team at most. A member that is no longer live, or no longer fits, is replaced by the best
//! agent that is free, and a leader that is gone by another member, under a new term.
//!
//! What a team does is counted here, where each coordinator counts the same: tasks addressed to it, the attempts of its
//! members, and letters to it.

pub(crate) mod audit;
pub(crate) mod command;
pub(crate) mod counting;
mod ending;
mod forming;
pub(crate) mod indexes;
pub(crate) mod members;
pub(crate) mod query;
mod scheduling;
pub(crate) mod score;
pub(crate) mod state;
#[cfg(test)]
mod tests;
pub(crate) mod unteamed;

use std::sync::Arc;

use bilrost::{Enumeration, Message};

use self::score::LeaderTerms;
use crate::{
    Agent, AgentId, FleetMillis, Role, Stamp, TeamId,
    limits::TEAM_TTL_MS,
    numbered::Entry,
    snapshot::{Rest, Untaken},
};

/// The state of a team.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum TeamState {
    /// It has its members, but not yet an authenticated path between every two of them.
    Forming = 0,
    /// It has its members, and an authenticated path between every two of them.
    Active = 1,
    /// Members are missing, or it was active and a path is missing now.
    Degraded = 2,
    /// Final: it has no members any more, and takes no tasks.
    Disbanded = 3,
}

/// What a member of a team must be.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct TeamNeeds {
    /// Its role. `None`: worker or specialist, or any role if skills are needed.
    #[bilrost(1)]
    pub role: Option<Role>,
    /// The specializations that it must have, all of them; sorted, each once.
    #[bilrost(2)]
    pub skills: Vec<String>,
}

/// What a member has done for its team since it became a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct MemberWork {
    /// Attempts at the team's tasks that succeeded.
    #[bilrost(1)]
    pub succeeded: u64,
    /// Attempts at the team's tasks that failed or took too long.
    #[bilrost(2)]
    pub failed: u64,
    /// How long these attempts took together, from assignment to end, ms of fleet time.
    #[bilrost(3)]
    pub busy_ms: u64,
    /// Letters to the team that were posted for this member.
    #[bilrost(4)]
    pub messages: u64,
}

/// A member of a team.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct TeamMember {
    /// The agent.
    #[bilrost(1)]
    pub agent: AgentId,
    /// The agent's name.
    #[bilrost(2)]
    pub name: Arc<str>,
    /// When it became a member.
    #[bilrost(3)]
    pub since: Stamp,
    /// The other members to which it has an authenticated path, as it reports; by number.
    #[bilrost(4)]
    pub reaches: Vec<AgentId>,
    /// What it has done for the team.
    #[bilrost(5)]
    pub work: MemberWork,
}

/// What a team has done, whoever its members were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct TeamTotals {
    /// Tasks that were addressed to it.
    #[bilrost(1)]
    pub tasks: u64,
    /// Those that succeeded.
    #[bilrost(2)]
    pub succeeded: u64,
    /// Those that ended otherwise.
    #[bilrost(3)]
    pub failed: u64,
    /// How long those that succeeded took together, from acceptance to end, ms of fleet time.
    #[bilrost(4)]
    pub latency_ms: u64,
    /// Letters to the team, one for each member that they were posted for.
    #[bilrost(5)]
    pub messages: u64,
    /// Members that were lost and replaced.
    #[bilrost(6)]
    pub replaced: u64,
}

/// A team.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Team {
    /// The team's number in the order of forming.
    #[bilrost(1)]
    pub seq: u64,
    /// The team's id, drawn by whoever formed it.
    #[bilrost(2)]
    pub id: TeamId,
    /// Who formed it.
    #[bilrost(3)]
    pub formed_by: String,
    /// What it is for.
    #[bilrost(4)]
    pub purpose: String,
    /// How many members were asked for.
    #[bilrost(5)]
    pub asked: u32,
    /// Whether fewer members than asked for would do.
    #[bilrost(6)]
    pub partial: bool,
    /// What members must be.
    #[bilrost(7)]
    pub needs: TeamNeeds,
    /// How many members it should have: as many as it was formed with.
    #[bilrost(8)]
    pub size: u32,
    /// The members, by number.
    #[bilrost(9)]
    pub members: Vec<TeamMember>,
    /// The leader; `None` if there are no members.
    #[bilrost(10)]
    pub leader: Option<AgentId>,
    /// The number of the leader's election, counting up by one from 1. What is done in the name of an earlier leader is
    /// refused.
    #[bilrost(11)]
    pub term: u64,
    /// When the leader was elected.
    #[bilrost(12)]
    pub elected_at: Stamp,
    /// The leader's score when it was elected.
    #[bilrost(13)]
    pub leader_score: LeaderTerms,
    /// When it was formed.
    #[bilrost(14)]
    pub created_at: Stamp,
    /// The team's state.
    #[bilrost(15)]
    pub state: TeamState,
    /// Whether it has ever been active.
    #[bilrost(16)]
    pub was_active: bool,
    /// When it was disbanded.
    #[bilrost(17)]
    pub disbanded_at: Option<Stamp>,
    /// What it has done.
    #[bilrost(18)]
    pub totals: TeamTotals,
}

impl TeamNeeds {
    /// Returns whether an agent of this role may be a member, if it has the skills.
    pub(crate) fn fit_role(&self, role: Role) -> bool {
        match self.role {
            Some(required) => required == role,
            None => !self.skills.is_empty() || matches!(role, Role::Worker | Role::Specialist),
        }
    }

    /// Returns whether this agent may be a member.
    pub(crate) fn fit(&self, agent: &Agent) -> bool {
        self.fit_role(agent.role) && self.skills.iter().all(|skill| agent.has_specialization(skill))
    }
}

impl Team {
    /// Returns whether the team is not disbanded.
    pub fn is_open(&self) -> bool {
        self.state != TeamState::Disbanded
    }

    /// Returns how many members are missing.
    pub fn missing(&self) -> u32 {
        if self.is_open() { self.size.saturating_sub(self.members.len() as u32) } else { 0 }
    }

    /// Returns a member; `None` if this agent is none.
    pub fn member(&self, agent: AgentId) -> Option<&TeamMember> {
        self.members.get(self.place_of(agent)?)
    }

    /// Returns the member of this name; `None` if there is none.
    pub fn member_named(&self, name: &str) -> Option<&TeamMember> {
        self.members.iter().find(|member| *member.name == *name)
    }

    /// Returns whether two members have an authenticated path: each of them reports it.
    pub fn are_connected(&self, one: &TeamMember, other: &TeamMember) -> bool {
        one.reaches.binary_search(&other.agent).is_ok() && other.reaches.binary_search(&one.agent).is_ok()
    }

    pub(crate) fn place_of(&self, agent: AgentId) -> Option<usize> {
        self.members.binary_search_by_key(&agent, |member| member.agent).ok()
    }

    /// Returns whether every member reports a path to every other one. Members report only paths to other members.
    fn is_connected(&self) -> bool {
        self.members.iter().all(|member| member.reaches.len() + 1 == self.members.len())
    }

    /// Returns the state that follows from the members and their paths.
    pub(crate) fn state_now(&self) -> TeamState {
        if self.disbanded_at.is_some() {
            TeamState::Disbanded
        } else if (self.members.len() as u64) < u64::from(self.size) {
            TeamState::Degraded
        } else if self.is_connected() {
            TeamState::Active
        } else if self.was_active {
            TeamState::Degraded
        } else {
            TeamState::Forming
        }
    }

    /// Brings the state up to date after a change of the members or their paths.
    pub(super) fn settle(&mut self) {
        self.state = self.state_now();
        self.was_active |= self.state == TeamState::Active;
    }

    /// Returns when a disbanded team is forgotten.
    pub(crate) fn due(&self) -> Option<FleetMillis> {
        Some(self.disbanded_at?.fleet.saturating_add(TEAM_TTL_MS))
    }
}

impl Entry for Team {
    const FIELD: u32 = 14;
    const NAME: &str = "teams";

    fn number(&self) -> u64 {
        self.seq
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.teams
    }
}
