//! Pools whose size the administrator sets.

use robeing_fleet::{
    AgentCommand,
    AgentState::{self, Draining, Live, Lost, Standby},
    Command, Effect, Fleet, PoolShape, PoolView, TaskState,
};

use crate::fixture::{OpenSession, Trial, pooled, task};

fn states(trial: &Trial) -> Vec<AgentState> {
    trial.fleet.agents().map(|a| a.state).collect()
}

fn join(trial: &mut Trial, names: &[&str], replicas: Option<u32>, standby: u32) -> Vec<OpenSession> {
    names.iter().map(|name| trial.join(pooled(name, replicas, standby))).collect()
}

fn pool(name: &str, replicas: Option<u32>, standby: u32) -> PoolShape {
    PoolShape { name: name.to_owned(), replicas, standby }
}

fn data(replicas: u32, standby: u32) -> Vec<PoolShape> {
    vec![pool("data", Some(replicas), standby)]
}

fn desired(trial: &Trial) -> Vec<(String, u32)> {
    trial.fleet.pools().into_iter().map(|pool| (pool.name, pool.desired)).collect()
}

#[test]
fn a_larger_number_activates_standbys_which_take_what_waits() {
    let mut trial = Trial::new();
    let stays = join(&mut trial, &["a", "b", "c"], Some(1), 2);
    let (_, waiting) = (trial.submit(task(1)), trial.submit(task(2)));
    assert_eq!(trial.state(waiting), TaskState::Queued);
    trial.set_pools(data(2, 1));
    assert_eq!(states(&trial), [Live, Live, Standby]);
    assert!(trial.effects.contains(&Effect::StandbyActivated { agent: stays[1].agent }));
    assert_eq!(trial.holder(waiting), Some(stays[1].agent));
}

#[test]
fn what_was_set_beats_what_joining_agents_say() {
    let mut trial = Trial::new();
    trial.set_pools(data(1, 1));
    join(&mut trial, &["a", "b", "c"], Some(3), 0);
    assert_eq!(states(&trial), [Live, Standby, Standby]);
    assert_eq!(desired(&trial), [("data".to_owned(), 1)]);
}

#[test]
fn a_smaller_number_stops_nobody_and_replaces_none_that_goes() {
    let mut trial = Trial::new();
    let stays = join(&mut trial, &["a", "b", "c", "d"], Some(3), 1);
    trial.set_pools(data(1, 1));
    assert_eq!(states(&trial), [Live, Live, Live, Standby]);
    trial.drain(stays[0]);
    trial.leave(stays[1]);
    assert_eq!(states(&trial), [Draining, Live, Standby], "one live agent is enough");
    trial.lose(stays[2]);
    assert_eq!(states(&trial), [Draining, Lost, Live], "now there is none");
}

#[test]
fn a_set_pool_without_agents_is_kept_for_those_that_come() {
    let mut trial = Trial::new();
    trial.set_pools(data(1, 0));
    let empty = PoolView { name: "data".to_owned(), live: 0, standby: 0, desired: 1 };
    assert_eq!(trial.fleet.pools(), std::slice::from_ref(&empty));
    let stays = join(&mut trial, &["a"], None, 0);
    trial.leave(stays[0]);
    assert_eq!(trial.fleet.pools(), [empty]);
}

#[test]
fn a_pool_that_is_no_longer_named_goes_with_its_last_agent() {
    let mut trial = Trial::new();
    trial.set_pools(vec![pool("data", Some(2), 0), pool("mail", Some(1), 0)]);
    let stays = join(&mut trial, &["a"], Some(9), 0);
    trial.set_pools(vec![]);
    assert_eq!(desired(&trial), [("data".to_owned(), 2)], "it keeps its size as long as it has an agent");
    trial.leave(stays[0]);
    assert_eq!(trial.fleet.pools(), []);
}

#[test]
fn the_word_of_agents_counts_again_for_a_pool_that_is_no_longer_named() {
    let mut trial = Trial::new();
    trial.set_pools(data(1, 1));
    join(&mut trial, &["a", "b"], Some(2), 0);
    trial.set_pools(vec![pool("mail", Some(1), 0)]);
    assert_eq!(states(&trial), [Live, Standby]);
    join(&mut trial, &["b"], Some(2), 0);
    assert_eq!(states(&trial), [Live, Live]);
}

#[test]
fn a_set_pool_may_leave_the_number_to_an_autoscaler() {
    let mut trial = Trial::new();
    trial.set_pools(vec![pool("data", None, 1)]);
    let stays = join(&mut trial, &["a", "b", "c"], Some(3), 0);
    assert_eq!(states(&trial), [Live, Standby, Live]);
    trial.lose(stays[2]);
    assert_eq!(states(&trial), [Live, Live, Lost]);
}

#[test]
fn an_agent_that_moves_leaves_its_set_pool_in_place() {
    let mut trial = Trial::new();
    trial.set_pools(data(1, 0));
    join(&mut trial, &["a"], None, 0);
    let mut elsewhere = pooled("a", Some(1), 0);
    elsewhere.pool = Some(pool("mail", Some(1), 0));
    trial.join(elsewhere);
    assert_eq!(desired(&trial), [("data".to_owned(), 1), ("mail".to_owned(), 1)]);
}

#[test]
fn the_same_word_again_changes_nothing() {
    let mut trial = Trial::new();
    join(&mut trial, &["a", "b"], Some(1), 1);
    let first = trial.set_pools(data(1, 1));
    let before = trial.fleet.encode();
    assert_eq!(trial.set_pools(data(1, 1)), first);
    assert_eq!(trial.fleet.encode(), before);
    assert_eq!(trial.effects, []);
}

#[test]
fn pools_that_are_set_stay_so() {
    let mut trial = Trial::new();
    trial.join(pooled("a", Some(1), 0));
    trial.set_pools(vec![pool("data", Some(2), 0), pool("mail", Some(1), 0)]);
    let mut restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!(restored.pools(), trial.fleet.pools());
    let join = Command::Agent(AgentCommand::Joined(pooled("b", Some(7), 0)));
    restored.apply(trial.stamp(), join, &mut Vec::new());
    assert_eq!(restored.pools()[0].desired, 2, "the set size still counts");
}
