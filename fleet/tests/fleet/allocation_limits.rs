//! The limits of the resource pool at their edges.

use robeing_fleet::{
    AllocationId, Amounts, Command, Holder, QueueShape, Quota, Refusal, Reply, RequestResources, ResourceCommand,
    TeamId, limits::*,
};

use crate::fixture::{Trial, amounts, patient, request, team, worker};

fn field_of(checked: Result<(), Refusal>) -> String {
    match checked {
        Err(Refusal::Invalid { field, .. }) => field,
        other => panic!("not invalid: {other:?}"),
    }
}

fn limit_of(reply: Reply) -> u64 {
    match reply {
        Reply::Refused(Refusal::Full { limit, .. }) => limit,
        other => panic!("not full: {other:?}"),
    }
}

/// Applies a request without an audit, which takes long for many.
fn ask(trial: &mut Trial, request: RequestResources) -> Reply {
    let command = Command::Resource(ResourceCommand::Request(request));
    trial.fleet.apply(trial.stamp(), command, &mut Vec::new())
}

fn of(name: usize, request: RequestResources) -> RequestResources {
    let name = format!("client-{name}");
    RequestResources { requested_by: name.clone(), holder: Holder::Client(name), ..request }
}

#[test]
fn requests_are_held_to_their_limits() {
    type Change = fn(&mut RequestResources, usize);
    let parts: Change = |r, n| r.parts = vec![Amounts { cpu: 1, ..Amounts::NONE }; n];
    let cpu: Change = |r, n| r.parts = vec![Amounts { cpu: n as u64, ..Amounts::NONE }];
    let most = MAX_DURATION_MS as usize;
    let cases: [(&str, Change, usize, usize); 10] = [
        ("requested_by", |r, n| r.requested_by = "x".repeat(n), MAX_SENDER_BYTES, MAX_SENDER_BYTES + 1),
        ("holder", |r, n| r.holder = Holder::Client("x".repeat(n)), MAX_NAME_BYTES, MAX_NAME_BYTES + 1),
        ("holder", |r, n| r.holder = Holder::Agent("x".repeat(n)), 1, 0),
        ("queue", |r, n| r.queue = "x".repeat(n), MAX_NAME_BYTES, MAX_NAME_BYTES + 1),
        ("queue", |r, n| r.queue = "x".repeat(n), 1, 0),
        ("parts", parts, MAX_PARTS, MAX_PARTS + 1),
        ("parts", parts, 1, 0),
        ("parts.cpu", cpu, MAX_AMOUNT as usize, MAX_AMOUNT as usize + 1),
        ("ttl", |r, n| r.ttl = n as u64, most, most + 1),
        ("wait", |r, n| r.wait = n as u64, most, most + 1),
    ];
    for (field, change, right, wrong) in cases {
        let mut changed = request(1, amounts(1, 1));
        change(&mut changed, right);
        assert_eq!(changed.check(), Ok(()), "{field}");
        change(&mut changed, wrong);
        assert_eq!(field_of(changed.check()), field);
    }
    assert_eq!(field_of(request(1, Amounts::NONE).check()), "parts", "a part of nothing");
    assert_eq!(field_of(RequestResources { ttl: 0, ..request(1, amounts(1, 1)) }.check()), "ttl");
    assert_eq!(field_of(RequestResources { holder: Holder::Nobody, ..request(1, amounts(1, 1)) }.check()), "holder");
}

#[test]
fn queues_are_held_to_their_limits() {
    let shape = |name: usize, weight| QueueShape {
        name: format!("queue-{name}"),
        weight,
        quota: Quota { cpu: Some(MAX_QUOTA), ..Quota::default() },
    };
    let shapes = |count: usize| (0..count).map(|name| shape(name, 1)).collect::<Vec<_>>();
    assert_eq!(QueueShape::check_all(&shapes(MAX_SET_QUEUES)), Ok(()));
    assert_eq!(field_of(QueueShape::check_all(&shapes(MAX_SET_QUEUES + 1))), "queues");
    assert_eq!(QueueShape::check_all(&[shape(1, MAX_QUEUE_WEIGHT)]), Ok(()));
    for weight in [0, MAX_QUEUE_WEIGHT + 1] {
        assert_eq!(field_of(QueueShape::check_all(&[shape(1, weight)])), "queues.weight");
    }
    assert_eq!(field_of(QueueShape::check_all(&[shape(1, 1), shape(1, 2)])), "queues.name");
    let quota = Quota { memory: Some(MAX_QUOTA + 1), ..Quota::default() };
    assert_eq!(field_of(QueueShape::check_all(&[QueueShape { quota, ..shape(1, 1) }])), "queues.quota");
}

#[test]
fn an_agent_contributes_no_more_than_it_can() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    assert!(matches!(trial.contribute(stay, amounts(MAX_AMOUNT + 1, 0)), Reply::Refused(Refusal::Invalid { .. })));
    assert_eq!(trial.contribute(stay, amounts(MAX_AMOUNT, MAX_AMOUNT)), Reply::Done);
    assert_eq!(
        trial.request(request(1, amounts(MAX_AMOUNT, MAX_AMOUNT))),
        Reply::Allocated { existing: false, token: Some(1) }
    );
}

#[test]
fn a_holder_has_so_many_allocations() {
    let mut trial = Trial::newest();
    for n in 0..MAX_HELD_BY_ONE as u128 {
        assert_eq!(trial.request(patient(n, amounts(1, 0))), Reply::Allocated { existing: false, token: None });
    }
    assert_eq!(limit_of(trial.request(patient(1_000, amounts(1, 0)))), MAX_HELD_BY_ONE as u64);
}

#[test]
fn the_allocations_of_one_holder_have_so_many_parts() {
    let mut trial = Trial::newest();
    let of_parts = |n: u128, parts: usize| {
        let parts = vec![amounts(1, 0); parts];
        RequestResources { parts, ..patient(n, amounts(1, 0)) }
    };
    let many = (MAX_PARTS_OF_ONE / MAX_PARTS) as u128;
    for n in 1..many {
        trial.request(of_parts(n, MAX_PARTS));
    }
    assert_eq!(trial.request(of_parts(many, MAX_PARTS - 1)), Reply::Allocated { existing: false, token: None });
    assert_eq!(limit_of(trial.request(of_parts(many + 1, 2))), MAX_PARTS_OF_ONE as u64);
    assert_eq!(trial.request(of_parts(many + 1, 1)), Reply::Allocated { existing: false, token: None });
    trial.free(1, None);
    assert_eq!(trial.request(of_parts(many + 2, MAX_PARTS)), Reply::Allocated { existing: false, token: None });
}

#[test]
fn one_caller_asks_for_so_many_allocations_for_one_task_or_team_and_in_all() {
    let mut trial = Trial::newest();
    trial.join(worker("a"));
    trial.form(team(9, 1));
    let of_team = |n: u128, by: &str| {
        let holder = Holder::Team(TeamId(9));
        RequestResources { holder, requested_by: by.to_owned(), ..patient(n, amounts(1, 0)) }
    };
    for n in 0..MAX_ASKED_FOR_ONE as u128 {
        trial.request(of_team(n, "client:x"));
    }
    assert_eq!(limit_of(trial.request(of_team(1_000, "client:x"))), MAX_ASKED_FOR_ONE as u64);
    assert_eq!(trial.request(of_team(1_000, "client:y")), Reply::Allocated { existing: false, token: None });
    let by_one = |n: usize| {
        let alone = of(n / MAX_HELD_BY_ONE, patient(5_000 + n as u128, amounts(1, 0)));
        RequestResources { requested_by: "one".to_owned(), ..alone }
    };
    for n in 0..MAX_ASKED_BY_ONE {
        ask(&mut trial, by_one(n));
    }
    assert_eq!(limit_of(ask(&mut trial, by_one(MAX_ASKED_BY_ONE))), MAX_ASKED_BY_ONE as u64);
    trial.free(5_000, None);
    assert_eq!(ask(&mut trial, by_one(MAX_ASKED_BY_ONE)), Reply::Allocated { existing: false, token: None });
}

#[test]
fn so_many_queues_are_there_with_those_that_are_left_out_and_in_use() {
    let mut trial = Trial::newest();
    let shape = |n: usize| QueueShape { name: format!("queue-{n}"), weight: 1, quota: Quota::default() };
    let set = |trial: &mut Trial, first: usize| {
        let shapes = (first..first + MAX_SET_QUEUES).map(shape).collect();
        trial.apply(Command::Resource(ResourceCommand::SetQueues(shapes)))
    };
    assert_eq!(set(&mut trial, 0), Reply::Done);
    for n in 0..MAX_SET_QUEUES {
        let alone = of(n, patient(n as u128, amounts(1, 0)));
        trial.request(RequestResources { queue: format!("queue-{n}"), ..alone });
    }
    // The default queue is one as well.
    assert_eq!(limit_of(set(&mut trial, MAX_SET_QUEUES)), MAX_QUEUES as u64);
    assert_eq!(set(&mut trial, 1), Reply::Done);
    trial.free(0, None);
    trial.free(1, None);
    assert_eq!(set(&mut trial, MAX_SET_QUEUES + 1), Reply::Done);
}

#[test]
fn so_many_allocations_wait_or_are_granted_and_the_ended_ones_make_room() {
    let mut trial = Trial::newest();
    let many = MAX_LIVE_ALLOCATIONS;
    for n in 0..many {
        ask(&mut trial, of(n / MAX_HELD_BY_ONE, patient(n as u128, amounts(1, 0))));
    }
    assert_eq!(limit_of(ask(&mut trial, of(many, patient(many as u128, amounts(1, 0))))), many as u64);
    // A command fires so many timers, and that of the looks for room is among them.
    trial.after(60_000).after(0);
    assert_eq!(trial.fleet.pool_sums().ended, many as u32);
    for n in many..2 * many {
        ask(&mut trial, of(n / MAX_HELD_BY_ONE, patient(n as u128, amounts(1, 0))));
    }
    trial.after(60_000);
    ask(&mut trial, patient(2 * many as u128, amounts(1, 0)));
    assert_eq!(trial.fleet.allocation(AllocationId(0)), None, "the one that ended first");
    let sums = trial.fleet.pool_sums();
    assert_eq!((sums.waiting, sums.ended as usize), (1, MAX_ALLOCATIONS - 1));
    assert_eq!(trial.fleet.audit(), Ok(()));
}
