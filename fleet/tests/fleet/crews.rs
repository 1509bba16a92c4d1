//! The domain of teams in the simplest form, as a check of every history: who should be chosen is found by sorting all
//! agents, and a leader never changes without a new term.

use std::{cmp::Reverse, collections::BTreeMap};

use proptest::prelude::*;
use robeing_fleet::{
    Agent, AgentId, AgentState, Command, ControlCommand, Effect, FIRST_VERSION, Feature, Fleet, FormTeam, Refusal,
    Reply, Role, SessionId, Stamp, Team, TeamCommand, TeamId, TeamNeeds, TeamState,
    limits::{MAX_PAGE, TEAM_TTL_MS},
};

use crate::ops::{KINDS, ROLES};

pub const TEAMS: u128 = 5;

prop_compose! {
    fn forming()(
        id in 0..TEAMS, purpose in 0..2u8, size in 0..5u32, partial in any::<bool>(),
        role in prop::option::weighted(0.2, 0..4usize), skill in prop::option::weighted(0.3, 0..4usize),
    ) -> FormTeam {
        FormTeam {
            id: TeamId(id),
            formed_by: "history".to_owned(),
            purpose: format!("purpose {}", purpose / 2),
            size,
            partial,
            needs: TeamNeeds {
                role: role.map(|role| ROLES[role]),
                skills: skill.map(|skill| KINDS[skill].to_owned()).into_iter().collect(),
            },
        }
    }
}

/// Commands for teams.
pub fn command() -> impl Strategy<Value = Command> {
    let disband = (0..=TEAMS, prop::option::weighted(0.3, 0..4u64)).prop_map(|(team, term)| {
        let by = "history".to_owned();
        TeamCommand::Disband { team: TeamId(team), term, by }
    });
    let agents = prop::collection::vec((1..10u32).prop_map(AgentId), 0..9);
    let paths = (0..TEAMS, 1..10u32, 1..20u64, agents).prop_map(|(team, agent, session, reaches)| {
        let (agent, session) = (AgentId(agent), SessionId(session));
        TeamCommand::Paths { team: TeamId(team), agent, session, reaches }
    });
    prop_oneof![4 => forming().prop_map(TeamCommand::Form), 1 => disband, 4 => paths].prop_map(Command::Team)
}

/// What was last seen of a team.
#[derive(Clone, PartialEq)]
struct Seen {
    leader: Option<AgentId>,
    term: u64,
    members: Vec<AgentId>,
    state: TeamState,
    disbanded_at: Option<Stamp>,
    tasks: u64,
}

fn seen(team: &Team) -> Seen {
    Seen {
        leader: team.leader,
        term: team.term,
        members: team.members.iter().map(|member| member.agent).collect(),
        state: team.state,
        disbanded_at: team.disbanded_at,
        tasks: team.totals.tasks,
    }
}

fn fits(needs: &TeamNeeds, agent: &Agent) -> bool {
    let role = match needs.role {
        Some(role) => agent.role == role,
        None => !needs.skills.is_empty() || matches!(agent.role, Role::Worker | Role::Specialist),
    };
    role && needs.skills.iter().all(|skill| agent.specializations.iter().any(|known| **known == **skill))
}

pub struct Twin {
    version: u32,
    known: BTreeMap<TeamId, Seen>,
}

impl Default for Twin {
    fn default() -> Self {
        Self { version: FIRST_VERSION, known: BTreeMap::new() }
    }
}

impl Twin {
    /// Checks what a command has done to teams.
    pub fn check(&mut self, fleet: &Fleet, (command, reply): (&Command, &Reply), effects: &[Effect]) {
        match command {
            Command::Control(ControlCommand::RaiseVersion(version)) if *reply == Reply::Done => self.version = *version,
            Command::Team(_) if self.version < Feature::Teams.since() => {
                assert!(matches!(reply, Reply::Refused(Refusal::NotInForce { .. })), "{reply:?}");
            }
            Command::Team(TeamCommand::Form(form)) => self.formed(fleet, form, reply),
            _ => {}
        }
        let now: BTreeMap<TeamId, Seen> =
            fleet.teams(None, MAX_PAGE, false).into_iter().map(|team| (team.id, seen(team))).collect();
        for (id, before) in &self.known {
            let Some(after) = now.get(id) else {
                let at = before.disbanded_at.expect("only a disbanded team is forgotten");
                assert!(at.fleet + TEAM_TTL_MS <= fleet.now().fleet);
                continue;
            };
            assert!(before.term <= after.term && before.tasks <= after.tasks);
            let ends = after.state == TeamState::Disbanded;
            assert!(before.term != after.term || before.leader == after.leader || ends, "one leader a team and term");
            assert!(before.state != TeamState::Disbanded || before == after, "a disbanded team does not change");
            let is_told = effects.contains(&Effect::TeamChanged { id: *id });
            let same = (before.leader, before.state, &before.members) == (after.leader, after.state, &after.members);
            assert!(is_told || same, "team {id} has changed");
        }
        self.known = now;
    }

    /// Checks that the best of all free agents were chosen, or that there are too few.
    fn formed(&self, fleet: &Fleet, form: &FormTeam, reply: &Reply) {
        let is_new = !self.known.contains_key(&form.id);
        let is_free = |agent: &Agent| fleet.team_of(agent.id).is_none_or(|team| is_new && team.id == form.id);
        let mut free: Vec<&Agent> = fleet.agents().map(|agent| &**agent).collect();
        free.retain(|agent| agent.state == AgentState::Live && is_free(agent) && fits(&form.needs, agent));
        free.sort_by_key(|agent| (Reverse(agent.record.twentieths()), agent.id));
        match reply {
            Reply::TeamFormed { existing: false, members } => {
                assert!(is_new && (form.partial || *members == form.size));
                let mut chosen: Vec<AgentId> = free.iter().take(form.size as usize).map(|agent| agent.id).collect();
                chosen.sort_unstable();
                let team = fleet.team(form.id).expect("it is formed");
                assert_eq!(seen(team).members, chosen);
                assert_eq!((team.term, chosen.len() as u32), (1, *members));
            }
            Reply::TeamFormed { existing: true, .. } => assert!(!is_new),
            Reply::Refused(Refusal::TooFewAgents { wanted, free: found }) => {
                assert_eq!((*wanted, *found as usize), (form.size, free.len()));
                assert!(!form.partial || free.is_empty());
            }
            Reply::Refused(Refusal::TeamConflict { .. }) => assert!(!is_new),
            Reply::Refused(Refusal::Invalid { field, .. }) => assert_eq!(field, "size"),
            other => panic!("{other:?}"),
        }
    }
}
