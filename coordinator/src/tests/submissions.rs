//! Submission of tasks.

use robeing_fleet::{Command, ControlCommand, TaskCommand, TaskId};
use robeing_net::gate::Caller;
use robeing_proto::v1::{SubmitResult, TaskSpec};
use tokio::task::JoinHandle;

use crate::{
    propose::ProposeError,
    tests::{
        fleet::{TestFleet, task},
        mail::mailbox::in_force,
    },
};

async fn submit(fleet: &TestFleet, at: usize, spec: TaskSpec) -> SubmitResult {
    let mut results =
        fleet.tested(at).submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads");
    assert_eq!(results.len(), 1);
    results.remove(0)
}

fn accepted(id: u128, existing: bool) -> SubmitResult {
    SubmitResult { task_id: TaskId(id).to_string(), existing, ..SubmitResult::default() }
}

fn queued(fleet: &TestFleet, at: usize) -> u32 {
    fleet.tested(at).state.look(|fleet| fleet.counts().queued)
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_submitted_again_by_its_id_or_its_key_is_the_same_task() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let keyed = |id| TaskSpec { idempotency_key: "key".into(), ..task(id) };
    assert_eq!(submit(&fleet, leader, keyed(1)).await, accepted(1, false));
    assert_eq!(submit(&fleet, leader, keyed(1)).await, accepted(1, true), "the same id");
    assert_eq!(submit(&fleet, leader, keyed(2)).await, accepted(1, true), "the same key");
    assert_eq!(queued(&fleet, leader), 1);
    assert_eq!(submit(&fleet, leader, task(2)).await, accepted(2, false));
    assert_eq!(queued(&fleet, leader), 2);
}

#[tokio::test(start_paused = true)]
async fn a_follower_hands_tasks_to_the_leader_and_every_coordinator_has_them() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    for (id, follower) in (1..).zip(fleet.followers(leader)) {
        assert_eq!(submit(&fleet, follower, task(id)).await, accepted(id, false));
        assert!(fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(id)).is_some()), "the leader has it");
        let have = |fleet: &TestFleet| fleet.running().into_iter().all(|n| u128::from(queued(fleet, n)) == id);
        fleet.until("the task at all", have).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_follower_writes_nothing_that_only_a_leader_may() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let term = fleet.tested(leader).standing.leading().expect("it leads");
    let follower = fleet.tested(fleet.followers(leader)[0]);
    assert_eq!(
        follower.proposer.propose_in(term, Command::Control(ControlCommand::Tick)).await,
        Err(ProposeError::NotLeader)
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_with_a_bad_field_is_refused_and_those_beside_it_are_taken() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let bad = TaskSpec { kind: "x".repeat(10_000), ..task(2) };
    let results = fleet
        .tested(leader)
        .submissions
        .submit(vec![task(1), bad, task(3)], &Caller::Plaintext)
        .await
        .expect("it leads");
    let refused: Vec<bool> = results.iter().map(|result| result.refusal.is_some()).collect();
    assert_eq!(refused, [false, true, false]);
    assert_eq!(queued(&fleet, leader), 2);
}

/// Returns a task with a key that is forgotten a second after its end.
fn keyed(id: u128, key: &str) -> TaskSpec {
    let second = prost_types::Duration { seconds: 1, nanos: 0 };
    TaskSpec { idempotency_key: key.into(), result_ttl: Some(second), ..task(id) }
}

#[tokio::test(start_paused = true)]
async fn a_key_stands_for_its_first_task_whoever_leads_also_when_that_is_long_done_and_forgotten() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    in_force(&fleet).await;
    assert_eq!(submit(&fleet, leader, keyed(1, "key")).await, accepted(1, false));
    fleet.take_away(leader);
    let next = fleet.led().await;
    assert_eq!(submit(&fleet, next, keyed(2, "key")).await, accepted(1, true), "another leader knows it");
    let cancel = TaskCommand::Cancel { task: TaskId(1), reason: String::new() };
    fleet.tested(next).proposer.propose_one(Command::Task(cancel)).await.expect("somebody leads");
    let is_gone = |fleet: &TestFleet| fleet.tested(next).state.look(|fleet| fleet.task(TaskId(1)).is_none());
    fleet.until("the end of its result", is_gone).await;
    fleet.run(leader);
    fleet.led().await;
    fleet.take_away(next);
    let last = fleet.led().await;
    assert_eq!(submit(&fleet, last, keyed(3, "key")).await, accepted(1, true), "it is forgotten, and its key is not");
    let other = TaskSpec { input: "another".into(), ..keyed(4, "key") };
    let refusal = submit(&fleet, last, other).await.refusal.expect("it is refused");
    assert_eq!(refusal.code, "ALREADY_EXISTS");
    assert!(refusal.message.contains("belongs to task 00000000-0000-0000-0000-000000000001"), "{}", refusal.message);
}

/// Submits a task in a task of its own.
fn submitting(fleet: &TestFleet, at: usize, spec: TaskSpec) -> JoinHandle<SubmitResult> {
    let submissions = fleet.tested(at).submissions;
    tokio::spawn(async move {
        let mut results = submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads");
        results.remove(0)
    })
}

#[tokio::test(start_paused = true)]
async fn submissions_of_one_key_while_the_leader_changes_are_one_task() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    let [one, other] = fleet.followers(leader)[..] else { panic!("two follow") };
    for n in 0..8 {
        let key = format!("key-{n}");
        let under_way =
            [(one, 1), (other, 2), (one, 3)].map(|(at, id)| submitting(&fleet, at, keyed(3 * n + id, &key)));
        if n == 3 {
            // They are on their way to the leader.
            tokio::task::yield_now().await;
            fleet.take_away(leader);
        }
        let mut results = Vec::new();
        for submission in under_way {
            results.push(submission.await.expect("it does not panic"));
        }
        assert!(results.iter().all(|result| result.task_id == results[0].task_id), "{results:?}");
        assert!(results.iter().filter(|result| !result.existing).count() <= 1, "{results:?}");
    }
    let leader = fleet.led().await;
    assert_eq!(queued(&fleet, leader), 8);
}
