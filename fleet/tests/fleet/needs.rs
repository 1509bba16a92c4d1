//! Tasks that need resources: they start only with an allocation, which ends with the attempt.

use bytes::Bytes;
use robeing_fleet::{
    AgentJoin, Amounts, Command, Feature, FleetConfig, Holder, PoolShape, Quota, Refusal, Reply, Resource,
    ResourceCommand, Shortage, SubmitTask, TaskCommand, TaskId, TaskResources, TaskState, Timing,
    limits::{JOINING_MS, MAX_TASK_SHAPES},
};

use crate::{
    allocations::{WAITS, granted, set, token},
    fixture::{
        OpenSession, Trial, amounts, answered, failure, patient, pooled, request, specialist, success, task, to_verify,
        worker,
    },
};

fn from(queue: &str, task: SubmitTask, needed: Amounts) -> SubmitTask {
    let resources = TaskResources { amounts: needed, queue: queue.to_owned() };
    SubmitTask { resources: Some(Box::new(resources)), ..task }
}

fn needing(n: u128, cpu: u64, memory: u64) -> SubmitTask {
    from("default", task(n), amounts(cpu, memory))
}

/// Returns a fleet with agents that contribute this and have more slots than that is enough for. No others are expected.
fn wide<const N: usize>(contributed: [Amounts; N]) -> (Trial, [OpenSession; N]) {
    let mut trial = Trial::newest();
    let mut n = 0;
    let stays = contributed.map(|amounts| {
        n += 1;
        let stay = trial.join(AgentJoin { slots: 16, ..worker(&format!("agent-{n}")) });
        assert_eq!(trial.contribute(stay, amounts), Reply::Done);
        stay
    });
    trial.after(JOINING_MS);
    (trial, stays)
}

fn used(trial: &Trial) -> Amounts {
    trial.fleet.pool_sums().used
}

fn refused(trial: &mut Trial, task: SubmitTask) -> Refusal {
    let ahead = trial.fleet.refusal_of(&task);
    let Reply::Refused(refusal) = trial.apply(Command::Task(TaskCommand::Submit(task))) else {
        panic!("it is accepted");
    };
    assert!(ahead.is_none_or(|ahead| ahead == refusal), "it is refused as it would be");
    refusal
}

#[test]
fn a_look_that_comes_late_starts_no_task_that_has_waited_for_too_long() {
    for verify in [None, to_verify(2).verify] {
        let mut trial = Trial::newest();
        let first = trial.submit(SubmitTask { kind: "parse".to_owned(), ..needing(1, 2, 0) });
        let timing = Some(Box::new(Timing { queue_expiry: Some(75), ..Timing::default() }));
        let other = trial.submit(SubmitTask { timing, verify, ..needing(2, 2, 0) });
        let stay = trial.join(specialist("s", "sum"));
        assert_eq!(trial.contribute(stay, amounts(2, 0)), Reply::Done);
        trial.after(6_000);
        assert_eq!(trial.state(other), TaskState::Failed, "the agent would prefer it");
        trial.after(1);
        assert_eq!(trial.holder(first), Some(stay.agent));
    }
}

#[test]
fn a_task_starts_only_where_what_it_needs_is_free_and_has_it_until_its_attempt_ends() {
    let (mut trial, [stay]) = wide([amounts(4, 8)]);
    let first = trial.submit(needing(1, 3, 2));
    assert_eq!((trial.holder(first), used(&trial)), (Some(stay.agent), amounts(3, 2)));
    assert_eq!(trial.fleet.held_resources(&Holder::Task(first)), amounts(3, 2));
    let second = trial.submit(needing(2, 2, 1));
    assert_eq!(trial.state(second), TaskState::Queued);
    let why = trial.fleet.waiting_for(second, trial.fleet.now().fleet).expect("it waits");
    let expected = "a free slot and the resources that it needs (cpu 2 millis, memory 1 bytes, from queue \"default\") \
                    at the one fitting agent";
    assert_eq!(why, expected);
    let other = trial.submit(task(3));
    assert_eq!(trial.holder(other), Some(stay.agent), "one that needs nothing waits for no other");
    trial.complete(stay, first, 1, success());
    assert_eq!(trial.assigned(), [(second, 1)], "in the same step");
    assert_eq!(used(&trial), amounts(2, 1));
    trial.complete(stay, second, 1, success());
    assert_eq!(used(&trial), Amounts::NONE);
    assert!(trial.fleet.allocations(None, 10, false).0.is_empty(), "nothing of them is kept");
}

#[test]
fn what_no_agent_could_ever_give_is_refused_at_submission() {
    let (mut trial, _) = wide([amounts(4, 8), amounts(2, 16)]);
    set(&mut trial, &[("small", 1, Quota { cpu: Some(1), ..Quota::default() })]);
    let short = |resource, asked, free, of_one| Refusal::InsufficientResources {
        short: vec![Shortage { resource, asked, free, of_one }],
        others_wait: false,
        contributed: true,
    };
    assert_eq!(refused(&mut trial, needing(1, 5, 1)), short(Resource::Cpu, 5, 4, true));
    assert_eq!(refused(&mut trial, needing(1, 1, 25)), short(Resource::Memory, 25, 24, false));
    let none = Refusal::InsufficientResources { short: Vec::new(), others_wait: false, contributed: true };
    assert_eq!(refused(&mut trial, needing(1, 3, 9)), none, "no agent has both");
    let words = "Insufficient resources: no agent contributes all of it; ask for less, or let agents contribute more";
    assert_eq!(none.to_string(), words);
    assert_eq!(
        refused(&mut trial, needing(1, 5, 25)).to_string(),
        "Insufficient resources: cpu: 5 millis asked of one agent, at most 4 contributed by one; memory: 25 bytes asked, 24 \
         contributed; ask for less, or let agents contribute more"
    );
    let of_small = from("small", task(1), amounts(2, 0));
    assert!(matches!(refused(&mut trial, of_small), Refusal::OverQuota { quota: 1, .. }));
    for (queue, field) in [("nowhere", "queue"), ("", "queue")] {
        let Refusal::Invalid { field: found, .. } = refused(&mut trial, from(queue, task(1), amounts(1, 0))) else {
            panic!("{queue:?} is no queue");
        };
        assert_eq!(found, field);
    }
    assert!(matches!(refused(&mut trial, needing(1, 0, 0)), Refusal::Invalid { .. }));
    let id = trial.submit(needing(1, 4, 8));
    assert!(trial.holder(id).is_some(), "all of one agent");
}

#[test]
fn what_an_agent_may_give_that_gives_nothing_now_is_waited_for() {
    let mut trial = Trial::newest();
    let first = trial.submit(needing(1, 3, 0));
    assert_eq!(trial.state(first), TaskState::Queued, "no agent has joined a fleet that has just started");
    let stay = trial.join(AgentJoin { slots: 16, ..worker("agent-1") });
    trial.after(JOINING_MS);
    assert!(matches!(refused(&mut trial, needing(2, 1, 0)), Refusal::InsufficientResources { .. }), "it gives nothing");
    trial.contribute(stay, amounts(4, 0));
    trial.after(0);
    assert_eq!(trial.holder(first), Some(stay.agent));
    let other = trial.join(worker("agent-2"));
    trial.contribute(other, amounts(1, 0));
    trial.after(JOINING_MS);
    trial.unhealthy(stay, "its disk is full");
    let second = trial.submit(needing(3, 4, 0));
    assert_eq!(trial.state(second), TaskState::Queued, "an unhealthy agent may be healthy again");
    assert!(matches!(refused(&mut trial, needing(4, 5, 0)), Refusal::InsufficientResources { .. }));
    trial.lose(stay);
    assert!(matches!(refused(&mut trial, needing(5, 4, 0)), Refusal::InsufficientResources { .. }), "it has left");
}

#[test]
fn what_no_agent_could_give_is_waited_for_while_others_may_follow_the_newest_agent() {
    let mut trial = Trial::newest();
    trial.join(contributing(1, worker("agent-1")));
    trial.after(JOINING_MS - 1);
    let first = trial.submit(needing(1, 4, 0));
    assert_eq!(trial.state(first), TaskState::Queued);
    let why = trial.fleet.waiting_for(first, trial.now).expect("it waits");
    assert!(why.contains("cpu 4 millis, from queue \"default\"; no agent contributes as much) at the one"), "{why}");
    trial.after(1);
    assert!(matches!(refused(&mut trial, needing(2, 4, 0)), Refusal::InsufficientResources { .. }));
    let late = trial.join(contributing(4, worker("agent-2")));
    assert_eq!(trial.holder(first), Some(late.agent));
    let second = trial.submit(needing(2, 5, 0));
    assert_eq!(trial.state(second), TaskState::Queued, "a third one may follow");
}

/// Returns this join of an agent that contributes so much from then on.
fn contributing(cpu: u64, join: AgentJoin) -> AgentJoin {
    AgentJoin { slots: 16, contributed: Some(Box::new(amounts(cpu, 0))), ..join }
}

#[test]
fn an_agent_that_joins_contributes_at_once_and_takes_what_has_waited_for_it() {
    let mut trial = Trial::newest();
    let id = trial.submit(needing(1, 3, 0));
    let stay = trial.join(contributing(4, worker("agent-1")));
    assert_eq!(trial.assigned(), [(id, 1)], "in the same step");
    assert_eq!((trial.holder(id), used(&trial)), (Some(stay.agent), amounts(3, 0)));
    let second = trial.submit(needing(2, 1, 0));
    assert_eq!(trial.holder(second), Some(stay.agent), "it needs no other command");
}

#[test]
fn what_no_agent_could_give_is_waited_for_while_a_pool_lacks_agents() {
    let mut trial = Trial::newest();
    let insufficient = |trial: &mut Trial, task| matches!(refused(trial, task), Refusal::InsufficientResources { .. });
    trial.join(contributing(1, pooled("a", Some(1), 1)));
    trial.after(JOINING_MS);
    let first = trial.submit(needing(1, 4, 0));
    assert_eq!(trial.state(first), TaskState::Queued, "its standby has not joined");
    let other = trial.join(contributing(4, pooled("b", Some(2), 0)));
    assert_eq!(trial.holder(first), Some(other.agent));
    trial.after(JOINING_MS);
    assert!(insufficient(&mut trial, needing(2, 5, 0)), "all are there");
    trial.unhealthy(other, "its disk is full");
    assert!(insufficient(&mut trial, needing(2, 5, 0)), "it is there as well");
    trial.drain(other);
    let second = trial.submit(needing(2, 5, 0));
    assert_eq!(trial.state(second), TaskState::Queued, "it is to be replaced");
    trial.set_pools(vec![PoolShape { name: "data".to_owned(), replicas: Some(1), standby: 0 }]);
    assert!(insufficient(&mut trial, needing(3, 5, 0)), "not any more");
    let large = PoolShape { name: "large".to_owned(), replicas: Some(1), standby: 0 };
    trial.set_pools(vec![large]);
    let third = trial.submit(needing(3, 5, 0));
    assert_eq!(trial.state(third), TaskState::Queued, "nobody of this pool has joined");
}

#[test]
fn an_agent_that_was_lost_is_expected_back_in_a_pool_without_a_fixed_size_until_it_is_forgotten() {
    let mut trial = Trial::newest();
    trial.join(contributing(1, pooled("a", None, 0)));
    let other = trial.join(contributing(4, pooled("b", None, 0)));
    trial.lose(other);
    trial.after(JOINING_MS);
    let first = trial.submit(needing(1, 4, 0));
    assert_eq!(trial.state(first), TaskState::Queued);
    trial.after(FleetConfig::default().lost_agent_ttl);
    assert!(matches!(refused(&mut trial, needing(2, 4, 0)), Refusal::InsufficientResources { .. }));
    let back = trial.join(contributing(4, pooled("b", None, 0)));
    assert_eq!(trial.holder(first), Some(back.agent));
}

#[test]
fn a_fleet_of_an_earlier_version_takes_no_task_that_needs_resources() {
    let mut trial = Trial::new();
    trial.join(worker("a"));
    let since = Feature::Resources.since();
    let refusal = refused(&mut trial, needing(1, 1, 0));
    assert!(matches!(refusal, Refusal::NotInForce { since: found, .. } if found == since), "{refusal:?}");
}

#[test]
fn each_attempt_has_resources_of_its_own() {
    let (mut trial, [one, other]) = wide([amounts(4, 0), amounts(4, 0)]);
    let id = trial.submit(needing(1, 3, 0));
    let (lost, left) = if trial.holder(id) == Some(one.agent) { (one, other) } else { (other, one) };
    trial.lose(lost);
    assert_eq!((trial.holder(id), used(&trial)), (Some(left.agent), amounts(3, 0)));
    trial.complete(left, id, 2, failure(true));
    assert_eq!((trial.state(id), used(&trial)), (TaskState::Queued, Amounts::NONE), "it waits for its backoff");
    trial.after(3_600_000);
    assert_eq!((trial.holder(id), used(&trial)), (Some(left.agent), amounts(3, 0)));
    trial.cancel(id);
    assert_eq!(used(&trial), Amounts::NONE);
}

#[test]
fn requests_that_wait_come_before_tasks() {
    let (mut trial, _) = wide([amounts(4, 0)]);
    assert_eq!(trial.request(request(1, amounts(3, 0))), granted(1));
    assert_eq!(trial.request(patient(2, amounts(4, 0))), WAITS);
    let id = trial.submit(needing(1, 1, 0));
    assert_eq!(trial.state(id), TaskState::Queued, "although one is free");
    trial.free(1, None);
    trial.after(0);
    assert_eq!((token(&trial, 2), trial.state(id)), (Some(2), TaskState::Queued));
    trial.free(2, None);
    trial.after(0);
    assert_eq!(trial.state(id), TaskState::Assigned);
}

#[test]
fn queues_have_their_shares_of_tasks_too() {
    let (mut trial, [stay]) = wide([amounts(4, 0)]);
    set(&mut trial, &["a", "b"].map(|name| (name, 1, Quota::default())));
    let all = trial.submit(needing(1, 4, 0));
    for n in 0..4 {
        trial.submit(from("a", task(10 + n), amounts(1, 0)));
    }
    for n in 0..4 {
        trial.submit(from("b", task(20 + n), amounts(1, 0)));
    }
    trial.complete(stay, all, 1, success());
    let assigned: Vec<u128> = trial.assigned().into_iter().map(|(task, _)| task.0).collect();
    assert_eq!(assigned, [10, 20, 11, 21]);
}

#[test]
fn queues_have_their_shares_of_what_an_agent_contributes_more() {
    let (mut trial, [stay]) = wide([amounts(4, 0)]);
    set(&mut trial, &["a", "b"].map(|name| (name, 1, Quota::default())));
    trial.submit(needing(1, 4, 0));
    for (n, queue) in [(10, "a"), (20, "b")] {
        for more in 0..4 {
            trial.submit(from(queue, task(n + more), amounts(1, 0)));
        }
    }
    trial.contribute(stay, amounts(8, 0));
    trial.after(0);
    let assigned: Vec<u128> = trial.assigned().into_iter().map(|(task, _)| task.0).collect();
    assert_eq!(assigned, [10, 20, 11, 21], "found by their needs, and given in turns");
}

#[test]
fn a_task_that_becomes_ready_while_the_needs_of_others_are_looked_at_is_not_forgotten() {
    let (mut trial, [stay]) = wide([amounts(10, 10)]);
    assert_eq!(trial.request(request(1, amounts(10, 5))), granted(1));
    assert_eq!(trial.request(request(2, amounts(0, 5))), granted(2));
    // Nobody could give it, so it waits and keeps nobody waiting.
    assert_eq!(trial.request(patient(3, amounts(100, 0))), WAITS);
    // The needs are looked at in this order: for the second ones there is no room.
    let late = trial.submit(SubmitTask { delay: Some(500), ..needing(11, 1, 1) });
    let large = trial.submit(needing(12, 1, 9));
    let small = trial.submit(needing(13, 2, 1));
    trial.after(0);
    trial.free(1, None);
    // The look at the needs is due before the delay is over, and continues after that.
    trial.after(1_000);
    assert_eq!((trial.holder(small), trial.holder(late)), (Some(stay.agent), Some(stay.agent)));
    assert_eq!((trial.state(large), token(&trial, 3)), (TaskState::Queued, None));
}

#[test]
fn a_quota_that_is_raised_and_an_agent_that_contributes_more_let_tasks_start() {
    let (mut trial, [stay]) = wide([amounts(4, 0)]);
    let quota = |cpu| Quota { cpu: Some(cpu), ..Quota::default() };
    set(&mut trial, &[("a", 1, quota(2))]);
    let ids: Vec<TaskId> = (1..=3).map(|n| trial.submit(from("a", task(n), amounts(2, 0)))).collect();
    let running = |trial: &Trial| ids.iter().filter(|id| trial.state(**id) == TaskState::Assigned).count();
    assert_eq!(running(&trial), 1);
    set(&mut trial, &[("a", 1, quota(9))]);
    trial.after(0);
    assert_eq!(running(&trial), 2);
    trial.contribute(stay, amounts(6, 0));
    trial.after(0);
    assert_eq!(running(&trial), 3);
}

#[test]
fn the_allocation_of_an_attempt_is_neither_released_nor_renewed() {
    let (mut trial, _) = wide([amounts(4, 0)]);
    let id = trial.submit(needing(1, 1, 0));
    let (id_of, token) = match &trial.fleet.allocations(None, 1, true).0[..] {
        [found] => (found.id, found.token().expect("it is granted")),
        other => panic!("{other:?}"),
    };
    let release = ResourceCommand::Release { id: id_of, token: None };
    for command in [release, ResourceCommand::Renew { id: id_of, token }] {
        let Reply::Refused(refusal) = trial.apply(Command::Resource(command)) else { panic!("it is not refused") };
        let expected = format!("allocation: is of attempt 1 of task:{id} and ends with it; cancel the task");
        assert_eq!(refusal.to_string(), expected);
    }
    trial.after(400 * 24 * 3_600_000);
    assert_eq!(used(&trial), amounts(1, 0), "it lasts as long as the attempt");
}

#[test]
fn each_run_of_a_verified_task_has_what_the_task_needs() {
    let (mut trial, stays) = wide([amounts(1, 0), amounts(1, 0), amounts(1, 0)]);
    let id = trial.submit(from("default", to_verify(1), amounts(1, 0)));
    assert_eq!(trial.fleet.held_resources(&Holder::Task(id)), amounts(3, 0));
    for stay in stays {
        if !trial.state(id).is_final() {
            let (member, attempt) = trial.held_by(stay);
            trial.complete(stay, member, attempt, answered("same"));
        }
    }
    assert_eq!((trial.state(id), used(&trial)), (TaskState::Succeeded, Amounts::NONE));
}

#[test]
fn different_needs_are_held_to_their_limit() {
    let (mut trial, _) = wide([amounts(1 << 20, 0)]);
    // Without audits, which take long for many.
    let submit = |trial: &mut Trial, task: SubmitTask| {
        let command = Command::Task(TaskCommand::Submit(task));
        trial.fleet.apply(trial.stamp(), command, &mut Vec::new())
    };
    for n in 1..=MAX_TASK_SHAPES as u64 {
        let reply = submit(&mut trial, needing(n.into(), n, 0));
        assert!(matches!(reply, Reply::Submitted { .. }), "{reply:?}");
    }
    let full = submit(&mut trial, needing(5_000, MAX_TASK_SHAPES as u64 + 1, 0));
    let Reply::Refused(Refusal::Full { limit, .. }) = full else { panic!("{full:?}") };
    assert_eq!(limit, MAX_TASK_SHAPES as u64);
    assert!(matches!(submit(&mut trial, needing(5_000, 1, 0)), Reply::Submitted { .. }), "these are known");
    let other = SubmitTask::new(TaskId(5_001), "sum", Bytes::new());
    assert!(matches!(submit(&mut trial, other), Reply::Submitted { .. }), "it needs none");
    assert_eq!(trial.fleet.audit(), Ok(()));
}
