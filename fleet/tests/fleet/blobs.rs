//! Inputs and outputs that are in an object store.

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, AskedLinks, BlobRef, Candidates, Command, Completion, Dependency, FIRST_VERSION,
    FailureKind, Feature, Fleet, Join, Kept, Obstacle, OnFailure, Outcome, Refusal, Reply, SessionId, SubmitTask,
    TaskCommand, TaskId, TaskState, UnmetNeeds, limits::MAX_BLOB_BYTES,
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

/// Returns the join of a worker that says that it has no object store.
fn without_store(name: &str) -> AgentJoin {
    AgentJoin { lacks_store: true, ..worker(name) }
}

#[test]
fn a_task_whose_input_is_in_the_object_store_goes_to_no_agent_that_has_none() {
    let mut trial = Trial::newest();
    let lacking = trial.join(without_store("a"));
    let id = trial.submit(with_ref(1, blob(1, 9)));
    let other = trial.submit(task(2));
    assert_eq!((trial.holder(id), trial.holder(other)), (None, Some(lacking.agent)));
    let words = trial.fleet.waiting_for(id, trial.now);
    assert_eq!(words.as_deref(), Some("an agent: no live one has an object store"));
    let mut unmet = UnmetNeeds::of(&trial.fleet);
    trial.fleet.agents().for_each(|agent| unmet.look(&trial.fleet, agent));
    let problems: Vec<String> = unmet.told().into_iter().map(|need| need.problem).collect();
    assert_eq!(problems, ["no agent has an object store"]);
    let mut candidates = Candidates::of(trial.task(id), trial.now);
    trial.fleet.agents().for_each(|agent| candidates.look(&trial.fleet, agent));
    let (best, ..) = candidates.told();
    assert_eq!(best.iter().map(|of| of.obstacle).collect::<Vec<_>>(), [Some(Obstacle::NoStore)]);
    trial.complete(lacking, other, 1, success());
    assert_eq!(trial.holder(id), None, "its slot is free, and it still can't fetch the input");
    let read = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!((read.waiting_for(id, trial.now), read.audit()), (words, Ok(())));
    // One that has not said so may have one: it joined at a coordinator of the version before.
    let having = trial.join(worker("b"));
    assert_eq!(trial.holder(id), Some(having.agent));
    let again = trial.submit(with_ref(3, blob(2, 9)));
    trial.join(worker("a"));
    assert_eq!(trial.holder(again), Some(lacking.agent), "it says otherwise by now");
}

#[test]
fn no_run_of_a_verified_task_goes_to_an_agent_that_can_not_fetch_its_input() {
    let mut trial = Trial::newest();
    let lacking = trial.join(without_store("a"));
    let stays = ["b", "c"].map(|name| trial.join(worker(name)));
    trial.submit(SubmitTask { input: Bytes::new(), input_ref: Some(Box::new(blob(1, 9))), ..to_verify(1) });
    let held = |trial: &Trial, agent| trial.fleet.agent(agent).map(|agent| agent.held().count());
    assert_eq!(held(&trial, lacking.agent), Some(0));
    assert_eq!(stays.map(|stay| held(&trial, stay.agent)), [Some(1); 2]);
    let third = trial.join(worker("d"));
    assert_eq!(held(&trial, third.agent), Some(1));
}

#[test]
fn a_fleet_of_the_version_before_does_not_know_that_an_agent_has_no_object_store() {
    let join = Command::Agent(AgentCommand::Joined(without_store("a")));
    assert_eq!(join.feature(), Some(Feature::Blobs));
    let mut trial = Trial::new();
    assert_eq!(trial.fleet.version(), FIRST_VERSION);
    assert!(matches!(trial.apply(join), Reply::Refused(Refusal::NotInForce { .. })));
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
