//! How teams are formed, and how room is made for them.

use std::sync::Arc;

use super::{MemberWork, Team, TeamMember, TeamState, TeamTotals, command::FormTeam, score::LeaderTerms};
use crate::{
    AgentId, Effect, Feature, Fleet, Refusal, Reply, TeamId,
    limits::{MAX_TEAM_SIZE, MAX_TEAMS, MAX_TEAMS_OF_ONE},
};

impl Fleet {
    /// Returns the refusal that this team would get now, if it is out of bounds or there are not enough agents or no
    /// room. A team whose id is known needs neither.
    pub fn refusal_of_team(&self, team: &FormTeam) -> Option<Refusal> {
        if let Err(refusal) = team.check() {
            return Some(refusal);
        }
        if !self.has(Feature::Teams) {
            // It is refused for that before it gets into the log.
            return None;
        }
        let room = self.check_team_room(&team.formed_by);
        let refusal = room.and_then(|()| self.agents_for(team).map(drop)).err()?;
        self.formed_before(team).is_none().then_some(refusal)
    }

    pub(super) fn form_team(&mut self, form: FormTeam, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = form.check() {
            return Reply::Refused(refusal);
        }
        if let Some(reply) = self.formed_before(&form) {
            return reply;
        }
        let chosen = match self.check_team_room(&form.formed_by).and_then(|()| self.agents_for(&form)) {
            Ok(chosen) => chosen,
            Err(refusal) => return Reply::Refused(refusal),
        };
        self.make_room_for_team();
        let (id, count) = (form.id, chosen.len() as u32);
        let seq = self.add_team(form, chosen);
        self.elect(seq);
        effects.push(Effect::TeamChanged { id });
        Reply::TeamFormed { existing: false, members: count }
    }

    /// Adds a team of these free agents.
    fn add_team(&mut self, form: FormTeam, mut chosen: Vec<AgentId>) -> u64 {
        let FormTeam { id, formed_by, purpose, size: asked, partial, needs } = form;
        chosen.sort_unstable();
        let members: Vec<TeamMember> = chosen.into_iter().filter_map(|agent| self.new_member(agent)).collect();
        let (now, size) = (self.state.now, members.len() as u32);
        let team = self.state.teams.kept.add(|seq| {
            let mut team = Team {
                seq,
                id,
                formed_by,
                purpose,
                asked,
                partial,
                needs,
                size,
                members,
                leader: None,
                term: 0,
                elected_at: now,
                leader_score: LeaderTerms::default(),
                created_at: now,
                state: TeamState::Degraded,
                was_active: false,
                disbanded_at: None,
                totals: TeamTotals::default(),
            };
            team.settle();
            team
        });
        self.indexes.enter_team(team);
        team.seq
    }

    /// Makes a member of a free agent, for a team that is not indexed with it yet; `None` if it is not known.
    fn new_member(&mut self, id: AgentId) -> Option<TeamMember> {
        let agent = self.state.agents.known.get(&id)?;
        self.indexes.teams.free.remove(agent);
        let (name, since) = (Arc::clone(&agent.name), self.state.now);
        self.note_team_of(&name);
        Some(TeamMember { agent: id, name, since, reaches: Vec::new(), work: MemberWork::default() })
    }

    /// Makes a free agent a member. Does nothing if it is not known.
    pub(super) fn add_member(&mut self, seq: u64, id: AgentId) {
        let Some(new) = self.new_member(id) else { return };
        self.change_team(seq, |team| {
            let place = team.members.partition_point(|member| member.agent < id);
            team.members.insert(place, new);
            team.settle();
        });
    }

    /// Returns the reply to a team whose id is known; `None` if it is new.
    fn formed_before(&self, form: &FormTeam) -> Option<Reply> {
        let known = self.team(form.id)?;
        let is_same = (&known.formed_by, &known.purpose, known.asked) == (&form.formed_by, &form.purpose, form.size)
            && (known.partial, &known.needs) == (form.partial, &form.needs);
        Some(match is_same {
            true => Reply::TeamFormed { existing: true, members: known.members.len() as u32 },
            false => Reply::Refused(Refusal::TeamConflict { team: form.id }),
        })
    }

    /// Returns the agents that would be the members.
    fn agents_for(&self, form: &FormTeam) -> Result<Vec<AgentId>, Refusal> {
        let wanted = form.size.min(MAX_TEAM_SIZE);
        let found = self.indexes.teams.free.best(&form.needs, wanted as usize, &self.state.agents.known);
        let free = found.len() as u32;
        if free < wanted && (free == 0 || !form.partial) {
            return Err(Refusal::TooFewAgents { wanted, free });
        }
        Ok(found)
    }

    fn check_team_room(&self, formed_by: &str) -> Result<(), Refusal> {
        let teams = &self.indexes.teams;
        if teams.of_former.get(formed_by).is_some_and(|count| *count >= MAX_TEAMS_OF_ONE) {
            return Err(Refusal::Full {
                what: format!("teams that {formed_by} has formed"),
                limit: MAX_TEAMS_OF_ONE as u64,
                remedy: "disband one of them that is not needed any more".to_owned(),
            });
        }
        if teams.open.len() < MAX_TEAMS {
            return Ok(());
        }
        Err(Refusal::Full {
            what: "teams".to_owned(),
            limit: MAX_TEAMS as u64,
            remedy: "disband one that is not needed any more".to_owned(),
        })
    }

    /// Forgets the team that was disbanded first, if there are as many as there may be.
    fn make_room_for_team(&mut self) {
        if self.state.teams.kept.len() >= MAX_TEAMS
            && let Some((_, seq)) = self.indexes.teams.disbanded.first().copied()
        {
            self.forget_team(seq);
        }
    }

    /// Returns a team's number; a refusal if there is no such team, or it is disbanded.
    pub(crate) fn open_team(&self, id: TeamId) -> Result<u64, Refusal> {
        match self.team(id) {
            Some(team) if team.is_open() => Ok(team.seq),
            Some(_) => Err(Refusal::TeamDisbanded { team: id }),
            None => Err(Refusal::UnknownTeam { team: id }),
        }
    }

    /// Refuses what is done in the name of a leader that is one no longer.
    pub(crate) fn check_term(&self, id: TeamId, term: Option<u64>) -> Result<(), Refusal> {
        let current = self.team(id).map_or(0, |team| team.term);
        match term {
            Some(term) if term != current => Err(Refusal::StaleTerm { team: id, term, current }),
            _ => Ok(()),
        }
    }
}
