//! Queues of tasks: whose turn it is, what limits hold back, and what is kept of it in snapshots.

use std::collections::BTreeMap;

use robeing_fleet::{
    AgentJoin, AttemptEnd, CodecError, Command, ControlCommand, Fleet, FleetConfig, Join, Limit, Progress,
    QueueFigures, QueueRules, Rate, Refusal, Reply, Served, SubmitTask, TaskCommand, TaskId, TaskResources, TaskState,
    known_version,
    limits::{DEFAULT_INITIAL_BACKOFF_MS, QUEUE_RETRY_MS, SHARE_STEP},
};

use crate::{
    codec::{as_of_the_first_version, hex, stable},
    fixture::{OpenSession, Trial, amounts, answered, failure, retry, success, task, to_verify, worker},
    links::{children, part, split, suspended, with_slots},
    queue_samples::{at_once, in_lane, limited, of_identity, per_time, queue_commands, update},
};

fn submit(trial: &mut Trial, n: u128, queue: &str, key: &str) -> TaskId {
    trial.submit(in_lane(task(n), queue, key))
}

fn refusal(trial: &mut Trial, submission: SubmitTask) -> Refusal {
    match trial.apply(Command::Task(TaskCommand::Submit(submission))) {
        Reply::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

/// Completes what an agent runs, and returns the number of the task that it takes next.
fn next(trial: &mut Trial, stay: OpenSession) -> u128 {
    let (id, attempt) = trial.held_by(stay);
    trial.complete(stay, id, attempt, success());
    trial.assigned().first().expect("a task waits").0.0
}

fn waits_for(trial: &Trial, id: TaskId) -> String {
    trial.fleet.waiting_for(id, trial.now).expect("it waits")
}

#[test]
fn one_queue_with_one_submitter_has_the_order_of_priority_and_acceptance_and_nothing_is_counted() {
    let (mut trial, stay) = with_slots(1);
    trial.submit(task(1));
    for (n, priority) in [(2, 5), (3, 9), (4, 5), (5, 1), (6, 9)] {
        trial.submit(SubmitTask { priority, ..task(n) });
    }
    for expected in [3, 6, 2, 4, 5] {
        assert_eq!(next(&mut trial, stay), expected);
        let served = |id| trial.fleet.served(trial.task(TaskId(id)));
        assert!((1..=6).all(|id| served(id) == Served::default()));
    }
}

#[test]
fn a_few_tasks_of_one_submitter_do_not_wait_for_the_many_of_another() {
    let others: [fn(SubmitTask) -> SubmitTask; 2] = [
        |task| SubmitTask { submitter: "ben".to_owned(), ..task },
        // Both give the same name, and only one is known.
        |task| of_identity(task, "client:ben"),
    ];
    for of_other in others {
        let (mut trial, stay) = with_slots(1);
        for n in 1..=40 {
            trial.submit(SubmitTask { priority: 10, ..task(n) });
        }
        assert_eq!([next(&mut trial, stay), next(&mut trial, stay)], [2, 3]);
        for n in 101..=103 {
            trial.submit(of_other(SubmitTask { priority: 1, ..task(n) }));
        }
        let order: Vec<u128> = (0..8).map(|_| next(&mut trial, stay)).collect();
        assert_eq!(order, [4, 101, 5, 102, 6, 103, 7, 8]);
    }
}

#[test]
fn queues_are_served_by_their_weights_whatever_the_priorities_in_others() {
    let (mut trial, stay) = with_slots(1);
    trial.set_queues(&[("heavy", QueueRules::of_weight(3)), ("light", QueueRules::of_weight(1))]);
    submit(&mut trial, 1, "default", "");
    for n in 0..40 {
        submit(&mut trial, 100 + n, "heavy", "");
        trial.submit(SubmitTask { priority: 10, ..in_lane(task(200 + n), "light", "") });
    }
    let heavy = (0..40).map(|_| next(&mut trial, stay)).filter(|n| *n < 200).count();
    assert_eq!(heavy, 30);
}

#[test]
fn at_most_so_many_tasks_of_a_queue_run_at_once_and_nothing_else_waits_for_them() {
    let (mut trial, stay) = with_slots(4);
    trial.set_queues(&[("batch", limited(vec![at_once("", 2)]))]);
    let ids = [1, 2, 3, 4].map(|n| submit(&mut trial, n, "batch", ""));
    let states = |trial: &Trial| ids.map(|id| trial.state(id));
    let (queued, assigned) = (TaskState::Queued, TaskState::Assigned);
    assert_eq!(states(&trial), [assigned, assigned, queued, queued]);
    let text = "a limit of queue \"batch\": at most 2 of its tasks may run at a time, and 2 do";
    assert_eq!(waits_for(&trial, ids[2]), text);
    let other = trial.submit(task(9));
    assert_eq!(trial.holder(other), Some(stay.agent));
    trial.complete(stay, ids[0], 1, success());
    assert_eq!(trial.assigned(), [(ids[2], 1)]);
    let view = trial.fleet.task_queue("batch").expect("it is set");
    assert_eq!((view.unfinished, view.running, view.is_held), (3, 2, true));
}

#[test]
fn a_key_has_its_own_limit_or_that_of_each_key() {
    let (mut trial, stay) = with_slots(20);
    trial.set_queues(&[("batch", limited(vec![at_once("*", 1), at_once("big", 3), at_once("", 6)]))]);
    let keys = ["a", "a", "b", "big", "big", "big", "big", "", "", "b", "c"];
    let ids: Vec<TaskId> = (1..).zip(keys).map(|(n, key)| submit(&mut trial, n, "batch", key)).collect();
    let runs = |trial: &Trial| ids.iter().map(|id| trial.state(*id) == TaskState::Assigned).collect::<Vec<_>>();
    let first = [true, false, true, true, true, true, false, true, false, false, false];
    assert_eq!(runs(&trial), first, "one without a key fits under the limit of the queue");
    assert_eq!(
        waits_for(&trial, ids[8]),
        "a limit of queue \"batch\": at most 6 of its tasks may run at a time, and 6 do"
    );
    trial.complete(stay, ids[3], 1, success());
    assert_eq!(trial.assigned(), [(ids[6], 1)], "the first that need not wait for its key");
    trial.complete(stay, ids[2], 1, success());
    assert_eq!(trial.assigned(), [(ids[8], 1)], "accepted before the other one of its key, which now could, too");
    trial.set_queues(&[("batch", limited(vec![at_once("*", 1), at_once("big", 3)]))]);
    assert_eq!(trial.assigned(), [(ids[9], 1), (ids[10], 1)]);
    let text = "a limit of key \"a\" of queue \"batch\": at most 1 of its tasks may run at a time, and one does";
    assert_eq!(waits_for(&trial, ids[1]), text);
}

#[test]
fn a_lower_limit_ends_nothing_and_a_higher_one_holds_at_once() {
    let (mut trial, stay) = with_slots(9);
    let most = |most| [("batch", limited(vec![at_once("", most)]))];
    trial.set_queues(&most(3));
    let ids: Vec<TaskId> = (1..=6).map(|n| submit(&mut trial, n, "batch", "")).collect();
    trial.set_queues(&most(1));
    let running = |trial: &Trial| ids.iter().filter(|id| trial.state(**id) == TaskState::Assigned).count();
    assert_eq!(running(&trial), 3);
    for left in [2, 1] {
        trial.complete(stay, ids[left], 1, success());
        assert_eq!((running(&trial), trial.assigned()), (left, Vec::new()));
    }
    trial.complete(stay, ids[0], 1, success());
    assert_eq!(trial.assigned(), [(ids[3], 1)]);
    trial.set_queues(&most(2));
    assert_eq!(trial.assigned(), [(ids[4], 1)]);
    assert_eq!(trial.apply(update(&[], &["batch"])), Reply::Done);
    assert_eq!(trial.assigned(), [(ids[5], 1)], "one of a queue that is removed has no limits");
}

#[test]
fn a_free_agent_gets_the_first_of_those_that_a_limit_held_back() {
    let mut trial = Trial::newest();
    trial.set_queues(&[("batch", limited(vec![at_once("", 1)]))]);
    let (one, two) = (trial.join(worker("a")), trial.join(worker("b")));
    let first = submit(&mut trial, 1, "batch", "");
    let last = trial.submit(SubmitTask { priority: 1, ..in_lane(task(2), "batch", "") });
    let urgent = trial.submit(SubmitTask { priority: 9, ..in_lane(task(3), "batch", "") });
    assert_eq!(trial.holder(first), Some(one.agent));
    trial.cancel(first);
    assert_eq!(trial.holder(urgent), Some(two.agent), "its agent has yet to stop the other one");
    trial.lose(two);
    assert_eq!((trial.holder(urgent), trial.state(last)), (None, TaskState::Queued), "no agent is free");
    let three = trial.join(worker("c"));
    assert_eq!(trial.holder(urgent), Some(three.agent));
}

#[test]
fn attempts_begin_no_faster_than_a_rate_and_its_burst_allow() {
    let (mut trial, stay) = with_slots(20);
    trial.set_queues(&[("mail", limited(vec![per_time("", 1, 1_000, 2)]))]);
    let ids: Vec<TaskId> = (1..=9).map(|n| submit(&mut trial, n, "mail", "")).collect();
    let started = |trial: &Trial| ids.iter().filter(|id| trial.holder(**id) == Some(stay.agent)).count();
    assert_eq!(started(&trial), 2);
    assert_eq!(waits_for(&trial, ids[2]), "a limit of queue \"mail\": another of its tasks may start in 1 s");
    assert_eq!(trial.fleet.next_due(), Some(trial.now + 1_000));
    trial.after(999);
    assert_eq!(started(&trial), 2);
    trial.after(1);
    assert_eq!((started(&trial), trial.assigned()), (3, vec![(ids[2], 1)]));
    trial.after(1_500);
    assert_eq!(started(&trial), 4);
    trial.after(500);
    assert_eq!(started(&trial), 5, "half a token was left");
    for id in &ids[..5] {
        trial.complete(stay, *id, 1, success());
    }
    trial.after(3_600_000);
    assert_eq!(trial.assigned().len(), 2, "no more than the burst");
}

#[test]
fn another_attempt_takes_another_token() {
    let (mut trial, stay) = with_slots(1);
    trial.set_queues(&[("mail", limited(vec![per_time("*", 1, 60_000, 1)]))]);
    let id = trial.submit(SubmitTask { retry: retry(3), ..in_lane(task(1), "mail", "smtp") });
    trial.complete(stay, id, 1, failure(true));
    trial.after(59_999);
    assert_eq!(trial.holder(id), None);
    assert_eq!(
        waits_for(&trial, id),
        "a limit of key \"smtp\" of queue \"mail\": another of its tasks may start in 1 ms"
    );
    trial.after(1);
    assert_eq!(trial.assigned(), [(id, 2)]);
}

#[test]
fn a_rate_that_is_set_anew_begins_with_all_tokens_and_one_that_stays_goes_on() {
    let (mut trial, _) = with_slots(9);
    let two = |per| limited(vec![per_time("", 1, per, 1), at_once("x", 5)]);
    trial.set_queues(&[("mail", two(1_000))]);
    let ids: Vec<TaskId> = (1..=3).map(|n| submit(&mut trial, n, "mail", "")).collect();
    trial.set_queues(&[("mail", QueueRules { weight: 7, limits: vec![per_time("", 1, 1_000, 1)], ..two(1) })]);
    assert_eq!(trial.holder(ids[1]), None);
    trial.set_queues(&[("mail", two(2_000))]);
    assert_eq!(trial.assigned(), [(ids[1], 1)]);
    assert_eq!(trial.fleet.next_due(), Some(trial.now + 2_000));
}

#[test]
fn the_priority_of_what_waits_grows_as_its_queue_says() {
    for (waited, aging, expected) in [(7_999, 1_000, 3), (8_000, 1_000, 2), (1_000_000, 0, 3)] {
        let (mut trial, stay) = with_slots(1);
        trial.set_queues(&[("old", QueueRules { aging, ..QueueRules::of_weight(1) })]);
        submit(&mut trial, 1, "old", "");
        trial.submit(SubmitTask { priority: 1, ..in_lane(task(2), "old", "") });
        trial.after(waited);
        trial.submit(SubmitTask { priority: 9, ..in_lane(task(3), "old", "") });
        assert_eq!(next(&mut trial, stay), expected, "{waited} ms, {aging} ms");
    }
}

#[test]
fn another_speed_of_aging_holds_for_what_waits_too() {
    let (mut trial, stay) = with_slots(1);
    submit(&mut trial, 1, "default", "");
    for n in 2..40 {
        trial.submit(SubmitTask { priority: 1, ..task(n) });
    }
    trial.after(10_000);
    trial.submit(SubmitTask { priority: 9, ..task(100) });
    trial.set_queues(&[("default", QueueRules { aging: 1_000, ..QueueRules::of_weight(1) })]);
    assert_eq!(next(&mut trial, stay), 2);
    trial.set_queues(&[("default", QueueRules::of_weight(1))]);
    assert_eq!(next(&mut trial, stay), 100);
}

#[test]
fn a_queue_takes_no_more_than_its_most_unfinished_tasks_and_says_when_to_come_again() {
    let (mut trial, stay) = with_slots(1);
    let full = |retry_after_ms| Refusal::TaskQueueFull { queue: "small".to_owned(), limit: 2, retry_after_ms };
    let small = QueueRules { max_unfinished: Some(2), ..QueueRules::of_weight(1) };
    trial.set_queues(&[("small", small.clone())]);
    let first = submit(&mut trial, 1, "small", "");
    submit(&mut trial, 2, "small", "");
    let refused = refusal(&mut trial, in_lane(task(3), "small", ""));
    assert_eq!((refused.retry_after_ms(), &refused), (Some(QUEUE_RETRY_MS), &full(QUEUE_RETRY_MS)));
    trial.submit(task(3));
    trial.set_queues(&[("small", QueueRules { limits: vec![per_time("", 2, 10_000, 1)], ..small })]);
    assert_eq!(refusal(&mut trial, in_lane(task(4), "small", "")), full(5_000), "when the next one may start");
    trial.complete(stay, first, 1, success());
    submit(&mut trial, 4, "small", "");
}

#[test]
fn the_most_of_a_queue_holds_for_parts_and_subtasks_too() {
    let small = || [("small", QueueRules { max_unfinished: Some(2), ..QueueRules::of_weight(1) })];
    let (mut trial, _) = with_slots(1);
    trial.set_queues(&small());
    // Places for its parts are kept in the queue of the task, and in no other one.
    trial.submit(split(1, 3, Join::All));
    for (n, index) in [(10, 0), (11, 1)] {
        trial.submit(in_lane(part(n, 1, index), "small", ""));
    }
    let refused = refusal(&mut trial, in_lane(part(12, 1, 2), "small", ""));
    assert!(matches!(refused, Refusal::TaskQueueFull { limit: 2, .. }), "{refused:?}");
    trial.submit(part(12, 1, 2));
    let (mut trial, stay) = with_slots(1);
    trial.set_queues(&small());
    let id = submit(&mut trial, 1, "small", "");
    trial.complete(stay, id, 1, suspended(2));
    let again = trial.task(id);
    assert_eq!((again.state, again.attempts[0].end), (TaskState::Queued, Some(AttemptEnd::Failed)));
    trial.after(DEFAULT_INITIAL_BACKOFF_MS);
    trial.complete(stay, id, 2, suspended(1));
    assert_eq!(children(&trial, 1).len(), 1);
    assert_eq!(trial.fleet.task_queue("small").map(|view| view.unfinished), Some(2));
}

#[test]
fn tasks_name_a_queue_that_is_set_and_no_other_one_than_their_resources() {
    let (mut trial, _) = with_slots(1);
    let names_queue = |refusal: Refusal| matches!(refusal, Refusal::Invalid { field, .. } if field == "queue");
    assert!(names_queue(refusal(&mut trial, in_lane(task(1), "nowhere", ""))));
    trial.set_queues(&[("batch", QueueRules::of_weight(1)), ("other", QueueRules::of_weight(1))]);
    let resources = Some(Box::new(TaskResources { amounts: amounts(1, 0), queue: "other".to_owned() }));
    let mut torn = in_lane(task(1), "batch", "");
    torn.resources = resources;
    assert!(names_queue(refusal(&mut trial, torn)));
    submit(&mut trial, 1, "batch", "");
    trial.apply(update(&[], &["batch", "unknown"]));
    assert!(names_queue(refusal(&mut trial, in_lane(task(2), "batch", ""))));
    assert!(trial.fleet.task_queue("batch").is_some_and(|view| view.rules.is_none()), "one of its tasks is there");
    assert_eq!(trial.fleet.task_queue("unknown"), None);
}

#[test]
fn limits_hold_for_tasks_that_need_resources_as_well() {
    let mut trial = Trial::newest();
    trial.set_queues(&[("batch", limited(vec![at_once("", 1)]))]);
    let contributed = Some(Box::new(amounts(4, 0)));
    let stay = trial.join(AgentJoin { slots: 4, contributed, ..worker("w") });
    let needing = |n| {
        let resources = Some(Box::new(TaskResources { amounts: amounts(1, 0), queue: "batch".to_owned() }));
        SubmitTask { resources, ..task(n) }
    };
    let ids = [1, 2, 3].map(|n| trial.submit(needing(n)));
    assert_eq!(ids.map(|id| trial.holder(id).is_some()), [true, false, false]);
    trial.complete(stay, ids[0], 1, success());
    assert_eq!(trial.assigned(), [(ids[1], 1)]);
    trial.set_queues(&[("batch", limited(vec![at_once("", 2)]))]);
    trial.after(0);
    assert_eq!(trial.holder(ids[2]), Some(stay.agent));
}

#[test]
fn each_run_of_a_verified_task_counts() {
    let mut trial = Trial::newest();
    trial.set_queues(&[("batch", limited(vec![at_once("", 2)]))]);
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    trial.submit(in_lane(to_verify(1), "batch", ""));
    assert_eq!(trial.assigned().len(), 2);
    let (member, attempt) = trial.held_by(stays[0]);
    trial.complete(stays[0], member, attempt, answered("x"));
    assert_eq!(trial.assigned().len(), 1, "the third one, on another agent");
    assert!(trial.fleet.agent(stays[2].agent).is_some_and(|agent| agent.used_slots() == 1));
}

#[test]
fn subtasks_wait_where_their_task_does_and_count_for_its_submitter() {
    let (mut trial, stay) = with_slots(4);
    trial.set_queues(&[("batch", limited(vec![at_once("k", 1)]))]);
    let parent = trial.submit(of_identity(in_lane(task(1), "batch", "k"), "client:ann"));
    trial.complete(stay, parent, 1, suspended(2));
    let subtasks: Vec<_> = trial.fleet.changed_tasks_since(0).filter(|task| task.id != parent).collect();
    assert_eq!(subtasks.len(), 2);
    for subtask in &subtasks {
        assert_eq!((subtask.queue(), subtask.limit_key(), subtask.counts_for()), ("batch", "k", "client:ann"));
    }
    let running = subtasks.iter().filter(|task| task.state == TaskState::Assigned).count();
    assert_eq!(running, 1, "one at a time, and the task itself holds no place meanwhile");
}

#[test]
fn subtasks_of_a_task_with_resources_wait_in_its_queue_too() {
    let mut trial = Trial::newest();
    trial.set_queues(&[("batch", QueueRules::of_weight(1))]);
    let stay = trial.join(AgentJoin { contributed: Some(Box::new(amounts(4, 0))), ..worker("w") });
    let resources = Some(Box::new(TaskResources { amounts: amounts(1, 0), queue: "batch".to_owned() }));
    let parent = trial.submit(SubmitTask { resources, ..task(1) });
    trial.complete(stay, parent, 1, suspended(2));
    let queues: Vec<&str> = trial.fleet.changed_tasks_since(0).map(|task| task.queue()).collect();
    assert_eq!(queues, ["batch"; 3]);
}

#[test]
fn what_a_removed_queue_was_served_is_forgotten_with_its_last_task() {
    let (mut trial, stay) = with_slots(1);
    trial.set_queues(&[("batch", QueueRules::of_weight(1))]);
    for n in 1..=9 {
        submit(&mut trial, n, "default", "");
    }
    for n in [21, 22] {
        submit(&mut trial, n, "batch", "");
    }
    assert_eq!([21, 2, 22].map(|_| next(&mut trial, stay)), [21, 2, 22]);
    assert_eq!(trial.fleet.served(trial.task(TaskId(22))).queue, 2 * SHARE_STEP);
    trial.apply(update(&[], &["batch"]));
    assert_eq!(trial.fleet.served(trial.task(TaskId(22))).queue, 2 * SHARE_STEP, "it still has a task");
    assert_eq!(next(&mut trial, stay), 3);
    assert!(trial.fleet.served(trial.task(TaskId(3))).queue > 0, "others still wait");
    trial.set_queues(&[("batch", QueueRules::of_weight(1))]);
    submit(&mut trial, 23, "batch", "");
    assert_eq!(trial.fleet.served(trial.task(TaskId(23))).queue, 0);
}

#[test]
fn the_figures_of_a_queue_count_its_attempts_from_when_it_was_set() {
    let (mut trial, stay) = with_slots(2);
    trial.set_queues(&[("batch", limited(vec![at_once("", 1)]))]);
    let ids = [1, 2, 3].map(|n| submit(&mut trial, n, "batch", ""));
    trial.submit(task(9));
    trial.complete(stay, ids[0], 1, success());
    let name = "batch".to_owned();
    let batch = QueueFigures { name, waiting: 1, running: 1, started: 2, is_held: true };
    assert_eq!(trial.fleet.queue_figures(1), (vec![batch], 2));
    let restored = Fleet::decode(&trial.fleet.encode()).expect("its own snapshot");
    assert_eq!(restored.queue_figures(9), trial.fleet.queue_figures(9));
    trial.apply(update(&[], &["batch"]));
    let counts: Vec<u64> = trial.fleet.queue_figures(9).0.iter().map(|figures| figures.started).collect();
    assert_eq!(counts, [0, 0], "neither is set");
}

/// A fleet with shares, tokens and a queue that ages.
fn shared() -> (Trial, OpenSession) {
    let (mut trial, stay) = with_slots(1);
    let rate = Limit { rate: Some(Rate { count: 1, per: 7_000, burst: 3 }), ..at_once("*", 2) };
    trial.set_queues(&[("one", limited(vec![rate])), ("two", QueueRules { aging: 500, ..QueueRules::of_weight(3) })]);
    for n in 1..=8 {
        let queue = if n % 2 == 0 { "one" } else { "two" };
        trial.submit(of_identity(in_lane(task(n), queue, "k"), ["client:a", "client:b"][n as usize / 4 % 2]));
    }
    for _ in 0..3 {
        next(&mut trial, stay);
    }
    (trial, stay)
}

#[test]
fn a_coordinator_that_reads_a_snapshot_goes_on_with_the_same_turns_and_tokens() {
    let (mut trial, stay) = shared();
    let mut restored = Trial { fleet: Fleet::decode(&trial.fleet.encode()).expect("its own snapshot"), ..Trial::new() };
    restored.now = trial.now;
    assert_eq!(restored.fleet.next_due(), trial.fleet.next_due());
    for _ in 0..3 {
        assert_eq!(next(&mut restored, stay), next(&mut trial, stay));
        assert_eq!(restored.fleet.encode(), trial.fleet.encode());
    }
}

#[test]
fn the_bytes_of_a_snapshot_with_queues_of_tasks_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(4)));
    let stay = trial.join(AgentJoin { slots: 2, ..worker("a") });
    for command in queue_commands() {
        trial.apply(command);
    }
    for n in 1..4 {
        trial.submit(of_identity(in_lane(task(n), "batch", "crawler"), "client:e"));
        trial.submit(task(10 + n));
    }
    next(&mut trial, stay);
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn queues_in_a_state_that_does_not_know_them_are_refused() {
    let mut trial = Trial::newest();
    trial.set_queues(&[("batch", QueueRules::of_weight(1))]);
    let refused = Fleet::decode(&as_of_the_first_version(&trial.fleet.encode()));
    let problem = "queues of tasks before their version".to_owned();
    assert_eq!(refused.err(), Some(CodecError::Inconsistent(problem)));
}

/// The tasks that waited keep their order, which knew no submitters.
#[test]
fn the_state_of_the_version_before_goes_on_and_its_tasks_take_turns_with_new_ones() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(3)));
    let stay = trial.join(worker("w"));
    let by = |n, submitter: &str, priority| SubmitTask { submitter: submitter.to_owned(), priority, ..task(n) };
    for (n, submitter, priority) in [(1, "ann", 5), (2, "ann", 5), (3, "ben", 9), (4, "cem", 5), (5, "ann", 5)] {
        trial.submit(by(n, submitter, priority));
    }
    trial.fleet = Fleet::decode(&trial.fleet.encode()).expect("a snapshot of the version before");
    assert_eq!(next(&mut trial, stay), 3);
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    trial.fleet = Fleet::decode(&trial.fleet.encode()).expect("its own snapshot");
    assert_eq!(next(&mut trial, stay), 2);
    trial.submit(by(11, "ann", 1));
    trial.submit(by(12, "ann", 1));
    let order: Vec<u128> = (0..4).map(|_| next(&mut trial, stay)).collect();
    assert_eq!(order, [4, 11, 5, 12]);
}

/// Counts the steps of a command, of which each is small.
fn steps(trial: &mut Trial, command: Command) -> usize {
    let (mut steps, mut effects) = (1, Vec::new());
    let mut progress = trial.fleet.begin(trial.stamp(), command, 1, &mut effects);
    while let Progress::Halfway(rest) = progress {
        steps += 1;
        progress = trial.fleet.advance(rest, 1, &mut effects);
    }
    trial.effects = effects;
    steps
}

#[test]
fn each_step_gives_one_task_to_an_agent_or_has_a_few_age() {
    let mut trial = Trial::with(FleetConfig { max_queued: 10_000, ..FleetConfig::default() });
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    trial.set_queues(&[("batch", limited(vec![at_once("", 1)]))]);
    trial.join(AgentJoin { slots: 300, ..worker("w") });
    for n in 1..=300 {
        submit(&mut trial, n, "batch", "");
    }
    let most = steps(&mut trial, update(&[("batch", limited(vec![at_once("", 200)]))], &[]));
    assert_eq!(trial.assigned().len(), 199);
    assert!(most >= 199, "{most} steps for 199 tasks");
    let aging = QueueRules { aging: 1_000, ..limited(vec![at_once("", 200)]) };
    let most = steps(&mut trial, update(&[("batch", aging)], &[]));
    let ages = trial.fleet.changed_tasks_since(0).filter_map(|task| Some(task.lane.as_ref()?.aging));
    let counts = ages.fold(BTreeMap::new(), |mut counts, aging| {
        *counts.entry(aging).or_insert(0) += 1;
        counts
    });
    assert_eq!(counts, BTreeMap::from([(1_000, 300)]));
    assert!(most >= 300 / 16, "{most} steps for 300 tasks");
    let empty = QueueRules { aging: 1_000, ..QueueRules::of_weight(1) };
    assert_eq!(steps(&mut trial, update(&[("empty", empty)], &[])), 1, "no task of it ages");
    trial.fleet.audit().expect("all is as it should be");
}
