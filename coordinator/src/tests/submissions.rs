//! Submission of tasks.

use robeing_fleet::{Command, ControlCommand, TaskId};
use robeing_net::gate::Caller;
use robeing_proto::v1::{SubmitResult, TaskSpec};

use crate::{
    propose::ProposeError,
    tests::fleet::{TestFleet, task},
};

async fn submit(fleet: &TestFleet, at: usize, spec: TaskSpec) -> SubmitResult {
    let mut results =
        fleet.tested(at).submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads");
    assert_eq!(results.len(), 1);
    results.remove(0)
}

fn accepted(id: u128, existing: bool) -> SubmitResult {
    SubmitResult { task_id: TaskId(id).to_string(), existing, refusal: None }
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
