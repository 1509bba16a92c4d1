//! What happens to attempts and results when a stream or a session ends.

use std::time::Duration;

use robeing_platform::simulated::MemoryNetwork;
use robeing_proto::internal::v1::{Redirect, SessionEnded, coordinator_message::Message};
use tokio::time::Instant;

use super::script::{Agent, C0, C1, Coordinator, LEASE, config, in_session, reference};

#[tokio::test(start_paused = true)]
async fn a_broken_stream_stops_nothing_and_results_are_sent_again() {
    let (mut agent, mut call, mut leader, _network) = in_session(2, 5).await;
    call.assign(&["a", "b", "c"]).await;
    let mut a = agent.started().await;
    let mut b = agent.started().await;
    a.succeed();
    let sent = call.completions().await;
    assert_eq!(sent.len(), 1);
    let mut c = agent.started().await;
    drop(call);
    let (mut call, hello) = leader.welcome(5, true).await;
    assert_eq!(hello.session, 5);
    assert_eq!(hello.held, [reference("a"), reference("b"), reference("c")]);
    assert_eq!(call.completions().await, sent, "it was not acknowledged before");
    assert!(b.is_running() && c.is_running());
    call.acknowledge(&sent, true).await;
    b.succeed();
    c.succeed();
    let mut rest = call.completions().await;
    while rest.len() < 2 {
        rest.extend(call.completions().await);
    }
    call.acknowledge(&rest, false).await;
    call.quiet_for(Duration::from_secs(1)).await;
    drop(call);
    let (mut call, hello) = leader.welcome(5, true).await;
    assert!(hello.held.is_empty(), "accepted or refused, they are done: {:?}", hello.held);
    call.quiet_for(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_ready_while_nobody_leads_reaches_the_next_leader() {
    let network = MemoryNetwork::default();
    let mut old = Coordinator::start(&network, C0).await;
    let mut agent = Agent::start(&network, config(1, &[C0, C1]));
    let (call, _) = old.welcome(5, false).await;
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    drop((call, old));
    a.succeed();
    let mut new = Coordinator::start(&network, C1).await;
    let (mut call, hello) = new.welcome(5, true).await;
    assert_eq!((hello.session, hello.held), (5, vec![reference("a")]));
    assert_eq!(call.completions().await[0].task_id, "a");
}

#[tokio::test(start_paused = true)]
async fn a_new_session_begins_with_nothing_of_the_old_one() {
    let (mut agent, mut call, mut leader, _network) = in_session(2, 5).await;
    call.assign(&["a", "b", "c"]).await;
    let mut a = agent.started().await;
    let b = agent.started().await;
    a.succeed();
    call.completions().await;
    let c = agent.started().await;
    drop(call);
    let (mut call, hello) = leader.welcome(6, false).await;
    assert_eq!(hello.held.len(), 3);
    call.assign(&["d"]).await;
    let d = agent.started().await;
    assert_eq!(d.attempt.task_id, "d");
    for old in [b, c] {
        assert!(old.gone().await <= d.at, "the old session's attempts stop before the new one's begin");
    }
    call.quiet_for(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_ended_stops_everything_and_another_is_opened() {
    let (mut agent, call, mut leader, _network) = in_session(1, 5).await;
    call.assign(&["a", "b"]).await;
    let a = agent.started().await;
    call.say(Message::SessionEnded(SessionEnded { reason: "it was lost".into() })).await;
    a.gone().await;
    let (mut call, hello) = leader.welcome(6, false).await;
    assert_eq!((hello.session, hello.held.len()), (0, 0));
    call.quiet_for(Duration::from_secs(5)).await;
    assert!(!agent.has_started_another(), "b was of the old session");
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_steps_down_sends_its_agents_to_the_next() {
    let network = MemoryNetwork::default();
    let mut old = Coordinator::start(&network, C0).await;
    let mut new = Coordinator::start(&network, C1).await;
    let mut agent = Agent::start(&network, config(1, &[C0]));
    let (call, _) = old.welcome(5, false).await;
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    call.say(Message::Redirect(Redirect { leader_address: C1.into(), coordinators: Vec::new() })).await;
    let (_call, hello) = new.welcome(5, true).await;
    assert_eq!((hello.session, hello.held.len()), (5, 1));
    assert!(a.is_running());
}

#[tokio::test(start_paused = true)]
async fn results_that_stay_unacknowledged_on_a_working_stream_are_sent_again() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 5).await;
    call.assign(&["a"]).await;
    agent.started().await.succeed();
    let first = call.completions().await;
    assert_eq!(call.completions().await, first);
    call.acknowledge(&first, true).await;
    call.quiet_for(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_deposed_leader_that_says_welcome_does_not_prolong_the_lease() {
    let (mut agent, call, mut leader, _network) = in_session(1, 5).await;
    let begun = Instant::now();
    call.assign(&["a"]).await;
    let a = agent.started().await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    drop(call);
    let (mut call, _) = leader.welcome(5, true).await;
    call.answers_heartbeats = false;
    assert!(call.next().await.is_none(), "it gives this leader up");
    assert!(a.gone().await <= begun + LEASE + Duration::from_millis(10));
}
