//! An agent whose executor can start no attempts leaves the fleet, or stays as a member without slots if processes
//! attach to it.

use std::time::Duration;

use robeing_platform::{Network, simulated::MemoryNetwork};
use robeing_proto::internal::v1::{
    Drained, Hello, agent_message::Message as FromAgent, completion::Outcome as Ended, coordinator_message::Message,
};
use tokio::{sync::watch, time::Instant};

use super::script::{Agent, C0, Call, Coordinator, config};
use crate::{executor::Outcome, session::STAY_AT_LEAST};

async fn expect_leave(call: &mut Call) {
    call.say(Message::Drained(Drained {})).await;
    let message = call.next().await;
    assert!(matches!(message, Some(FromAgent::Leave(_))), "expected Leave, got {message:?}");
    assert!(call.next().await.is_none(), "nothing is sent after Leave");
}

async fn expect_drain(call: &mut Call) {
    let message = call.next().await;
    assert!(matches!(message, Some(FromAgent::Drain(_))), "expected Drain, got {message:?}");
}

/// Lets the agent leave, and opens its next session.
async fn turns(mut call: Call, leader: &mut Coordinator, session: u64) -> (Call, Hello) {
    expect_drain(&mut call).await;
    expect_leave(&mut call).await;
    drop(call);
    leader.welcome(session, false).await
}

fn assert_is_idle(hello: &Hello) {
    assert_eq!((hello.slots, hello.pool.as_str(), hello.pool_replicas, hello.pool_standby), (0, "", 0, 0), "{hello:?}");
}

fn assert_works(hello: &Hello) {
    assert_eq!((hello.slots, hello.pool.as_str(), hello.pool_replicas, hello.pool_standby), (2, "data", 3, 1));
}

#[tokio::test(start_paused = true)]
async fn it_joins_when_something_is_there_leaves_when_nothing_is_and_comes_back() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let (present, presence) = watch::channel(false);
    let mut agent = Agent::with_presence(&network, config(2, &[C0]), presence);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(leader.untaken_calls(), 0, "nothing is there yet, so it does not join");

    present.send_replace(true);
    let (mut call, first) = leader.welcome(1, false).await;
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    a.succeed();
    let done = call.completions().await;
    call.acknowledge(&done, true).await;

    present.send_replace(false);
    expect_drain(&mut call).await;
    call.assign(&["b"]).await;
    let back = call.completions().await;
    assert!(matches!(back[0].outcome, Some(Ended::HandedBack(_))), "{back:?}");
    call.acknowledge(&back, true).await;
    expect_leave(&mut call).await;
    drop(call);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(leader.untaken_calls(), 0, "nothing is there, so it stays away");

    present.send_replace(true);
    let (call, second) = leader.welcome(2, false).await;
    assert_eq!(second.session, 0, "it asks for a new session");
    assert_ne!(first.incarnation, second.incarnation);
    call.assign(&["c"]).await;
    agent.started().await.succeed();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_not_begun_is_handed_back() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let (_present, presence) = watch::channel(true);
    let mut agent = Agent::with_presence(&network, config(1, &[C0]), presence);
    let (mut call, _) = leader.welcome(1, false).await;
    call.assign(&["a"]).await;
    agent.started().await.finish(Outcome::NotBegun);
    let back = call.completions().await;
    assert!(matches!(back[0].outcome, Some(Ended::HandedBack(_))), "{back:?}");
}

#[tokio::test(start_paused = true)]
async fn it_joins_again_at_its_leisure() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let (present, presence) = watch::channel(true);
    let mut agent = Agent::with_presence(&network, config(1, &[C0]), presence);
    let (mut call, _) = leader.welcome(1, false).await;
    let joined = Instant::now();
    // Makes sure that the agent is in the session.
    call.assign(&["a"]).await;
    agent.started().await.succeed();
    let done = call.completions().await;
    call.acknowledge(&done, true).await;
    present.send_replace(false);
    expect_drain(&mut call).await;
    present.send_replace(true);
    expect_leave(&mut call).await;
    drop(call);
    let (_call, _) = leader.welcome(2, false).await;
    let apart = joined.elapsed();
    assert!(apart >= STAY_AT_LEAST - Duration::from_millis(100), "{apart:?}");
}

#[tokio::test(start_paused = true)]
async fn one_that_waits_ends_when_it_is_asked_to() {
    let network = MemoryNetwork::default();
    let (_present, presence) = watch::channel(false);
    let agent = Agent::with_presence(&network, config(1, &[C0]), presence);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(network.connect(super::script::AGENT).await.is_ok(), "it listens, so that its probes are answered");
    agent.shutdown.cancel();
    agent.end().await.expect("nothing was held");
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_finished_however_long_it_takes_before_it_leaves() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let (present, presence) = watch::channel(true);
    let config = config(2, &[C0]);
    let long = config.drain_timeout * 20;
    let mut agent = Agent::with_presence(&network, config, presence);
    let (mut call, _) = leader.welcome(1, false).await;
    call.assign(&["a", "b"]).await;
    let mut running = [agent.started().await, agent.started().await];
    running.sort_by(|one, other| one.attempt.task_id.cmp(&other.attempt.task_id));
    let [mut a, mut b] = running;
    // As an executor does: it first reports that it can start nothing, and then hands the attempt back. The leader is
    // informed in that order, or it would assign another attempt.
    present.send_replace(false);
    b.finish(Outcome::NotBegun);
    expect_drain(&mut call).await;
    let back = call.completions().await;
    assert!(back[0].task_id == "b" && matches!(back[0].outcome, Some(Ended::HandedBack(_))), "{back:?}");
    call.acknowledge(&back, true).await;
    call.quiet_for(long).await;
    a.succeed();
    let done = call.completions().await;
    assert!(matches!(done[0].outcome, Some(Ended::Output(_))), "{done:?}");
    call.acknowledge(&done, true).await;
    expect_leave(&mut call).await;
    drop(call);
    present.send_replace(true);
    let (_call, _) = leader.welcome(2, false).await;
}

#[tokio::test(start_paused = true)]
async fn asked_to_stop_while_it_leaves_it_keeps_to_its_drain_timeout() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let (present, presence) = watch::channel(true);
    let config = config(1, &[C0]);
    let drain_timeout = config.drain_timeout;
    let mut agent = Agent::with_presence(&network, config, presence);
    let (mut call, _) = leader.welcome(1, false).await;
    call.assign(&["a"]).await;
    let _a = agent.started().await;
    present.send_replace(false);
    expect_drain(&mut call).await;
    call.quiet_for(drain_timeout * 2).await;
    let asked = Instant::now();
    agent.shutdown.cancel();
    let back = call.completions().await;
    assert!(matches!(back[0].outcome, Some(Ended::HandedBack(_))), "{back:?}");
    assert!(asked.elapsed() >= drain_timeout, "what runs has its time: {:?}", asked.elapsed());
    call.acknowledge(&back, true).await;
    expect_leave(&mut call).await;
    drop(call);
    agent.end().await.expect("all was handed back");
}

#[tokio::test(start_paused = true)]
async fn one_for_attaching_is_a_member_from_the_start_and_has_slots_while_something_is_there() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let (present, presence) = watch::channel(false);
    let mut agent = Agent::for_attaching(&network, config(2, &[C0]), presence);
    let (mut call, idle) = leader.welcome(1, false).await;
    assert_is_idle(&idle);
    call.quiet_for(Duration::from_secs(60)).await;

    present.send_replace(true);
    let (mut call, first) = turns(call, &mut leader, 2).await;
    assert_works(&first);
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    a.succeed();
    let done = call.completions().await;
    call.acknowledge(&done, true).await;

    present.send_replace(false);
    expect_drain(&mut call).await;
    call.assign(&["b"]).await;
    let back = call.completions().await;
    assert!(matches!(back[0].outcome, Some(Ended::HandedBack(_))), "{back:?}");
    call.acknowledge(&back, true).await;
    expect_leave(&mut call).await;
    drop(call);
    let (call, second) = leader.welcome(3, false).await;
    assert_is_idle(&second);
    assert_eq!(second.session, 0, "it asks for a new session");
    assert_ne!(first.incarnation, second.incarnation);

    present.send_replace(true);
    let (call, third) = turns(call, &mut leader, 4).await;
    assert_works(&third);
    call.assign(&["c"]).await;
    agent.started().await.succeed();
}

#[tokio::test(start_paused = true)]
async fn what_attaches_while_it_joins_does_not_make_it_lost() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let (present, presence) = watch::channel(false);
    let _agent = Agent::for_attaching(&network, config(2, &[C0]), presence);
    let call = leader.call().await;
    present.send_replace(true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    // For the coordinators the session is open, so the agent must leave it before it opens another.
    let (call, idle) = call.welcome(1, false).await;
    assert_is_idle(&idle);
    let (_call, works) = turns(call, &mut leader, 2).await;
    assert_works(&works);
}

#[tokio::test(start_paused = true)]
async fn one_for_attaching_takes_work_again_at_its_leisure() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let (present, presence) = watch::channel(true);
    let mut agent = Agent::for_attaching(&network, config(2, &[C0]), presence);
    let (mut call, _) = leader.welcome(1, false).await;
    let joined = Instant::now();
    // Makes sure that the agent is in the session.
    call.assign(&["a"]).await;
    agent.started().await.succeed();
    let done = call.completions().await;
    call.acknowledge(&done, true).await;
    present.send_replace(false);
    let (call, idle) = turns(call, &mut leader, 2).await;
    assert!(joined.elapsed() < STAY_AT_LEAST, "it is idle at once");
    assert_is_idle(&idle);
    present.send_replace(true);
    let (_call, works) = turns(call, &mut leader, 3).await;
    let apart = joined.elapsed();
    assert_works(&works);
    assert!(apart >= STAY_AT_LEAST - Duration::from_millis(100), "{apart:?}");
}
