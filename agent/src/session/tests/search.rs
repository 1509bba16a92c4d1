//! Finding the leader.

use std::{sync::Arc, time::Duration};

use robeing_net::{Transport, described_routes, earlier::EARLIER_VERSION};
use robeing_platform::simulated::MemoryNetwork;
use robeing_proto::internal::v1::{Hello, Redirect, SessionEnded, coordinator_message::Message};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Status;

use super::script::{AGENT, Agent, C0, C1, Coordinator, config, soon};
use crate::session::{CONNECT_WITHIN, HELLO_WITHIN, link::greet, search::PROBE_PAUSE};

fn redirect(leader: &str) -> Message {
    Message::Redirect(Redirect { leader_address: leader.into(), coordinators: vec![C0.into(), C1.into()] })
}

#[tokio::test(start_paused = true)]
async fn the_agent_introduces_itself_and_its_listener_answers() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let _agent = Agent::start(&network, config(4, &[C0]));
    let (_call, hello) = leader.welcome(7, false).await;
    assert_eq!((hello.name.as_str(), hello.cluster_id.as_str(), hello.pool.as_str()), ("data-0", "fleet", "data"));
    assert_eq!((hello.slots, hello.pool_replicas, hello.pool_standby), (4, 3, 1));
    assert_eq!((hello.address.as_str(), hello.session, hello.held.len()), (AGENT, 0, 0));
    assert_eq!(hello.specializations, ["sums"]);
    let channel = Transport::new(Arc::new(network)).channel(AGENT).expect("an address");
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let status = soon("an answer", health.check(tonic_health::pb::HealthCheckRequest { service: String::new() })).await;
    assert_eq!(status.expect("it serves").into_inner().status, 1, "serving");
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_does_not_lead_says_who_does() {
    let network = MemoryNetwork::default();
    let mut follower = Coordinator::start(&network, C0).await;
    let mut leader = Coordinator::start(&network, C1).await;
    let _agent = Agent::start(&network, config(1, &[C0]));
    let mut call = follower.call().await;
    call.hello().await;
    call.say(redirect(C1)).await;
    leader.welcome(1, false).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_it_asks_again_within_the_probe_pause() {
    let network = MemoryNetwork::default();
    let mut follower = Coordinator::start(&network, C0).await;
    let _agent = Agent::start(&network, config(1, &[C0]));
    let mut asked = Vec::new();
    for _ in 0..10 {
        let mut call = follower.call().await;
        call.hello().await;
        asked.push(Instant::now());
        call.say(redirect("")).await;
    }
    for pair in asked.windows(2) {
        assert!(pair[1] - pair[0] <= PROBE_PAUSE + Duration::from_millis(5), "{:?}", pair[1] - pair[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn coordinators_that_are_gone_mute_or_unreachable_are_passed_over() {
    let network = MemoryNetwork::default();
    let (gone, unreachable) = ("10.0.0.3:8080", "10.0.0.4:8080");
    network.black_hole(unreachable.parse().unwrap());
    let mute = Coordinator::start(&network, C0).await;
    let mut leader = Coordinator::start(&network, C1).await;
    let begun = Instant::now();
    let _agent = Agent::start(&network, config(1, &[gone, unreachable, C0, C1]));
    leader.welcome(1, false).await;
    let longest = CONNECT_WITHIN + HELLO_WITHIN + Duration::from_millis(50);
    assert!(begun.elapsed() <= longest, "found after {:?}", begun.elapsed());
    drop(mute);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_of_an_earlier_version_is_named_as_one_and_another_is_looked_for() {
    let network = MemoryNetwork::default();
    let transport = Transport::new(Arc::new(network.clone()));
    let earlier = transport.bind(C0).await.expect("the address is free");
    let serving = earlier.serve(described_routes(&[]).expect("routes"), CancellationToken::new());
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move { serving.await.expect("it serves") }));
    let error = soon("an answer", greet(transport, C0.into(), Hello::default())).await.err().expect("no session");
    assert!(error.to_string().contains(EARLIER_VERSION), "{error}");

    let mut leader = Coordinator::start(&network, C1).await;
    let _agent = Agent::start(&network, config(1, &[C0, C1]));
    leader.welcome(1, false).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_agent_tries_on_but_does_not_spin() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let _agent = Agent::start(&network, config(1, &[C0]));
    let end = Instant::now() + Duration::from_secs(10);
    let mut refused = 0;
    while Instant::now() < end {
        let mut call = leader.call().await;
        call.hello().await;
        call.refuse(Status::failed_precondition("this is cluster other, not fleet")).await;
        refused += 1;
    }
    assert!((10..40).contains(&refused), "tried {refused} times in 10 s");
    leader.welcome(1, false).await;
}

#[tokio::test(start_paused = true)]
async fn sessions_that_are_ended_at_once_are_not_spun_on() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let _agent = Agent::start(&network, config(1, &[C0]));
    let end = Instant::now() + Duration::from_secs(10);
    let mut opened = 0;
    while Instant::now() < end {
        let (call, _) = leader.welcome(opened, false).await;
        call.say(Message::SessionEnded(SessionEnded { reason: "no".into() })).await;
        opened += 1;
    }
    assert!((5..40).contains(&opened), "opened {opened} sessions in 10 s");
    assert_eq!(leader.untaken_calls(), 0);
}
