//! Tasks whose input is divided by an attempt that is run as a task of another kind.

use bytes::Bytes;
use robeing_fleet::{
    AgentId, AgentJoin, AskedLinks, AttemptEnd, Divider, FailureKind, Fleet, Join, Outcome, Refusal, Role, Split,
    SubmitTask, Suspension, TaskId, TaskState,
    limits::{MAX_NAME_BYTES, MAX_SPREAD_PARTS},
};

use crate::{
    blobs::blob,
    fixture::{OpenSession, Trial, ballot, failure, retry, specialist, success, task, to_verify, worker},
    links::{output, part, refused, with_links},
};

fn divider(join: Join) -> Divider {
    Divider { kind: "cut".to_owned(), agents: 3, join, part_kind: "count".to_owned(), ..Divider::default() }
}

/// Returns a task that is divided in this way.
fn divided(n: u128, divider: Divider) -> SubmitTask {
    with_links(task(n), AskedLinks { divider: Some(Box::new(divider)), ..AskedLinks::default() })
}

/// Returns how an attempt ends that divides a task into so many parts.
fn cut(trial: &Trial, n: u128, parts: usize) -> Outcome {
    let task = trial.task(TaskId(n));
    let subtasks = (0..parts).map(|part| task.part(Bytes::from(part.to_string()), trial.now)).collect();
    Outcome::Suspended(Suspension { subtasks, carried: Bytes::new() })
}

fn parts(trial: &Trial, n: u128) -> Vec<TaskId> {
    trial.fleet.children_of(TaskId(n), 0, 100).into_iter().map(|(_, part)| part.id()).collect()
}

fn with_slots(trial: &mut Trial, name: &str, slots: u32) -> OpenSession {
    trial.join(AgentJoin { slots, ..worker(name) })
}

#[test]
fn the_first_attempt_is_run_as_another_kind_and_the_parts_on_different_agents() {
    let mut trial = Trial::newest();
    let [a, b] = ["a", "b"].map(|name| with_slots(&mut trial, name, 4));
    let cutter = trial.join(specialist("c", "cut"));
    let asked = SubmitTask { priority: 8, deadline_in: Some(10_000), ..divided(1, divider(Join::All)) };
    let id = trial.submit(asked);
    assert_eq!(trial.holder(id), Some(cutter.agent), "its specialization is the kind that is run");
    assert_eq!((trial.task(id).kind_to_run(), &*trial.task(id).kind), ("cut", "sum"));
    assert!(trial.fleet.has_dividing() && trial.fleet.divided_by(id, 1).is_some());
    trial.after(4_000);
    let end = cut(&trial, 1, 3);
    trial.complete(cutter, id, 1, end);
    assert!(!trial.fleet.has_dividing() && trial.fleet.divided_by(id, 1).is_none());
    let parts = parts(&trial, 1);
    let holders: Vec<Option<AgentId>> = parts.iter().map(|part| trial.holder(*part)).collect();
    assert_eq!(holders, [a, b, cutter].map(|stay| Some(stay.agent)));
    let first = trial.task(parts[0]);
    assert_eq!((&*first.kind, &first.input[..], first.priority), ("count", &b"0"[..], 8));
    assert_eq!(first.deadline, trial.task(id).deadline);
    assert_eq!(trial.task(id).attempts[0].end, Some(AttemptEnd::Suspended));
    assert_eq!(trial.task(id).attempts_used, 0, "it costs no attempt");
    let agent = trial.fleet.agent(cutter.agent).expect("it is known");
    let kinds: Vec<&str> = agent.kinds.iter().map(|record| &*record.kind).collect();
    assert_eq!((agent.record.succeeded, kinds), (1, vec!["cut"]), "it has succeeded at the kind that was run");
    for (stay, part) in [a, b, cutter].into_iter().zip(parts) {
        trial.complete(stay, part, 1, success());
    }
    assert_eq!(trial.state(id), TaskState::Succeeded);
}

#[test]
fn a_task_that_was_divided_is_run_with_the_results_of_its_parts_and_without_its_input() {
    let mut trial = Trial::newest();
    let a = with_slots(&mut trial, "a", 1);
    let id = trial.submit(SubmitTask { deadline_in: Some(10_000), ..divided(1, divider(Join::Reduce)) });
    assert_eq!(&trial.fleet.input_of(trial.task(id))[..], b"1 2");
    let end = cut(&trial, 1, 2);
    trial.complete(a, id, 1, end);
    assert_eq!(trial.task(parts(&trial, 1)[0]).deadline, Some(trial.now + 9_000), "a tenth is for the task");
    for (part, text) in parts(&trial, 1).into_iter().zip(["x", "y"]) {
        trial.complete(a, part, 1, output(text));
    }
    assert_eq!((trial.holder(id), trial.task(id).kind_to_run()), (Some(a.agent), "sum"));
    assert!(trial.fleet.input_of(trial.task(id)).is_empty() && trial.fleet.results_given(trial.task(id)) == 2);
    trial.complete(a, id, 2, output("xy"));
    assert_eq!(trial.task(id).output.as_deref(), Some(&b"xy"[..]));
}

#[test]
fn an_attempt_that_divides_and_is_lost_is_repeated_and_the_failure_of_a_part_decides() {
    let mut trial = Trial::newest();
    let a = with_slots(&mut trial, "a", 4);
    let id = trial.submit(SubmitTask { retry: retry(3), ..divided(1, divider(Join::All)) });
    trial.lose(a);
    let b = with_slots(&mut trial, "b", 4);
    assert_eq!((trial.holder(id), trial.task(id).attempt, trial.task(id).kind_to_run()), (Some(b.agent), 2, "cut"));
    let end = cut(&trial, 1, 2);
    trial.complete(b, id, 2, end);
    let parts = parts(&trial, 1);
    assert_eq!(trial.holder(parts[1]), None, "the one agent runs the other part");
    trial.complete(b, parts[0], 1, failure(false));
    assert_eq!((trial.state(id), trial.state(parts[1])), (TaskState::Failed, TaskState::Cancelled));
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert!(restored.audit().is_ok());
}

#[test]
fn an_output_of_which_nobody_made_parts_is_a_failure_and_so_are_too_many_parts() {
    let mut trial = Trial::newest();
    let a = with_slots(&mut trial, "a", 4);
    let kind = |trial: &Trial, n| trial.task(TaskId(n)).failure.as_ref().map(|failure| failure.kind);
    trial.submit(SubmitTask { retry: retry(1), ..divided(1, divider(Join::All)) });
    trial.complete(a, TaskId(1), 1, success());
    assert_eq!(kind(&trial, 1), Some(FailureKind::Internal));
    trial.submit(SubmitTask { retry: retry(1), ..divided(2, divider(Join::All)) });
    let end = cut(&trial, 2, 4);
    trial.complete(a, TaskId(2), 1, end);
    assert_eq!(kind(&trial, 2), Some(FailureKind::Subtask));
    trial.submit(divided(3, Divider { quorum: 3, ..divider(Join::Quorum) }));
    let end = cut(&trial, 3, 2);
    trial.complete(a, TaskId(3), 1, end);
    let quorum = trial.task(TaskId(3)).children().map(|children| (children.quorum, children.parts));
    assert_eq!(quorum, Some((2, 2)), "all of them");
    let late = refused(&mut trial, part(99, 3, 1));
    assert!(matches!(late, Refusal::NoPart { .. }), "{late:?}");
}

#[test]
fn an_input_in_the_object_store_is_divided_but_not_into_what_is_there() {
    let mut trial = Trial::newest();
    let a = with_slots(&mut trial, "a", 4);
    let stored = |n| SubmitTask {
        input: Bytes::new(),
        input_ref: Some(Box::new(blob(1, 5 << 20))),
        ..divided(n, divider(Join::Reduce))
    };
    let id = trial.submit(stored(1));
    assert_eq!(trial.fleet.input_ref_of(trial.task(id)), Some(blob(1, 5 << 20)));
    let end = cut(&trial, 1, 1);
    trial.complete(a, id, 1, end);
    let part = parts(&trial, 1)[0];
    assert_eq!(trial.fleet.input_ref_of(trial.task(part)), None);
    trial.complete(a, part, 1, Outcome::Stored(blob(2, 5 << 20)));
    assert_eq!(
        (trial.holder(id), trial.fleet.input_ref_of(trial.task(id))),
        (Some(a.agent), None),
        "its parts have it"
    );
    let id = trial.submit(stored(2));
    trial.complete(a, id, 1, Outcome::Stored(blob(3, 5 << 20)));
    let failed = trial.task(id);
    let failure = failed.failure.as_ref().map(|failure| failure.kind);
    assert_eq!((failure, &failed.output_ref), (Some(FailureKind::Subtask), &None));
}

#[test]
fn once_an_input_in_the_object_store_is_divided_its_task_goes_also_to_agents_without_one() {
    let mut trial = Trial::newest();
    let lacking = || AgentJoin { slots: 4, lacks_store: true, ..worker("a") };
    let a = trial.join(lacking());
    let stored = SubmitTask { input: Bytes::new(), input_ref: Some(Box::new(blob(1, 9))), ..task(1) };
    let links = AskedLinks { divider: Some(Box::new(divider(Join::Reduce))), ..AskedLinks::default() };
    let id = trial.submit(with_links(stored, links));
    assert_eq!(trial.holder(id), None, "the attempt that divides it has to fetch it");
    with_slots(&mut trial, "a", 4);
    assert_eq!(trial.holder(id), Some(a.agent));
    trial.join(lacking());
    let end = cut(&trial, 1, 1);
    trial.complete(a, id, 1, end);
    let part = parts(&trial, 1)[0];
    assert_eq!(trial.holder(part), Some(a.agent), "its input is in the log");
    trial.complete(a, part, 1, success());
    assert_eq!((trial.holder(id), trial.fleet.audit()), (Some(a.agent), Ok(())));
    let read = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!((read.encode(), read.audit()), (trial.fleet.encode(), Ok(())));
}

#[test]
fn how_a_task_is_divided_is_held_to_its_limits() {
    let mut trial = Trial::newest();
    let longest = "k".repeat(MAX_NAME_BYTES);
    let most = Divider { kind: longest.clone(), agents: MAX_SPREAD_PARTS, ..divider(Join::Any) };
    let id = trial.submit(SubmitTask { required_role: Some(Role::Guardian), ..divided(1, most) });
    assert_eq!(trial.state(id), TaskState::Queued);
    let of = |change: fn(&mut Divider)| {
        let mut divider = divider(Join::All);
        change(&mut divider);
        divided(2, divider)
    };
    let split = Some(Split { parts: 2, join: Join::All, quorum: 0, spread: false });
    let links = AskedLinks { divider: Some(Box::new(divider(Join::All))), split, ..AskedLinks::default() };
    for wrong in [
        of(|divider| divider.kind.clear()),
        of(|divider| divider.kind = "k".repeat(MAX_NAME_BYTES + 1)),
        of(|divider| divider.part_kind = "k".repeat(MAX_NAME_BYTES + 1)),
        of(|divider| divider.agents = 1),
        of(|divider| divider.agents = MAX_SPREAD_PARTS + 1),
        of(|divider| divider.join = Join::Resume),
        of(|divider| divider.join = Join::Quorum),
        of(|divider| divider.quorum = 1),
        with_links(task(2), links),
        SubmitTask { verify: to_verify(2).verify, ..of(|_| {}) },
        SubmitTask { approval: Some(Box::new(ballot(2))), ..of(|_| {}) },
    ] {
        assert!(matches!(refused(&mut trial, wrong.clone()), Refusal::Invalid { .. }), "{wrong:?}");
    }
}
