//! What is known of every team of a run, and the checks of what clients are told: that a team stays what was asked for
//! until a client disbands it, that each of its terms has one leader and terms only grow, that an agent is in one team
//! at most, and that members and leaders are replaced. Tasks that are addressed to a team are in
//! [`orders`](super::orders).

use std::collections::{BTreeMap, BTreeSet};

use robeing_proto::v1::{self, AgentState, TeamState};

use super::{
    draft::{Draft, fits},
    orders::Orders,
};
use crate::checks::{Check, Wrong};

/// What clients knew of a team when a call began. Its response must not know less.
#[derive(Clone, Copy, Default)]
pub struct Since {
    term: u64,
    is_disbanded: bool,
}

/// A team that a client has asked for.
struct Known {
    draft: Draft,
    /// Whether a client was told that it is formed.
    is_formed: bool,
    /// Whether a client has asked to disband it.
    may_end: bool,
    /// What is fixed, as a client was told first.
    fixed: Option<v1::Team>,
    /// The newest term that a client was told of.
    term: u64,
    /// The leader of each term, as a client was told.
    leaders: BTreeMap<u64, String>,
    /// Whether a client was told that it is disbanded.
    is_disbanded: bool,
}

/// The teams of a run.
#[derive(Default)]
pub struct TeamLedger {
    teams: BTreeMap<String, Known>,
    /// The tasks that are addressed to teams.
    pub orders: Orders,
}

/// Returns what never changes of a team.
fn fixed(told: &v1::Team) -> v1::Team {
    v1::Team {
        state: TeamState::Unspecified.into(),
        leader: String::new(),
        term: 0,
        elected_at: None,
        leader_score: None,
        members: Vec::new(),
        disbanded_at: None,
        totals: None,
        ..told.clone()
    }
}

/// Returns the names of the members of a team.
fn names(team: &v1::Team) -> BTreeSet<&str> {
    team.members.iter().map(|member| member.name.as_str()).collect()
}

impl Known {
    fn told(&mut self, since: Since, told: &v1::Team) -> Result<(), Wrong> {
        self.check_content(told)?;
        self.check_leader(since, told)?;
        let is_disbanded = told.state() == TeamState::Disbanded;
        if is_disbanded && !self.may_end {
            return Err((Check::Formed, "is disbanded, for which nobody asked".to_owned()));
        }
        if !is_disbanded && since.is_disbanded {
            return Err((Check::Formed, format!("was disbanded and is {:?}", told.state())));
        }
        self.is_disbanded |= is_disbanded;
        Ok(())
    }

    fn check_content(&mut self, told: &v1::Team) -> Result<(), Wrong> {
        let content = fixed(told);
        match &self.fixed {
            Some(known) if *known != content => {
                return Err((Check::Formed, format!("was {known:?} and is {content:?}")));
            }
            None if !self.draft.is_that(told) => {
                return Err((Check::Formed, format!("is {content:?}, although {:?} was asked for", self.draft)));
            }
            _ => self.fixed = Some(content),
        }
        let members = names(told);
        let is_open = told.state() != TeamState::Disbanded;
        let fits = members.len() == told.members.len() && members.len() <= told.size as usize;
        if !fits || (!is_open && !members.is_empty()) {
            return Err((Check::Crew, format!("of {} is {:?} and has {members:?}", told.size, told.state())));
        }
        let is_short = is_open && members.len() < told.size as usize;
        if is_short && told.state() != TeamState::Degraded {
            return Err((Check::Crew, format!("of {} has {members:?} and is {:?}", told.size, told.state())));
        }
        Ok(())
    }

    fn check_leader(&mut self, since: Since, told: &v1::Team) -> Result<(), Wrong> {
        let (leader, term, members) = (told.leader.as_str(), told.term, names(told));
        let wrong = |what: String| Err((Check::Leader, what));
        if term == 0 || term < since.term {
            return wrong(format!("is in term {term} and was in term {}", since.term));
        }
        self.term = self.term.max(term);
        if leader.is_empty() != members.is_empty() || !(leader.is_empty() || members.contains(leader)) {
            return wrong(format!("has the leader {leader:?} and the members {members:?}"));
        }
        if leader.is_empty() {
            return Ok(());
        }
        let known = self.leaders.entry(term).or_insert_with(|| leader.to_owned()).as_str();
        match known == leader {
            true => Ok(()),
            false => wrong(format!("has had two leaders in term {term}: {known} and {leader}")),
        }
    }
}

impl TeamLedger {
    /// Records that a client asks for a team.
    pub fn asks(&mut self, id: &str, draft: Draft) {
        let known = Known {
            draft,
            is_formed: false,
            may_end: false,
            fixed: None,
            term: 0,
            leaders: BTreeMap::new(),
            is_disbanded: false,
        };
        self.teams.insert(id.to_owned(), known);
    }

    /// Records that a client was told that a team is formed: from now on it exists.
    pub fn forms(&mut self, id: &str) {
        if let Some(known) = self.teams.get_mut(id) {
            known.is_formed = true;
        }
    }

    /// Records that a client asks to disband a team: it may be disbanded at any time from now on.
    pub fn disbands(&mut self, id: &str) {
        if let Some(known) = self.teams.get_mut(id) {
            known.may_end = true;
        }
    }

    /// Returns whether a client has asked to disband a team.
    pub fn may_end(&self, id: &str) -> bool {
        self.teams.get(id).is_some_and(|known| known.may_end)
    }

    /// Returns whether a task may be cancelled because a client has asked to disband its team.
    pub fn may_end_task(&self, task: &str) -> bool {
        self.orders.team_of(task).is_some_and(|team| self.may_end(team))
    }

    /// Returns the teams that are formed and that no client has asked to disband, and whether the members of each have
    /// a skill.
    pub fn open(&self) -> Vec<(String, bool)> {
        let open = self.teams.iter().filter(|(_, known)| known.is_formed && !known.may_end);
        open.map(|(id, known)| (id.clone(), !known.draft.skills.is_empty())).collect()
    }

    /// Returns the newest term of a team that a client was told of.
    pub fn term(&self, id: &str) -> u64 {
        self.teams.get(id).map_or(0, |known| known.term)
    }

    /// Returns what clients know of a team now.
    pub fn since(&self, id: &str) -> Since {
        let of = |known: &Known| Since { term: known.term, is_disbanded: known.is_disbanded };
        self.teams.get(id).map(of).unwrap_or_default()
    }

    /// Returns the ids of the formed teams, with what clients know of each now.
    pub fn formed(&self) -> BTreeMap<String, Since> {
        let formed = self.teams.iter().filter(|(_, known)| known.is_formed);
        formed.map(|(id, _)| (id.clone(), self.since(id))).collect()
    }

    /// Records a team in a response to a call.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn told(&mut self, since: Since, told: &v1::Team) -> Result<(), Wrong> {
        let id = &told.id;
        let Some(known) = self.teams.get_mut(id) else {
            return Err((Check::Formed, format!("there is a team {id:?}, for which nobody asked: {told:?}")));
        };
        known.told(since, told).map_err(|(check, what)| (check, format!("team {id} {what}")))
    }

    /// Records a listing of all teams as they were at one moment. `formed`: those that a client knew to exist before.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn listed(&mut self, formed: &BTreeMap<String, Since>, listed: &[v1::Team]) -> Result<(), Wrong> {
        let mut teams_of: BTreeMap<&str, &str> = BTreeMap::new();
        for team in listed {
            self.told(formed.get(&team.id).copied().unwrap_or_default(), team)?;
            for name in names(team) {
                if let Some(other) = teams_of.insert(name, &team.id) {
                    return Err((Check::Crew, format!("{name} is in the teams {other} and {} at once", team.id)));
                }
            }
        }
        match formed.keys().find(|id| listed.iter().all(|team| team.id != **id)) {
            Some(missing) => Err((Check::Formed, format!("team {missing} was formed, but is not listed"))),
            None => Ok(()),
        }
    }

    /// Returns how many teams were formed, how many of them were disbanded, and in how many terms leaders were seen.
    pub fn counts(&self) -> [usize; 3] {
        let formed: Vec<&Known> = self.teams.values().filter(|known| known.is_formed).collect();
        let disbanded = formed.iter().filter(|known| known.is_disbanded).count();
        [formed.len(), disbanded, formed.iter().map(|known| known.leaders.len()).sum()]
    }
}

/// Returns what is missing in the open teams of a listing, if these are the agents.
pub fn unsettled(listed: &[v1::Team], agents: &[v1::Agent]) -> Option<String> {
    let is_live = |agent: &&v1::Agent| agent.state() == AgentState::Live;
    let live: BTreeSet<&str> = agents.iter().filter(is_live).map(|agent| agent.name.as_str()).collect();
    let teamed: BTreeSet<&str> = listed.iter().flat_map(names).collect();
    for team in listed.iter().filter(|team| team.state() != TeamState::Disbanded) {
        if let Some(gone) = names(team).into_iter().find(|name| !live.contains(name)) {
            let led = if team.leader == gone { "is led by" } else { "has the member" };
            return Some(format!("team {} {led} {gone}, which is not live", team.id));
        }
        let is_free = |agent: &&v1::Agent| !teamed.contains(agent.name.as_str()) && fits(team, agent);
        let free = agents.iter().filter(is_live).find(is_free).filter(|_| team.members.len() < team.size as usize);
        if let Some(free) = free {
            let (id, members) = (&team.id, names(team));
            return Some(format!("team {id} of {} has the members {members:?}, and {} is free", team.size, free.name));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use robeing_platform::simulated::SeededRandom;
    use robeing_proto::v1::{Role, team::Member};

    use super::*;

    const ID: &str = "1";

    fn ledger() -> TeamLedger {
        let mut ledger = TeamLedger::default();
        ledger.asks(ID, Draft::draw(&SeededRandom::new(1), 0));
        ledger
    }

    /// Returns the team of that ledger, with these members, of which the first one leads.
    fn team(term: u64, members: &[&str]) -> v1::Team {
        let member = |name: &&str| Member { name: (*name).to_owned(), ..Member::default() };
        let state = if members.len() < 2 { TeamState::Degraded } else { TeamState::Forming };
        v1::Team {
            id: ID.to_owned(),
            purpose: "the purpose number 0".to_owned(),
            state: state.into(),
            leader: members.first().copied().unwrap_or_default().to_owned(),
            term,
            members: members.iter().map(member).collect(),
            size: 2,
            asked: 2,
            partial: true,
            ..v1::Team::default()
        }
    }

    fn disbanded(term: u64) -> v1::Team {
        v1::Team { state: TeamState::Disbanded.into(), ..team(term, &[]) }
    }

    /// Returns the check that fails if a client is told this.
    fn check(ledger: &mut TeamLedger, since: Since, team: &v1::Team) -> Option<Check> {
        ledger.told(since, team).err().map(|(check, _)| check)
    }

    fn first(team: &v1::Team) -> Option<Check> {
        check(&mut ledger(), Since::default(), team)
    }

    #[test]
    fn a_team_is_what_was_asked_for_and_stays_it() {
        let right = team(1, &["a", "b"]);
        let other = v1::Team { formed_by: "eve".to_owned(), ..right.clone() };
        assert_eq!(first(&right), None);
        assert_eq!(first(&v1::Team { size: 3, ..right.clone() }), Some(Check::Formed));
        assert_eq!(first(&v1::Team { id: "2".to_owned(), ..right.clone() }), Some(Check::Formed));
        let mut ledger = ledger();
        assert_eq!(check(&mut ledger, Since::default(), &right), None);
        assert_eq!(check(&mut ledger, Since::default(), &other), Some(Check::Formed));
    }

    #[test]
    fn a_term_has_one_leader_who_is_a_member_and_terms_only_grow() {
        let mut ledger = ledger();
        assert_eq!(check(&mut ledger, Since::default(), &team(2, &["a", "b"])), None);
        assert_eq!(check(&mut ledger, Since::default(), &team(2, &["a", "c"])), None);
        assert_eq!(check(&mut ledger, Since::default(), &team(1, &["b", "c"])), None, "the call began before");
        let since = ledger.since(ID);
        assert_eq!(check(&mut ledger, since, &team(1, &["b", "c"])), Some(Check::Leader));
        assert_eq!(check(&mut ledger, Since::default(), &team(2, &["c", "b"])), Some(Check::Leader));
        assert_eq!(check(&mut ledger, Since::default(), &team(3, &["c", "b"])), None);
        assert_eq!(first(&team(0, &["a", "b"])), Some(Check::Leader));
        let stranger = v1::Team { leader: "z".to_owned(), ..team(1, &["a", "b"]) };
        let nobody = v1::Team { leader: String::new(), ..team(1, &["a", "b"]) };
        assert_eq!([first(&stranger), first(&nobody)], [Some(Check::Leader); 2]);
    }

    #[test]
    fn a_team_has_no_more_members_than_it_should_and_each_once() {
        assert_eq!(first(&team(1, &["a", "b", "c"])), Some(Check::Crew));
        assert_eq!(first(&team(1, &["a", "a"])), Some(Check::Crew));
        let short = v1::Team { state: TeamState::Active.into(), ..team(1, &["a"]) };
        assert_eq!(first(&short), Some(Check::Crew));
    }

    #[test]
    fn a_team_ends_only_on_request_and_stays_so() {
        assert_eq!(first(&disbanded(1)), Some(Check::Formed));
        let mut ledger = ledger();
        ledger.forms(ID);
        ledger.disbands(ID);
        let open = team(1, &["a", "b"]);
        assert_eq!(check(&mut ledger, Since::default(), &open), None);
        assert_eq!(check(&mut ledger, Since::default(), &disbanded(1)), None);
        assert_eq!(check(&mut ledger, Since::default(), &open), None, "the call began before");
        let since = ledger.since(ID);
        assert_eq!(check(&mut ledger, since, &open), Some(Check::Formed));
        assert_eq!(ledger.counts(), [1, 1, 1]);
        let members = v1::Team { state: TeamState::Disbanded.into(), ..open };
        assert_eq!(check(&mut ledger, Since::default(), &members), Some(Check::Crew));
    }

    #[test]
    fn an_agent_is_in_one_team_at_most_and_every_formed_team_is_listed() {
        let mut ledger = ledger();
        ledger.asks("2", Draft::draw(&SeededRandom::new(1), 0));
        let one = team(1, &["a", "b"]);
        let other = |members: &[&str]| v1::Team { id: "2".to_owned(), ..team(1, members) };
        let mut listed = |teams: &[v1::Team], formed: &BTreeMap<String, Since>| {
            ledger.listed(formed, teams).err().map(|(check, _)| check)
        };
        let none = BTreeMap::new();
        assert_eq!(listed(&[one.clone(), other(&["c", "d"])], &none), None);
        assert_eq!(listed(&[one.clone(), other(&["c", "b"])], &none), Some(Check::Crew));
        let formed = BTreeMap::from([("2".to_owned(), Since::default())]);
        assert_eq!(listed(&[one], &formed), Some(Check::Formed));
    }

    #[test]
    fn teams_are_settled_once_every_member_is_live_and_no_agent_that_fits_is_free() {
        let agent = |name: &str, state: AgentState| v1::Agent {
            name: name.to_owned(),
            role: Role::Worker.into(),
            state: state.into(),
            ..v1::Agent::default()
        };
        let all = |free: AgentState, b: AgentState| [agent("a", AgentState::Live), agent("b", b), agent("c", free)];
        let (full, short) = (team(1, &["a", "b"]), team(1, &["a"]));
        let (live, lost) = (AgentState::Live, AgentState::Lost);
        assert_eq!(unsettled(std::slice::from_ref(&full), &all(live, live)), None);
        assert!(unsettled(&[full], &all(live, lost)).is_some());
        assert!(unsettled(std::slice::from_ref(&short), &all(live, lost)).is_some());
        assert_eq!(unsettled(&[short], &all(AgentState::Standby, lost)), None);
        assert_eq!(unsettled(&[disbanded(2)], &all(live, lost)), None);
    }
}
