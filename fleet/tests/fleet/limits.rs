//! Each limit at its edge: the last value that is accepted and the first that is not.

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentJoin, Command, ControlCommand, Failure, FailureKind, FleetConfig, Outcome, PoolCommand,
    PoolShape, Refusal, Reply, RetryPolicy, Stamp, SubmitTask, TaskCommand, TaskId, TaskState, Weights, limits::*,
};

use crate::fixture::{Trial, failure, retry, success, task, worker};

/// Asserts that `good` is accepted and that `bad` is refused because of this field.
fn edge(field: &str, good: SubmitTask, bad: SubmitTask) {
    assert_eq!(good.check(), Ok(()), "{field}");
    match bad.check() {
        Err(Refusal::Invalid { field: named, .. }) => assert_eq!(named, field),
        other => panic!("{field}: {other:?}"),
    }
}

fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

#[test]
fn submissions_are_held_to_their_limits() {
    let of = |change: fn(&mut SubmitTask, u64), value| {
        let mut submission = task(1);
        change(&mut submission, value);
        submission
    };
    let name = MAX_NAME_BYTES as u64;
    let long = MAX_DURATION_MS;
    type Change = fn(&mut SubmitTask, u64);
    let cases: [(&str, Change, u64, u64); 17] = [
        ("kind", |s, n| s.kind = text(n as usize), name, name + 1),
        ("kind", |s, n| s.kind = text(n as usize), 1, 0),
        ("priority", |s, n| s.priority = n as u8, 1, 0),
        ("priority", |s, n| s.priority = n as u8, 10, 11),
        ("deadline", |s, n| s.deadline_in = Some(n), 1, 0),
        ("deadline", |s, n| s.deadline_in = Some(n), long, long + 1),
        ("delay", |s, n| s.delay = Some(n), long, long + 1),
        ("attempt_timeout", |s, n| s.attempt_timeout = Some(n), 1, 0),
        ("attempt_timeout", |s, n| s.attempt_timeout = Some(n), long, u64::MAX),
        ("result_ttl", |s, n| s.result_ttl = Some(n), long, long + 1),
        ("submitter", |s, n| s.submitter = text(n as usize), name, name + 1),
        ("required_specialization", |s, n| s.required_specialization = Some(text(n as usize)), name, name + 1),
        ("required_specialization", |s, n| s.required_specialization = Some(text(n as usize)), 1, 0),
        (
            "idempotency_key",
            |s, n| s.idempotency_key = Some(text(n as usize)),
            MAX_KEY_BYTES as u64,
            MAX_KEY_BYTES as u64 + 1,
        ),
        ("idempotency_key", |s, n| s.idempotency_key = Some(text(n as usize)), 1, 0),
        ("retry.max_attempts", |s, n| s.retry = retry(n as u32), 1, 0),
        ("retry.max_attempts", |s, n| s.retry = retry(n as u32), u64::from(MAX_ATTEMPTS), u64::from(MAX_ATTEMPTS) + 1),
    ];
    for (field, change, good, bad) in cases {
        edge(field, of(change, good), of(change, bad));
    }
}

#[test]
fn an_input_of_the_largest_size_is_taken_and_a_byte_more_is_refused() {
    let sized = |bytes: usize| SubmitTask { input: Bytes::from(vec![0; bytes]), ..task(1) };
    assert_eq!(sized(MAX_INPUT_BYTES).check(), Ok(()));
    assert_eq!(
        sized(MAX_INPUT_BYTES + 1).check(),
        Err(Refusal::InputTooLarge { bytes: MAX_INPUT_BYTES as u64 + 1, limit: MAX_INPUT_BYTES as u64 })
    );
}

#[test]
fn an_output_over_the_limit_fails_the_task() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let largest = trial.submit(task(1));
    let output = |bytes: usize| Outcome::Succeeded(Bytes::from(vec![0; bytes]));
    trial.complete(stay, largest, 1, output(MAX_INPUT_BYTES));
    assert_eq!(trial.state(largest), TaskState::Succeeded);
    let over = trial.submit(task(2));
    trial.complete(stay, over, 1, output(MAX_INPUT_BYTES + 1));
    assert_eq!(trial.state(over), TaskState::Failed);
    let failure = trial.task(over).failure.clone().map(|f| f.kind);
    assert_eq!(failure, Some(FailureKind::OutputTooLarge));
}

#[test]
fn joins_are_held_to_their_limits() {
    let skills = |n| AgentJoin { specializations: vec!["x".to_owned(); n], ..worker("a") };
    let slots = |slots| AgentJoin { slots, ..worker("a") };
    assert_eq!(skills(MAX_SPECIALIZATIONS).check(), Ok(()));
    assert!(skills(MAX_SPECIALIZATIONS + 1).check().is_err());
    assert_eq!(slots(MAX_SLOTS).check(), Ok(()));
    assert!(slots(MAX_SLOTS + 1).check().is_err());
    assert_eq!(slots(0).check(), Ok(()), "a member that takes no tasks now");
    assert_eq!(worker(&text(MAX_NAME_BYTES)).check(), Ok(()));
    assert!(worker(&text(MAX_NAME_BYTES + 1)).check().is_err());
    assert!(worker("").check().is_err());
}

#[test]
fn set_pools_are_held_to_their_limits() {
    let shape = |n: usize| PoolShape { name: format!("p{n}"), replicas: Some(MAX_AGENTS), standby: MAX_AGENTS };
    let shapes = |count: usize| (0..count).map(shape).collect::<Vec<_>>();
    assert_eq!(PoolShape::check_all(&shapes(MAX_POOLS)), Ok(()));
    assert!(PoolShape::check_all(&shapes(MAX_POOLS + 1)).is_err());
    assert!(PoolShape::check_all(&[shape(1), shape(1)]).is_err(), "each name once");
    let one = |change: fn(&mut PoolShape)| {
        let mut one = shape(1);
        change(&mut one);
        PoolShape::check_all(&[one])
    };
    assert!(one(|s| s.replicas = Some(MAX_AGENTS + 1)).is_err());
    assert!(one(|s| s.standby = MAX_AGENTS + 1).is_err());
    assert!(one(|s| s.name = text(MAX_NAME_BYTES)).is_ok());
    assert!(one(|s| s.name = text(MAX_NAME_BYTES + 1)).is_err());
    assert!(one(|s| s.name.clear()).is_err());
    let mut trial = Trial::new();
    assert!(matches!(trial.apply(Command::Pool(PoolCommand::Set(shapes(MAX_POOLS + 1)))), Reply::Refused(_)));
    assert_eq!(trial.fleet.pools(), []);
}

#[test]
fn configurations_are_held_to_their_limits() {
    let weights = |specialization, load| FleetConfig {
        weights: Weights { specialization, load, ..Weights::default() },
        ..FleetConfig::default()
    };
    assert_eq!(weights(MAX_WEIGHT, -MAX_WEIGHT).check(), Ok(()));
    assert!(weights(MAX_WEIGHT + 1, 0).check().is_err());
    assert!(weights(-1, 0).check().is_err());
    assert!(weights(0, -MAX_WEIGHT - 1).check().is_err());
    let growth = |multiplier_percent| FleetConfig {
        retry: RetryPolicy { multiplier_percent, ..RetryPolicy::default() },
        ..FleetConfig::default()
    };
    assert_eq!(growth(MAX_MULTIPLIER_PERCENT).check(), Ok(()));
    assert!(growth(MAX_MULTIPLIER_PERCENT + 1).check().is_err());
    assert_eq!(growth(100).check(), Ok(()));
    assert!(growth(99).check().is_err());
    let mut trial = Trial::new();
    let reply = trial.apply(Command::Control(ControlCommand::Configure(growth(99))));
    assert!(matches!(reply, Reply::Refused(_)));
    assert_eq!(trial.fleet.config(), &FleetConfig::default());
}

#[test]
fn a_fleet_full_of_agents_forgets_the_longest_lost_one_for_a_newcomer_and_else_refuses() {
    let mut trial = Trial::new();
    let mut effects = Vec::new();
    let mut join = |trial: &mut Trial, n: u32| {
        let join = Command::Agent(AgentCommand::Joined(worker(&format!("w{n}"))));
        trial.fleet.apply(trial.stamp(), join, &mut effects)
    };
    for n in 0..MAX_AGENTS {
        assert!(matches!(join(&mut trial, n), Reply::Joined { .. }));
    }
    let full = Reply::Refused(Refusal::TooManyAgents { limit: MAX_AGENTS });
    assert_eq!(join(&mut trial, MAX_AGENTS), full);
    let lost = trial.fleet.agent_by_name("w7").map(|a| (a.id, a.session));
    let (agent, session) = lost.expect("it joined");
    trial.lose(crate::fixture::OpenSession { agent, session });
    assert!(matches!(join(&mut trial, MAX_AGENTS), Reply::Joined { .. }));
    assert!(trial.fleet.agent_by_name("w7").is_none());
}

#[test]
fn agents_bring_so_many_pools_with_them_and_more_join_those_that_are_known() {
    let mut trial = Trial::new();
    let mut effects = Vec::new();
    let mut join = |trial: &mut Trial, agent: usize, pool: usize| {
        let pool = Some(PoolShape { name: format!("p{pool}"), replicas: None, standby: 0 });
        let join = Command::Agent(AgentCommand::Joined(AgentJoin { pool, ..worker(&format!("w{agent}")) }));
        trial.fleet.apply(trial.stamp(), join, &mut effects)
    };
    for n in 0..MAX_KEPT_POOLS {
        assert!(matches!(join(&mut trial, n, n), Reply::Joined { .. }), "pool {n}");
    }
    let another = MAX_KEPT_POOLS;
    match join(&mut trial, another, another) {
        Reply::Refused(Refusal::Invalid { field, .. }) => assert_eq!(field, "pool"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(join(&mut trial, another, 7), Reply::Joined { .. }), "a pool that is known");
    let shape = |n: usize| PoolShape { name: format!("p{n}"), replicas: None, standby: 0 };
    trial.set_pools((another..another + MAX_POOLS).map(shape).collect());
    assert_eq!(trial.fleet.pools().len(), MAX_KEPT_POOLS + MAX_POOLS, "set pools may exceed the limit of joins");
    // Agents join these, and others are set.
    for n in 0..MAX_POOLS {
        assert!(matches!(join(&mut trial, another + 1 + n, another + n), Reply::Joined { .. }));
    }
    trial.set_pools((another + MAX_POOLS..another + 2 * MAX_POOLS).map(shape).collect());
    assert_eq!(trial.fleet.pools().len(), MAX_KEPT_POOLS + 2 * MAX_POOLS);
    assert_eq!(trial.fleet.audit(), Ok(()));
    robeing_fleet::Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
}

#[test]
fn only_the_newest_attempts_are_kept() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask {
        retry: Some(RetryPolicy { max_attempts: 100, initial_backoff: 0, ..RetryPolicy::default() }),
        ..task(1)
    });
    let last = MAX_KEPT_ATTEMPTS as u32 + 3;
    for attempt in 1..last {
        trial.complete(stay, id, attempt, failure(true));
    }
    let kept: Vec<u32> = trial.task(id).attempts.iter().map(|a| a.number).collect();
    assert_eq!(kept, (4..=last).collect::<Vec<_>>());
    assert_eq!(trial.task(id).attempts_used, last);
}

#[test]
fn long_texts_are_cut_at_a_character_the_message_behind_and_stderr_in_front() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    let long = "é".repeat(MAX_TEXT_BYTES);
    let Outcome::Failed(mut given) = failure(false) else {
        panic!("a failure");
    };
    given.message = format!("a{long}");
    given.stderr_tail = format!("{long}z");
    trial.complete(stay, id, 1, Outcome::Failed(given));
    let kept = trial.task(id).failure.clone().expect("it failed");
    assert!(kept.message.starts_with('a') && kept.message.len() == MAX_TEXT_BYTES - 1);
    assert!(kept.stderr_tail.ends_with('z') && kept.stderr_tail.len() == MAX_TEXT_BYTES - 1);
}

#[test]
fn results_are_taken_beyond_the_budget_up_to_a_bound_and_then_outputs_are_refused_and_texts_cut() {
    let config = FleetConfig { max_bytes: 1_000, ..FleetConfig::default() };
    let mut trial = Trial::with(config.clone());
    let stay = trial.join(AgentJoin { slots: 32, ..worker("a") });
    let ids: Vec<TaskId> = (1..=20).map(|n| trial.submit(SubmitTask { input: Bytes::new(), ..task(n) })).collect();
    let output = |bytes: u64| Outcome::Succeeded(Bytes::from(vec![0; bytes as usize]));
    let mut left = config.most_stored();
    assert_eq!(left, 1_000 + MIN_OVERDRAFT_BYTES);
    let mut ids = ids.into_iter();
    let mut complete = |trial: &mut Trial, outcome: Outcome| {
        let id = ids.next().unwrap();
        trial.complete(stay, id, 1, outcome);
        id
    };
    while left > MAX_INPUT_BYTES as u64 {
        let id = complete(&mut trial, output(MAX_INPUT_BYTES as u64));
        assert_eq!(trial.state(id), TaskState::Succeeded);
        left -= MAX_INPUT_BYTES as u64;
    }
    let id = complete(&mut trial, output(left + 1));
    let failure = trial.task(id).failure.clone().unwrap();
    assert_eq!((trial.state(id), failure.kind), (TaskState::Failed, FailureKind::OutputTooLarge));
    assert!(failure.message.starts_with("no room is left"), "{}", failure.message);
    // The failure message itself took some of the room.
    let left = config.most_stored() - trial.fleet.stored_bytes();
    let id = complete(&mut trial, output(left));
    assert_eq!(trial.state(id), TaskState::Succeeded);
    assert_eq!(trial.fleet.stored_bytes(), config.most_stored());
    let message = "m".repeat(MAX_TEXT_BYTES);
    let kind = FailureKind::Exit;
    let failure = Failure {
        kind,
        message,
        code: None,
        stderr_tail: "tail".into(),
        retryable: false,
        retry_after_ms: 0,
        name: String::new(),
    };
    let id = complete(&mut trial, Outcome::Failed(failure));
    let kept = trial.task(id).failure.clone().unwrap();
    assert_eq!((kept.message.len(), kept.stderr_tail.len()), (SCARCE_TEXT_BYTES, 0));
}

#[test]
fn a_configuration_whose_state_could_not_be_sent_as_a_snapshot_is_refused() {
    let tasks = |max_tasks, max_bytes| FleetConfig { max_tasks, max_bytes, ..FleetConfig::default() };
    let fixed = tasks(1, 0).largest_snapshot() - MIN_OVERDRAFT_BYTES;
    let most = (MAX_SNAPSHOT_BYTES - fixed) / 2;
    assert_eq!(tasks(1, most).check(), Ok(()));
    assert!(tasks(1, most).largest_snapshot() <= MAX_SNAPSHOT_BYTES);
    for (max_tasks, max_bytes) in [(1, most + 1), (1, u64::MAX), (2, most), (u32::MAX, 0), (u32::MAX, u64::MAX)] {
        let mut trial = Trial::new();
        let refused = trial.apply(Command::Control(ControlCommand::Configure(tasks(max_tasks, max_bytes))));
        let Reply::Refused(refusal @ Refusal::Invalid { .. }) = refused else { panic!("{refused:?}") };
        assert!(refusal.to_string().contains("a snapshot could have"), "{refusal}");
    }
    assert_eq!(FleetConfig::default().check(), Ok(()));
}

#[test]
fn hand_backs_are_free_up_to_a_limit_and_then_count_as_attempts() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask { retry: retry(2), ..task(1) });
    for attempt in 1..=MAX_FREE_HAND_BACKS {
        trial.complete(stay, id, attempt, Outcome::HandedBack);
        assert_eq!(trial.task(id).attempts_used, 1, "only the running one");
    }
    trial.complete(stay, id, MAX_FREE_HAND_BACKS + 1, Outcome::HandedBack);
    assert_eq!(trial.task(id).attempts_used, 2);
    trial.complete(stay, id, MAX_FREE_HAND_BACKS + 2, Outcome::HandedBack);
    assert_eq!(trial.state(id), TaskState::DeadLettered);
}

#[test]
fn one_command_fires_a_bounded_number_of_timers_and_the_next_one_goes_on() {
    let mut trial = Trial::new();
    let more = MAX_FIRINGS as u128 + 5;
    let mut effects = Vec::new();
    for n in 0..more {
        let submission = SubmitTask { deadline_in: Some(10), ..task(n) };
        trial.fleet.apply(trial.stamp(), Command::Task(TaskCommand::Submit(submission)), &mut effects);
    }
    trial.after(10);
    assert_eq!(trial.fleet.counts().failed, MAX_FIRINGS as u32);
    assert!(trial.fleet.next_due() <= Some(trial.now), "more timers are due");
    trial.after(0);
    assert_eq!(trial.fleet.counts().failed, more as u32);
}

#[test]
fn times_beyond_the_last_one_known_do_no_harm() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    trial.now = u64::MAX;
    let id = trial.submit(SubmitTask { deadline_in: Some(MAX_DURATION_MS), ..task(1) });
    assert_eq!(trial.complete(stay, id, 1, success()), Reply::Completed);
    assert_eq!(trial.fleet.now(), Stamp::at(MAX_TIME_MS));
}

#[test]
fn what_is_refused_for_lack_of_room_is_known_beforehand_and_what_is_known_never_is() {
    let mut trial = Trial::with(FleetConfig { max_queued: 2, max_bytes: 1_000, ..FleetConfig::default() });
    let keyed = SubmitTask { idempotency_key: Some("key".into()), ..task(1) };
    let large = SubmitTask { input: Bytes::from(vec![0; 2_000]), ..task(2) };
    for (submission, refused) in [
        (keyed.clone(), false),
        (large, true),
        (SubmitTask { priority: 0, ..task(2) }, true),
        (task(2), false),
        // The queue is full now, but not for tasks known by id or key, whether or not their content is the same.
        (task(3), true),
        (keyed.clone(), false),
        (SubmitTask { id: task(4).id, ..keyed.clone() }, false),
        (SubmitTask { kind: "another".into(), ..keyed }, false),
    ] {
        let beforehand = trial.fleet.refusal_of(&submission);
        assert_eq!(beforehand.is_some(), refused, "{submission:?}");
        let reply = trial.apply(Command::Task(TaskCommand::Submit(submission)));
        match beforehand {
            Some(refusal) => assert_eq!(reply, Reply::Refused(refusal)),
            None => assert!(!matches!(reply, Reply::Refused(Refusal::QueueFull { .. } | Refusal::StorageFull { .. }))),
        }
    }
}

#[test]
fn an_outcome_within_its_limits_is_left_alone_and_another_is_what_it_would_count_as() {
    for kept in [success(), failure(true), Outcome::Stopped, Outcome::HandedBack] {
        assert_eq!(kept.clone().within_limits(), kept);
    }
    let output = |bytes| Outcome::Succeeded(Bytes::from(vec![0; bytes]));
    assert_eq!(output(MAX_INPUT_BYTES).within_limits(), output(MAX_INPUT_BYTES));
    let too_large = output(MAX_INPUT_BYTES + 1).within_limits();
    assert!(matches!(&too_large, Outcome::Failed(failure) if failure.kind == FailureKind::OutputTooLarge));
    assert_eq!(too_large.clone().within_limits(), too_large);
}
