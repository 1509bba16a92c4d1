//! Attempts that make no progress.

use std::time::Duration;

use robeing_fleet::TaskId;
use robeing_net::gate::Caller;
use robeing_proto::v1::TaskSpec;

use crate::{
    leader::progress::{LOOK_EVERY, SLACK},
    tests::{
        agent::TestAgent,
        fleet::{TestFleet, task},
        mail::mailbox::start,
    },
};

/// How long after its newest progress an attempt is ended that may be without it for two seconds.
const ENDED_AFTER: Duration = Duration::from_millis(2_500).saturating_add(SLACK);

/// Returns the current attempt of the only task, and the agent that runs it.
fn holder(fleet: &TestFleet, at: usize) -> Option<(u32, String)> {
    fleet.tested(at).state.look(|fleet| {
        let current = fleet.task(TaskId(1))?.current()?;
        Some((current.number, current.agent_name.to_string()))
    })
}

/// Starts a fleet with two agents, one of which runs a task that may be without progress for so long.
async fn with_task(seconds: i64, nanos: i32) -> (TestFleet, usize, [TestAgent; 2]) {
    let (fleet, leader) = start().await;
    let first = TestAgent::join_from(&fleet, leader, "w-0", 1).await;
    let progress_timeout = Some(prost_types::Duration { seconds, nanos });
    let specs = vec![TaskSpec { progress_timeout, ..task(1) }];
    let results = fleet.tested(leader).submissions.submit(specs, &Caller::Plaintext).await.expect("it leads");
    assert_eq!(results[0].refusal, None);
    fleet.until("its first attempt", |fleet| holder(fleet, leader) == Some((1, "w-0".to_owned()))).await;
    let other = TestAgent::join_from(&fleet, leader, "w-1", 2).await;
    (fleet, leader, [first, other])
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_makes_no_progress_runs_elsewhere_and_one_that_makes_some_goes_on() {
    let (fleet, leader, [first, _other]) = with_task(2, 0).await;
    for _ in 0..5 {
        tokio::time::sleep(ENDED_AFTER).await;
        assert_eq!(holder(&fleet, leader), Some((1, "w-0".to_owned())));
    }
    first.get_stuck();
    let after = fleet.until("another attempt", |fleet| holder(fleet, leader) == Some((2, "w-1".to_owned()))).await;
    // Its newest progress may be as old as a heartbeat.
    let range = ENDED_AFTER - Duration::from_millis(500)..ENDED_AFTER + LOOK_EVERY + Duration::from_millis(200);
    assert!(range.contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_not_ended_while_its_agent_is_not_connected() {
    // Its progress would be overdue before its agent counts as lost.
    let (fleet, leader, [first, _other]) = with_task(0, 500_000_000).await;
    tokio::time::sleep(LOOK_EVERY).await;
    first.disconnect();
    fleet.until("another attempt", |fleet| holder(fleet, leader) == Some((2, "w-1".to_owned()))).await;
    let end = fleet.tested(leader).state.look(|fleet| {
        let ended = fleet.task(TaskId(1)).and_then(|task| task.attempts.first().cloned());
        ended.and_then(|attempt| attempt.end)
    });
    assert_eq!(end, Some(robeing_fleet::AttemptEnd::Lost));
}
