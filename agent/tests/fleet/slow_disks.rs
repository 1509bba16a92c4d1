//! The effects of slow disks, and of disks that hang.

use std::time::Duration;

use robeing_proto::v1;

use crate::fleet::{COORDINATORS, SESSION_TIMEOUT, TestFleet, sync_takes};

const SECOND: Duration = Duration::from_secs(1);

/// Puts a light load on the fleet: one short task after the other. Every task must take one attempt.
async fn work_for(fleet: &TestFleet, time: Duration) {
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < time {
        let id = fleet.submit(SECOND / 10).await;
        let task = fleet.finished(&id).await;
        assert_eq!((task.state(), task.attempt), (v1::TaskState::Succeeded, 1), "{:?}", task.attempts);
    }
}

#[tokio::test(start_paused = true)]
async fn syncs_of_a_second_take_nothing_from_a_healthy_agent() {
    let mut fleet = TestFleet::start(sync_takes(SECOND / 1_000));
    fleet.agent("a");
    fleet.agent("b");
    fleet.live(2).await;
    fleet.set_latency(0..COORDINATORS, sync_takes(SECOND));
    let long = fleet.submit(10 * SESSION_TIMEOUT).await;
    work_for(&fleet, 10 * SESSION_TIMEOUT).await;
    let task = fleet.finished(&long).await;
    assert_eq!((task.state(), task.attempt), (v1::TaskState::Succeeded, 1), "{:?}", task.attempts);
    let status = fleet.status(fleet.led().await).await.expect("the leader answers");
    assert_eq!(status.redistributed_total, 0);
}

#[tokio::test(start_paused = true)]
async fn an_agent_joins_while_syncs_take_a_second() {
    let mut fleet = TestFleet::start(sync_takes(SECOND / 1_000));
    fleet.led().await;
    fleet.set_latency(0..COORDINATORS, sync_takes(SECOND));
    fleet.agent("late");
    fleet.live(1).await;
    work_for(&fleet, 3 * SESSION_TIMEOUT).await;
}

#[tokio::test(start_paused = true)]
async fn coordinators_elect_a_leader_while_syncs_take_a_second() {
    let mut fleet = TestFleet::start(sync_takes(SECOND));
    fleet.agent("a");
    fleet.live(1).await;
    let leader = fleet.led().await;
    fleet.take_away(leader);
    fleet.led().await;
    fleet.live(1).await;
    work_for(&fleet, SESSION_TIMEOUT).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_hangs_hands_over() {
    let mut fleet = TestFleet::start(sync_takes(SECOND / 1_000));
    fleet.agent("a");
    fleet.live(1).await;
    let hung = fleet.led().await;
    fleet.set_latency([hung], sync_takes(3_600 * SECOND));
    fleet.submit(SECOND).await;
    let other_leads = async |fleet: &TestFleet| fleet.leader().await.is_some_and(|leader| leader != hung);
    let took = fleet.until("another leader", other_leads).await;
    assert!(took < 15 * SECOND, "{took:?}");
    work_for(&fleet, SESSION_TIMEOUT).await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_hand_over_warns_and_keeps_the_agents_at_work() {
    let mut fleet = TestFleet::start(sync_takes(SECOND / 1_000));
    fleet.agent("a");
    fleet.live(1).await;
    let long = fleet.submit(20 * SECOND).await;
    let leader = fleet.led().await;
    let others: Vec<usize> = (0..COORDINATORS).filter(|n| *n != leader).collect();
    fleet.set_latency(others.iter().copied(), sync_takes(40 * SECOND));
    let unanswered = fleet.submit_to(leader, SECOND);
    let warned = async |fleet: &TestFleet| {
        let status = fleet.status(leader).await.unwrap_or_default();
        status.warnings.iter().any(|warning| warning.reason == "MajorityOfDisksStalled")
    };
    fleet.until("the warning", warned).await;
    fleet.set_latency(others, sync_takes(SECOND / 1_000));
    let task = fleet.finished(&long).await;
    assert_eq!((task.state(), task.attempt), (v1::TaskState::Succeeded, 1), "{:?}", task.attempts);
    let unwarned = async |fleet: &TestFleet| !warned(fleet).await;
    fleet.until("the end of the warning", unwarned).await;
    drop(unanswered);
}
