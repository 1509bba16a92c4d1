//! The lease: running attempts are stopped when it ends, and none starts until it is renewed.

use std::time::Duration;

use robeing_net::incarnation::incarnation_of;
use robeing_proto::internal::v1::{
    HeartbeatAck, Redirect, agent_message::Message as FromAgent, completion::Outcome, coordinator_message::Message,
};
use tokio::time::Instant;

use super::script::{Agent, C0, C1, Coordinator, INTERVAL, LEASE, TIMEOUT, config, in_session};

#[tokio::test(start_paused = true)]
async fn acknowledged_heartbeats_keep_a_session_for_ever() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let mut started = agent.started().await;
    call.quiet_for(Duration::from_secs(60)).await;
    assert!(started.is_running());
}

#[tokio::test(start_paused = true)]
async fn without_acknowledgements_everything_stops_before_it_is_given_away() {
    let (mut agent, mut call, mut leader, _network) = in_session(2, 1).await;
    call.assign(&["a", "b"]).await;
    let mut a = agent.started().await;
    let b = agent.started().await;
    a.succeed();
    call.completions().await;
    let Some(FromAgent::Heartbeat(beat)) = call.any().await else { panic!("expected a heartbeat") };
    let renewed = Instant::now();
    call.say(Message::HeartbeatAck(HeartbeatAck { seq: beat.seq })).await;
    // From here on the leader is silent, on this stream and on every new one.
    let stopped = b.gone().await;
    assert!(stopped >= renewed + LEASE - Duration::from_millis(10), "stopped {:?} early", renewed + LEASE - stopped);
    assert!(stopped < renewed + TIMEOUT, "stopped {:?} after it was given away", stopped - renewed - TIMEOUT);
    let mut call = leader.call().await;
    let Some(FromAgent::Hello(hello)) = call.any().await else { panic!("expected Hello") };
    assert_eq!((hello.session, hello.held.len()), (1, 2), "it asks for the session with all it holds");
}

#[tokio::test(start_paused = true)]
async fn a_session_that_nobody_ended_goes_on_after_its_lease_with_what_had_ended_before() {
    let (mut agent, mut call, mut leader, _network) = in_session(2, 1).await;
    call.assign(&["ended", "cut-off"]).await;
    agent.started().await.succeed();
    call.completions().await;
    let cut_off = agent.started().await;
    drop(call);
    cut_off.gone().await;
    // Drop the calls that the agent has made so far, which were not answered.
    while leader.untaken_calls() > 0 {
        leader.call().await;
    }
    let (mut call, hello) = leader.welcome(1, true).await;
    assert_eq!((hello.session, hello.held.len()), (1, 2));
    call.answers_heartbeats = false;
    call.assign(&["next"]).await;
    let completions = loop {
        match call.any().await {
            Some(FromAgent::Completions(completions)) => break completions.completions,
            Some(FromAgent::Heartbeat(_)) => {}
            other => panic!("expected completions, got {other:?}"),
        }
    };
    let outcomes: Vec<_> = completions.iter().map(|c| (c.task_id.as_str(), c.outcome.as_ref())).collect();
    assert!(
        matches!(outcomes[..], [("ended", Some(Outcome::Output(_))), ("cut-off", Some(Outcome::HandedBack(_)))]),
        "{outcomes:?}"
    );
    assert!(!agent.has_started_another(), "begun without a lease");
    call.acknowledge(&completions, true).await;
    call.answers_heartbeats = true;
    call.quiet_for(Duration::from_secs(5)).await;
    assert_eq!(agent.started().await.attempt.task_id, "next");
}

#[tokio::test(start_paused = true)]
async fn the_leader_is_looked_for_elsewhere_before_the_lease_ends() {
    let (mut agent, call, mut old, network) = in_session(1, 3).await;
    call.say(Message::Welcome(Default::default())).await;
    let mut new = Coordinator::start(&network, C1).await;
    drop(agent);
    agent = Agent::start(&network, {
        let mut config = config(1, &[C0, C1]);
        config.listen = "10.0.0.9:7001".into();
        config
    });
    // Whichever coordinator the agent asks first redirects it to the old leader, which then goes silent.
    let (mut call, _) = tokio::select! {
        welcomed = old.welcome(4, false) => welcomed,
        mut call = new.call() => {
            call.hello().await;
            let to_old = Redirect { leader_address: C0.into(), coordinators: Vec::new() };
            call.say(Message::Redirect(to_old)).await;
            old.welcome(4, false).await
        }
    };
    call.assign(&["a"]).await;
    call.answers_heartbeats = false;
    let mut started = agent.started().await;
    network.black_hole(C0.parse().unwrap());
    let mut silent = call;
    let next = tokio::select! {
        biased;
        ended = silent.next() => panic!("the silent stream is kept until there is another: {ended:?}"),
        next = new.call() => next,
    };
    let (mut call, hello) = next.welcome(4, true).await;
    assert!(silent.next().await.is_none(), "and then no longer");
    assert_eq!((hello.session, hello.held.len()), (4, 1));
    call.quiet_for(Duration::from_secs(10)).await;
    assert!(started.is_running(), "the session went on without a break");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_stopped_fences_itself_before_it_says_or_starts_anything() {
    let (mut agent, mut call, mut leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    // While the agent is stopped, its task ends and an assignment arrives.
    a.succeed();
    call.assign(&["b"]).await;
    tokio::time::advance(Duration::from_secs(5)).await;
    while let Some(message) = call.any().await {
        assert!(!matches!(message, FromAgent::Completions(_)), "a result of the lost session: {message:?}");
    }
    let (mut call, hello) = leader.welcome(2, false).await;
    assert_eq!((hello.session, hello.held.len()), (1, 1));
    call.quiet_for(Duration::from_secs(5)).await;
    assert!(!agent.has_started_another(), "an assignment of the lost session was started");
}

#[tokio::test(start_paused = true)]
async fn a_welcome_that_comes_too_late_for_its_own_lease_is_worth_nothing() {
    let (mut agent, call, mut leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    tokio::time::advance(Duration::from_secs(3)).await;
    let (mut call, hello) = leader.welcome(2, false).await;
    assert_eq!(hello.session, 1);
    call.quiet_for(Duration::from_secs(5)).await;
    assert!(!agent.has_started_another());
    call.assign(&["b"]).await;
    assert_eq!(agent.started().await.attempt.task_id, "b");
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_stopped_and_goes_on_does_nothing_in_a_session_that_its_guard_has_taken() {
    let (mut agent, mut call, mut leader, _network) = in_session(2, 7).await;
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    call.quiet_for(INTERVAL).await;
    assert!(a.is_running());
    assert_eq!(agent.guard.session(), Some(7), "the guard knows what it would have to report");
    let before = agent.guard.info.lock().unwrap().clone().expect("it is in a session");
    // The process is stopped well within its lease, while messages arrive for it; meanwhile the guard acts.
    *agent.guard.revoked.lock().unwrap() = Some(7);
    call.assign(&["b"]).await;
    tokio::time::advance(LEASE / 3).await;

    let (mut call, hello) = leader.welcome(8, false).await;
    assert!(!a.is_running(), "what ran is stopped before anything else");
    assert!(!agent.has_started_another(), "nothing of the old session is begun");
    assert_eq!((hello.session, hello.held.len()), (0, 0), "it starts over");
    assert_ne!(hello.incarnation, incarnation_of(&before.secret), "with a new incarnation");
    call.assign(&["c"]).await;
    call.quiet_for(TIMEOUT * 2).await;
    assert_eq!(agent.started().await.attempt.task_id, "c", "the new session is its own");
    assert_eq!(agent.guard.session(), Some(8));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_left_in_good_order_has_no_session_that_could_be_reported() {
    let (agent, mut call, _leader, _network) = in_session(1, 7).await;
    let guard = std::sync::Arc::clone(&agent.guard);
    call.quiet_for(INTERVAL).await;
    assert_eq!(guard.session(), Some(7));
    agent.shutdown.cancel();
    assert!(matches!(call.next().await, Some(FromAgent::Drain(_))));
    call.say(Message::Drained(Default::default())).await;
    assert!(matches!(call.next().await, Some(FromAgent::Leave(_))));
    drop(call);
    agent.end().await.expect("it left");
    assert_eq!(guard.session(), None);
}
