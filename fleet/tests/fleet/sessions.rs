//! The sessions of agents: joining, loss, draining and leaving.

use robeing_fleet::{
    AgentJoin, AgentState, Effect, FailureKind, LossReason, Outcome, Refusal, Reply, StaleReason, SubmitTask, TaskState,
};

use crate::fixture::{Trial, failure, retry, success, task, worker};

fn slots(join: AgentJoin, slots: u32) -> AgentJoin {
    AgentJoin { slots, ..join }
}

fn restarted(join: AgentJoin) -> AgentJoin {
    AgentJoin { incarnation: join.incarnation + 1, ..join }
}

#[test]
fn a_live_process_that_joins_again_keeps_its_session_and_its_work() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    let process = Some(std::net::SocketAddr::from(([127, 0, 0, 1], 2)));
    let moved = AgentJoin { address: "127.0.0.1:2".to_owned(), process, ..worker("a") };
    assert_eq!(trial.join(moved), stay);
    let agent = trial.fleet.agent(stay.agent).unwrap();
    assert_eq!((agent.address.as_str(), agent.process), ("127.0.0.1:2", process));
    assert_eq!(trial.complete(stay, id, 1, success()), Reply::Completed);
}

#[test]
fn more_slots_at_a_resumed_join_are_filled_from_the_queue_and_taken_ones_are_not_taken_away() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    trial.submit(task(1));
    let second = trial.submit(task(2));
    trial.join(slots(worker("a"), 2));
    assert_eq!(trial.assigned(), [(second, 1)]);
    trial.join(slots(worker("a"), 1));
    assert_eq!(trial.fleet.agent(stay.agent).map(|a| a.slots), Some(2));
}

#[test]
fn another_process_of_the_name_ends_the_old_session_and_its_attempts() {
    let mut trial = Trial::new();
    let old = trial.join(worker("a"));
    let id = trial.submit(task(1));
    let new = trial.join(restarted(worker("a")));
    assert_eq!(new.agent, old.agent);
    assert_ne!(new.session, old.session);
    assert!(trial.effects.contains(&Effect::SessionEnded { agent: old.agent, session: old.session }));
    assert_eq!(trial.assigned(), [(id, 2)]);
    assert_eq!(trial.fleet.totals().redistributed, 1);
    for attempt in [1, 2] {
        let late = trial.complete(old, id, attempt, success());
        assert_eq!(late, Reply::Stale(StaleReason::SessionEnded));
    }
}

#[test]
fn the_work_of_a_lost_agent_goes_to_others_at_once_the_urgent_first() {
    let mut trial = Trial::new();
    let lost = trial.join(slots(worker("a"), 3));
    let plain = trial.submit(task(1));
    let urgent = trial.submit(SubmitTask { priority: 9, ..task(2) });
    let other = trial.join(slots(worker("b"), 1));
    trial.lose(lost);
    assert_eq!(trial.assigned(), [(urgent, 2)]);
    assert_eq!(trial.holder(urgent), Some(other.agent));
    assert_eq!(trial.state(plain), TaskState::Queued);
    assert!(trial.effects.contains(&Effect::Redistributed { from: lost.agent, tasks: 2 }));
    let failure = trial.task(urgent).attempts[0].failure.clone();
    assert_eq!(failure.map(|f| f.kind), Some(FailureKind::AgentLost));
}

#[test]
fn a_task_whose_every_attempt_was_lost_is_dead_lettered() {
    let mut trial = Trial::new();
    let id = trial.submit(SubmitTask { retry: retry(2), ..task(1) });
    for n in 0..2 {
        assert_eq!(trial.state(id), TaskState::Queued);
        let stay = trial.join(worker(&format!("w{n}")));
        trial.lose(stay);
    }
    assert_eq!(trial.state(id), TaskState::DeadLettered);
    let message = trial.task(id).failure.as_ref().map(|f| f.message.clone());
    assert_eq!(message.as_deref(), Some("agent w1 was lost: it was not heard from any more"));
    assert_eq!(trial.fleet.totals().redistributed, 1, "the second was not queued again");
}

#[test]
fn a_loss_that_is_told_twice_or_of_an_earlier_session_is_ignored() {
    let mut trial = Trial::new();
    let old = trial.join(worker("a"));
    let new = trial.join(restarted(worker("a")));
    let id = trial.submit(task(1));
    assert_eq!(trial.lose(old), Reply::Done);
    assert_eq!(trial.holder(id), Some(new.agent));
    trial.lose(new);
    let revision = trial.fleet.revision();
    trial.lose(new);
    assert_eq!(trial.fleet.revision(), revision);
}

#[test]
fn a_draining_agent_finishes_what_it_has_and_gets_nothing_new() {
    let mut trial = Trial::new();
    let stay = trial.join(slots(worker("a"), 2));
    let first = trial.submit(task(1));
    assert_eq!(trial.drain(stay), Reply::Done);
    let second = trial.submit(task(2));
    assert_eq!(trial.complete(stay, first, 1, success()), Reply::Completed);
    assert_eq!(trial.state(second), TaskState::Queued);
    let joined = trial.join(slots(worker("a"), 2));
    assert_eq!(joined, stay);
    assert_eq!(trial.state(second), TaskState::Queued, "it still drains");
}

#[test]
fn an_agent_that_leaves_is_forgotten_and_what_it_held_costs_nothing() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask { retry: retry(1), ..task(1) });
    let other = trial.join(worker("b"));
    assert_eq!(trial.leave(stay), Reply::Done);
    assert!(trial.fleet.agent_by_name("a").is_none());
    assert_eq!(trial.holder(id), Some(other.agent));
    assert_eq!(trial.task(id).attempts_used, 1);
    assert_eq!(trial.fleet.totals().redistributed, 0);
    let refused = Reply::Refused(Refusal::StaleSession);
    assert_eq!(trial.leave(stay), refused);
    assert_eq!(trial.drain(stay), refused);
}

#[test]
fn a_lost_agent_is_remembered_with_its_record_until_its_time_is_up() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    trial.complete(stay, id, 1, failure(false));
    trial.lose(stay);
    let lost = trial.fleet.agent(stay.agent).expect("remembered");
    assert_eq!(lost.state, AgentState::Lost);
    assert_eq!(lost.lost.map(|l| l.reason), Some(LossReason::Silent));
    let record = lost.record;
    let back = trial.join(restarted(worker("a")));
    assert_eq!(back.agent, stay.agent);
    assert_eq!(trial.fleet.agent(back.agent).map(|a| a.record), Some(record));
    trial.lose(back);
    let ttl = trial.fleet.config().lost_agent_ttl;
    trial.after(ttl - 1);
    assert!(trial.fleet.agent(stay.agent).is_some());
    trial.after(1);
    assert!(trial.fleet.agent(stay.agent).is_none());
    assert_ne!(trial.join(worker("a")).agent, stay.agent, "numbers are not reused");
}

#[test]
fn a_lost_agent_frees_the_slots_it_was_stopping() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    trial.cancel(id);
    trial.lose(stay);
    let back = trial.join(restarted(worker("a")));
    assert_eq!(trial.fleet.held(back.agent).count(), 0);
    let late = trial.complete(stay, id, 1, Outcome::Stopped);
    assert!(matches!(late, Reply::Stale(_)));
}
