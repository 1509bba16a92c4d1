//! What runs of a task, for those who wait until nothing does, and for those who follow it.

use std::{collections::BTreeSet, sync::Arc};

use robeing_fleet::{AgentJoin, Join, Outcome, Reply, SubmitTask, TaskId, TaskState, limits::ATTEMPT_GRACE_MS};

use crate::{
    fixture::{OpenSession, Trial, answered, failure, retry, success, task, to_verify, worker},
    links::{children, part, split, suspended, with_slots},
};

/// Returns whether a task is in a final state, and the names of the agents on which it still runs.
fn remains(trial: &Trial, id: TaskId) -> (bool, Vec<String>) {
    let remains = trial.fleet.remains_of(id);
    (remains.is_final, remains.agents.iter().map(|agent| agent.to_string()).collect())
}

fn on(agents: &[&str]) -> Vec<String> {
    agents.iter().map(|agent| (*agent).to_owned()).collect()
}

/// Has an agent report that it has stopped everything that it holds.
fn stops(trial: &mut Trial, stay: OpenSession) {
    let held: Vec<_> = trial.fleet.held(stay.agent).collect();
    for held in held {
        assert_eq!(trial.complete(stay, held.task, held.attempt, Outcome::Stopped), Reply::Done);
    }
}

#[test]
fn a_cancelled_task_runs_until_its_agent_has_said_that_it_stopped() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let (id, queued) = (trial.submit(task(1)), trial.submit(task(2)));
    assert_eq!(remains(&trial, id), (false, on(&["a"])));
    assert_eq!(remains(&trial, queued), (false, on(&[])));
    trial.cancel(queued);
    assert!(trial.fleet.remains_of(queued).is_nothing());
    trial.cancel(id);
    assert_eq!(remains(&trial, id), (true, on(&["a"])));
    stops(&mut trial, stay);
    assert!(trial.fleet.remains_of(id).is_nothing());
    assert!(trial.fleet.remains_of(TaskId(99)).is_nothing(), "nobody has submitted it");
}

#[test]
fn nothing_runs_on_an_agent_that_is_lost() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    trial.cancel(id);
    trial.lose(stay);
    assert!(trial.fleet.remains_of(id).is_nothing());
}

#[test]
fn what_is_forgotten_runs_until_its_agent_has_said_that_it_stopped() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask { result_ttl: Some(0), ..task(1) });
    trial.cancel(id);
    trial.after(1);
    assert!(trial.fleet.task(id).is_none());
    assert_eq!(remains(&trial, id), (true, on(&["a"])));
    stops(&mut trial, stay);
    assert!(trial.fleet.remains_of(id).is_nothing());
}

#[test]
fn the_runs_of_a_task_that_is_forgotten_are_found_by_who_knew_its_parts() {
    let mut trial = Trial::newest();
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    let id = trial.submit(SubmitTask { result_ttl: Some(0), ..to_verify(1) });
    let parts = trial.fleet.parts_of(id);
    assert_eq!(parts.len(), 3);
    trial.cancel(id);
    trial.after(1);
    assert!(trial.fleet.task(id).is_none() && trial.fleet.parts_of(id).is_empty());
    let left = |trial: &Trial| trial.fleet.remains_with(id, parts.iter().copied()).agents.len();
    assert_eq!(left(&trial), 3);
    stays.into_iter().for_each(|stay| stops(&mut trial, stay));
    assert!(trial.fleet.remains_with(id, parts.iter().copied()).is_nothing());
}

#[test]
fn an_attempt_that_was_ended_before_the_cancellation_is_waited_for_too() {
    let mut trial = Trial::new();
    let (first, second) = (trial.join(worker("a")), trial.join(worker("b")));
    let id = trial.submit(SubmitTask { attempt_timeout: Some(100), retry: retry(2), ..task(1) });
    trial.after(101 + ATTEMPT_GRACE_MS);
    trial.after(60_000);
    let current = trial.holder(id).expect("it is tried again");
    assert_eq!(remains(&trial, id), (false, on(&["a", "b"])), "one stops, and the other runs");
    trial.cancel(id);
    let (last, rest) = if current == first.agent { (first, second) } else { (second, first) };
    stops(&mut trial, rest);
    assert_eq!(trial.fleet.remains_of(id).agents.len(), 1);
    stops(&mut trial, last);
    assert!(trial.fleet.remains_of(id).is_nothing());
}

#[test]
fn all_runs_of_a_task_whose_result_is_verified_are_waited_for() {
    let mut trial = Trial::newest();
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    let id = trial.submit(to_verify(1));
    assert_eq!(remains(&trial, id), (false, on(&["a", "b", "c"])));
    let (member, attempt) = trial.held_by(stays[0]);
    trial.complete(stays[0], member, attempt, answered("x"));
    assert_eq!(remains(&trial, id), (false, on(&["b", "c"])));
    trial.cancel(id);
    assert_eq!(remains(&trial, id), (true, on(&["b", "c"])));
    let verification = trial.task(id).verification.clone().expect("it is verified");
    assert_eq!((verification.members.len(), verification.stopping.len()), (0, 2));
    stops(&mut trial, stays[1]);
    assert_eq!(remains(&trial, id), (true, on(&["c"])));
    stops(&mut trial, stays[2]);
    assert!(trial.fleet.remains_of(id).is_nothing());
}

#[test]
fn a_run_that_others_have_outpaced_is_waited_for_although_the_task_has_succeeded() {
    let mut trial = Trial::newest();
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    let id = trial.submit(to_verify(1));
    for stay in &stays[..2] {
        let (member, attempt) = trial.held_by(*stay);
        trial.complete(*stay, member, attempt, answered("x"));
    }
    assert_eq!(trial.state(id), TaskState::Succeeded);
    assert_eq!(trial.cancel(id), Reply::Cancelled(TaskState::Succeeded));
    assert_eq!(remains(&trial, id), (true, on(&["c"])));
    stops(&mut trial, stays[2]);
    assert!(trial.fleet.remains_of(id).is_nothing());
}

/// Returns the ids of all that agents have below a task, looking at so many tasks at a time.
fn below(trial: &Trial, id: TaskId, most: usize) -> BTreeSet<TaskId> {
    let mut found = BTreeSet::new();
    let Some(mut walk) = trial.fleet.walk_below(id) else { return found };
    for _ in 0..1_000 {
        if walk.is_over() {
            return found;
        }
        found.extend(trial.fleet.walk(&mut walk, most));
    }
    panic!("the walk does not end: {walk:?}");
}

#[test]
fn all_that_runs_below_a_task_is_found_until_its_agent_has_said_that_it_stopped() {
    let (mut trial, stay) = with_slots(8);
    trial.submit(split(1, 3, Join::Settled));
    for (id, index) in [(10, 0), (11, 1)] {
        trial.submit(part(id, 1, index));
    }
    // The last part is verified, by the one agent that there is.
    trial.submit(SubmitTask { verify: to_verify(12).verify, ..part(12, 1, 2) });
    trial.complete(stay, TaskId(10), 1, suspended(2));
    let member = trial.fleet.parts_of(TaskId(12))[0];
    let mut all: BTreeSet<TaskId> = children(&trial, 10).into_iter().chain([TaskId(11), member]).collect();
    for most in [1, 2, 100] {
        assert_eq!(below(&trial, TaskId(1), most), all, "{most} at a time");
    }
    assert_eq!(below(&trial, TaskId(10), 1).len(), 2);
    assert_eq!(trial.fleet.walk_below(TaskId(11)), None, "nothing is below it");
    trial.cancel(TaskId(1));
    assert_eq!(trial.fleet.remains_of(TaskId(1)).agents.len(), 0, "it does not run itself");
    for held in trial.fleet.held(stay.agent).collect::<Vec<_>>() {
        assert_eq!(below(&trial, TaskId(1), 1), all);
        trial.complete(stay, held.task, held.attempt, Outcome::Stopped);
        assert!(all.remove(&held.task), "{held:?}");
    }
    assert_eq!((below(&trial, TaskId(1), 1).len(), all.len()), (0, 0));
}

#[test]
fn the_newest_attempt_is_followed_unless_another_one_is_named() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    let runs = |trial: &Trial, attempt| {
        let task = Arc::clone(trial.fleet.task(id).expect("it is kept"));
        let runs = trial.fleet.runs_of(&task, attempt);
        runs.into_iter().map(|run| (run.task, run.attempt, run.agent.to_string(), run.is_current)).collect::<Vec<_>>()
    };
    assert_eq!(runs(&trial, None), [(id, 1, "a".to_owned(), true)]);
    trial.complete(stay, id, 1, failure(true));
    assert_eq!(runs(&trial, None), [(id, 1, "a".to_owned(), false)]);
    trial.after(60_000);
    assert_eq!(runs(&trial, None), [(id, 2, "a".to_owned(), true)]);
    assert_eq!(runs(&trial, Some(1)), [(id, 1, "a".to_owned(), false)]);
    assert_eq!(runs(&trial, Some(3)), []);
    assert_eq!(trial.fleet.holder_of(id, 1), Some(stay.agent));
    assert_eq!(trial.fleet.holder_of(id, 3), None);
    trial.complete(stay, id, 2, success());
    assert_eq!(runs(&trial, None), [(id, 2, "a".to_owned(), false)]);
}

#[test]
fn the_runs_of_a_task_whose_result_is_verified_are_followed_while_they_last() {
    let mut trial = Trial::newest();
    let wide = trial.join(AgentJoin { slots: 2, ..worker("wide") });
    let other = trial.join(worker("other"));
    let id = trial.submit(to_verify(1));
    let task = Arc::clone(trial.fleet.task(id).expect("it is kept"));
    let runs = trial.fleet.runs_of(&task, None);
    let held: Vec<_> = [wide, other].into_iter().map(|stay| trial.held_by(stay)).collect();
    let followed: BTreeSet<_> = runs.iter().map(|run| (run.task, run.attempt)).collect();
    assert_eq!(followed, held.iter().copied().collect());
    assert!(runs.iter().all(|run| run.is_current && run.task != id));
    let (member, attempt) = held[0];
    assert_eq!(trial.fleet.holder_of(member, attempt), Some(wide.agent));
    trial.complete(wide, member, attempt, answered("x"));
    let task = Arc::clone(trial.fleet.task(id).expect("it is kept"));
    assert_eq!(trial.fleet.runs_of(&task, None).len(), 1);
    trial.cancel(id);
    let (member, attempt) = held[1];
    assert_eq!(trial.fleet.holder_of(member, attempt), Some(other.agent), "it is stopping");
}
