//! Dead letters, at any coordinator, and the rules about time that submissions have.

use std::time::Duration;

use robeing_fleet::{TaskId, TaskState};
use robeing_net::gate::Caller;
use robeing_proto::{
    internal::v1::completion::Outcome,
    v1::{
        self, DeadLetterRef, DropDeadLettersRequest, ListDeadLettersRequest, RetryDeadLettersRequest, RetryPolicy,
        TaskSpec, dead_letters_server::DeadLetters as _,
    },
};
use tonic::{Code, Request};

use crate::tests::{
    agent::TestAgent,
    fleet::{TestFleet, task},
    mail::mailbox::start,
};

/// Fails every task of the kind `dies`, and finishes the others.
fn work(given: &robeing_proto::internal::v1::Assignment) -> Option<Outcome> {
    Some(match &given.kind[..] {
        "dies" => Outcome::Failure(v1::Failure {
            kind: v1::FailureKind::Reported.into(),
            name: "ValueError".into(),
            message: format!("attempt {} failed", given.attempt),
            retryable: true,
            ..v1::Failure::default()
        }),
        _ => Outcome::Output("done".into()),
    })
}

async fn submit(fleet: &TestFleet, at: usize, spec: TaskSpec) -> Option<v1::Refusal> {
    let mut results = fleet.tested(at).submissions.submit(vec![spec], &Caller::Plaintext).await.expect("it leads");
    results.remove(0).refusal
}

/// A task that is not tried again after its first failure.
fn dies(id: u128) -> TaskSpec {
    let of = v1::FailureMatch { name: "ValueError".into(), ..v1::FailureMatch::default() };
    let retry = RetryPolicy { max_attempts: 3, non_retryable: vec![of], ..RetryPolicy::default() };
    TaskSpec { kind: "dies".into(), retry: Some(retry), ..task(id) }
}

async fn list(fleet: &TestFleet, at: usize, page_size: u32, page_token: &str) -> v1::ListDeadLettersResponse {
    let page_token = page_token.to_owned();
    let request = ListDeadLettersRequest { page_size, page_token, ..ListDeadLettersRequest::default() };
    let listed = fleet.tested(at).dead_letters.list_dead_letters(Request::new(request)).await;
    listed.expect("it can be read").into_inner()
}

fn letter(id: u128, epoch: Option<u32>) -> DeadLetterRef {
    DeadLetterRef { task_id: TaskId(id).to_string(), epoch }
}

fn state(fleet: &TestFleet, at: usize, id: u128) -> Option<(TaskState, u32)> {
    fleet.tested(at).state.look(|fleet| fleet.task(TaskId(id)).map(|task| (task.state, task.epoch())))
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_listed_tried_again_and_dropped_at_any_coordinator() {
    let (fleet, leader) = start().await;
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", work).await;
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    for id in 1..=3 {
        assert_eq!(submit(&fleet, one, dies(id)).await, None);
        let died = |fleet: &TestFleet| state(fleet, leader, id) == Some((TaskState::Failed, 0));
        fleet.until("the task's death", died).await;
    }
    let first = list(&fleet, other, 2, "").await;
    let ids: Vec<String> = first.tasks.iter().map(|task| task.id.clone()).collect();
    assert_eq!((ids, first.total), (vec![TaskId(1).to_string(), TaskId(2).to_string()], 3));
    let failure = first.tasks[0].failure.as_ref().expect("it has one");
    assert_eq!((&*failure.name, failure.retryable, first.tasks[0].dead), ("ValueError", false, true));
    let second = list(&fleet, other, 2, &first.next_page_token).await;
    assert_eq!((second.tasks.len(), second.next_page_token.as_str()), (1, ""));

    let retry = RetryDeadLettersRequest { letters: vec![letter(1, Some(0)), letter(9, None)] };
    for existing in [false, true] {
        let call = fleet.tested(other).dead_letters.retry_dead_letters(Request::new(retry.clone())).await;
        let results = call.expect("somebody leads").into_inner().results;
        assert_eq!((results[0].epoch, results[0].existing, results[0].refusal.as_ref()), (1, existing, None));
        assert_eq!(results[1].refusal.as_ref().map(|refusal| refusal.code.as_str()), Some("NOT_FOUND"));
    }
    let died_again = |fleet: &TestFleet| state(fleet, leader, 1) == Some((TaskState::Failed, 1));
    fleet.until("its second death", died_again).await;
    let told = fleet.tested(leader).state.look(|fleet| {
        let told = fleet.audit_records(0, 1_000).filter(|record| record.action == "dead.retry");
        told.map(|record| (record.actor.clone(), record.subject.clone())).collect::<Vec<_>>()
    });
    assert_eq!(told, [("plaintext".to_owned(), TaskId(1).to_string())], "once");

    let drop = DropDeadLettersRequest { letters: vec![letter(2, Some(0)), letter(1, Some(0))] };
    let call = fleet.tested(one).dead_letters.drop_dead_letters(Request::new(drop)).await;
    let results = call.expect("somebody leads").into_inner().results;
    assert_eq!((results[0].existing, results[0].refusal.as_ref()), (false, None));
    let code = results[1].refusal.as_ref().map(|refusal| refusal.code.as_str());
    assert_eq!(code, Some("FAILED_PRECONDITION"), "it died in another epoch");
    assert_eq!(list(&fleet, leader, 0, "").await.total, 2);

    let bad = ListDeadLettersRequest { page_token: "x".into(), ..ListDeadLettersRequest::default() };
    let refused = fleet.tested(one).dead_letters.list_dead_letters(Request::new(bad)).await;
    assert_eq!(refused.expect_err("it is no token").code(), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_task_starts_no_sooner_than_the_time_that_its_submission_names() {
    let (fleet, leader) = start().await;
    let _agent = TestAgent::join_to_work(&fleet, leader, "w-0", work).await;
    let wall = fleet.tested(leader).submissions.clock.estimate().wall + 5_000;
    let nanos = (wall % 1_000) as i32 * 1_000_000;
    let not_before = Some(prost_types::Timestamp { seconds: (wall / 1_000) as i64, nanos });
    assert_eq!(submit(&fleet, leader, TaskSpec { not_before, ..task(1) }).await, None);
    let delayed = fleet.tested(leader).state.look(|fleet| {
        let task = fleet.task(TaskId(1)).expect("it is accepted");
        task.not_before.map(|at| at - task.submitted_at.fleet)
    });
    // Fleet time, which gains or loses a twentieth at most, may be a little off the wall time.
    assert!(delayed.is_some_and(|delay| (4_000..=5_250).contains(&delay)), "{delayed:?}");
    tokio::time::sleep(Duration::from_millis(3_500)).await;
    assert_eq!(state(&fleet, leader, 1), Some((TaskState::Queued, 0)));
    fleet.until("its end", |fleet| state(fleet, leader, 1) == Some((TaskState::Succeeded, 0))).await;
    let delay = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let refused = submit(&fleet, leader, TaskSpec { not_before, delay, ..task(2) }).await;
    assert_eq!(refused.map(|refusal| refusal.code).as_deref(), Some("INVALID_ARGUMENT"));
}

#[tokio::test(start_paused = true)]
async fn the_seed_of_jitter_is_drawn_before_it_is_in_the_log() {
    let (fleet, leader) = start().await;
    let retry = Some(RetryPolicy { jitter_percent: 50, ..RetryPolicy::default() });
    for id in 1..=2 {
        assert_eq!(submit(&fleet, leader, TaskSpec { retry: retry.clone(), ..task(id) }).await, None);
    }
    let seeds = |at: usize| {
        let seed = |id| {
            fleet.tested(at).state.look(|fleet| {
                let task = fleet.task(TaskId(id))?;
                Some(task.timing.as_ref()?.asked.jitter?.seed)
            })
        };
        [seed(1), seed(2)]
    };
    let drawn = seeds(leader);
    assert!(drawn[0].is_some() && drawn[0] != drawn[1], "{drawn:?}");
    fleet
        .until("the same everywhere", |fleet| {
            fleet.running().into_iter().all(|n| fleet.tested(n).state.look(|state| state.task(TaskId(2)).is_some()))
        })
        .await;
    assert!(fleet.running().into_iter().all(|n| seeds(n) == drawn));
}
