//! To whom a message would go in a fleet where messages are sealed, and how long the receivers' keys are waited for.

use std::time::Duration;

use robeing_fleet::LetterId;
use robeing_proto::v1::{MessageReceiver, ResolveMessageRequest};
use tokio::time::Instant;

use super::mailbox::{SENDER, start};
use crate::{
    assembly::Tested,
    mail::{
        resolving::{KEYS_WITHIN, NEW_SESSION_MS},
        sending::Sending,
    },
    tests::{agent::TestAgent, fleet::TestFleet},
};

const KEY: [u8; 32] = [7; 32];

/// A fleet with the agents `b`, which has no key, and `c`, which has one.
async fn with_b_and_c() -> (TestFleet, usize, [TestAgent; 2]) {
    let (fleet, leader) = start().await;
    let b = TestAgent::join_from(&fleet, leader, "b", 1).await;
    let mut c = TestAgent::join_from(&fleet, leader, "c", 2).await;
    c.resume_with_key(&fleet, leader, KEY).await;
    let is_known = |fleet: &TestFleet| {
        let key =
            |n: usize| fleet.tested(n).state.look(|fleet| fleet.agent_by_name("c").and_then(|agent| agent.sealing_key));
        fleet.running().into_iter().all(|n| key(n) == Some(KEY))
    };
    fleet.until("the key of c is recorded", is_known).await;
    (fleet, leader, [b, c])
}

/// What sends messages at a coordinator, as in a fleet where they are to be sealed.
fn strict(fleet: &TestFleet, at: usize) -> Sending {
    Sending { must_seal: true, ..fleet.tested(at).messages.sending }
}

/// Returns the receivers of a message, and how long it took.
async fn resolve(sending: &Sending, to: &str, broadcast: bool, id: u128) -> (Vec<MessageReceiver>, Duration) {
    let begun = Instant::now();
    let id = LetterId(id).to_string();
    let request = ResolveMessageRequest { id, to: to.into(), broadcast, ..ResolveMessageRequest::default() };
    let resolved = sending.resolve(SENDER, request).await.expect("it is resolved");
    (resolved.receivers, begun.elapsed())
}

/// Returns the names of the receivers that have the key, and of those that have none.
fn by_key(receivers: &[MessageReceiver]) -> (Vec<&str>, Vec<&str>) {
    let (mut keyed, mut keyless) = (Vec::new(), Vec::new());
    for MessageReceiver { agent, sealing_key, .. } in receivers {
        match &**sealing_key {
            [] => keyless.push(&**agent),
            key => {
                assert_eq!(key, KEY);
                keyed.push(&**agent);
            }
        }
    }
    (keyed, keyless)
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_to_be_sealed_goes_to_an_agent_with_a_key_if_there_is_one() {
    let (fleet, leader, _agents) = with_b_and_c().await;
    let sending = strict(&fleet, leader);
    for id in 1..=64 {
        let (receivers, took) = resolve(&sending, "role:worker", false, id).await;
        assert_eq!(by_key(&receivers), (vec!["c"], Vec::new()), "{id}");
        assert!(took < KEYS_WITHIN, "{took:?}");
    }
    let open = fleet.tested(leader).messages.sending;
    let mut chosen = Vec::new();
    for id in 1..=64 {
        chosen.extend(resolve(&open, "role:worker", false, id).await.0.into_iter().map(|receiver| receiver.agent));
    }
    assert!(["b", "c"].into_iter().all(|agent| chosen.iter().any(|name| name == agent)), "{chosen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_waited_for_if_the_message_is_for_its_agent_alone_or_the_session_is_new() {
    let (fleet, leader, _agents) = with_b_and_c().await;
    let sending = strict(&fleet, leader);
    let (receivers, took) = resolve(&sending, "role:worker", true, 1).await;
    assert_eq!(by_key(&receivers), (vec!["c"], vec!["b"]));
    assert!(took >= KEYS_WITHIN, "the session of b is new: {took:?}");
    let is_old = |fleet: &TestFleet| {
        let Tested { messages, state, .. } = fleet.tested(leader);
        let now = messages.sending.clock.estimate().fleet;
        let joined = state.look(|fleet| fleet.agent_by_name("b").map(|agent| agent.joined_at.fleet));
        joined.is_some_and(|joined| now >= joined + NEW_SESSION_MS)
    };
    fleet.until("the session of b is not new any more", is_old).await;
    let (receivers, took) = resolve(&sending, "role:worker", true, 2).await;
    assert_eq!(by_key(&receivers), (vec!["c"], vec!["b"]));
    assert!(took < KEYS_WITHIN, "one agent delays nobody's broadcast: {took:?}");
    let (receivers, took) = resolve(&sending, "b", false, 3).await;
    assert_eq!(by_key(&receivers), (Vec::new(), vec!["b"]));
    assert!(took >= KEYS_WITHIN, "{took:?}");
}
