//! Inputs and outputs in the object store, as agents are given and report them.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{BlobRef, FailureKind, Task, TaskId, TaskState};
use robeing_net::gate::Caller;
use robeing_proto::{
    internal::v1::{self as internal, completion::Outcome},
    v1::{self, Dependency, Passing, RetryPolicy, TaskSpec},
};

use crate::tests::{
    agent::TestAgent,
    fleet::{TestFleet, task},
    mail::mailbox::start,
};

fn blob(bytes: u64) -> v1::BlobRef {
    v1::BlobRef { sha256: vec![7; 32].into(), bytes }
}

fn after(id: u128, other: u128, passing: Passing) -> TaskSpec {
    let depends_on = vec![Dependency { task: TaskId(other).to_string(), on_failure: 0 }];
    TaskSpec { depends_on, passing: passing.into(), input: Bytes::from_static(b"own,"), ..task(id) }
}

/// Stores an output, or says what is given.
fn work(given: &internal::Assignment) -> Option<Outcome> {
    if given.kind == "store" {
        return Some(Outcome::OutputRef(blob(70)));
    }
    let length = |object: &Option<v1::BlobRef>| object.as_ref().map_or(0, |object| object.bytes);
    let parts = given.stored.iter().map(|part| format!("{}: {};", part.at, length(&part.object)));
    let results = given.results.iter().map(|result| format!("result: {};", length(&result.output_ref)));
    let said: String = parts.chain(results).collect();
    Some(Outcome::Output([said.as_bytes(), &given.input[..]].concat().into()))
}

async fn ended(fleet: &TestFleet, at: usize, id: u128) -> Arc<Task> {
    let look = |fleet: &TestFleet| fleet.tested(at).state.look(|fleet| fleet.task(TaskId(id)).cloned());
    fleet.until("the end of the task", |fleet| look(fleet).is_some_and(|task| task.state.is_final())).await;
    look(fleet).expect("it is kept")
}

#[tokio::test(start_paused = true)]
async fn what_is_in_the_object_store_is_passed_on_by_reference() {
    let (fleet, leader) = start().await;
    let _agent = TestAgent::join_with_store(&fleet, leader, "w-0", 1, work).await;
    let tasks = vec![
        TaskSpec { input: Bytes::new(), input_ref: Some(blob(50)), ..task(0x100) },
        TaskSpec { kind: "store".into(), ..task(0x200) },
        after(0x300, 0x200, Passing::Separately),
        after(0x400, 0x200, Passing::AsInput),
    ];
    let results = fleet.tested(leader).submissions.submit(tasks, &Caller::Plaintext).await.expect("somebody leads");
    assert!(results.iter().all(|result| result.refusal.is_none()), "{results:?}");
    for (id, said) in [(0x100, "0: 50;"), (0x300, "result: 70;own,"), (0x400, "4: 70;own,")] {
        let done = ended(&fleet, leader, id).await;
        assert_eq!((done.state, done.output.as_deref()), (TaskState::Succeeded, Some(said.as_bytes())));
    }
    let stored = ended(&fleet, leader, 0x200).await;
    assert_eq!(stored.output_ref.as_deref(), Some(&BlobRef { sha256: [7; 32], bytes: 70 }));
}

#[tokio::test(start_paused = true)]
async fn an_agent_without_an_object_store_is_given_nothing_that_is_in_one() {
    let (fleet, leader) = start().await;
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", work).await;
    // It waits for another agent. What results are in the store, the scheduler does not know.
    let once = || Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() });
    let tasks = vec![
        TaskSpec { input: Bytes::new(), input_ref: Some(blob(50)), retry: once(), ..task(0x100) },
        TaskSpec { kind: "store".into(), ..task(0x200) },
        TaskSpec { retry: once(), ..after(0x300, 0x200, Passing::AsInput) },
        TaskSpec { retry: once(), ..after(0x400, 0x200, Passing::Separately) },
    ];
    fleet.tested(leader).submissions.submit(tasks, &Caller::Plaintext).await.expect("somebody leads");
    for id in [0x300, 0x400] {
        let failed = ended(&fleet, leader, id).await;
        let failure = failed.failure.as_ref().expect("it has failed");
        assert_eq!((failed.state, failure.kind), (TaskState::Failed, FailureKind::Internal));
        assert!(failure.message.contains("--object-store"), "{failure:?}");
    }
    let waits = |at: &TestFleet| {
        let waits = at.tested(leader).state.look(|fleet| fleet.waiting_for(TaskId(0x100), fleet.now().fleet));
        waits.expect("it has used up no attempt")
    };
    assert_eq!(waits(&fleet), "an agent: no live one has an object store");
    let _other = TestAgent::join_with_store(&fleet, leader, "w-1", 2, work).await;
    let done = ended(&fleet, leader, 0x100).await;
    assert_eq!((done.state, done.attempts.len()), (TaskState::Succeeded, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reference_that_is_none_is_refused() {
    let (fleet, leader) = start().await;
    let short = v1::BlobRef { sha256: vec![7; 31].into(), bytes: 5 };
    for (input, wrong) in
        [(&b""[..], short), (&b""[..], blob(0)), (&b""[..], blob((64 << 20) + 1)), (&b"x"[..], blob(5))]
    {
        let spec = TaskSpec { input: input.into(), input_ref: Some(wrong), ..task(0x100) };
        let results =
            fleet.tested(leader).submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads");
        let refusal = results[0].refusal.as_ref().expect("it is refused");
        assert!(refusal.code == "INVALID_ARGUMENT" && refusal.message.contains("input_ref"), "{refusal:?}");
    }
}
