//! Pools: which agents are live and which are on standby.

use robeing_fleet::{
    AgentJoin,
    AgentState::{self, Draining, Live, Lost, Standby},
    Effect, PoolView, TaskState,
};

use crate::fixture::{OpenSession, Trial, pooled, task, worker};

fn states(trial: &Trial) -> Vec<AgentState> {
    trial.fleet.agents().map(|a| a.state).collect()
}

fn join(trial: &mut Trial, names: &[&str], replicas: Option<u32>, standby: u32) -> Vec<OpenSession> {
    let joins = names.iter();
    joins.map(|name| trial.join(pooled(name, replicas, standby))).collect()
}

#[test]
fn agents_beyond_the_replicas_of_their_pool_wait() {
    let mut trial = Trial::new();
    join(&mut trial, &["a", "b", "c"], Some(2), 1);
    assert_eq!(states(&trial), [Live, Live, Standby]);
    let view = PoolView { name: "data".to_owned(), live: 2, standby: 1, desired: 2 };
    assert_eq!(trial.fleet.pools(), [view]);
}

#[test]
fn a_standby_gets_nothing_until_it_steps_in_for_a_lost_agent() {
    let mut trial = Trial::new();
    let stays = join(&mut trial, &["a", "b"], Some(1), 1);
    let (first, second) = (trial.submit(task(1)), trial.submit(task(2)));
    assert_eq!(trial.state(second), TaskState::Queued);
    trial.lose(stays[0]);
    assert!(trial.effects.contains(&Effect::StandbyActivated { agent: stays[1].agent }));
    assert_eq!(trial.holder(first), Some(stays[1].agent));
    assert_eq!(states(&trial), [Lost, Live]);
}

#[test]
fn the_lost_agent_that_comes_back_waits_in_turn() {
    let mut trial = Trial::new();
    let stays = join(&mut trial, &["a", "b"], Some(1), 1);
    trial.lose(stays[0]);
    trial.join(pooled("a", Some(1), 1));
    assert_eq!(states(&trial), [Standby, Live]);
}

#[test]
fn a_replaced_process_takes_its_own_place_again() {
    let mut trial = Trial::new();
    join(&mut trial, &["a", "b"], Some(1), 1);
    let mut again = pooled("a", Some(1), 1);
    again.incarnation = 2;
    trial.join(again);
    assert_eq!(states(&trial), [Live, Standby]);
}

#[test]
fn the_standby_with_the_lowest_number_steps_in_for_one_that_drains_or_leaves() {
    let mut trial = Trial::new();
    let stays = join(&mut trial, &["a", "b", "c"], Some(1), 2);
    trial.drain(stays[0]);
    assert_eq!(states(&trial), [Draining, Live, Standby]);
    trial.leave(stays[1]);
    assert_eq!(states(&trial), [Draining, Live]);
}

#[test]
fn more_replicas_activate_standbys_and_fewer_stop_nobody() {
    let mut trial = Trial::new();
    join(&mut trial, &["a", "b", "c"], Some(1), 2);
    join(&mut trial, &["c"], Some(3), 0);
    assert_eq!(states(&trial), [Live, Live, Live]);
    join(&mut trial, &["c"], Some(1), 2);
    assert_eq!(states(&trial), [Live, Live, Live]);
}

#[test]
fn without_a_fixed_number_all_but_the_standbys_work_and_at_least_one_does() {
    let mut trial = Trial::new();
    let stays = join(&mut trial, &["a", "b", "c", "d"], None, 1);
    assert_eq!(states(&trial), [Live, Standby, Live, Live]);
    trial.lose(stays[2]);
    assert_eq!(states(&trial), [Live, Live, Lost, Live]);
}

#[test]
fn without_a_fixed_number_an_agent_that_leaves_is_not_replaced() {
    let mut trial = Trial::new();
    let stays = join(&mut trial, &["a", "b", "c"], None, 1);
    trial.leave(stays[2]);
    assert_eq!(states(&trial), [Live, Standby]);
}

#[test]
fn an_agent_that_changes_its_pool_is_missed_in_the_old_one_in_the_same_session_or_a_new_one() {
    for incarnation in [1, 2] {
        let mut trial = Trial::new();
        join(&mut trial, &["a", "b"], Some(1), 1);
        let mut elsewhere = pooled("a", Some(1), 0);
        elsewhere.incarnation = incarnation;
        elsewhere.pool.as_mut().expect("it has one").name = "mail".to_owned();
        trial.join(elsewhere);
        assert_eq!(states(&trial), [Live, Live]);
        let names: Vec<String> = trial.fleet.pools().into_iter().map(|p| p.name).collect();
        assert_eq!(names, ["data", "mail"]);
    }
}

#[test]
fn a_standby_that_joins_again_without_a_pool_works_in_the_same_session_or_a_new_one() {
    for incarnation in [1, 2] {
        let mut trial = Trial::new();
        let stays = join(&mut trial, &["a", "b"], Some(1), 1);
        assert_eq!(states(&trial), [Live, Standby]);
        let (first, second) = (trial.submit(task(1)), trial.submit(task(2)));
        trial.join(AgentJoin { incarnation, ..worker("b") });
        assert_eq!(states(&trial), [Live, Live]);
        assert_eq!(trial.holder(first), Some(stays[0].agent));
        assert_eq!(trial.holder(second), Some(stays[1].agent), "it takes the waiting task");
    }
}

#[test]
fn a_pool_is_forgotten_with_its_last_agent() {
    let mut trial = Trial::new();
    let stays = join(&mut trial, &["a"], Some(1), 0);
    trial.leave(stays[0]);
    assert_eq!(trial.fleet.pools(), []);
}
