//! Draining and leaving.

use std::time::Duration;

use robeing_platform::{Network, simulated::MemoryNetwork};
use robeing_proto::internal::v1::{
    Drained, agent_message::Message as FromAgent, completion::Outcome as Ended, coordinator_message::Message,
};
use tokio::time::Instant;

use super::script::{AGENT, Agent, C0, Call, config, in_session};
use crate::{
    runtime::AgentError,
    session::{HAND_BACK_WITHIN, SessionError},
};

async fn expect_drain(call: &mut Call) {
    let message = call.next().await;
    assert!(matches!(message, Some(FromAgent::Drain(_))), "expected Drain, got {message:?}");
}

async fn expect_leave(call: &mut Call) {
    let message = call.next().await;
    assert!(matches!(message, Some(FromAgent::Leave(_))), "expected Leave, got {message:?}");
    assert!(call.next().await.is_none(), "nothing is sent after Leave");
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_finished_what_waits_is_handed_back_and_then_it_leaves() {
    let (mut agent, mut call, _leader, network) = in_session(1, 1).await;
    call.assign(&["a", "b"]).await;
    let mut a = agent.started().await;
    agent.shutdown.cancel();
    expect_drain(&mut call).await;
    let back = call.completions().await;
    assert_eq!(back[0].task_id, "b");
    assert!(matches!(back[0].outcome, Some(Ended::HandedBack(_))));
    call.acknowledge(&back, true).await;
    call.assign(&["c"]).await;
    let back = call.completions().await;
    assert!(back[0].task_id == "c" && matches!(back[0].outcome, Some(Ended::HandedBack(_))), "{back:?}");
    call.acknowledge(&back, true).await;
    call.quiet_for(Duration::from_secs(10)).await;
    a.succeed();
    let done = call.completions().await;
    assert!(matches!(done[0].outcome, Some(Ended::Output(_))));
    call.quiet_for(Duration::from_millis(1_500)).await;
    call.acknowledge(&done, true).await;
    call.say(Message::Drained(Drained {})).await;
    expect_leave(&mut call).await;
    drop(call);
    agent.end().await.expect("it left in order");
    assert!(network.connect(AGENT).await.is_err(), "its listener is closed");
}

#[tokio::test(start_paused = true)]
async fn what_does_not_finish_in_time_is_stopped_and_handed_back() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let a = agent.started().await;
    let asked = Instant::now();
    agent.shutdown.cancel();
    expect_drain(&mut call).await;
    call.say(Message::Drained(Drained {})).await;
    let back = call.completions().await;
    assert!(matches!(back[0].outcome, Some(Ended::HandedBack(_))), "{back:?}");
    assert_eq!((a.gone().await - asked).as_secs(), 30);
    call.acknowledge(&back, true).await;
    expect_leave(&mut call).await;
    drop(call);
    agent.end().await.expect("it left in order");
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_told_to_the_next_leader_too() {
    let (mut agent, mut call, mut leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    agent.shutdown.cancel();
    expect_drain(&mut call).await;
    drop(call);
    let (mut call, _) = leader.welcome(1, true).await;
    expect_drain(&mut call).await;
    a.succeed();
    let done = call.completions().await;
    call.acknowledge(&done, true).await;
    expect_leave(&mut call).await;
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_acknowledges_nothing_does_not_hold_it_for_ever() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let _a = agent.started().await;
    let asked = Instant::now();
    agent.shutdown.cancel();
    expect_drain(&mut call).await;
    assert!(matches!(call.next().await, Some(FromAgent::Completions(_))));
    while let Some(message) = call.next().await {
        assert!(matches!(message, FromAgent::Completions(_)), "it says it again until it gives up: {message:?}");
    }
    assert!(matches!(agent.end().await, Err(AgentError::Session(SessionError::Unacknowledged { attempts: 1 }))));
    assert!(asked.elapsed() < Duration::from_secs(30) + HAND_BACK_WITHIN + Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn without_a_session_there_is_nothing_to_drain() {
    let network = MemoryNetwork::default();
    let agent = Agent::start(&network, config(1, &[C0]));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let asked = Instant::now();
    agent.shutdown.cancel();
    agent.end().await.expect("nothing was held");
    assert!(asked.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn when_the_coordinators_are_gone_the_lease_ends_the_drain() {
    let (mut agent, call, leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let a = agent.started().await;
    drop((call, leader));
    let asked = Instant::now();
    agent.shutdown.cancel();
    agent.end().await.expect("the session is over, so nothing is left to report");
    a.gone().await;
    assert!(asked.elapsed() <= Duration::from_secs(2));
}
