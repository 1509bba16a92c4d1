//! Messages to all that an address stands for.

use std::{collections::BTreeMap, time::Duration};

use robeing_proto::v1::{MessageCode, MessageStatus, SendMessageRequest};

use super::mailbox::{TestMailbox, code, id, message, send, start};
use crate::tests::agent::TestAgent;

fn broadcast(to: &str, id: u128) -> SendMessageRequest {
    let deadline = Some(prost_types::Duration { seconds: 3, nanos: 0 });
    SendMessageRequest { broadcast: true, id: robeing_fleet::LetterId(id).to_string(), deadline, ..message(to) }
}

fn codes(outcomes: &[MessageStatus]) -> BTreeMap<&str, MessageCode> {
    outcomes.iter().map(|status| (&*status.agent, code(status))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_tells_what_became_of_it_at_each_agent_and_is_handled_once_if_it_is_sent_again() {
    let (fleet, leader) = start().await;
    let _agents = (
        TestAgent::join_from(&fleet, leader, "a", 1).await,
        TestAgent::join_from(&fleet, leader, "b", 2).await,
        TestAgent::join_from(&fleet, leader, "c", 3).await,
    );
    let followers = fleet.followers(leader);
    let mut a = TestMailbox::open(&fleet, followers[0], "a").await;
    let mut b = TestMailbox::open(&fleet, followers[1], "b").await;
    let answer = async {
        let (first, second) = (id(&a.letter().await), id(&b.letter().await));
        assert_ne!(first, second, "each has its own");
        a.accept(first).await;
        b.accept(second).await;
    };
    let (outcomes, ()) = tokio::join!(send(&fleet, leader, broadcast("everyone", 7)), answer);
    let outcomes = outcomes.expect("it is taken");
    let expected = [("a", MessageCode::Accepted), ("b", MessageCode::Accepted), ("c", MessageCode::DeadlinePassed)];
    assert_eq!(codes(&outcomes), expected.into());
    let again = send(&fleet, followers[0], broadcast("everyone", 7)).await.expect("it is taken");
    assert_eq!(codes(&again), expected.into());
    assert!(a.is_silent_for(Duration::from_secs(1)).await);
    let by_a = fleet.tested(leader).messages.sending.send("a", broadcast("role:worker", 8)).await;
    let by_a = by_a.expect("it is taken");
    assert_eq!(codes(&by_a).into_keys().collect::<Vec<_>>(), ["b", "c"], "its sender gets none");
    let nobody = send(&fleet, leader, broadcast("skill:ocr", 9)).await.expect("it is taken");
    assert_eq!(nobody, []);
    let team = send(&fleet, leader, broadcast("team:t", 10)).await.expect("it is taken");
    assert_eq!(code(&team[0]), MessageCode::NoSuchAgent);
}

#[tokio::test(start_paused = true)]
async fn a_durable_broadcast_is_kept_for_each() {
    let (fleet, leader) = start().await;
    let _agents =
        (TestAgent::join_from(&fleet, leader, "a", 1).await, TestAgent::join_from(&fleet, leader, "b", 2).await);
    let durable = SendMessageRequest { durable: true, ..broadcast("role:worker", 7) };
    let outcomes = send(&fleet, leader, durable).await.expect("it is taken");
    assert_eq!(codes(&outcomes), [("a", MessageCode::Kept), ("b", MessageCode::Kept)].into());
    let mut b = TestMailbox::open(&fleet, leader, "b").await;
    let of_b = outcomes.iter().find(|status| status.agent == "b").expect("it is there");
    assert_eq!(robeing_fleet::LetterId(id(&b.letter().await)).to_string(), of_b.id);
}
