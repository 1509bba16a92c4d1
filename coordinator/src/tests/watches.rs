//! Task watches.

use std::{pin::Pin, time::Duration};

use futures::{Stream, StreamExt};
use robeing_fleet::{Command, TaskCommand, TaskId};
use robeing_net::gate::Caller;
use robeing_proto::v1::{TaskState, WatchTasksRequest, WatchTasksResponse};
use tokio::time::timeout;
use tonic::Status;

use crate::tests::fleet::{TestFleet, task};

type Changes = Pin<Box<dyn Stream<Item = Result<WatchTasksResponse, Status>> + Send>>;

fn watch(fleet: &TestFleet, at: usize, from_revision: u64) -> Changes {
    let request = WatchTasksRequest { from_revision, ..WatchTasksRequest::default() };
    Box::pin(fleet.tested(at).watches.tasks(request).expect("the request is well"))
}

async fn next(changes: &mut Changes) -> WatchTasksResponse {
    let told = timeout(Duration::from_secs(60), changes.next()).await.expect("something changed");
    told.expect("the watch continues").expect("the watch continues")
}

/// Returns what is sent until a revision is: tasks with their state and revision, in the order sent.
async fn until(changes: &mut Changes, revision: u64) -> Vec<(String, TaskState, u64)> {
    let mut seen = Vec::new();
    loop {
        let told = next(changes).await;
        seen.extend(told.tasks.iter().map(|task| (task.id.clone(), task.state(), task.revision)));
        if told.revision >= revision {
            return seen;
        }
    }
}

async fn submit(fleet: &TestFleet, at: usize, ids: impl IntoIterator<Item = u128>) {
    for id in ids {
        let results =
            fleet.tested(at).submissions.submit(vec![task(id)], &Caller::Plaintext).await.expect("somebody leads");
        assert_eq!(results[0].refusal, None);
    }
}

async fn cancel(fleet: &TestFleet, at: usize, id: u128) {
    let cancel = Command::Task(TaskCommand::Cancel { task: TaskId(id), reason: "test".into() });
    fleet.tested(at).proposer.propose_one(cancel).await.expect("somebody leads");
}

fn revision(fleet: &TestFleet, at: usize) -> u64 {
    fleet.tested(at).state.look(|fleet| fleet.revision())
}

fn named(id: u128, state: TaskState) -> (String, TaskState) {
    (TaskId(id).to_string(), state)
}

fn without_revisions(seen: &[(String, TaskState, u64)]) -> Vec<(String, TaskState)> {
    assert!(seen.is_sorted_by(|a, b| a.2 < b.2), "in the order of their revisions: {seen:?}");
    seen.iter().map(|(id, state, _)| (id.clone(), *state)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_keeps_up_is_told_every_change_in_order() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let mut changes = watch(&fleet, leader, 0);
    let mut seen = Vec::new();
    for id in 1..=3 {
        submit(&fleet, leader, [id]).await;
        seen.extend(until(&mut changes, revision(&fleet, leader)).await);
    }
    cancel(&fleet, leader, 2).await;
    seen.extend(until(&mut changes, revision(&fleet, leader)).await);
    let expected = [
        named(1, TaskState::Queued),
        named(2, TaskState::Queued),
        named(3, TaskState::Queued),
        named(2, TaskState::Cancelled),
    ];
    assert_eq!(without_revisions(&seen), expected);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_comes_back_to_another_coordinator_misses_nothing_and_hears_nothing_twice() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    submit(&fleet, leader, 1..=5).await;
    let mut changes = watch(&fleet, leader, 0);
    let seen = revision(&fleet, leader);
    assert_eq!(until(&mut changes, seen).await.len(), 5);
    drop(changes);

    submit(&fleet, leader, 6..=7).await;
    cancel(&fleet, leader, 3).await;
    fleet.take_away(leader);
    let next = fleet.led().await;
    submit(&fleet, next, [8]).await;
    let other = fleet.followers(next)[0];
    let newest = revision(&fleet, next);
    fleet.until("what the leader has", |fleet| revision(fleet, other) >= newest).await;
    let missed = until(&mut watch(&fleet, other, seen), newest).await;
    let expected = [
        named(6, TaskState::Queued),
        named(7, TaskState::Queued),
        named(3, TaskState::Cancelled),
        named(8, TaskState::Queued),
    ];
    assert_eq!(without_revisions(&missed), expected);
}
