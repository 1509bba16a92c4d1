//! What of an agent concerns the directory: its twin in generated histories, and each change on its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use robeing_fleet::{
    Agent, AgentCommand, AgentId, AgentJoin, AgentState, BarKind, Command, ControlCommand, Effect, Feature, Fleet,
    Refusal, Reply, Role, SessionId, TaskCommand, TaskId, TeamId, decode_command, encode_command, known_version,
};

use crate::fixture::{OpenSession, Trial, enrolment, failure, pooled, success, task, worker};

/// What the directory shows of an agent.
type Shown =
    ((Role, Option<Role>, AgentState, Option<String>), (Vec<Arc<str>>, String, u32, Option<[u8; 32]>, Option<TeamId>));

fn shown(fleet: &Fleet) -> BTreeMap<Arc<str>, Shown> {
    let of = |agent: &Arc<Agent>| {
        let enrolled = fleet.enrolment_of(&agent.name).map(|enrolment| enrolment.role);
        let (pool, skills) = (agent.pool.clone(), agent.specializations.clone());
        let twentieths = agent.record.twentieths();
        let team = fleet.team_of(agent.id).map(|team| team.id);
        let role = (agent.role, enrolled, agent.state, pool);
        (role, (skills, agent.address.clone(), twentieths, agent.sealing_key, team))
    };
    fleet.agents().map(|agent| (Arc::clone(&agent.name), of(agent))).collect()
}

/// Returns the agents whose changes were reported.
fn reported(effects: &[Effect]) -> Vec<Arc<str>> {
    let name = |effect: &Effect| match effect {
        Effect::DirectoryChanged { agent } => Some(Arc::clone(agent)),
        _ => None,
    };
    effects.iter().filter_map(name).collect()
}

/// What a watcher of the directory knows that looks at the agents that are reported, and at no others.
#[derive(Default)]
pub struct Twin {
    known: BTreeMap<Arc<str>, Shown>,
    revision: u64,
}

impl Twin {
    /// Checks that every change was reported, and by commands for tasks nothing else.
    pub fn check(&mut self, fleet: &Fleet, command: &Command, effects: &[Effect]) {
        let now = shown(fleet);
        // Several steps of one command may report an agent.
        let reported: BTreeSet<_> = reported(effects).into_iter().collect();
        let only_changes = matches!(command, Command::Task(_) | Command::Control(_));
        for agent in reported {
            let after = now.get(&agent);
            assert!(!only_changes || self.known.get(&agent) != after, "{agent} is reported, but nothing changed");
            assert!(fleet.revision() > self.revision, "a change without a revision");
            match after {
                Some(after) => drop(self.known.insert(agent, after.clone())),
                None => drop(self.known.remove(&agent)),
            }
        }
        assert_eq!(self.known, now, "a change was not reported by {command:?}");
        self.revision = fleet.revision();
    }
}

fn is_reported(trial: &Trial, agent: &str) -> bool {
    reported(&trial.effects).iter().any(|reported| &**reported == agent)
}

#[test]
fn tasks_do_not_change_the_directory_until_the_performance_has_changed_by_a_step() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    assert!(is_reported(&trial, "a"));
    for n in 1..100 {
        let id = trial.submit(task(n));
        assert!(!is_reported(&trial, "a"));
        trial.complete(stay, id, 1, success());
        assert!(!is_reported(&trial, "a"), "task {n}");
    }
    let steps = |trial: &Trial| trial.fleet.agent(stay.agent).expect("it is known").record.twentieths();
    let before = steps(&trial);
    let id = trial.submit(task(1_000));
    trial.complete(stay, id, 1, failure(false));
    assert!(steps(&trial) < before && is_reported(&trial, "a"));
}

#[test]
fn joins_states_losses_and_forgetting_change_the_directory() {
    let mut trial = Trial::new();
    let first = trial.join(pooled("a", Some(1), 1));
    trial.join(pooled("b", Some(1), 1));
    assert!(is_reported(&trial, "b") && !is_reported(&trial, "a"));
    trial.join(pooled("b", Some(1), 1));
    assert!(!is_reported(&trial, "b"), "it reports what it reported before");
    trial.join(AgentJoin { address: "127.0.0.1:2".to_owned(), ..pooled("b", Some(1), 1) });
    assert!(is_reported(&trial, "b"));
    trial.unhealthy(first, "503");
    assert!(is_reported(&trial, "a"));
    trial.lose(first);
    assert!(is_reported(&trial, "a"));
    trial.now += trial.fleet.config().lost_agent_ttl + 1;
    trial.apply(Command::Control(ControlCommand::Tick));
    assert!(is_reported(&trial, "a") && trial.fleet.agent_by_name("a").is_none());
}

#[test]
fn a_first_enrolment_changes_the_directory_and_its_renewal_does_not() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    trial.enrol(enrolment("b", 1, 1));
    assert!(reported(&trial.effects).is_empty(), "nobody knows it yet");
    trial.join(worker("a"));
    let before = trial.fleet.revision();
    trial.enrol(enrolment("a", 2, 2));
    assert!(is_reported(&trial, "a") && trial.fleet.revision() > before);
    trial.enrol(enrolment("a", 2, 3));
    assert!(!is_reported(&trial, "a"));
    trial.bar("a", BarKind::Removed);
    assert!(is_reported(&trial, "a") && trial.fleet.agent_by_name("a").is_none());
}

#[test]
fn a_sealing_key_is_kept_once_its_version_is_in_force() {
    let mut trial = Trial::new();
    let joined = |key| AgentCommand::Joined(AgentJoin { sealing_key: key, ..worker("a") });
    let refused = trial.apply(Command::Agent(joined(Some([7; 32]))));
    assert!(matches!(refused, Reply::Refused(Refusal::NotInForce { .. })), "{refused:?}");
    assert!(!trial.fleet.has(Feature::Mail));
    trial.apply(Command::Control(ControlCommand::RaiseVersion(Feature::Mail.since())));
    assert!(trial.fleet.has(Feature::Mail));
    for key in [Some([7; 32]), Some([0; 32]), None, Some([7; 32])] {
        let command = Command::Agent(joined(key));
        let mut bytes = Vec::new();
        encode_command(&command, &mut bytes);
        assert_eq!(decode_command(&bytes), Ok(command.clone()));
        trial.apply(command);
        assert!(is_reported(&trial, "a"));
        let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
        assert_eq!(restored.agent_by_name("a").expect("it is known").sealing_key, key);
    }
    let submit = Command::Task(TaskCommand::Cancel { task: TaskId(1), reason: String::new() });
    trial.apply(submit);
    assert!(trial.effects.is_empty());
}

#[test]
fn the_key_of_a_session_that_began_before_its_version_is_recorded_once() {
    let mut trial = Trial::new();
    let OpenSession { agent, session } = trial.join(worker("a"));
    let describe =
        |agent, session, key| Command::Agent(AgentCommand::Describe { agent, session, sealing_key: [key; 32] });
    let key_of = |trial: &Trial| trial.fleet.agent_by_name("a").expect("it is known").sealing_key;
    assert!(!trial.fleet.lacks_key(agent, session, [7; 32]), "no key can be kept yet");
    let refused = trial.apply(describe(agent, session, 7));
    assert!(matches!(refused, Reply::Refused(Refusal::NotInForce { since: 3, .. })), "{refused:?}");
    trial.apply(Command::Control(ControlCommand::RaiseVersion(Feature::Describe.since())));
    assert!(trial.fleet.lacks_key(agent, session, [7; 32]));
    let before = trial.fleet.agent_by_name("a").expect("it is known").as_ref().clone();
    assert_eq!(trial.apply(describe(agent, session, 7)), Reply::Done);
    assert!(is_reported(&trial, "a") && !trial.fleet.lacks_key(agent, session, [7; 32]));
    let mut after = trial.fleet.agent_by_name("a").expect("it is known").as_ref().clone();
    assert_eq!((after.sealing_key, after.revision > before.revision), (Some([7; 32]), true));
    (after.revision, after.sealing_key) = (before.revision, before.sealing_key);
    assert_eq!(after, before, "nothing else has changed");
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!(restored.agent_by_name("a").expect("it is known").sealing_key, Some([7; 32]));
    // The same again changes nothing, and neither does one of a session that is over or of another agent.
    let revision = trial.fleet.revision();
    assert_eq!(trial.apply(describe(agent, session, 7)), Reply::Done);
    assert!(!is_reported(&trial, "a") && trial.fleet.revision() == revision);
    for (agent, session) in [(agent, SessionId(session.0 + 1)), (AgentId(agent.0 + 1), session)] {
        assert_eq!(trial.apply(describe(agent, session, 8)), Reply::Refused(Refusal::StaleSession));
        assert!(!trial.fleet.lacks_key(agent, session, [8; 32]));
    }
    assert_eq!(key_of(&trial), Some([7; 32]));
}
