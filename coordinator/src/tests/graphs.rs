//! Tasks that depend on others, are split, or wait for subtasks, submitted at any coordinator and run by an agent.

use std::sync::Arc;

use bytes::Bytes;
use robeing_fleet::{Kept, Task, TaskId, TaskState, child_id};
use robeing_net::gate::Caller;
use robeing_proto::{
    internal::v1::{self as internal, completion::Outcome},
    v1::{self, Dependency, Join, Passing, Split, TaskSpec},
};

use crate::{
    api::convert::MAX_INPUTS,
    tests::{
        agent::TestAgent,
        fleet::{TestFleet, task},
        mail::mailbox::start,
    },
};

fn after(id: u128, others: &[u128], passing: Passing) -> TaskSpec {
    let dependency = |id: &u128| Dependency { task: TaskId(*id).to_string(), on_failure: 0 };
    let depends_on = others.iter().map(dependency).collect();
    TaskSpec { depends_on, passing: passing.into(), input: Bytes::new(), ..task(id) }
}

async fn submit(fleet: &TestFleet, at: usize, tasks: Vec<TaskSpec>) -> Vec<v1::SubmitResult> {
    fleet.tested(at).submissions.submit(tasks, &Caller::Plaintext).await.expect("somebody leads")
}

async fn ended(fleet: &TestFleet, at: usize, id: u128) -> Arc<Task> {
    let look = |fleet: &TestFleet| fleet.tested(at).state.look(|fleet| fleet.task(TaskId(id)).cloned());
    fleet.until("the end of the task", |fleet| look(fleet).is_some_and(|task| task.state.is_final())).await;
    look(fleet).expect("it is kept")
}

/// Returns the input, and the outputs that the attempt is given beside it. A task of the kind `ask` asks for two
/// subtasks first.
fn work(given: &internal::Assignment) -> Option<Outcome> {
    if given.kind == "ask" && given.carried.is_empty() {
        let subtask =
            |input: &'static str| TaskSpec { kind: "echo".into(), input: input.into(), ..TaskSpec::default() };
        let (subtasks, carried) = (vec![subtask("one,"), subtask("two,")], "asked,".into());
        return Some(Outcome::Suspended(internal::Suspended { subtasks, carried }));
    }
    let results = given.results.iter().map(|result| &result.output[..]);
    let parts: Vec<&[u8]> = [&given.carried[..], &given.input[..]].into_iter().chain(results).collect();
    Some(Outcome::Output(parts.concat().into()))
}

fn text(task: &Arc<Task>) -> String {
    String::from_utf8_lossy(task.output.as_deref().unwrap_or_default()).into_owned()
}

#[tokio::test(start_paused = true)]
async fn tasks_of_one_submission_run_in_their_order_whatever_the_order_of_the_submission() {
    let (fleet, leader) = start().await;
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", work).await;
    let at = fleet.followers(leader)[0];
    let first = TaskSpec { input: "first,".into(), ..task(0x100) };
    let tasks =
        vec![after(0x300, &[0x100, 0x200], Passing::Separately), after(0x200, &[0x100], Passing::AsInput), first];
    let results = submit(&fleet, at, tasks).await;
    let ids: Vec<String> = results.iter().map(|result| result.task_id.clone()).collect();
    assert_eq!(ids, [0x300, 0x200, 0x100].map(|id| TaskId(id).to_string()), "answered in the order of the submission");
    assert!(results.iter().all(|result| result.refusal.is_none()), "{results:?}");
    assert_eq!(text(&ended(&fleet, leader, 0x200).await), "first,");
    assert_eq!(text(&ended(&fleet, leader, 0x300).await), "first,first,");
}

#[tokio::test(start_paused = true)]
async fn tasks_that_would_wait_for_each_other_are_refused() {
    let (fleet, leader) = start().await;
    let tasks = vec![after(0x100, &[0x200], Passing::Separately), after(0x200, &[0x100], Passing::Separately)];
    for result in submit(&fleet, leader, tasks).await {
        let refusal = result.refusal.expect("it is refused");
        assert!(refusal.code == "INVALID_ARGUMENT" && refusal.message.contains("wait for each other"), "{refusal:?}");
    }
    let unknown = submit(&fleet, leader, vec![after(0x300, &[0x900], Passing::Separately)]).await;
    assert_eq!(unknown[0].refusal.as_ref().map(|refusal| refusal.code.as_str()), Some("NOT_FOUND"));
}

#[tokio::test(start_paused = true)]
async fn inputs_become_parts_whose_results_are_reduced_in_order() {
    let (fleet, leader) = start().await;
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", work).await;
    let inputs = ["a,", "b,", "c,"].map(|input| Bytes::from_static(input.as_bytes())).to_vec();
    let split = Some(Split { join: Join::Reduce.into(), part_kind: "echo".into(), ..Split::default() });
    let spec = TaskSpec { inputs, split, input: "all: ".into(), ..task(0x100) };
    for is_repeated in [false, true] {
        let results = submit(&fleet, leader, vec![spec.clone()]).await;
        assert_eq!((results.len(), &results[0].refusal, results[0].existing), (1, &None, is_repeated));
    }
    let reduced = ended(&fleet, leader, 0x100).await;
    assert_eq!((reduced.state, text(&reduced)), (TaskState::Succeeded, "all: a,b,c,".to_owned()));
    let parts = fleet.tested(leader).state.look(|fleet| fleet.children_of(TaskId(0x100), 0, 10));
    assert_eq!(parts.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_split_task_that_is_submitted_again_by_its_key_alone_is_kept_with_its_parts() {
    let (fleet, leader) = start().await;
    let inputs = vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    let spec = |id| TaskSpec { inputs: inputs.clone(), idempotency_key: "key".into(), ..task(id) };
    for (id, is_repeated) in [(0x100, false), (0x200, true)] {
        let result = submit(&fleet, leader, vec![spec(id)]).await.remove(0);
        assert_eq!((result.task_id, result.refusal, result.existing), (TaskId(0x100).to_string(), None, is_repeated));
    }
    let state = |id| fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(id)).map(|task| task.state));
    assert_eq!((state(0x100), state(0x200)), (Some(TaskState::Queued), None));
    assert_eq!(fleet.tested(leader).state.look(|fleet| fleet.children_of(TaskId(0x100), 0, 10).len()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_task_whose_submission_was_interrupted_gets_the_parts_that_it_lacks_when_its_key_is_submitted_again() {
    let (fleet, leader) = start().await;
    let follower = fleet.followers(leader)[0];
    // What is there if a coordinator dies after the first part.
    let split = Some(Split { parts: 3, ..Split::default() });
    let first = TaskSpec { split, idempotency_key: "key".into(), ..task(0x100) };
    let part_of = Some(v1::PartOf { task: TaskId(0x100).to_string(), index: 0 });
    let id = child_id(TaskId(0x100), 0).to_string();
    let part = TaskSpec { id, part_of, input: "a".into(), ..task(0x101) };
    let results = submit(&fleet, leader, vec![first, part]).await;
    assert!(results.iter().all(|result| result.refusal.is_none()), "{results:?}");

    let known = |fleet: &TestFleet| {
        let parts = fleet.tested(leader).state.look(|fleet| fleet.children_of(TaskId(0x100), 0, 10));
        let told = parts.into_iter().map(|(index, part)| {
            let Kept::Here(part) = part else { panic!("a part is archived") };
            assert_eq!(part.id, child_id(TaskId(0x100), index));
            String::from_utf8_lossy(&part.input).into_owned()
        });
        told.collect::<Vec<_>>()
    };
    let again = |id: u128, inputs: &[&'static str]| {
        let inputs = inputs.iter().map(|input| Bytes::from_static(input.as_bytes())).collect();
        TaskSpec { inputs, idempotency_key: "key".into(), ..task(id) }
    };
    let other = submit(&fleet, follower, vec![again(0x200, &["x", "b", "c"])]).await.remove(0);
    assert_eq!(other.refusal.map(|refusal| refusal.code).as_deref(), Some("ALREADY_EXISTS"));
    let fewer = submit(&fleet, follower, vec![again(0x300, &["a", "b"])]).await.remove(0);
    assert_eq!((fewer.task_id, fewer.existing), (TaskId(0x100).to_string(), true));
    assert_eq!(known(&fleet), ["a"]);
    for id in [0x400, 0x500] {
        let told = submit(&fleet, follower, vec![again(id, &["a", "b", "c"])]).await.remove(0);
        assert_eq!((told.task_id, told.refusal, told.existing), (TaskId(0x100).to_string(), None, true));
        assert_eq!(known(&fleet), ["a", "b", "c"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_with_inputs_comes_after_the_steps_that_it_depends_on() {
    let (fleet, leader) = start().await;
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", work).await;
    let split = |parts| Some(Split { parts, ..Split::default() });
    let part_of = |index| Some(v1::PartOf { task: TaskId(0x100).to_string(), index });
    let first = TaskSpec { part_of: part_of(0), input: "first,".into(), ..task(0x200) };
    let inputs = vec![Bytes::from_static(b"a,"), Bytes::from_static(b"b,")];
    let second = TaskSpec { part_of: part_of(1), inputs, ..after(0x300, &[0x200], Passing::AsInput) };
    let results = submit(&fleet, leader, vec![TaskSpec { split: split(2), ..task(0x100) }, first, second]).await;
    assert!(results.iter().all(|result| result.refusal.is_none()), "{results:?}");
    assert_eq!(ended(&fleet, leader, 0x100).await.state, TaskState::Succeeded);
    let parts = fleet.tested(leader).state.look(|fleet| fleet.children_of(TaskId(0x300), 0, 10));
    let here = |(_, part): &(u32, Kept)| match part {
        Kept::Here(part) => text(part),
        Kept::Archived(_) => "archived".to_owned(),
    };
    assert_eq!(parts.iter().map(here).collect::<Vec<_>>(), ["a,first,", "b,first,"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_has_no_more_inputs_of_parts_than_it_may() {
    let (fleet, leader) = start().await;
    let split = |id, inputs| TaskSpec { inputs: vec![Bytes::new(); inputs], ..task(id) };
    let tasks = vec![split(0x100, MAX_INPUTS), split(0x200, 1)];
    let refused = fleet.tested(leader).submissions.submit(tasks, &Caller::Plaintext).await;
    let refused = refused.expect_err("there are too many");
    assert!(refused.message().contains("10000 at most"), "{refused}");
    let alone = submit(&fleet, leader, vec![split(0x300, MAX_INPUTS + 1), split(0x400, 1)]).await;
    assert!(alone[0].refusal.is_some() && alone[1].refusal.is_none(), "{alone:?}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_asks_for_subtasks_leaves_its_slot_to_them_and_goes_on_with_their_results() {
    let (fleet, leader) = start().await;
    // It has one slot.
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", work).await;
    let results =
        submit(&fleet, leader, vec![TaskSpec { kind: "ask".into(), input: "in,".into(), ..task(0x100) }]).await;
    assert_eq!(results[0].refusal, None);
    let done = ended(&fleet, leader, 0x100).await;
    assert_eq!((done.state, text(&done)), (TaskState::Succeeded, "asked,in,one,two,".to_owned()));
    assert_eq!((done.attempts.len(), done.attempts_used), (2, 1));
}
