use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::{TeamNeeds, unteamed::Unteamed};
use crate::{
    Agent, AgentCommand, AgentId, AgentJoin, AgentState, Command, ControlCommand, Effect, Fleet, FleetConfig, FormTeam,
    Reply, Role, Stamp, TeamCommand, TeamId, known_version, limits::MAX_TEAM_CANDIDATES,
};

const SKILLS: [&str; 3] = ["ocr", "law", "sum"];

fn join(n: u32, role: Role, skills: &[usize]) -> Command {
    let specializations = skills.iter().map(|skill| SKILLS[*skill].to_owned()).collect();
    let worker = AgentJoin::worker(format!("agent-{n}"), 4);
    Command::Agent(AgentCommand::Joined(AgentJoin { role, specializations, ..worker }))
}

fn needs(role: Option<Role>, skills: &[&str]) -> TeamNeeds {
    TeamNeeds { role, skills: skills.iter().map(|skill| (*skill).to_owned()).collect() }
}

#[test]
fn forming_a_team_among_ten_thousand_agents_looks_at_as_many_as_it_takes() {
    let mut effects: Vec<Effect> = Vec::new();
    let mut fleet = Fleet::new(FleetConfig::default());
    let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
    fleet.apply(Stamp::at(1), raise, &mut effects);
    for n in 0..10_000 {
        fleet.apply(Stamp::at(1), join(n, Role::Worker, &[n as usize % 3]), &mut effects);
    }
    for n in 0..100 {
        let form = FormTeam {
            id: TeamId(n),
            formed_by: "client:a".to_owned(),
            purpose: "review".to_owned(),
            size: 5,
            partial: false,
            needs: needs(None, &["ocr"]),
        };
        let reply = fleet.apply(Stamp::at(2), Command::Team(TeamCommand::Form(form)), &mut effects);
        assert_eq!(reply, Reply::TeamFormed { existing: false, members: 5 });
    }
    assert_eq!(fleet.team_counts().members, 500);
    assert_eq!(fleet.audit(), Ok(()));
}

/// Returns whether a team is formed of an agent with two skills, whose number is above those of so many agents that
/// have only the rarer one.
fn is_found_after(count: u32) -> bool {
    let mut effects: Vec<Effect> = Vec::new();
    let mut fleet = Fleet::new(FleetConfig::default());
    fleet.apply(Stamp::at(1), Command::Control(ControlCommand::RaiseVersion(known_version())), &mut effects);
    let [ocr, both, law]: [&[usize]; 3] = [&[0], &[0, 1], &[1]];
    let skills = (0..count).map(|_| ocr).chain([both]).chain((0..count + 2).map(|_| law));
    for (n, skills) in (0..).zip(skills) {
        fleet.apply(Stamp::at(1), join(n, Role::Worker, skills), &mut effects);
    }
    let form = FormTeam {
        id: TeamId(1),
        formed_by: "client:a".to_owned(),
        purpose: "review".to_owned(),
        size: 1,
        partial: false,
        needs: needs(None, &["law", "ocr"]),
    };
    let refusal = fleet.refusal_of_team(&form);
    let reply = fleet.apply(Stamp::at(2), Command::Team(TeamCommand::Form(form)), &mut effects);
    assert_eq!(refusal.map_or(Reply::TeamFormed { existing: false, members: 1 }, Reply::Refused), reply);
    assert_eq!(fleet.audit(), Ok(()));
    matches!(reply, Reply::TeamFormed { .. })
}

#[test]
fn only_so_many_agents_are_looked_at_for_those_with_several_skills() {
    assert!(is_found_after(MAX_TEAM_CANDIDATES as u32 - 1));
    assert!(!is_found_after(MAX_TEAM_CANDIDATES as u32));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_best_that_fit_are_found_as_by_looking_at_all(
        agents in prop::collection::vec((0..4usize, prop::collection::vec(0..3usize, 0..3), 0..1_000_000u32, 0..5u8), 0..30),
        wanted in (prop::option::of(0..4usize), prop::collection::btree_set(0..3usize, 0..3)), most in 1..8usize,
    ) {
        let roles = crate::schedule::free_agents::ROLES;
        let mut fleet = Fleet::new(FleetConfig::default());
        for (n, (role, skills, _, _)) in agents.iter().enumerate() {
            fleet.apply(Stamp::at(1), join(n as u32, roles[*role], skills), &mut Vec::new());
        }
        let mut known: BTreeMap<AgentId, Arc<Agent>> = BTreeMap::new();
        let mut free = Unteamed::default();
        for (agent, (_, _, success, state)) in fleet.agents().zip(&agents) {
            let mut agent = Agent::clone(agent);
            free.insert(&agent);
            let before = agent.record.twentieths();
            agent.record.success = *success;
            free.rerank(&agent, before);
            if *state == 0 {
                free.remove(&agent);
                agent.state = AgentState::Unhealthy;
                free.insert(&agent);
            }
            known.insert(agent.id, Arc::new(agent));
        }
        let mut skills: Vec<&str> = wanted.1.iter().map(|skill| SKILLS[*skill]).collect();
        skills.sort_unstable();
        let needs = needs(wanted.0.map(|role| roles[role]), &skills);
        let fits = |agent: &&Arc<Agent>| agent.state == AgentState::Live && needs.fit(agent);
        let mut all: Vec<&Arc<Agent>> = known.values().filter(fits).collect();
        all.sort_by_key(|agent| (std::cmp::Reverse(agent.record.twentieths()), agent.id));
        let expected: Vec<AgentId> = all.iter().take(most).map(|agent| agent.id).collect();
        prop_assert_eq!(free.best(&needs, most, &known), expected);
    }
}
