//! Parts that are kept apart, each on an agent that runs no other part of the same task.

use std::collections::BTreeSet;

use proptest::prelude::*;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, AskedLinks, Candidates, Command, Demand, HeldState, Join, Kept, Obstacle,
    Outcome, QueueRules, Refusal, Reply, Split, SubmitTask, TaskId, TaskResources, TaskState, limits::MAX_SPREAD_PARTS,
};

use crate::{
    fixture::{OpenSession, Trial, amounts, failure, specialist, success, task, worker},
    links::{part, refused, suspended, with_links},
    queue_samples::in_lane,
};

/// Returns a task that is split into so many parts, which are kept apart.
fn spread(n: u128, parts: u32, join: Join) -> SubmitTask {
    let split = Some(Split { parts, join, quorum: 0, spread: true });
    with_links(task(n), AskedLinks { split, ..AskedLinks::default() })
}

/// Returns the id of a part.
fn id(of: u128, index: u32) -> TaskId {
    TaskId(of * 1_000 + u128::from(index))
}

/// Submits a task and so many parts of it.
fn submit(trial: &mut Trial, n: u128, parts: u32) {
    trial.submit(spread(n, parts, Join::All));
    for index in 0..parts {
        trial.submit(part(id(n, index).0, n, index));
    }
}

fn with_slots(trial: &mut Trial, name: &str, slots: u32) -> OpenSession {
    trial.join(AgentJoin { slots, ..worker(name) })
}

/// Returns the agents that run the parts of a task, in the order of the parts.
fn runners(trial: &Trial, n: u128, parts: u32) -> Vec<Option<AgentId>> {
    (0..parts).map(|index| trial.holder(id(n, index))).collect()
}

#[test]
fn each_part_goes_to_another_agent_the_best_ones_first() {
    let mut trial = Trial::newest();
    let stays = ["a", "b", "c"].map(|name| with_slots(&mut trial, name, 8));
    let best = trial.join(AgentJoin { slots: 8, ..specialist("d", "sum") });
    submit(&mut trial, 1, 3);
    let found = runners(&trial, 1, 3);
    assert_eq!(found[0], Some(best.agent), "its specialization is the kind");
    assert_eq!(found[1..], [Some(stays[0].agent), Some(stays[1].agent)]);
    assert_eq!(trial.task(id(1, 0)).attempts[0].candidates, 4);
    assert_eq!(trial.task(id(1, 2)).attempts[0].candidates, 2, "two run other parts");
    submit(&mut trial, 2, 4);
    assert_eq!(runners(&trial, 2, 4).into_iter().flatten().collect::<BTreeSet<_>>().len(), 4, "of another task");
}

#[test]
fn with_fewer_agents_than_parts_the_others_wait_until_one_has_done_with_its_part() {
    let mut trial = Trial::newest();
    let [a, b] = ["a", "b"].map(|name| with_slots(&mut trial, name, 4));
    submit(&mut trial, 1, 4);
    assert_eq!(runners(&trial, 1, 4), [Some(a.agent), Some(b.agent), None, None]);
    let waits = trial.fleet.waiting_for(id(1, 2), trial.now).expect("it waits");
    assert!(waits.contains("2 fitting agents run other parts of the same task"), "{waits}");
    let mut candidates = Candidates::of(trial.task(id(1, 2)), trial.now);
    trial.fleet.agents().for_each(|agent| candidates.look(&trial.fleet, agent));
    assert!(candidates.told().0.iter().all(|of| of.obstacle == Some(Obstacle::RunsSibling)));
    let other = trial.submit(task(9));
    assert!(trial.holder(other).is_some(), "they have room for other tasks");
    trial.complete(b, id(1, 1), 1, success());
    assert_eq!(runners(&trial, 1, 4), [Some(a.agent), None, Some(b.agent), None]);
    let c = with_slots(&mut trial, "c", 1);
    assert_eq!(trial.holder(id(1, 3)), Some(c.agent), "it has come meanwhile");
    for (stay, index) in [(a, 0), (b, 2), (c, 3)] {
        trial.complete(stay, id(1, index), 1, success());
    }
    assert_eq!(trial.state(TaskId(1)), TaskState::Succeeded);
}

#[test]
fn an_agent_whose_part_ends_while_it_still_stops_it_takes_another_one_in_another_slot() {
    let mut trial = Trial::newest();
    let a = with_slots(&mut trial, "a", 2);
    trial.submit(spread(1, 2, Join::Settled));
    trial.submit(part(id(1, 0).0, 1, 0));
    trial.submit(part(id(1, 1).0, 1, 1));
    assert_eq!(runners(&trial, 1, 2), [Some(a.agent), None]);
    trial.cancel(id(1, 0));
    assert_eq!(runners(&trial, 1, 2), [None, Some(a.agent)]);
    assert_eq!(trial.complete(a, id(1, 0), 1, Outcome::Stopped), Reply::Done);
}

#[test]
fn a_part_of_a_lost_agent_goes_to_one_that_runs_no_other() {
    let mut trial = Trial::newest();
    let [a, b, c] = ["a", "b", "c"].map(|name| with_slots(&mut trial, name, 2));
    submit(&mut trial, 1, 2);
    assert_eq!(runners(&trial, 1, 2), [Some(a.agent), Some(b.agent)]);
    trial.lose(a);
    assert_eq!(runners(&trial, 1, 2), [Some(c.agent), Some(b.agent)]);
    trial.lose(c);
    assert_eq!(runners(&trial, 1, 2), [None, Some(b.agent)]);
    trial.lose(b);
    let d = with_slots(&mut trial, "d", 2);
    assert_eq!(runners(&trial, 1, 2).into_iter().flatten().collect::<Vec<_>>(), [d.agent], "one of them");
}

#[test]
fn parts_that_need_resources_or_several_slots_or_wait_in_a_queue_with_limits_are_kept_apart_too() {
    let mut trial = Trial::newest();
    let stays = ["a", "b"].map(|name| with_slots(&mut trial, name, 9));
    for stay in stays {
        trial.contribute(stay, amounts(9, 0));
    }
    trial.set_queues(&[("batch", QueueRules::of_weight(1))]);
    let change: [fn(SubmitTask) -> SubmitTask; 3] = [
        |task| {
            let resources = TaskResources { amounts: amounts(1, 0), queue: "default".to_owned() };
            SubmitTask { resources: Some(Box::new(resources)), ..task }
        },
        |task| {
            let demand = Some(Box::new(Demand { slots: 2, ..Demand::default() }));
            SubmitTask { demand, ..task }
        },
        |task| in_lane(task, "batch", "key"),
    ];
    for (n, change) in (1..).zip(change) {
        trial.submit(spread(n, 3, Join::All));
        for index in 0..3 {
            trial.submit(change(part(id(n, index).0, n, index)));
        }
        let found = runners(&trial, n, 3);
        assert_eq!(found.iter().flatten().collect::<BTreeSet<_>>().len(), 2, "{n}: {found:?}");
        let first = found[0].expect("it runs");
        let stay = stays.into_iter().find(|stay| stay.agent == first).expect("it is one of them");
        trial.complete(stay, id(n, 0), 1, success());
        assert_eq!(trial.holder(id(n, 2)), Some(first), "{n}");
    }
}

#[test]
fn a_retried_part_waits_for_an_agent_that_runs_no_other() {
    let mut trial = Trial::newest();
    let a = with_slots(&mut trial, "a", 2);
    submit(&mut trial, 1, 2);
    trial.complete(a, id(1, 0), 1, failure(true));
    assert_eq!(runners(&trial, 1, 2), [None, Some(a.agent)], "it is its backoff that the first one waits for");
    trial.after(3_600_000);
    assert_eq!(runners(&trial, 1, 2), [None, Some(a.agent)]);
    trial.complete(a, id(1, 1), 1, success());
    assert_eq!(trial.holder(id(1, 0)), Some(a.agent));
}

#[test]
fn subtasks_of_a_task_that_was_split_are_not_kept_apart() {
    let mut trial = Trial::newest();
    let a = with_slots(&mut trial, "a", 4);
    trial.submit(spread(1, 1, Join::Reduce));
    trial.submit(part(id(1, 0).0, 1, 0));
    trial.complete(a, id(1, 0), 1, success());
    trial.complete(a, TaskId(1), 1, suspended(3));
    let subtasks = trial.fleet.children_of(TaskId(1), 1, 9);
    assert_eq!(subtasks.len(), 3);
    let runs = |kept: &Kept| matches!(kept, Kept::Here(task) if task.current().is_some());
    assert!(subtasks.iter().all(|(_, kept)| runs(kept)), "all on the one agent");
}

#[test]
fn as_many_parts_as_there_may_be_are_kept_apart_and_no_more() {
    let mut trial = Trial::newest();
    trial.submit(spread(1, MAX_SPREAD_PARTS, Join::All));
    let refusal = refused(&mut trial, spread(2, MAX_SPREAD_PARTS + 1, Join::All));
    assert!(matches!(&refusal, Refusal::Invalid { field, .. } if field == "split.parts"), "{refusal:?}");
    let stay = with_slots(&mut trial, "a", MAX_SPREAD_PARTS);
    for index in 0..MAX_SPREAD_PARTS {
        trial.submit(part(id(1, index).0, 1, index));
    }
    let held = trial.fleet.agent(stay.agent).map(|agent| agent.held().count());
    assert_eq!(held, Some(1), "the others are passed over");
}

/// What happens next.
#[derive(Clone, Debug)]
enum Op {
    Submit(u32),
    Join(u8, u32),
    End(u16, bool),
    Cancel(u16),
    Lose(u16),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (1..5u32).prop_map(Op::Submit),
        3 => (0..5u8, 1..4u32).prop_map(|(name, slots)| Op::Join(name, slots)),
        8 => (any::<u16>(), prop::bool::weighted(0.7)).prop_map(|(n, succeeds)| Op::End(n, succeeds)),
        1 => any::<u16>().prop_map(Op::Cancel),
        1 => any::<u16>().prop_map(Op::Lose),
        2 => (1..100_000u64).prop_map(Op::Pass),
    ]
}

/// Returns what runs, with the session of its agent, and whether it is being stopped.
fn running(trial: &Trial) -> Vec<(OpenSession, TaskId, u32, bool)> {
    let held = trial.fleet.agents().flat_map(|agent| {
        let stay = OpenSession { agent: agent.id, session: agent.session };
        let of = agent.held().map(|held| (stay, held.task, held.attempt, held.state == HeldState::Stopping));
        of.collect::<Vec<_>>()
    });
    held.collect()
}

/// Returns one of those that run.
fn pick(trial: &Trial, n: u16) -> Option<(OpenSession, TaskId, u32, bool)> {
    let running = running(trial);
    running.get(usize::from(n) % running.len().max(1)).copied()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_agent_runs_two_parts_of_a_task_and_none_waits_for_an_agent_that_is_free(
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let (mut trial, mut tasks) = (Trial::newest(), 0);
        for op in ops {
            // Each command is followed by the audit, which knows both rules.
            match op {
                Op::Submit(parts) => {
                    tasks += 1;
                    submit(&mut trial, tasks, parts);
                }
                Op::Join(name, slots) => {
                    let join = AgentJoin { slots, ..worker(&format!("w{name}")) };
                    trial.apply(Command::Agent(AgentCommand::Joined(join)));
                }
                Op::End(n, succeeds) => {
                    if let Some((stay, task, attempt, stops)) = pick(&trial, n) {
                        let outcome = match (stops, succeeds) {
                            (true, _) => Outcome::Stopped,
                            (false, true) => success(),
                            (false, false) => failure(true),
                        };
                        trial.complete(stay, task, attempt, outcome);
                    }
                }
                Op::Cancel(n) => {
                    if let Some((_, task, _, false)) = pick(&trial, n) {
                        trial.cancel(task);
                    }
                }
                Op::Lose(n) => {
                    if let Some((stay, ..)) = pick(&trial, n) {
                        trial.lose(stay);
                    }
                }
                Op::Pass(ms) => {
                    trial.after(ms);
                }
            }
            let parts: Vec<(TaskId, AgentId)> = running(&trial)
                .into_iter()
                .filter(|(.., stops)| !stops)
                .map(|(stay, task, ..)| (TaskId(task.0 / 1_000), stay.agent))
                .collect();
            prop_assert_eq!(parts.iter().collect::<BTreeSet<_>>().len(), parts.len(), "{:?}", parts);
        }
    }
}
