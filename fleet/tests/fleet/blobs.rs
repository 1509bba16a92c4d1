//! Inputs and outputs that are in an object store.

use bytes::Bytes;
use robeing_fleet::{
    AgentId, AgentJoin, AskedLinks, BlobRef, Command, Completion, Dependency, FailureKind, Fleet, Join, Kept,
    OnFailure, Outcome, Refusal, Reply, SessionId, SubmitTask, TaskCommand, TaskId, TaskState, limits::MAX_BLOB_BYTES,
};

use crate::{
    fixture::{Trial, retry, success, task, to_verify, worker},
    links::{after, part, split, with_links},
};

/// Returns a reference to so many bytes, with a hash of this byte.
pub fn blob(hash: u8, bytes: u64) -> BlobRef {
    BlobRef { sha256: [hash; 32], bytes }
}

/// Returns a task whose input is in the object store.
pub fn with_ref(n: u128, input: BlobRef) -> SubmitTask {
    SubmitTask { input: Bytes::new(), input_ref: Some(Box::new(input)), ..task(n) }
}

/// A task with its input in the object store, and an attempt that has put its output there.
pub fn blob_commands() -> Vec<Command> {
    let completion = Completion {
        agent: AgentId(7),
        session: SessionId(300),
        task: TaskId(5),
        attempt: 1,
        ran_us: 10,
        outcome: Outcome::Stored(blob(9, MAX_BLOB_BYTES)),
    };
    vec![
        Command::Task(TaskCommand::Submit(with_ref(801, blob(8, 5 << 20)))),
        Command::Task(TaskCommand::Complete(completion)),
    ]
}

#[test]
fn a_task_has_its_input_and_its_output_in_the_object_store() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let (input, output) = (blob(1, 5 << 20), blob(2, MAX_BLOB_BYTES));
    let id = trial.submit(with_ref(1, input));
    let given = trial.fleet.input_ref_of(trial.task(id));
    assert_eq!(given, Some(input));
    assert_eq!(trial.complete(stay, id, 1, Outcome::Stored(output)), Reply::Completed);
    let done = trial.task(id);
    assert_eq!((done.state, done.output.as_deref()), (TaskState::Succeeded, Some(&b""[..])));
    assert_eq!(done.output_ref.as_deref(), Some(&output));
    let read = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!(read.task(id).map(|task| task.output_ref.clone()), Some(Some(Box::new(output))));
}

#[test]
fn the_same_key_with_another_object_is_another_task() {
    let keyed =
        |n, input| SubmitTask { idempotency_key: Some("k".to_owned()), result_ttl: Some(50), ..with_ref(n, input) };
    let mut trial = Trial::newest();
    let first = trial.submit(keyed(1, blob(1, 9)));
    for _ in 0..2 {
        assert_eq!(trial.submit(keyed(2, blob(1, 9))), first);
        for other in [blob(2, 9), blob(1, 8)] {
            let reply = trial.apply(Command::Task(TaskCommand::Submit(keyed(3, other))));
            assert!(matches!(reply, Reply::Refused(Refusal::Conflict { .. })), "{reply:?}");
        }
        // The second time, the task is forgotten, and its key is not.
        trial.cancel(first);
        trial.after(50);
    }
}

#[test]
fn an_output_that_is_verified_is_not_in_the_object_store() {
    let mut trial = Trial::newest();
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    let id = trial.submit(SubmitTask { retry: retry(1), ..to_verify(1) });
    for stay in stays {
        if trial.state(id).is_final() {
            break;
        }
        let (member, attempt) = trial.held_by(stay);
        trial.complete(stay, member, attempt, Outcome::Stored(blob(1, 9)));
    }
    assert_eq!((trial.state(id), trial.task(id).output_ref.is_none()), (TaskState::Failed, true));
}

#[test]
fn a_run_of_a_verified_task_has_its_input_from_the_object_store() {
    let mut trial = Trial::newest();
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    trial.submit(SubmitTask { input: Bytes::new(), input_ref: Some(Box::new(blob(1, 9))), ..to_verify(1) });
    let (member, _) = trial.held_by(stays[0]);
    let member = trial.task(member);
    assert_eq!((member.input_ref.is_none(), trial.fleet.input_ref_of(member)), (true, Some(blob(1, 9))));
}

#[test]
fn the_first_part_that_succeeds_leaves_its_object_to_the_task() {
    let mut trial = Trial::newest();
    let stay = trial.join(AgentJoin { slots: 4, ..worker("a") });
    let whole = trial.submit(split(1, 2, Join::Any));
    let first = trial.submit(part(2, 1, 0));
    trial.submit(part(3, 1, 1));
    trial.complete(stay, first, 1, Outcome::Stored(blob(1, 9)));
    let done = trial.task(whole);
    assert_eq!((done.state, done.output_ref.as_deref()), (TaskState::Succeeded, Some(&blob(1, 9))));
}

#[test]
fn a_task_has_the_object_of_its_first_part_also_if_it_still_depends_on_another_then() {
    let mut trial = Trial::newest();
    let stay = trial.join(AgentJoin { slots: 4, ..worker("a") });
    let other = trial.submit(task(9));
    let whole = split(1, 2, Join::Any);
    let links = whole.links.as_deref().cloned().unwrap_or_default();
    let depends_on = vec![Dependency { task: other, on_failure: OnFailure::Fail }];
    let whole = trial.submit(with_links(whole, AskedLinks { depends_on, ..links }));
    let first = trial.submit(part(2, 1, 0));
    trial.complete(stay, first, 1, Outcome::Stored(blob(1, 9)));
    assert_eq!(trial.state(whole), TaskState::Queued);
    trial.complete(stay, other, 1, success());
    let done = trial.task(whole);
    assert_eq!((done.state, done.output_ref.as_deref()), (TaskState::Succeeded, Some(&blob(1, 9))));
}

#[test]
fn a_task_that_depends_on_another_is_given_its_reference() {
    let mut trial = Trial::newest();
    let stay = trial.join(AgentJoin { slots: 4, ..worker("a") });
    let first = trial.submit(task(1));
    let next = trial.submit(after(2, &[1], OnFailure::Fail));
    trial.complete(stay, first, 1, Outcome::Stored(blob(1, MAX_BLOB_BYTES)));
    assert_eq!(trial.state(next), TaskState::Assigned, "its bytes do not count as those of results that are passed on");
    let given = trial.fleet.results_for(trial.task(next), 0, 9);
    let Kept::Here(given) = &given[0] else { panic!("it is archived") };
    assert_eq!(given.output_ref.as_deref(), Some(&blob(1, MAX_BLOB_BYTES)));
}

#[test]
fn an_output_that_can_not_be_stored_is_a_failure() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    for (n, bytes) in [(1, 0), (2, MAX_BLOB_BYTES + 1)] {
        let id = trial.submit(SubmitTask { retry: retry(3), ..task(n) });
        trial.complete(stay, id, 1, Outcome::Stored(blob(1, bytes)));
        let failed = trial.task(id).failure.as_ref().map(|failure| failure.kind);
        assert_eq!((trial.state(id), failed), (TaskState::Failed, Some(FailureKind::OutputTooLarge)));
    }
}
