//! What kinds of tasks need by default, and the records of agents by kind.

use bytes::Bytes;
use proptest::prelude::*;
use robeing_fleet::{
    AgentJoin, Amounts, Command, ControlCommand, Demand, FleetConfig, Jitter, Join, KindCommand, QueueRules, Refusal,
    Reply, RetryDefaults, RetryPolicy, Role, Splitter, SubmitTask, TaskCommand, TaskId, TaskKind, TaskResources,
    Timing,
    limits::{
        JOINING_MS, MAX_ATTEMPTS, MAX_DURATION_MS, MAX_NAME_BYTES, MAX_SLOTS, MAX_SPREAD_PARTS, MAX_TASK_KINDS,
        MAX_TASK_SKILLS,
    },
};

use crate::{
    codec::{hex, stable},
    fixture::{OpenSession, Trial, amounts, failure, specialist, success, worker},
    kind_samples::kind_commands,
    ops::{KINDS, ROLES},
    queue_samples::in_lane,
    time_samples, timing,
};

prop_compose! {
    fn kind()(
        name in 0..4usize, role in prop::option::weighted(0.3, 0..4usize), skills in prop::collection::vec(0..4usize, 0..3),
        slots in 0..4u32, cpu in prop::option::weighted(0.2, 0..3u64), queue in prop::bool::weighted(0.9),
        deadline_in in prop::option::weighted(0.2, 0..20_000u64),
        attempt_timeout in prop::option::weighted(0.2, 0..3_000u64),
        max_attempts in prop::option::weighted(0.3, 0..4u32),
        timing in prop::option::weighted(0.3, timing::asked()),
    ) -> TaskKind {
        let queue = if queue { "default" } else { "nowhere" }.to_owned();
        let amounts = cpu.map(|cpu| Amounts { cpu, ..Amounts::NONE });
        TaskKind {
            name: KINDS[name].to_owned(),
            role: role.map(|role| ROLES[role]),
            skills: skills.into_iter().map(|skill| KINDS[skill].to_owned()).collect(),
            slots,
            queue: if amounts.is_none() && slots % 2 == 1 { queue.clone() } else { String::new() },
            resources: amounts.map(|amounts| Box::new(TaskResources { amounts, queue })),
            deadline_in,
            attempt_timeout,
            retry: RetryDefaults { max_attempts, ..RetryDefaults::default() },
            timing: timing.map(Box::new),
            agents: slots,
            splitter: (slots < 3 || name > 0).then(Box::default),
        }
    }
}

/// Kinds that sometimes repeat a name or a skill, ask for nothing, are from a queue that there is not, or are split without
/// a splitter, and are refused.
pub fn command() -> impl Strategy<Value = Command> {
    let kinds = prop::collection::vec(kind(), 0..3);
    kinds.prop_map(|kinds| Command::Kind(KindCommand::Set { kinds, by: "carol".to_owned() }))
}

fn of(n: u128, kind: &str) -> SubmitTask {
    SubmitTask::new(TaskId(n), kind, Bytes::new())
}

fn named(name: &str) -> TaskKind {
    TaskKind { name: name.to_owned(), ..TaskKind::default() }
}

fn whole() -> TaskKind {
    TaskKind {
        role: Some(Role::Specialist),
        skills: vec!["ocr".to_owned(), "law".to_owned()],
        slots: 2,
        resources: Some(Box::new(TaskResources { amounts: amounts(1, 0), queue: "default".to_owned() })),
        deadline_in: Some(60_000),
        attempt_timeout: Some(5_000),
        retry: RetryDefaults { max_attempts: Some(7), ..RetryDefaults::default() },
        timing: Some(Box::new(time_samples::timing())),
        ..named("read")
    }
}

#[test]
fn a_task_needs_what_its_kind_says_unless_it_says_otherwise() {
    let mut trial = Trial::newest();
    assert!(matches!(trial.set_kinds(vec![whole()]), Reply::KindsSet { .. }));
    let id = trial.submit(of(1, "read"));
    let (task, now) = (trial.task(id), trial.now);
    assert_eq!((task.required_role, task.slots()), (Some(Role::Specialist), 2));
    assert_eq!((task.required_specialization.as_deref(), task.skills()), (Some("ocr"), &["law".to_owned()][..]));
    assert_eq!((task.deadline, task.attempt_timeout), (Some(now + 60_000), Some(5_000)));
    assert_eq!(task.resources.as_ref().map(|claim| claim.asked.amounts), Some(amounts(1, 0)));
    assert_eq!(task.retry, RetryPolicy { max_attempts: 7, ..FleetConfig::default().retry });
    let own = SubmitTask {
        required_role: Some(Role::Worker),
        required_specialization: Some("sum".to_owned()),
        demand: Some(Box::new(Demand { slots: 1, ..Demand::default() })),
        deadline_in: Some(1),
        attempt_timeout: Some(2),
        retry: Some(RetryPolicy::default()),
        resources: Some(Box::new(TaskResources { amounts: amounts(9, 0), queue: "default".to_owned() })),
        ..of(2, "read")
    };
    let id = trial.submit(own);
    let task = trial.task(id);
    assert_eq!((task.required_role, task.slots(), task.skills().len()), (Some(Role::Worker), 1, 0));
    assert_eq!((task.deadline, task.attempt_timeout, task.retry), (Some(now + 1), Some(2), RetryPolicy::default()));
    assert_eq!(task.required_specialization.as_deref(), Some("sum"));
    assert_eq!(task.resources.as_ref().map(|claim| claim.asked.amounts), Some(amounts(9, 0)));
    let other = trial.submit(of(3, "write"));
    assert_eq!((trial.task(other).required_role, trial.task(other).slots()), (None, 1), "of another kind");
}

#[test]
fn rules_about_time_and_retries_are_those_of_the_kind_where_a_task_has_none() {
    let mut trial = Trial::newest();
    trial.set_kinds(vec![whole()]);
    let rules = |trial: &Trial, id| trial.task(id).timing.as_ref().expect("it has some").asked.clone();
    let first = trial.submit(of(1, "read"));
    let of_kind = time_samples::timing();
    let jitter = |seed| Some(Jitter { percent: 50, seed });
    assert_eq!(rules(&trial, first), Timing { jitter: jitter(1), ..of_kind.clone() });
    assert_eq!(trial.task(first).queue_until(), Some(trial.now + 30_000));
    let own = Timing { queue_expiry: Some(9), jitter: jitter(7), ..Timing::default() };
    let second = trial.submit(SubmitTask { timing: Some(Box::new(own.clone())), ..of(2, "read") });
    let Timing { progress_timeout, non_retryable, .. } = of_kind;
    assert_eq!(rules(&trial, second), Timing { progress_timeout, non_retryable, ..own });
    let other = trial.submit(of(3, "write"));
    assert_eq!(trial.task(other).timing, None);
}

#[test]
fn what_a_kind_takes_of_the_resource_pool_counts_for_the_queue_that_a_task_names() {
    let mut trial = Trial::newest();
    trial.set_queues(&[("batch", QueueRules::of_weight(1))]);
    trial.set_kinds(vec![whole()]);
    let queue_of = |trial: &Trial, id| trial.task(id).resources.as_ref().map(|claim| claim.asked.queue.clone());
    let own = trial.submit(in_lane(of(1, "read"), "batch", ""));
    assert_eq!((queue_of(&trial, own).as_deref(), trial.task(own).queue()), (Some("batch"), "batch"));
    let other = trial.submit(of(2, "read"));
    assert_eq!((queue_of(&trial, other).as_deref(), trial.task(other).queue()), (Some("default"), "default"));
}

#[test]
fn tasks_wait_in_the_queue_of_their_kind_unless_they_name_one_or_need_resources_of_their_own() {
    let mut trial = Trial::newest();
    let of_queue = |queue: &str| vec![TaskKind { queue: queue.to_owned(), ..named("read") }];
    assert!(matches!(trial.set_kinds(of_queue("batch")), Reply::Refused(Refusal::Invalid { .. })), "it was not set");
    trial.set_queues(&[("batch", QueueRules::of_weight(1)), ("other", QueueRules::of_weight(1))]);
    assert!(matches!(trial.set_kinds(of_queue("batch")), Reply::KindsSet { .. }));
    let needing = SubmitTask {
        resources: Some(Box::new(TaskResources { amounts: amounts(1, 0), queue: "other".to_owned() })),
        ..of(4, "read")
    };
    let waits_in = [
        (of(1, "read"), "batch"),
        (in_lane(of(2, "read"), "", "key"), "batch"),
        (in_lane(of(3, "read"), "other", ""), "other"),
        (needing, "other"),
        (of(5, "write"), "default"),
    ];
    for (submission, queue) in waits_in {
        let id = trial.submit(submission);
        assert_eq!(trial.task(id).queue(), queue, "{id}");
    }
    assert_eq!(trial.task(TaskId(2)).limit_key(), "key");
    let resources = Some(Box::new(TaskResources { amounts: amounts(1, 0), queue: "other".to_owned() }));
    let both = TaskKind { resources, ..of_queue("batch").remove(0) };
    assert!(TaskKind::check_all(&[both]).is_err(), "one queue");
}

#[test]
fn kinds_count_from_when_they_are_set_and_setting_them_again_changes_nothing() {
    let mut trial = Trial::newest();
    let before = trial.submit(of(1, "read"));
    assert_eq!(trial.set_kinds(Vec::new()), Reply::KindsSet { revision: 0 });
    let Reply::KindsSet { revision } = trial.set_kinds(vec![named("write"), whole()]) else { panic!("not set") };
    assert_eq!(revision, trial.fleet.revision());
    assert_eq!(trial.task(before).slots(), 1, "it was accepted before");
    assert_eq!(trial.set_kinds(vec![whole(), named("write")]), Reply::KindsSet { revision }, "in any order");
    assert_eq!(trial.fleet.revision(), revision);
    trial.set_kinds(Vec::new());
    let after = trial.submit(of(2, "read"));
    assert_eq!(trial.task(after).slots(), 1, "nothing is set any more");
    let records: Vec<_> = trial.fleet.audit_records(0, 10).map(|record| (&*record.action, &*record.detail)).collect();
    assert_eq!(records, [("kinds.set", "2: read, write"), ("kinds.set", "none")]);
}

#[test]
fn what_a_submission_would_be_refused_for_because_of_its_kind_is_known_beforehand() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    trial.contribute(stay, amounts(4, 0));
    trial.after(JOINING_MS);
    let resources = Some(Box::new(TaskResources { amounts: amounts(5, 0), queue: "default".to_owned() }));
    trial.set_kinds(vec![TaskKind { resources, ..named("large") }]);
    let beforehand = trial.fleet.refusal_of(&of(1, "large"));
    assert!(matches!(beforehand, Some(Refusal::InsufficientResources { .. })), "{beforehand:?}");
    let submit = TaskCommand::Submit(of(1, "large"));
    assert_eq!(trial.apply(Command::Task(submit)), Reply::Refused(beforehand.expect("it is refused")));
}

#[test]
fn kinds_are_held_to_their_limits() {
    let many = |count: usize| (0..count).map(|n| named(&format!("k{n}"))).collect::<Vec<_>>();
    let one = |change: fn(&mut TaskKind)| {
        let mut kind = whole();
        change(&mut kind);
        TaskKind::check_all(&[kind])
    };
    assert_eq!(TaskKind::check_all(&many(MAX_TASK_KINDS)), Ok(()));
    assert!(TaskKind::check_all(&many(MAX_TASK_KINDS + 1)).is_err());
    assert!(TaskKind::check_all(&[named("a"), named("a")]).is_err(), "each name once");
    assert_eq!(one(|_| {}), Ok(()));
    assert_eq!(one(|kind| kind.slots = MAX_SLOTS), Ok(()));
    assert!(one(|kind| kind.slots = MAX_SLOTS + 1).is_err());
    assert_eq!(one(|kind| kind.skills = (0..MAX_TASK_SKILLS).map(|n| n.to_string()).collect()), Ok(()));
    assert!(one(|kind| kind.skills = (0..=MAX_TASK_SKILLS).map(|n| n.to_string()).collect()).is_err());
    assert!(one(|kind| kind.skills = vec!["a".to_owned(), "a".to_owned()]).is_err());
    assert!(one(|kind| kind.name.clear()).is_err());
    assert_eq!(one(|kind| kind.deadline_in = Some(MAX_DURATION_MS)), Ok(()));
    assert!(one(|kind| kind.deadline_in = Some(MAX_DURATION_MS + 1)).is_err());
    assert!(one(|kind| kind.attempt_timeout = Some(0)).is_err());
    let timed = |queue_expiry| Some(Box::new(Timing { queue_expiry, ..Timing::default() }));
    let with = |timing| TaskKind::check_all(&[TaskKind { timing, ..whole() }]);
    assert_eq!(with(timed(Some(MAX_DURATION_MS))), Ok(()));
    assert!(with(timed(Some(MAX_DURATION_MS + 1))).is_err());
    assert_eq!(one(|kind| kind.retry.max_attempts = Some(MAX_ATTEMPTS)), Ok(()));
    let refused = one(|kind| kind.retry.max_attempts = Some(MAX_ATTEMPTS + 1)).map_err(|refusal| refusal.to_string());
    assert!(refused.is_err_and(|text| text.contains("kinds.retry.max_attempts") && text.contains("\"read\"")));
    let mut trial = Trial::newest();
    let nowhere = Some(Box::new(TaskResources { amounts: amounts(1, 0), queue: "nowhere".to_owned() }));
    let reply = trial.set_kinds(vec![TaskKind { resources: nowhere, ..named("k") }]);
    assert!(matches!(reply, Reply::Refused(Refusal::Invalid { .. })), "{reply:?}");
    assert_eq!(trial.fleet.task_kinds(), None);
}

#[test]
fn how_the_tasks_of_a_kind_are_split_is_held_to_its_limits() {
    let split = |agents, splitter: Option<Splitter>| {
        TaskKind::check_all(&[TaskKind { agents, splitter: splitter.map(Box::new), ..named("k") }])
    };
    let by = |join, part_kind: &str| Some(Splitter { join, part_kind: part_kind.to_owned(), ..Splitter::default() });
    assert_eq!(split(MAX_SPREAD_PARTS, by(Join::Reduce, "part")), Ok(()));
    assert!(split(MAX_SPREAD_PARTS + 1, by(Join::All, "")).is_err());
    assert_eq!([split(1, None), split(0, by(Join::All, ""))], [Ok(()), Ok(())]);
    assert!(split(2, None).is_err(), "nothing divides the input");
    assert!([Join::Quorum, Join::Resume].into_iter().all(|join| split(2, by(join, "")).is_err()));
    let longest = "k".repeat(MAX_NAME_BYTES);
    assert_eq!(split(2, by(Join::All, &longest)), Ok(()));
    assert!(split(2, by(Join::All, &format!("{longest}k"))).is_err());
}

/// Runs a task of this kind on an agent that is the only free one that fits.
fn run(trial: &mut Trial, stay: OpenSession, n: u128, kind: &str, succeeds: bool) {
    let id = trial.submit(SubmitTask { required_specialization: Some(skill_of(trial, stay)), ..of(n, kind) });
    let outcome = if succeeds { success() } else { failure(false) };
    assert_eq!(trial.complete(stay, id, 1, outcome), Reply::Completed);
}

fn skill_of(trial: &Trial, stay: OpenSession) -> String {
    trial.fleet.agent(stay.agent).map(|agent| agent.specializations[0].to_string()).expect("it has one")
}

#[test]
fn an_agent_that_fails_at_one_kind_is_still_chosen_for_another() {
    let mut trial = Trial::newest();
    let stays = ["a", "b"].map(|name| trial.join(AgentJoin { role: Role::Worker, ..specialist(name, name) }));
    for n in 0..4 {
        run(&mut trial, stays[0], 10 + n, "scan", false);
        run(&mut trial, stays[0], 20 + n, "sum", true);
        run(&mut trial, stays[1], 30 + n, "scan", true);
        run(&mut trial, stays[1], 40 + n, "sum", false);
    }
    let scan = trial.submit(of(1, "scan"));
    assert_eq!(trial.holder(scan), Some(stays[1].agent));
    trial.complete(stays[1], scan, 1, success());
    let sum = trial.submit(of(2, "sum"));
    assert_eq!(trial.holder(sum), Some(stays[0].agent));
    let agent = trial.fleet.agent(stays[0].agent).expect("it has joined");
    assert!(agent.performance_of("sum") > agent.record.performance());
    assert!(agent.performance_of("scan") < agent.record.performance());
    assert_eq!(agent.performance_of("another"), agent.record.performance());
    let performance = trial.task(sum).attempts[0].score.performance;
    assert_eq!(performance, 20 * i64::from(agent.performance_of("sum")), "as it was chosen");
}

#[test]
fn the_loss_of_an_agent_counts_for_all_its_kinds() {
    let mut trial = Trial::newest();
    let stay = trial.join(specialist("a", "a"));
    run(&mut trial, stay, 1, "scan", true);
    run(&mut trial, stay, 2, "sum", true);
    let shares = |trial: &Trial| {
        let agent = trial.fleet.agent(stay.agent).expect("it is remembered");
        agent.kinds.iter().map(|record| record.success).collect::<Vec<_>>()
    };
    let before = shares(&trial);
    trial.lose(stay);
    let after = shares(&trial);
    assert_eq!(after.len(), 2);
    assert!(before.iter().zip(&after).all(|(before, after)| after < before), "{before:?} {after:?}");
}

#[test]
fn the_bytes_of_a_snapshot_with_kinds_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(4)));
    let stay = trial.join(AgentJoin { slots: 4, ..worker("a") });
    for command in kind_commands() {
        trial.apply(command);
    }
    let (task, attempt) = trial.held_by(stay);
    trial.complete(stay, task, attempt, success());
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}
