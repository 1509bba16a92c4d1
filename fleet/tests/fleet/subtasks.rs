//! Tasks that are split into parts, or wait for subtasks.

use bytes::Bytes;
use robeing_fleet::{
    AskedLinks, AttemptEnd, CancelCause, Command, ControlCommand, Dependency, Effect, FailureKind, FleetConfig, Join,
    OnFailure, Outcome, PartOf, Refusal, Reply, Split, StaleReason, SubmitTask, Suspension, TaskCommand, TaskId,
    TaskState, Verify, known_version, limits::*,
};

use crate::{
    fixture::{Trial, ballot, failure, retry, task, worker},
    links::{after, children, given, output, part, refused, split, suspended, with_links, with_slots},
};

#[test]
fn a_split_task_succeeds_or_fails_as_its_join_says() {
    use TaskState::{Cancelled, Failed, Queued, Succeeded};
    let good = || output("x");
    let bad = || failure(false);
    let cases = [
        (Join::All, vec![good(), good(), good()], Succeeded, ""),
        (Join::All, vec![good(), bad()], Failed, ""),
        (Join::Settled, vec![bad(), good()], Queued, ""),
        (Join::Settled, vec![bad(), good(), good()], Failed, ""),
        (Join::Settled, vec![good(), good(), good()], Succeeded, ""),
        (Join::Any, vec![bad(), output("first")], Succeeded, "first"),
        (Join::Any, vec![bad(), bad(), bad()], Failed, ""),
        (Join::Quorum, vec![good(), bad(), good()], Succeeded, ""),
        (Join::Quorum, vec![bad(), bad()], Failed, ""),
        (Join::Reduce, vec![good(), bad()], Failed, ""),
    ];
    for (n, (join, ends, expected, text)) in cases.into_iter().enumerate() {
        let (mut trial, stay) = with_slots(8);
        trial.submit(split(1, 3, join));
        for index in 0..3 {
            trial.submit(part(u128::from(index) + 10, 1, index));
        }
        assert_eq!(trial.holder(TaskId(1)), None, "it does not run itself");
        let ended = ends.len();
        for (index, end) in ends.into_iter().enumerate() {
            trial.complete(stay, TaskId(index as u128 + 10), 1, end);
        }
        let parent = trial.task(TaskId(1));
        assert_eq!(parent.state, expected, "case {n}, {join:?}");
        if expected == Succeeded {
            assert_eq!(parent.output.as_deref(), Some(text.as_bytes()), "case {n}");
        }
        for index in ended..3 {
            let state = if expected == Queued { TaskState::Assigned } else { Cancelled };
            assert_eq!(trial.state(TaskId(index as u128 + 10)), state, "case {n}: the others are not needed any more");
        }
    }
}

#[test]
fn a_split_task_succeeds_no_sooner_than_what_it_depends_on_has_ended() {
    for (join, expected) in [(Join::All, ""), (Join::Any, "b"), (Join::Quorum, "")] {
        let (mut trial, stay) = with_slots(8);
        trial.submit(task(1));
        let depends_on = vec![Dependency { task: TaskId(1), on_failure: OnFailure::Run }];
        let mut parent = split(2, 2, join);
        parent.links = parent.links.map(|links| Box::new(AskedLinks { depends_on, ..*links }));
        trial.submit(parent);
        for (n, index) in [(10, 0), (11, 1)] {
            trial.submit(part(n, 2, index));
        }
        trial.complete(stay, TaskId(11), 1, output("b"));
        trial.complete(stay, TaskId(10), 1, output("a"));
        assert_eq!(trial.state(TaskId(2)), TaskState::Queued, "{join:?}");
        trial.complete(stay, TaskId(1), 1, failure(false));
        let joined = trial.task(TaskId(2));
        assert_eq!(
            (joined.state, joined.output.as_deref()),
            (TaskState::Succeeded, Some(expected.as_bytes())),
            "{join:?}"
        );
    }
}

#[test]
fn a_reduction_is_given_the_results_of_its_parts_in_their_order() {
    let (mut trial, stay) = with_slots(8);
    trial.submit(split(1, 3, Join::Reduce));
    for index in [2, 0, 1] {
        trial.submit(part(u128::from(index) + 10, 1, index));
    }
    for (id, text) in [(12, "c"), (10, "a"), (11, "b")] {
        trial.complete(stay, TaskId(id), 1, output(text));
    }
    assert_eq!(trial.assigned(), [(TaskId(1), 1)]);
    let texts: Vec<String> = given(&trial, 1).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["a", "b", "c"]);
    let page = |from, most| trial.fleet.results_for(trial.task(TaskId(1)), from, most);
    assert_eq!(page(1, 1).first().map(|of| of.id()), Some(TaskId(11)));
    assert_eq!(page(3, 9).len(), 0);
    trial.complete(stay, TaskId(1), 1, output("abc"));
    assert_eq!(trial.task(TaskId(1)).output.as_deref(), Some(&b"abc"[..]));
}

#[test]
fn only_what_is_a_part_of_a_task_is_accepted_as_one() {
    let (mut trial, stay) = with_slots(8);
    trial.submit(task(1));
    trial.submit(split(2, 2, Join::All));
    trial.submit(part(10, 2, 0));
    let problem = |refusal: Refusal| match refusal {
        Refusal::NoPart { problem, .. } => problem,
        other => panic!("{other:?}"),
    };
    assert_eq!(problem(refused(&mut trial, part(11, 1, 0))), "it is not split");
    assert_eq!(problem(refused(&mut trial, part(11, 2, 2))), "it has 2 parts, numbered from 0");
    assert!(problem(refused(&mut trial, part(11, 2, 0))).contains("is that part"));
    assert_eq!(refused(&mut trial, part(11, 9, 0)), Refusal::UnknownTask { task: TaskId(9) });
    assert!(matches!(refused(&mut trial, part(10, 2, 1)), Refusal::Conflict { .. }), "it is another part");
    let again = trial.apply(Command::Task(TaskCommand::Submit(part(10, 2, 0))));
    assert_eq!(again, Reply::Submitted { task: TaskId(10), existing: true });
    trial.complete(stay, TaskId(10), 1, failure(false));
    assert_eq!(trial.state(TaskId(2)), TaskState::Failed);
    assert_eq!(problem(refused(&mut trial, part(11, 2, 1))), "it has ended");
    let wrong = [
        split(3, 0, Join::All),
        split(3, MAX_SUBTASKS + 1, Join::All),
        split(3, 1, Join::Quorum),
        split(3, 1, Join::Resume),
        SubmitTask {
            verify: Some(Box::new(Verify { agents: 2, agree: 2, pointer: None, compare: None })),
            ..split(3, 2, Join::All)
        },
        SubmitTask { approval: Some(Box::new(ballot(3))), ..split(3, 2, Join::All) },
    ];
    for task in wrong {
        assert!(matches!(refused(&mut trial, task.clone()), Refusal::Invalid { .. }), "{task:?}");
    }
}

#[test]
fn a_part_that_outlives_its_task_is_none_of_the_next_task_with_that_id() {
    let (mut trial, stay) = with_slots(8);
    trial.submit(SubmitTask { result_ttl: Some(10), ..split(1, 1, Join::All) });
    trial.submit(part(10, 1, 0));
    trial.complete(stay, TaskId(10), 1, output("x"));
    trial.after(1_000);
    assert!(trial.fleet.task(TaskId(1)).is_none() && trial.fleet.task(TaskId(10)).is_some());
    let again = |trial: &mut Trial| trial.apply(Command::Task(TaskCommand::Submit(part(10, 1, 0))));
    assert_eq!(again(&mut trial), Reply::Submitted { task: TaskId(10), existing: true }, "it is said late");
    trial.submit(split(1, 1, Join::All));
    assert!(matches!(again(&mut trial), Reply::Refused(Refusal::Conflict { .. })), "the new task would wait for it");
    trial.submit(part(11, 1, 0));
    trial.complete(stay, TaskId(11), 1, output("y"));
    assert_eq!(trial.state(TaskId(1)), TaskState::Succeeded);
}

#[test]
fn a_split_task_keeps_the_places_of_its_parts_in_the_queue() {
    let config = FleetConfig { max_queued: 4, ..FleetConfig::default() };
    let mut trial = Trial::with(config);
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    assert_eq!(refused(&mut trial, split(1, 4, Join::All)), Refusal::QueueFull { limit: 4 });
    trial.submit(split(1, 2, Join::All));
    trial.submit(task(2));
    assert_eq!(refused(&mut trial, task(3)), Refusal::QueueFull { limit: 4 });
    trial.submit(part(10, 1, 0));
    trial.submit(part(11, 1, 1));
    trial.cancel(TaskId(1));
    trial.submit(task(3));
    assert_eq!(trial.fleet.counts().queued, 2);
}

#[test]
fn a_task_of_which_no_further_part_comes_fails_and_its_places_are_free() {
    let (mut trial, _) = with_slots(8);
    trial.submit(split(1, 3, Join::All));
    trial.after(ASSEMBLY_TIMEOUT_MS - 1);
    trial.submit(part(10, 1, 0));
    trial.after(ASSEMBLY_TIMEOUT_MS - 1);
    assert_eq!(trial.state(TaskId(1)), TaskState::Queued);
    trial.after(1);
    let failed = trial.task(TaskId(1));
    assert_eq!(failed.failure.as_ref().map(|failure| failure.kind), Some(FailureKind::Subtask));
    assert!(failed.reason().starts_with("only 1 of its 3 parts were submitted"), "{}", failed.reason());
    assert_eq!(trial.state(TaskId(10)), TaskState::Cancelled);
    trial.submit(split(2, 1, Join::All));
    trial.submit(part(20, 2, 0));
    trial.after(10 * ASSEMBLY_TIMEOUT_MS);
    assert_eq!(trial.state(TaskId(2)), TaskState::Queued, "all its parts are there");
}

#[test]
fn a_suspended_task_holds_no_slot_and_goes_on_with_the_results_of_its_subtasks() {
    let (mut trial, stay) = with_slots(1);
    trial.submit(SubmitTask { retry: retry(1), priority: 8, ..task(1) });
    assert_eq!(trial.complete(stay, TaskId(1), 1, suspended(2)), Reply::Completed);
    let subtasks = children(&trial, 1);
    assert_eq!(subtasks.len(), 2);
    let first = trial.task(subtasks[0]);
    assert_eq!((first.priority, &*first.submitter, &*first.kind), (8, "test", "sub"));
    assert_eq!(trial.holder(subtasks[0]), Some(stay.agent), "the slot is free for it");
    let waits = trial.fleet.waiting_for(TaskId(1), trial.now);
    assert_eq!(waits.as_deref(), Some("all of its 2 subtasks to end: 0 have"));
    assert_eq!(
        trial.complete(stay, TaskId(1), 1, output("late")),
        Reply::Stale(StaleReason::NotCurrent),
        "its attempt has ended"
    );
    trial.complete(stay, subtasks[0], 1, output("a"));
    trial.complete(stay, subtasks[1], 1, failure(false));
    assert_eq!(trial.assigned(), [(TaskId(1), 2)], "by a new attempt");
    assert_eq!(
        given(&trial, 1),
        [(TaskState::Succeeded, "a".to_owned()), (TaskState::Failed, "exit code 1".to_owned())]
    );
    assert_eq!(&*trial.fleet.carried_to(trial.task(TaskId(1))), b"state");
    trial.complete(stay, TaskId(1), 2, suspended(1));
    let third = children(&trial, 1)[2];
    trial.complete(stay, third, 1, output("c"));
    assert_eq!(given(&trial, 1), [(TaskState::Succeeded, "c".to_owned())], "those of its last suspension");
    trial.complete(stay, TaskId(1), 3, output("done"));
    let done = trial.task(TaskId(1));
    let ends: Vec<_> = done.attempts.iter().map(|attempt| attempt.end).collect();
    assert_eq!(ends, [AttemptEnd::Suspended, AttemptEnd::Suspended, AttemptEnd::Succeeded].map(Some));
    assert_eq!((done.state, done.attempts_used), (TaskState::Succeeded, 1), "a suspension costs no attempt");
}

#[test]
fn an_attempt_that_is_lost_is_repeated_from_the_last_suspension() {
    let (mut trial, stay) = with_slots(4);
    trial.submit(task(1));
    trial.complete(stay, TaskId(1), 1, suspended(1));
    let subtask = children(&trial, 1)[0];
    trial.complete(stay, subtask, 1, output("a"));
    trial.lose(stay);
    let other = trial.join(worker("other"));
    assert_eq!(trial.holder(TaskId(1)), Some(other.agent));
    trial.after(DEFAULT_RESULT_TTL_MS + 1);
    assert_eq!(given(&trial, 1), [(TaskState::Succeeded, "a".to_owned())]);
    assert_eq!(children(&trial, 1), [subtask], "it does not run again");
}

#[test]
fn what_an_attempt_has_left_counts_with_the_results_that_the_next_one_is_given() {
    let most = (MAX_PASSED_BYTES - 2 * CHILD_OVERHEAD) as usize - 2 * MAX_INPUT_BYTES;
    for surplus in [0, 1] {
        let (mut trial, stay) = with_slots(4);
        trial.submit(task(1));
        let subtasks = vec![SubmitTask::new(TaskId(0), "sub", Bytes::new()); 2];
        let carried = vec![0; most + surplus].into();
        trial.complete(stay, TaskId(1), 1, Outcome::Suspended(Suspension { subtasks, carried }));
        for id in children(&trial, 1) {
            trial.complete(stay, id, 1, Outcome::Succeeded(vec![0; MAX_INPUT_BYTES].into()));
        }
        let failure = trial.task(TaskId(1)).failure.as_ref().map(|failure| failure.kind);
        assert_eq!(failure, (surplus > 0).then_some(FailureKind::ResultsTooLarge));
    }
}

#[test]
fn the_end_of_a_task_reaches_the_whole_tree_below_it() {
    let (mut trial, stay) = with_slots(8);
    trial.submit(split(1, 2, Join::Settled));
    trial.submit(part(10, 1, 0));
    trial.submit(part(11, 1, 1));
    trial.complete(stay, TaskId(10), 1, suspended(2));
    let below = children(&trial, 10);
    trial.complete(stay, below[0], 1, suspended(1));
    let deepest = children(&trial, below[0].0);
    trial.submit(after(20, &[1], OnFailure::Skip));
    trial.cancel(TaskId(1));
    for id in below.iter().chain(&deepest).copied().chain([10, 11].map(TaskId)) {
        assert_eq!(trial.state(id), TaskState::Cancelled, "{id}");
    }
    assert!(trial.task(TaskId(20)).is_skipped());
    let stopped = |effect: &&Effect| matches!(effect, Effect::Stop { cause: CancelCause::Cancelled, .. });
    assert_eq!(trial.effects.iter().filter(stopped).count(), 3, "those that ran: {:?}", trial.effects);
    for stop in trial.effects.clone() {
        if let Effect::Stop { task, attempt, .. } = stop {
            assert_eq!(trial.complete(stay, task, attempt, Outcome::Stopped), Reply::Done);
        }
    }
    assert_eq!(trial.fleet.agent(stay.agent).map(|agent| agent.used_slots()), Some(0));
}

#[test]
fn the_deadline_of_a_suspended_task_ends_its_subtasks() {
    let (mut trial, stay) = with_slots(8);
    trial.submit(SubmitTask { deadline_in: Some(1_000), ..task(1) });
    trial.complete(stay, TaskId(1), 1, suspended(1));
    let subtask = children(&trial, 1)[0];
    trial.after(1_000);
    assert_eq!((trial.state(TaskId(1)), trial.state(subtask)), (TaskState::Failed, TaskState::Cancelled));
}

#[test]
fn as_many_subtasks_as_there_may_be_are_accepted_and_no_more() {
    let (mut trial, stay) = with_slots(1);
    for (subtasks, is_accepted) in [(MAX_SUBTASKS_AT_ONCE, true), (MAX_SUBTASKS_AT_ONCE + 1, false), (0, false)] {
        let id = trial.submit(task(subtasks as u128 + 1));
        let attempt = trial.task(id).attempt;
        assert_eq!(trial.holder(id), Some(stay.agent));
        trial.complete(stay, id, attempt, suspended(subtasks));
        let state = trial.state(id);
        assert_eq!(state == TaskState::Queued, is_accepted, "{subtasks}");
        if is_accepted {
            trial.cancel(id);
            let (task, attempt) = trial.effects.iter().find_map(stop_of).expect("one of them runs");
            trial.complete(stay, task, attempt, Outcome::Stopped);
        } else {
            let failure = trial.task(id).failure.as_ref().map(|failure| failure.kind);
            assert_eq!(failure, Some(FailureKind::Subtask));
        }
    }
}

#[test]
fn subtasks_depend_on_as_many_tasks_as_they_may_and_no_more() {
    let is_kept = |count: usize| {
        let dependency = Dependency { task: TaskId(1), on_failure: OnFailure::Fail };
        let links = AskedLinks { depends_on: vec![dependency; count], ..AskedLinks::default() };
        let subtasks = vec![with_links(SubmitTask::new(TaskId(0), "sub", Bytes::new()), links)];
        let asked = Outcome::Suspended(Suspension { subtasks, carried: Bytes::new() });
        matches!(asked.within_limits(), Outcome::Suspended(_))
    };
    assert!(is_kept(MAX_SUBTASK_DEPENDENCIES) && !is_kept(MAX_SUBTASK_DEPENDENCIES + 1));
}

fn stop_of(effect: &Effect) -> Option<(TaskId, u32)> {
    match effect {
        Effect::Stop { task, attempt, .. } => Some((*task, *attempt)),
        _ => None,
    }
}

#[test]
fn a_subtask_that_is_refused_fails_its_task() {
    let (mut trial, stay) = with_slots(4);
    trial.submit(task(1));
    let good = SubmitTask::new(TaskId(0), "sub", Bytes::new());
    let links = after(0, &[99], OnFailure::Fail).links;
    let subtasks = vec![good.clone(), SubmitTask { links, ..good.clone() }, good];
    trial.complete(stay, TaskId(1), 1, Outcome::Suspended(Suspension { subtasks, carried: Bytes::new() }));
    let failed = trial.task(TaskId(1));
    assert_eq!(failed.failure.as_ref().map(|failure| failure.kind), Some(FailureKind::Subtask));
    assert!(failed.reason().starts_with("its subtask 1 was refused: no task "), "{}", failed.reason());
    let states: Vec<TaskState> = children(&trial, 1).into_iter().map(|id| trial.state(id)).collect();
    assert_eq!(states, [TaskState::Cancelled]);
}

#[test]
fn a_suspension_for_which_there_is_no_room_is_tried_again() {
    let mut trial = Trial::with(FleetConfig { max_queued: 3, ..FleetConfig::default() });
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    let stay = trial.join(worker("w"));
    trial.submit(task(1));
    trial.complete(stay, TaskId(1), 1, suspended(3));
    let again = trial.task(TaskId(1));
    assert_eq!((again.state, again.attempts[0].end), (TaskState::Queued, Some(AttemptEnd::Failed)));
    trial.after(DEFAULT_INITIAL_BACKOFF_MS);
    assert_eq!(trial.complete(stay, TaskId(1), 2, suspended(2)), Reply::Completed);
    assert_eq!(children(&trial, 1).len(), 2);
}

#[test]
fn trees_are_as_deep_as_they_may_be_and_no_deeper() {
    let (mut trial, stay) = with_slots(1);
    let mut id = trial.submit(task(1));
    for depth in 0..=MAX_TASK_DEPTH {
        assert_eq!(trial.holder(id), Some(stay.agent), "at depth {depth}");
        trial.complete(stay, id, 1, suspended(1));
        match children(&trial, id.0).first() {
            Some(below) => id = *below,
            None => assert_eq!((depth, trial.state(id)), (MAX_TASK_DEPTH, TaskState::Failed)),
        }
    }
    assert_eq!(trial.fleet.counts().assigned, 1, "the one above it goes on, because its subtask has ended");
}

#[test]
fn tasks_can_not_wait_for_each_other_through_their_parts() {
    let (mut trial, _) = with_slots(8);
    trial.submit(task(1));
    trial.submit(split(2, 3, Join::All));
    trial.submit(split(3, 2, Join::All));
    let part_after = |n: u128, of: u128, index: u32, others: &[u128]| {
        let depends_on = after(n, others, OnFailure::Fail).links.map(|links| links.depends_on).unwrap_or_default();
        let part_of = Some(PartOf { task: TaskId(of), index });
        with_links(task(n), AskedLinks { part_of, depends_on, ..AskedLinks::default() })
    };
    trial.submit(part_after(10, 2, 0, &[1]));
    trial.submit(part_after(11, 2, 1, &[10]));
    // The second task waits for its parts, so none of them may wait for it, nor for what may come to wait for it.
    for others in [&[2][..], &[3]] {
        let refusal = refused(&mut trial, part_after(12, 2, 2, others));
        assert!(matches!(&refusal, Refusal::Invalid { field, .. } if field == "depends_on"), "{refusal:?}");
    }
    trial.submit(part_after(20, 3, 0, &[2, 11]));
    let refusal = refused(&mut trial, part_after(12, 2, 2, &[20]));
    assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal:?}");
}

#[test]
fn a_part_depends_on_what_a_task_above_it_may_depend_on_and_on_nothing_that_may_wait_for_it() {
    let (mut trial, stay) = with_slots(8);
    let part_after = |n: u128, of: u128, index: u32, others: &[u128], parts: u32| {
        let depends_on = after(n, others, OnFailure::Fail).links.map(|links| links.depends_on).unwrap_or_default();
        let split = (parts > 0).then_some(Split { parts, ..Split::default() });
        let part_of = Some(PartOf { task: TaskId(of), index });
        with_links(task(n), AskedLinks { part_of, depends_on, split, ..AskedLinks::default() })
    };
    // A workflow of three steps, of which the second one is split and comes after the first one.
    trial.submit(split(1, 3, Join::All));
    trial.submit(part_after(10, 1, 0, &[], 0));
    trial.submit(part_after(11, 1, 1, &[10], 3));
    trial.submit(part_after(12, 1, 2, &[11], 0));
    trial.submit(part_after(20, 11, 0, &[10], 0));
    trial.submit(part_after(21, 11, 1, &[20], 0));
    for others in [&[1][..], &[11], &[12]] {
        let refusal = refused(&mut trial, part_after(22, 11, 2, others, 0));
        assert!(matches!(&refusal, Refusal::Invalid { field, .. } if field == "depends_on"), "{refusal:?}");
    }
    trial.submit(part_after(22, 11, 2, &[10, 21], 0));
    for (id, waiting) in [(10, 6), (20, 5), (21, 4), (22, 3)] {
        assert_eq!(trial.holder(TaskId(id)), Some(stay.agent), "{id}");
        assert_eq!(trial.fleet.counts().queued, waiting, "nothing else may begin before the end of {id}");
        trial.complete(stay, TaskId(id), 1, output("x"));
    }
    trial.complete(stay, TaskId(12), 1, output("x"));
    assert_eq!(trial.state(TaskId(1)), TaskState::Succeeded);
}
