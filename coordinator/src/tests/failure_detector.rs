//! Agents that are lost, and agents that are not.

use std::time::Duration;

use robeing_fleet::AgentState;

use crate::tests::{
    agent::TestAgent,
    fleet::{SESSION_TIMEOUT, TestFleet},
};

/// How much later than the earliest possible time a loss may be detected and written.
const NOTICED_WITHIN: Duration = Duration::from_millis(200);

/// Starts a fleet with an agent; returns it with its leader and the agent.
async fn with_agent() -> (TestFleet, usize, TestAgent) {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let agent = TestAgent::join(&fleet, leader, "a").await;
    assert_eq!(agent.state(&fleet, leader), Some(AgentState::Live));
    // The leader probes the agent's location meanwhile.
    tokio::time::sleep(SESSION_TIMEOUT / 2).await;
    (fleet, leader, agent)
}

async fn lost_after(fleet: &TestFleet, leader: usize, agent: &TestAgent) -> Duration {
    fleet.until("the loss of the agent", |fleet| agent.state(fleet, leader) == Some(AgentState::Lost)).await
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_falls_silent_is_lost_after_the_session_timeout() {
    let (fleet, leader, agent) = with_agent().await;
    agent.fall_silent();
    let after = lost_after(&fleet, leader, &agent).await;
    // Its last heartbeat may be one interval old.
    let range = SESSION_TIMEOUT - Duration::from_millis(500)..SESSION_TIMEOUT + NOTICED_WITHIN;
    assert!(range.contains(&after), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_process_ends_is_lost_at_once() {
    let (fleet, leader, agent) = with_agent().await;
    agent.end();
    let after = lost_after(&fleet, leader, &agent).await;
    assert!(after < NOTICED_WITHIN, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_whose_connection_breaks_is_given_the_session_timeout_while_its_process_is_there() {
    let (fleet, leader, agent) = with_agent().await;
    agent.disconnect();
    let after = lost_after(&fleet, leader, &agent).await;
    assert!(after >= SESSION_TIMEOUT - Duration::from_millis(500), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_heard_of_is_not_lost() {
    let (fleet, leader, agent) = with_agent().await;
    for _ in 0..10 {
        tokio::time::sleep(SESSION_TIMEOUT).await;
        assert_eq!(agent.state(&fleet, leader), Some(AgentState::Live));
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_never_comes_to_a_new_leader_is_lost_there() {
    let (mut fleet, leader, agent) = with_agent().await;
    agent.disconnect();
    fleet.take_away(leader);
    let next = fleet.led().await;
    let after = lost_after(&fleet, next, &agent).await;
    let range = SESSION_TIMEOUT - NOTICED_WITHIN..SESSION_TIMEOUT + NOTICED_WITHIN;
    assert!(range.contains(&after), "the new leader gives it a whole session timeout: {after:?}");
}
