//! Replies that pass a messenger.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::{
    broadcasts::workers,
    fleet::{Agent, Fleet, keys, outgoing},
};
use crate::messaging::{
    Directory, Entry, Outcome, Outgoing, PacketId,
    broadcast::DIRECT_FANOUT,
    driver::NoReply,
    packet::MAX_PAYLOAD,
    sealing::{PASSED_OVERHEAD, SealingKey},
};

const SECRET: &str = "nobody else is to read this";

fn accepted(reply: impl Into<Bytes>) -> Outcome {
    Outcome::accepted(Some(reply.into()))
}

/// Two agents and a messenger, of a fleet in which messengers get nothing unsealed.
async fn fleet() -> (Fleet, Agent, Agent, Agent) {
    let fleet = Fleet::strict();
    let (a, b, relay) = (fleet.agent("a").await, fleet.agent("b").await, fleet.messenger("relay").await);
    fleet.publish_keys();
    (fleet, a, b, relay)
}

/// Sets the key of an agent that the directory knows.
fn set_key(fleet: &Fleet, name: &str, sealing_key: Option<SealingKey>) {
    let known = fleet.directory.snapshot().get(name).cloned().expect("an agent");
    fleet.directory.put(Entry { sealing_key, ..(*known).clone() });
}

fn with_id(id: u128, kind: &str) -> Outgoing {
    Outgoing { id: Some(PacketId(id)), ..outgoing("b", kind, SECRET) }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_passes_a_messenger_is_read_by_its_receiver_alone() {
    let (fleet, a, b, _relay) = fleet().await;
    a.wall_off(&b, true);
    assert_eq!(a.send("b", "test", SECRET).await, accepted(SECRET));
    assert_eq!(a.messenger.ask(outgoing("b", "test", SECRET)).await.expect("a reply").payload, SECRET);
    assert_eq!(a.messenger.send_via("relay", outgoing("b", "test", SECRET)).await, accepted(SECRET));
    assert_eq!(b.handler.handled().len(), 3);
    assert!(fleet.network.heard(SECRET.as_bytes()).is_empty(), "not on any connection");
    assert!(!fleet.network.heard(b"robeing.relay.v1").is_empty(), "it was listened to");
}

#[tokio::test(start_paused = true)]
async fn the_replies_to_a_broadcast_through_messengers_are_read_by_no_messenger() {
    let fleet = Fleet::strict();
    let sender = fleet.agent("sender").await;
    let _messengers = [fleet.messenger("relay-1").await, fleet.messenger("relay-2").await];
    let workers = workers(&fleet, DIRECT_FANOUT + 6).await;
    fleet.publish_keys();
    let report = sender.messenger.broadcast(outgoing("role:worker", "test", SECRET)).await.unwrap();
    assert_eq!((report.acknowledged.len(), report.missed), (workers.len(), vec![]));
    assert!(workers.iter().all(|worker| worker.handler.handled().len() == 1));
    assert!(fleet.network.heard(SECRET.as_bytes()).is_empty(), "not on any connection");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_again_has_the_same_reply_whichever_way_it_comes() {
    let (fleet, a, b, _relay) = fleet().await;
    for _ in 0..2 {
        assert_eq!(a.messenger.send_via("relay", with_id(7, "test")).await, accepted(SECRET));
    }
    assert!(fleet.network.heard(SECRET.as_bytes()).is_empty(), "not on any connection");
    assert_eq!(a.messenger.send(with_id(7, "test")).await, accepted(SECRET));
    assert_eq!(a.messenger.send(with_id(8, "test")).await, accepted(SECRET));
    assert_eq!(a.messenger.send_via("relay", with_id(8, "test")).await, accepted(SECRET));
    assert_eq!(b.handler.handled().len(), 2);
    assert_eq!(fleet.network.heard(SECRET.as_bytes()), [b.address.to_string()], "where it came directly");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_both_ways_while_it_is_handled_has_a_reply_on_each() {
    let (fleet, a, b, _relay) = fleet().await;
    for (id, [direct, passed]) in [(7, [0, 1]), (8, [1, 0])] {
        b.handler.set_open(false);
        let sends_directly = async {
            sleep(Duration::from_secs(direct)).await;
            a.messenger.send(with_id(id, "hang")).await
        };
        let sends_by_messenger = async {
            sleep(Duration::from_secs(passed)).await;
            a.messenger.send_via("relay", with_id(id, "hang")).await
        };
        let opens = async {
            sleep(Duration::from_secs(3)).await;
            b.handler.set_open(true);
        };
        let (direct, passed, ()) = tokio::join!(sends_directly, sends_by_messenger, opens);
        assert_eq!((direct, passed), (accepted(SECRET), accepted(SECRET)));
    }
    assert_eq!((b.handler.handled().len(), b.metrics.repetitions()), (2, 2));
    assert_eq!(fleet.network.heard(SECRET.as_bytes()), [b.address.to_string()], "where it came directly");
}

#[tokio::test(start_paused = true)]
async fn copies_that_come_by_two_messengers_while_the_first_one_is_handled_have_a_reply_each() {
    let (fleet, a, b, _relay) = fleet().await;
    let _other = fleet.messenger("relay-2").await;
    fleet.publish_keys();
    b.handler.set_open(false);
    // Each of them is sealed on its own.
    let first = a.messenger.send_via("relay", with_id(7, "hang"));
    let second = async {
        sleep(Duration::from_secs(1)).await;
        a.messenger.send_via("relay-2", with_id(7, "hang")).await
    };
    let opens = async {
        sleep(Duration::from_secs(3)).await;
        b.handler.set_open(true);
    };
    let (first, second, ()) = tokio::join!(first, second, opens);
    assert_eq!((first, second), (accepted(SECRET), accepted(SECRET)));
    assert_eq!((b.handler.handled().len(), b.metrics.repetitions()), (1, 1));
    assert!(fleet.network.heard(SECRET.as_bytes()).is_empty(), "not on any connection");
}

#[tokio::test(start_paused = true)]
async fn a_messenger_that_handles_what_it_passes_on_to_itself_has_its_reply_read_by_the_sender() {
    let (_fleet, a, _b, relay) = fleet().await;
    let to_relay = |kind: &str| Outgoing { id: Some(PacketId(7)), ..outgoing("relay", kind, SECRET) };
    for _ in 0..2 {
        assert_eq!(a.messenger.send_via("relay", to_relay("test")).await, accepted(SECRET));
    }
    assert_eq!(relay.handler.handled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_sender_whose_key_is_not_known_has_the_reply_to_the_copy_that_is_handled_and_to_no_other() {
    let (fleet, a, b, _relay) = fleet().await;
    set_key(&fleet, "a", None);
    assert_eq!(a.messenger.send_via("relay", with_id(7, "test")).await, accepted(SECRET));
    assert_eq!(a.messenger.send_via("relay", with_id(7, "test")).await, Outcome::reply_forgotten());
    assert_eq!(a.messenger.send(with_id(8, "test")).await, accepted(SECRET));
    assert_eq!(a.messenger.send_via("relay", with_id(8, "test")).await, Outcome::reply_forgotten());
    assert_eq!(b.handler.handled().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_can_not_be_opened_is_told_as_such() {
    let (fleet, a, b, _relay) = fleet().await;
    set_key(&fleet, "a", Some(keys("earlier")[0].public().clone()));
    assert_eq!(a.messenger.send(with_id(7, "test")).await, accepted(SECRET));
    assert_eq!(a.messenger.send_via("relay", with_id(7, "test")).await, Outcome::sealed_reply(None));
    a.wall_off(&b, true);
    fleet.network.cut_all();
    let asked = a.messenger.ask(with_id(7, "test")).await;
    assert_eq!(asked, Err(NoReply::Unopened("b".into())));
    assert!(asked.expect_err("no reply").to_string().contains("can't be opened"));
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_does_not_seal_its_reply_is_understood() {
    let (fleet, a, _b, _relay) = fleet().await;
    // As one of an earlier version: it opens the message, here in its handler, and replies in the clear.
    let keyless = fleet.agent("keyless").await;
    set_key(&fleet, "keyless", Some(keys("b")[0].public().clone()));
    keyless.handler.reply_with(5);
    let sent = a.messenger.send_via("relay", outgoing("keyless", "test", SECRET)).await;
    assert_eq!(sent, accepted(vec![0; 5]));
}

#[tokio::test(start_paused = true)]
async fn a_sender_that_does_not_open_replies_gets_them_in_the_clear() {
    let (_fleet, a, b, _relay) = fleet().await;
    // As agents of earlier versions seal what passes a messenger.
    let sealed = a.messenger.seal(outgoing("b", "test", SECRET), keys("b")[0].public()).expect("it is sealed");
    assert_eq!(a.messenger.send_via("relay", sealed.clone()).await, accepted(SECRET));
    assert_eq!(a.messenger.send_via("relay", sealed).await, Outcome::reply_forgotten(), "whose it is nobody knows");
    assert_eq!(b.handler.handled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reply_at_its_size_limit_passes_a_messenger_and_a_larger_one_comes_directly() {
    let (_fleet, a, b, _relay) = fleet().await;
    let most = MAX_PAYLOAD - PASSED_OVERHEAD;
    for (bytes, fits) in [(most, true), (most + 1, false), (MAX_PAYLOAD, false)] {
        b.handler.reply_with(bytes);
        let passed = a.messenger.send_via("relay", outgoing("b", "test", "x")).await;
        let expected = if fits { accepted(vec![0; bytes]) } else { Outcome::reply_forgotten() };
        assert!(passed == expected, "{bytes} bytes");
        assert!(a.send("b", "test", "x").await == accepted(vec![0; bytes]), "{bytes} bytes, directly");
    }
}
