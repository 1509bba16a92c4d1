//! Tasks that depend on others, are split into parts, or wait for subtasks.

use bytes::Bytes;
use robeing_fleet::{
    AgentJoin, AskedLinks, Command, Completion, ControlCommand, Dependency, Effect, FailureKind, Fleet, FleetConfig,
    Join, Kept, OnFailure, Outcome, PartOf, Passing, Progress, Refusal, Reply, RetryDead, Split, Stamp, SubmitTask,
    Suspension, TaskCommand, TaskId, TaskState, Timing, known_version, limits::*,
};

use crate::fixture::{OpenSession, Trial, ballot, failure, retry, task, to_verify, worker};

/// Returns a task with these links.
pub fn with_links(task: SubmitTask, links: AskedLinks) -> SubmitTask {
    SubmitTask { links: Some(Box::new(links)), ..task }
}

/// Returns a task that depends on these.
pub fn after(n: u128, others: &[u128], on_failure: OnFailure) -> SubmitTask {
    let depends_on = others.iter().map(|id| Dependency { task: TaskId(*id), on_failure }).collect();
    with_links(task(n), AskedLinks { depends_on, ..AskedLinks::default() })
}

/// Returns a task that is split into so many parts.
pub fn split(n: u128, parts: u32, join: Join) -> SubmitTask {
    let quorum = if join == Join::Quorum { 2 } else { 0 };
    let split = Some(Split { parts, join, quorum, spread: false });
    with_links(task(n), AskedLinks { split, ..AskedLinks::default() })
}

/// Returns a part of a task.
pub fn part(n: u128, of: u128, index: u32) -> SubmitTask {
    let part_of = Some(PartOf { task: TaskId(of), index });
    with_links(task(n), AskedLinks { part_of, ..AskedLinks::default() })
}

/// Returns the end of an attempt that waits for so many subtasks.
pub fn suspended(subtasks: usize) -> Outcome {
    let subtask = SubmitTask { priority: 0, ..SubmitTask::new(TaskId(0), "sub", Bytes::from_static(b"in")) };
    Outcome::Suspended(Suspension { subtasks: vec![subtask; subtasks], carried: Bytes::from_static(b"state") })
}

/// Returns the end of an attempt with this output.
pub fn output(text: &'static str) -> Outcome {
    Outcome::Succeeded(Bytes::from_static(text.as_bytes()))
}

/// A fleet with a worker that has so many slots.
pub fn with_slots(slots: u32) -> (Trial, OpenSession) {
    let mut trial = Trial::newest();
    let stay = trial.join(AgentJoin { slots, ..worker("w") });
    (trial, stay)
}

/// Returns the refusal of a task.
pub fn refused(trial: &mut Trial, task: SubmitTask) -> Refusal {
    match trial.apply(Command::Task(TaskCommand::Submit(task))) {
        Reply::Refused(refusal) => refusal,
        other => panic!("it was not refused: {other:?}"),
    }
}

/// Returns the ids of a task's children, in order.
pub fn children(trial: &Trial, parent: u128) -> Vec<TaskId> {
    trial.fleet.children_of(TaskId(parent), 0, 10_000).into_iter().map(|(_, child)| child.id()).collect()
}

/// Returns what the attempts at a task are given of others, in order.
pub fn given(trial: &Trial, id: u128) -> Vec<(TaskState, String)> {
    let task = trial.task(TaskId(id));
    let results = trial.fleet.results_for(task, 0, 10_000);
    assert_eq!(results.len(), trial.fleet.results_given(task));
    let text = |output: &Bytes| String::from_utf8_lossy(output).into_owned();
    let result = |kept: &Kept| {
        let Kept::Here(of) = kept else { panic!("{kept:?} is archived") };
        (of.state, of.output.as_ref().map_or_else(|| of.reason().to_owned(), text))
    };
    results.iter().map(result).collect()
}

#[test]
fn a_task_begins_when_all_that_it_depends_on_have_succeeded() {
    let (mut trial, stay) = with_slots(4);
    trial.submit(task(1));
    trial.submit(task(2));
    trial.submit(after(3, &[1, 2], OnFailure::Fail));
    assert_eq!(trial.holder(TaskId(3)), None);
    let waits = trial.fleet.waiting_for(TaskId(3), trial.now);
    assert_eq!(waits.as_deref(), Some("2 of the 2 tasks that it depends on"));
    trial.complete(stay, TaskId(1), 1, output("one"));
    assert_eq!(trial.state(TaskId(3)), TaskState::Queued);
    trial.complete(stay, TaskId(2), 1, output("two"));
    assert_eq!(trial.assigned(), [(TaskId(3), 1)], "in the same command");
    let told = |text: &str| (TaskState::Succeeded, text.to_owned());
    assert_eq!(given(&trial, 3), [told("one"), told("two")]);
    assert_eq!(trial.fleet.passing_of(trial.task(TaskId(3))), Passing::Separately);
}

#[test]
fn what_has_ended_before_counts_at_once() {
    let (mut trial, stay) = with_slots(4);
    trial.submit(task(1));
    trial.complete(stay, TaskId(1), 1, output("one"));
    trial.submit(after(2, &[1], OnFailure::Fail));
    assert_eq!(trial.state(TaskId(2)), TaskState::Assigned);
    trial.submit(task(3));
    trial.complete(stay, TaskId(3), 1, failure(false));
    trial.submit(after(4, &[1, 3], OnFailure::Fail));
    assert_eq!(trial.state(TaskId(4)), TaskState::Failed);
}

#[test]
fn a_failure_fails_skips_or_is_told_as_the_dependency_says() {
    let (mut trial, stay) = with_slots(4);
    trial.submit(SubmitTask { retry: retry(1), ..task(1) });
    trial.submit(after(2, &[1], OnFailure::Fail));
    trial.submit(after(3, &[1], OnFailure::Skip));
    trial.submit(after(4, &[1], OnFailure::Run));
    trial.submit(after(5, &[2], OnFailure::Fail));
    trial.submit(after(6, &[3], OnFailure::Skip));
    trial.complete(stay, TaskId(1), 1, failure(false));
    for id in [2, 5] {
        let failed = trial.task(TaskId(id));
        assert_eq!(failed.failure.as_ref().map(|failure| failure.kind), Some(FailureKind::Dependency));
        assert!(failed.attempts.is_empty());
    }
    for id in [3, 6] {
        let skipped = trial.task(TaskId(id));
        assert_eq!((skipped.state, skipped.is_skipped()), (TaskState::Cancelled, true));
        assert!(skipped.reason().starts_with("skipped: task "), "{}", skipped.reason());
    }
    assert_eq!(trial.state(TaskId(4)), TaskState::Assigned);
    assert_eq!(given(&trial, 4), [(TaskState::Failed, "exit code 1".to_owned())]);
    assert_eq!(trial.fleet.totals().failed, 3);
    assert_eq!(trial.fleet.totals().cancelled, 2);
}

#[test]
fn a_dependency_that_is_not_there_is_refused_and_so_is_one_on_itself_or_twice() {
    let (mut trial, _) = with_slots(2);
    let unknown = refused(&mut trial, after(1, &[7], OnFailure::Fail));
    assert_eq!(unknown, Refusal::UnknownDependency { task: TaskId(7) });
    trial.submit(task(7));
    for others in [&[2][..], &[7, 7]] {
        let refusal = refused(&mut trial, after(2, others, OnFailure::Fail));
        assert!(matches!(refusal, Refusal::Invalid { .. }), "{refusal:?}");
    }
    let verified = trial.submit(to_verify(50));
    let (member, _) = trial.assigned()[0];
    assert_ne!(member, verified);
    let unknown = refused(&mut trial, after(3, &[member.0], OnFailure::Fail));
    assert_eq!(unknown, Refusal::UnknownDependency { task: member }, "nobody knows of it");
}

#[test]
fn a_task_depends_on_as_many_as_it_may_and_no_more() {
    let mut trial = Trial::newest();
    let most = MAX_DEPENDENCIES as u128;
    for n in 1..=most + 1 {
        let submit = Command::Task(TaskCommand::Submit(task(n)));
        trial.fleet.apply(trial.stamp(), submit, &mut Vec::new());
    }
    let ids: Vec<u128> = (1..=most + 1).collect();
    trial.submit(after(5_000, &ids[..MAX_DEPENDENCIES], OnFailure::Fail));
    let refusal = refused(&mut trial, after(5_001, &ids, OnFailure::Fail));
    assert!(matches!(&refusal, Refusal::Invalid { field, .. } if field == "depends_on"), "{refusal:?}");
    assert_eq!(trial.state(TaskId(5_000)), TaskState::Queued);
    trial.cancel(TaskId(most));
    assert_eq!(trial.state(TaskId(5_000)), TaskState::Failed, "the first failure decides");
}

#[test]
fn a_result_is_kept_for_as_long_as_an_unfinished_task_depends_on_it() {
    let (mut trial, stay) = with_slots(1);
    trial.submit(SubmitTask { result_ttl: Some(10), ..task(1) });
    trial.submit(after(2, &[1], OnFailure::Fail));
    trial.complete(stay, TaskId(1), 1, output("one"));
    trial.after(1_000);
    assert_eq!(given(&trial, 2), [(TaskState::Succeeded, "one".to_owned())]);
    trial.complete(stay, TaskId(2), 1, failure(true));
    trial.after(10_000);
    assert_eq!(given(&trial, 2), [(TaskState::Succeeded, "one".to_owned())], "also for the next attempt");
    trial.complete(stay, TaskId(2), 2, output("two"));
    trial.after(1);
    assert!(trial.fleet.task(TaskId(1)).is_none());
}

#[test]
fn a_task_with_links_is_no_dead_letter_and_one_that_others_still_depend_on_is_not_tried_again() {
    let (mut trial, stay) = with_slots(4);
    trial.submit(task(1));
    trial.submit(after(2, &[1], OnFailure::Run));
    trial.complete(stay, TaskId(1), 1, failure(false));
    let try_again = |trial: &mut Trial| {
        let again = RetryDead { task: TaskId(1), epoch: Some(0), seed: 7, by: "client:ann".to_owned() };
        trial.apply(Command::Task(TaskCommand::RetryDead(again)))
    };
    assert_eq!(try_again(&mut trial), Reply::Refused(Refusal::StillNeeded { task: TaskId(1) }));
    trial.complete(stay, TaskId(2), 1, failure(false));
    assert_eq!([1, 2].map(|id| trial.task(TaskId(id)).dead), [true, false]);
    assert_eq!(try_again(&mut trial), Reply::DeadRetried { epoch: 1, existing: false });
    trial.submit(after(3, &[1], OnFailure::Fail));
    assert_eq!(trial.state(TaskId(3)), TaskState::Queued, "it waits for the end of this epoch");
    trial.complete(stay, TaskId(1), 2, output("one"));
    assert_eq!(trial.assigned(), [(TaskId(3), 1)]);
}

#[test]
fn the_queue_expiry_of_a_task_counts_from_the_end_of_what_it_waits_for() {
    let (mut trial, stay) = with_slots(1);
    let expiring = |task: SubmitTask| {
        let timing = Timing { queue_expiry: Some(100), ..Timing::default() };
        SubmitTask { timing: Some(Box::new(timing)), ..task }
    };
    trial.submit(task(1));
    trial.submit(expiring(after(2, &[1], OnFailure::Fail)));
    trial.submit(task(3));
    trial.submit(expiring(split(10, 1, Join::Reduce)));
    trial.after(10_000);
    let waits = |trial: &Trial| [2, 10].map(|id| (trial.state(TaskId(id)), trial.task(TaskId(id)).queue_until()));
    assert_eq!(waits(&trial), [(TaskState::Queued, None); 2]);
    trial.complete(stay, TaskId(1), 1, output("one"));
    assert_eq!((trial.holder(TaskId(3)), waits(&trial)[0].1), (Some(stay.agent), Some(trial.now + 100)));
    trial.after(99);
    assert_eq!(trial.state(TaskId(2)), TaskState::Queued);
    trial.after(1);
    assert_eq!(trial.task(TaskId(2)).failure.as_ref().map(|failure| failure.kind), Some(FailureKind::Expired));
    assert_eq!(trial.state(TaskId(10)), TaskState::Queued, "it waits for its part");
}

#[test]
fn a_verified_task_and_one_that_needs_an_approval_wait_for_what_they_depend_on_too() {
    let (mut trial, stay) = with_slots(4);
    trial.submit(task(1));
    let links = after(0, &[1], OnFailure::Fail).links;
    trial.submit(SubmitTask { links: links.clone(), ..to_verify(2) });
    let approval = Some(Box::new(ballot(3)));
    trial.submit(SubmitTask { links, approval, ..task(3) });
    assert_eq!(trial.fleet.agent(stay.agent).map(|agent| agent.used_slots()), Some(1));
    trial.complete(stay, TaskId(1), 1, output("one"));
    let runs: Vec<TaskId> = trial.assigned().into_iter().map(|(id, _)| id).collect();
    let [member] = runs[..] else { panic!("one agent runs one member: {runs:?}") };
    let member = trial.task(member).clone();
    assert_eq!(trial.fleet.results_for(&member, 0, 9).len(), 1, "it is given what its task is given");
    assert_eq!(trial.state(TaskId(3)), TaskState::Queued, "nobody has approved it");
}

#[test]
fn results_that_are_too_large_for_an_attempt_fail_the_task_and_the_largest_that_are_not_do_not() {
    let most = (MAX_PASSED_BYTES - DEPENDENCY_OVERHEAD * 3) as usize;
    for surplus in [0, 1] {
        let (mut trial, stay) = with_slots(4);
        for n in 1..=3 {
            trial.submit(task(n));
        }
        trial.submit(after(9, &[1, 2, 3], OnFailure::Fail));
        for (n, bytes) in [(1, MAX_INPUT_BYTES), (2, MAX_INPUT_BYTES), (3, most - 2 * MAX_INPUT_BYTES + surplus)] {
            trial.complete(stay, TaskId(n), 1, Outcome::Succeeded(vec![0; bytes].into()));
        }
        let failure = trial.task(TaskId(9)).failure.as_ref().map(|failure| failure.kind);
        assert_eq!(failure, (surplus > 0).then_some(FailureKind::ResultsTooLarge));
    }
}

/// Returns how often a command is continued that takes so many steps at once.
fn rounds(fleet: &mut Fleet, command: Command, steps: usize) -> usize {
    let (mut rounds, mut effects) = (0, Vec::new());
    let mut progress = fleet.begin(Stamp::at(2_000_000), command, steps, &mut effects);
    while let Progress::Halfway(rest) = progress {
        rounds += 1;
        progress = fleet.advance(rest, steps, &mut effects);
    }
    rounds
}

#[test]
fn the_end_of_a_task_takes_a_step_for_each_that_depends_on_it() {
    const DEPENDENTS: u128 = 10_000;
    let (mut trial, stay) = with_slots(1);
    trial.submit(task(1));
    for n in 0..DEPENDENTS {
        let submit = Command::Task(TaskCommand::Submit(after(n + 10, &[1], OnFailure::Fail)));
        trial.fleet.apply(trial.stamp(), submit, &mut Vec::new());
    }
    let (agent, session) = (stay.agent, stay.session);
    let completion = Completion { agent, session, task: TaskId(1), attempt: 1, ran_us: 1, outcome: output("one") };
    let taken = rounds(&mut trial.fleet, Command::Task(TaskCommand::Complete(completion)), 100);
    assert!((100..=110).contains(&taken), "{taken} rounds of 100 steps");
    assert_eq!(trial.fleet.audit(), Ok(()));
    let ready = trial.fleet.changed_tasks_since(0).filter(|task| task.is_ready()).count();
    assert_eq!(ready, DEPENDENTS as usize - 1, "all but the one that runs");
}

/// Runs what is assigned until nothing is any more, with outputs that are the ids of the tasks. Returns how many ran.
fn run_all(fleet: &mut Fleet, mut effects: Vec<Effect>) -> usize {
    let mut ran = 0;
    while !effects.is_empty() {
        for effect in std::mem::take(&mut effects) {
            let Effect::Assign { agent, session, task, attempt } = effect else { continue };
            let outcome = Outcome::Succeeded(task.0.to_string().into());
            let completion = Completion { agent, session, task, attempt, ran_us: 1, outcome };
            fleet.apply(Stamp::at(2_000_000), Command::Task(TaskCommand::Complete(completion)), &mut effects);
            ran += 1;
        }
    }
    ran
}

#[test]
fn a_map_of_a_hundred_thousand_with_a_reduction_and_a_graph_of_ten_thousand_are_done() {
    const PARTS: u32 = 100_000;
    const NODES: u128 = 10_000;
    let mut trial = Trial::with(FleetConfig { max_queued: 200_000, ..FleetConfig::default() });
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    trial.join(AgentJoin { slots: 64, ..worker("w") });
    let (mut fleet, mut effects) = (trial.fleet, Vec::new());
    let submit = |fleet: &mut Fleet, task: SubmitTask, effects: &mut Vec<Effect>| {
        let reply = fleet.apply(Stamp::at(1_500_000), Command::Task(TaskCommand::Submit(task)), effects);
        assert!(matches!(reply, Reply::Submitted { existing: false, .. }), "{reply:?}");
    };
    submit(&mut fleet, split(1, PARTS, Join::Reduce), &mut effects);
    for index in 0..PARTS {
        submit(&mut fleet, part(1_000_000 + u128::from(index), 1, index), &mut effects);
    }
    assert_eq!(run_all(&mut fleet, std::mem::take(&mut effects)), PARTS as usize + 1);
    let reduced = fleet.task(TaskId(1)).cloned().expect("it is kept");
    assert_eq!(reduced.state, TaskState::Succeeded);
    assert_eq!(fleet.results_for(&reduced, PARTS as usize - 1, 9).len(), 1);
    for n in 0..NODES {
        // Each depends on up to three earlier ones.
        let earlier = [n / 2, n / 3, n.saturating_sub(1)].map(|other| 5_000_000 + other);
        let mut others = earlier.to_vec();
        others.sort_unstable();
        others.dedup();
        let task = if n == 0 { task(5_000_000) } else { after(5_000_000 + n, &others, OnFailure::Fail) };
        submit(&mut fleet, task, &mut effects);
    }
    assert_eq!(run_all(&mut fleet, effects), NODES as usize);
    assert_eq!(fleet.audit(), Ok(()));
    assert_eq!(fleet.counts().succeeded, PARTS + 1 + NODES as u32);
}

#[test]
fn a_snapshot_with_links_is_read_as_the_same_state_and_any_byte_changed_in_it_is_harmless() {
    let (mut trial, stay) = with_slots(2);
    trial.submit(task(1));
    trial.submit(after(2, &[1], OnFailure::Run));
    trial.submit(split(3, 2, Join::Reduce));
    trial.submit(part(4, 3, 1));
    trial.complete(stay, TaskId(1), 1, suspended(2));
    let bytes = trial.fleet.encode();
    let restored = Fleet::decode(&bytes).expect("a fleet's own snapshot");
    assert_eq!((restored.encode(), restored.audit()), (bytes.clone(), Ok(())));
    let mut effects = Vec::new();
    for at in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            let Ok(mut fleet) = Fleet::decode(&changed) else { continue };
            for id in 1..5 {
                let cancel = TaskCommand::Cancel { task: TaskId(id), reason: String::new() };
                fleet.apply(Stamp::at(2_000_000), Command::Task(cancel), &mut effects);
            }
            fleet.apply(Stamp::at(u64::MAX), Command::Control(ControlCommand::Tick), &mut effects);
        }
    }
}

#[test]
fn links_need_the_version_that_brings_them() {
    let mut trial = Trial::new();
    for command in crate::samples::graph_commands() {
        let refused = trial.apply(command);
        assert!(matches!(&refused, Reply::Refused(Refusal::NotInForce { since: 4, .. })), "{refused:?}");
    }
}

#[test]
fn an_attempt_that_asks_for_subtasks_before_that_version_fails_and_its_slot_is_free() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("w"));
    trial.submit(SubmitTask { retry: retry(1), ..task(1) });
    trial.submit(task(2));
    let refused = trial.complete(stay, TaskId(1), 1, suspended(1));
    assert!(matches!(&refused, Reply::Refused(Refusal::NotInForce { .. })), "{refused:?}");
    assert!(suspended(1).needs_graphs() && !output("x").needs_graphs());
    assert_eq!(trial.complete(stay, TaskId(1), 1, suspended(1).before_graphs()), Reply::Completed);
    assert_eq!((trial.state(TaskId(1)), trial.holder(TaskId(2))), (TaskState::Failed, Some(stay.agent)));
    let told = Outcome::Suspended(Suspension { subtasks: Vec::new(), carried: Bytes::new() }).within_limits();
    assert!(told.needs_graphs() && !told.before_graphs().needs_graphs(), "a failure of a kind that is new is one, too");
    assert_eq!(output("x").before_graphs(), output("x"));
}
