//! Teams as a client asks for them.

use robeing_platform::Random;
use robeing_proto::v1::{self, FormTeamRequest, Role};

use crate::{clients::below, tasks::SPECIALIZATION};

/// The number of members that are asked for, at most.
const MOST_MEMBERS: u64 = 3;
/// One of this many teams is of workers, and one of as many of agents with a skill.
const SPECIAL_ONE_OF: u64 = 3;

/// A team as a client asks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// What it is for.
    pub purpose: String,
    /// The number of its members.
    pub size: u32,
    /// Whether fewer would do.
    pub partial: bool,
    /// The role of its members.
    pub role: Role,
    /// The skills that each has.
    pub skills: Vec<String>,
}

impl Draft {
    /// Draws the team of this number. For the first one, any agents do, so that there is always one that can be formed.
    pub fn draw(random: &dyn Random, number: usize) -> Self {
        let purpose = format!("the purpose number {number}");
        if number == 0 {
            return Self { purpose, size: 2, partial: true, role: Role::Unspecified, skills: Vec::new() };
        }
        let kind = below(random, SPECIAL_ONE_OF);
        Self {
            purpose,
            size: 1 + below(random, MOST_MEMBERS) as u32,
            partial: below(random, 2) == 0,
            role: if kind == 0 { Role::Worker } else { Role::Unspecified },
            skills: if kind == 1 { vec![SPECIALIZATION.to_owned()] } else { Vec::new() },
        }
    }

    /// Returns the request that forms it under this id.
    pub fn request(&self, id: &str) -> FormTeamRequest {
        FormTeamRequest {
            id: id.to_owned(),
            purpose: self.purpose.clone(),
            size: self.size,
            partial: self.partial,
            role: self.role.into(),
            skills: self.skills.clone(),
        }
    }

    /// Returns whether a team is what was asked for.
    pub fn is_that(&self, team: &v1::Team) -> bool {
        let has_size = if self.partial { (1..=self.size).contains(&team.size) } else { team.size == self.size };
        (&team.purpose, team.asked, team.partial) == (&self.purpose, self.size, self.partial)
            && (team.role(), &team.skills) == (self.role, &self.skills)
            && has_size
    }
}

/// Returns whether an agent may be a member of a team.
pub fn fits(team: &v1::Team, agent: &v1::Agent) -> bool {
    let has_role = match team.role() {
        Role::Unspecified => !team.skills.is_empty() || matches!(agent.role(), Role::Worker | Role::Specialist),
        role => role == agent.role(),
    };
    has_role && team.skills.iter().all(|skill| agent.specializations.contains(skill))
}

#[cfg(test)]
mod tests {
    use robeing_platform::simulated::SeededRandom;

    use super::*;

    #[test]
    fn a_team_is_what_was_asked_for() {
        let random = SeededRandom::new(1);
        let all: Vec<Draft> = (1..60).map(|number| Draft::draw(&random, number)).collect();
        assert!(all.iter().any(|draft| draft.role == Role::Worker));
        assert!(all.iter().any(|draft| !draft.skills.is_empty()));
        for draft in all {
            let FormTeamRequest { id, purpose, size, partial, role, skills } = draft.request("1");
            let right = v1::Team { id, purpose, size, asked: size, partial, role, skills, ..v1::Team::default() };
            assert!(draft.is_that(&right));
            assert!(!draft.is_that(&v1::Team { size: size + 1, ..right.clone() }));
            assert!(!draft.is_that(&v1::Team { purpose: String::new(), ..right.clone() }));
            let fewer = draft.is_that(&v1::Team { size: size - 1, ..right });
            assert_eq!(fewer, draft.partial && size > 1, "{draft:?}");
        }
    }

    #[test]
    fn an_agent_fits_by_its_role_and_skills() {
        let agent = |role: Role, skill: &str| v1::Agent {
            role: role.into(),
            specializations: vec![skill.to_owned()],
            ..v1::Agent::default()
        };
        let team = |role: Role, skills: &[&str]| v1::Team {
            role: role.into(),
            skills: skills.iter().map(|skill| (*skill).to_owned()).collect(),
            ..v1::Team::default()
        };
        let any = team(Role::Unspecified, &[]);
        assert!(fits(&any, &agent(Role::Worker, "a")) && !fits(&any, &agent(Role::Guardian, "a")));
        let skilled = team(Role::Unspecified, &["a"]);
        assert!(fits(&skilled, &agent(Role::Guardian, "a")) && !fits(&skilled, &agent(Role::Worker, "b")));
        let workers = team(Role::Worker, &[]);
        assert!(fits(&workers, &agent(Role::Worker, "a")) && !fits(&workers, &agent(Role::Specialist, "a")));
    }
}
