//! The commands for teams, and their bounds.

use bilrost::{Message, Oneof};

use super::TeamNeeds;
use crate::{
    AgentId, Effect, Fleet, Refusal, Reply, SessionId, TeamId,
    config::{check_length, check_name, invalid},
    limits::{MAX_PURPOSE_BYTES, MAX_SENDER_BYTES, MAX_TEAM_SIZE, MAX_TEAM_SKILLS},
    steps::Jobs,
};

/// A command for a team. All need [`Feature::Teams`](crate::Feature::Teams). All domains share one range of field
/// numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum TeamCommand {
    /// Forms a team of the best agents that are free.
    #[bilrost(30)]
    Form(FormTeam),
    /// Disbands a team. Its unfinished tasks are cancelled, and its members are free.
    #[bilrost(tag(31), message)]
    Disband {
        /// The team.
        #[bilrost(1)]
        team: TeamId,
        /// The term of the leader in whose name this is done; `None` if it is not done in the name of a leader.
        #[bilrost(2)]
        term: Option<u64>,
        /// Who disbands it; at most [`MAX_SENDER_BYTES`].
        #[bilrost(3)]
        by: String,
    },
    /// A member reports the other members to which it has an authenticated path. Replaces what it reported before. Those
    /// that are no members are ignored.
    #[bilrost(tag(32), message)]
    Paths {
        /// The team.
        #[bilrost(1)]
        team: TeamId,
        /// The member.
        #[bilrost(2)]
        agent: AgentId,
        /// Its session.
        #[bilrost(3)]
        session: SessionId,
        /// The other members; at most [`MAX_TEAM_SIZE`].
        #[bilrost(4)]
        reaches: Vec<AgentId>,
    },
}

/// A team as it is formed.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct FormTeam {
    /// The team's id, drawn by whoever forms it: a second team with the same id and content is the same team.
    #[bilrost(1)]
    pub id: TeamId,
    /// Who forms it; at most [`MAX_SENDER_BYTES`].
    #[bilrost(2)]
    pub formed_by: String,
    /// What it is for; 1 to [`MAX_PURPOSE_BYTES`].
    #[bilrost(3)]
    pub purpose: String,
    /// How many members it should have; 1 to [`MAX_TEAM_SIZE`].
    #[bilrost(4)]
    pub size: u32,
    /// Whether fewer members do if there are not so many; at least one.
    #[bilrost(5)]
    pub partial: bool,
    /// What members must be; at most [`MAX_TEAM_SKILLS`] skills.
    #[bilrost(6)]
    pub needs: TeamNeeds,
}

impl TeamNeeds {
    /// Refuses needs that are out of bounds.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.skills.len() > MAX_TEAM_SKILLS {
            let problem = format!("has {} entries, the most is {MAX_TEAM_SKILLS}", self.skills.len());
            return Err(invalid("needs.skills", problem));
        }
        if !self.skills.is_sorted_by(|one, next| one < next) {
            return Err(invalid("needs.skills", "must be in order, each once"));
        }
        self.skills.iter().try_for_each(|skill| check_name("needs.skills", skill))
    }
}

/// Refuses a team whose texts, size or needs are out of bounds.
pub(super) fn check_content(formed_by: &str, purpose: &str, size: u32, needs: &TeamNeeds) -> Result<(), Refusal> {
    for (field, text, most) in [("formed_by", formed_by, MAX_SENDER_BYTES), ("purpose", purpose, MAX_PURPOSE_BYTES)] {
        if text.is_empty() {
            return Err(invalid(field, "must not be empty"));
        }
        check_length(field, text, most)?;
    }
    if !(1..=MAX_TEAM_SIZE).contains(&size) {
        return Err(invalid("size", format!("is {size}, must be 1 to {MAX_TEAM_SIZE}")));
    }
    needs.check()
}

impl FormTeam {
    /// Refuses a team that is out of bounds, whatever the fleet's state.
    ///
    /// # Errors
    /// Returns [`Refusal::Invalid`], which names the field.
    pub fn check(&self) -> Result<(), Refusal> {
        check_content(&self.formed_by, &self.purpose, self.size, &self.needs)
    }
}

impl Fleet {
    pub(crate) fn run_teams(&mut self, command: TeamCommand, jobs: &mut Jobs, effects: &mut Vec<Effect>) -> Reply {
        match command {
            TeamCommand::Form(team) => self.form_team(team, effects),
            TeamCommand::Disband { team, term, by } => self.disband_team(team, term, &by, jobs, effects),
            TeamCommand::Paths { team, agent, session, reaches } => {
                self.note_paths(team, (agent, session), reaches, effects)
            }
        }
    }
}
