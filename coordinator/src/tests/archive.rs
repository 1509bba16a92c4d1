//! Results that are archived: read at every coordinator, also after a restart and after a snapshot.

use std::{ops::RangeInclusive, path::Path, time::Duration};

use futures::StreamExt;
use robeing_fleet::{Command, TaskCommand, TaskFilter, TaskId};
use robeing_net::gate::Caller;
use robeing_proto::v1::WatchTasksRequest;
use tonic::{Code, Status};

use crate::{
    api::submissions::with_result,
    apply::result_stream::Letter,
    tests::{
        fleet::{COORDINATORS, TestFleet, name, peer, task},
        mail::mailbox::in_force,
    },
};

/// How many results stay in memory.
const RECENT: u32 = 2;
const TASKS: u128 = 40;
/// How many of them are archived.
const ARCHIVED: usize = TASKS as usize - RECENT as usize;

/// Submits tasks and cancels them, so that all have ended.
async fn end(fleet: &TestFleet, at: usize, ids: RangeInclusive<u128>) {
    let tested = fleet.tested(at);
    for id in ids {
        let results = tested.submissions.submit(vec![task(id)], &Caller::Plaintext).await.expect("somebody leads");
        assert_eq!(results[0].refusal, None);
        let cancel = Command::Task(TaskCommand::Cancel { task: TaskId(id), reason: format!("reason {id}") });
        tested.proposer.propose_one(cancel).await.expect("somebody leads");
    }
}

/// Waits until every coordinator that runs has archived so many results.
async fn archived(fleet: &TestFleet, count: usize) {
    let have = |fleet: &TestFleet| {
        let has = |n: &usize| {
            let up = fleet.up(*n);
            up.is_some_and(|tested| tested.state.look(|fleet| fleet.archived_count()) == count)
        };
        fleet.running().iter().all(has)
    };
    fleet.until("all have archived them", have).await;
}

/// Waits until so many results stay in memory.
async fn configured(fleet: &TestFleet, recent: u32) {
    let is_set = |fleet: &TestFleet| {
        let of = |n: usize| fleet.up(n).map(|tested| tested.state.look(|fleet| fleet.config().recent_results));
        fleet.running().into_iter().all(|n| of(n) == Some(recent))
    };
    fleet.until("the configuration", is_set).await;
}

/// Takes all coordinators down with what their disks have not synced, and starts them again.
async fn lose_power(fleet: &mut TestFleet) {
    for n in 0..COORDINATORS {
        fleet.take_away(n);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    for n in 0..COORDINATORS {
        fleet.disks[n].crash(n as u64);
        fleet.run(n);
    }
}

/// A fleet whose tasks have ended, with most results archived.
async fn archiving() -> (TestFleet, usize) {
    let fleet = TestFleet::start_archiving(RECENT);
    let leader = fleet.led().await;
    in_force(&fleet).await;
    configured(&fleet, RECENT).await;
    end(&fleet, leader, 1..=TASKS).await;
    archived(&fleet, ARCHIVED).await;
    (fleet, leader)
}

/// Checks that a coordinator reads all tasks as they were.
async fn check(fleet: &TestFleet, at: usize) {
    check_all(fleet, at, TASKS).await;
}

/// The same, of so many tasks.
async fn check_all(fleet: &TestFleet, at: usize, count: u128) {
    let state = fleet.tested(at).state;
    let kept = state.look(|fleet| fleet.kept_tasks(&TaskFilter::default(), None, 1_000).tasks);
    let tasks = state.read_all(kept).await;
    let found: Vec<_> = tasks.iter().map(|task| (task.id, task.cancel_reason.clone())).collect();
    let expected: Vec<_> = (1..=count).map(|id| (TaskId(id), Some(format!("reason {id}")))).collect();
    assert_eq!(found, expected, "at coordinator {at}");
    assert!(tasks.iter().all(|task| &*task.input == b"input"));
}

fn missing(fleet: &TestFleet, at: usize) -> u64 {
    fleet.tested(at).state.records().archive.missing()
}

#[tokio::test(start_paused = true)]
async fn every_coordinator_archives_the_same_results_and_reads_them() {
    let (fleet, _) = archiving().await;
    for n in fleet.running() {
        check(&fleet, n).await;
        assert_eq!(missing(&fleet, n), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn no_result_is_lost_when_all_coordinators_lose_power() {
    let (mut fleet, _) = archiving().await;
    lose_power(&mut fleet).await;
    archived(&fleet, ARCHIVED).await;
    fleet.led().await;
    for n in fleet.running() {
        check(&fleet, n).await;
        assert_eq!(missing(&fleet, n), 0, "at coordinator {n}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_had_ended_before_results_were_archived_is_archived_with_the_commands_that_follow() {
    const ALL: u128 = TASKS + 20;
    let mut fleet = TestFleet::start_archiving(0);
    let leader = fleet.led().await;
    in_force(&fleet).await;
    end(&fleet, leader, 1..=TASKS).await;
    assert_eq!(fleet.tested(leader).state.look(|fleet| fleet.archived_count()), 0);
    fleet.recent_results = Some(RECENT);
    lose_power(&mut fleet).await;
    let leader = fleet.led().await;
    configured(&fleet, RECENT).await;
    end(&fleet, leader, TASKS + 1..=ALL).await;
    archived(&fleet, ALL as usize - RECENT as usize).await;
    for n in fleet.running() {
        check_all(&fleet, n, ALL).await;
        assert_eq!(missing(&fleet, n), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_gets_a_snapshot_gets_the_results_that_it_refers_to() {
    let (mut fleet, leader) = archiving().await;
    joins(&mut fleet, leader).await;
}

#[tokio::test(start_paused = true)]
async fn results_that_the_leader_has_lost_are_fetched_from_others_with_its_snapshot() {
    let (mut fleet, leader) = archiving().await;
    damage(&fleet, leader).await;
    joins(&mut fleet, leader).await;
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_may_be_from_before_its_sender_was_a_member() {
    let (mut fleet, leader) = archiving().await;
    let sender = joins(&mut fleet, leader).await;
    let change = fleet.tested(leader).change;
    let transfer = change.transfer.clone();
    change.exclusively(async move { transfer.transfer(&name(sender)).await }).await.expect("it may lead");
    assert_eq!(fleet.led().await, sender);
    joins(&mut fleet, sender).await;
}

/// Has another coordinator join, and checks that it has all results itself. Returns its number.
async fn joins(fleet: &mut TestFleet, leader: usize) -> usize {
    let is_purged = |fleet: &TestFleet| fleet.tested(leader).change.raft.progress().purged > 0;
    fleet.until("the log is purged", is_purged).await;
    let new = fleet.run_another();
    fleet.until("the new one", |fleet| fleet.up(new).is_some()).await;
    let change = fleet.tested(leader).change;
    change.exclusively(change.clone().add(peer(new))).await.expect("it is there");
    archived(fleet, ARCHIVED).await;
    // The others are not asked.
    check(fleet, new).await;
    assert_eq!(missing(fleet, new), 0);
    new
}

/// Damages the first record of a coordinator.
async fn damage(fleet: &TestFleet, at: usize) {
    let archive = fleet.tested(at).state.records().archive.clone();
    archive.flush(1).await.expect("the disk works");
    let first = Path::new("/data/archive/0000000000000000.rec");
    fleet.disks[at].flip(first, 60, 0).expect("it is there");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_damaged_at_one_coordinator_is_read_at_another() {
    let (fleet, leader) = archiving().await;
    let at = fleet.followers(leader)[0];
    damage(&fleet, at).await;
    for reads in [1, 2] {
        check(&fleet, at).await;
        assert_eq!(missing(&fleet, at), reads, "each read of it counts, because it is not written back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_sees_archived_tasks_in_the_order_of_their_revisions() {
    let (fleet, leader) = archiving().await;
    let revision = fleet.tested(leader).state.look(|fleet| fleet.revision());
    let mut changes = Box::pin(fleet.tested(leader).watches.tasks(WatchTasksRequest::default()).expect("it is well"));
    let mut seen: Vec<(u64, String)> = Vec::new();
    loop {
        let told = changes.next().await.expect("it goes on").expect("it goes on");
        seen.extend(told.tasks.into_iter().map(|task| (task.revision, task.id)));
        if told.revision >= revision {
            break;
        }
    }
    assert!(seen.is_sorted_by(|one, next| one.0 < next.0), "{seen:?}");
    let ids: Vec<String> = seen.into_iter().map(|(_, id)| id).collect();
    let expected: Vec<String> = (1..=TASKS).map(|id| TaskId(id).to_string()).collect();
    assert_eq!(ids, expected);
}

#[tokio::test(start_paused = true)]
async fn a_watch_ends_before_a_result_that_another_coordinator_may_have() {
    let (mut fleet, leader) = archiving().await;
    damage(&fleet, leader).await;
    for n in fleet.followers(leader) {
        fleet.take_away(n);
    }
    let mut changes = Box::pin(fleet.tested(leader).watches.tasks(WatchTasksRequest::default()).expect("it is well"));
    let told = changes.next().await.expect("it says why it ends");
    assert_eq!(told.expect_err("the first result can't be read").code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_no_coordinator_can_read_is_gone_for_those_who_wait_for_it() {
    let (fleet, leader) = archiving().await;
    for n in fleet.running() {
        damage(&fleet, n).await;
    }
    let [lost, other] = [1, 2].map(|id| TaskId(id).to_string());
    let request = WatchTasksRequest { ids: vec![lost.clone(), other.clone()], ..WatchTasksRequest::default() };
    let mut changes = Box::pin(fleet.tested(leader).watches.tasks(request).expect("it is well"));
    let told = changes.next().await.expect("it goes on").expect("it goes on");
    let found: Vec<String> = told.tasks.into_iter().map(|task| task.id).collect();
    assert_eq!((told.gone_ids, found), (vec![lost], vec![other]));
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_damaged_at_all_coordinators_is_lost_and_not_sought_again() {
    let (mut fleet, leader) = archiving().await;
    for n in fleet.running() {
        damage(&fleet, n).await;
    }
    let state = fleet.tested(leader).state;
    let kept = || state.look(|fleet| fleet.kept_task(TaskId(1))).expect("it is kept");
    let lost = Status::from(state.read(kept()).await.expect_err("it is damaged everywhere"));
    assert_eq!(lost.code(), Code::DataLoss);
    assert!(lost.message().contains("submit the task again under another id"), "{lost}");
    let told = with_result(&state, TaskId(1)).await.expect("others are not asked again");
    assert!(matches!(told, Letter::Expired(TaskId(1))), "{told:?}");
    // One that does not answer may have it.
    for n in fleet.followers(leader) {
        fleet.take_away(n);
    }
    let unread = Status::from(state.read(kept()).await.expect_err("nobody else answers"));
    assert_eq!(unread.code(), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_listing_has_archived_tasks_without_their_inputs_in_memory() {
    let (fleet, leader) = archiving().await;
    let state = fleet.tested(leader).state;
    let kept = state.look(|fleet| fleet.kept_tasks(&TaskFilter::default(), None, 1_000).tasks);
    let tasks = state.read_briefly(kept).await;
    assert_eq!((tasks.len(), tasks.iter().filter(|task| task.input.is_empty()).count()), (TASKS as usize, ARCHIVED));
}
