//! Messages that come through the coordinators, at a real messenger.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;
use futures::FutureExt;
use robeing_platform::OsRandom;
use tokio::time::timeout;

use super::{
    fixture::packet,
    fleet::{Fleet, WITHIN, keys, outgoing},
};
use crate::messaging::{
    Outcome, Outgoing, Packet, PacketId, Role,
    packet::{MAX_PAYLOAD, RELAY_TYPE},
    sealing::{self, CARRIER, Content, OVERHEAD, WRAP_BYTES},
};

fn letter(id: u128) -> Packet {
    Packet { sender: "client:x".into(), ..packet(id) }
}

fn hello() -> Outcome {
    Outcome::accepted(Some(Bytes::from_static(b"hello")))
}

#[tokio::test(start_paused = true)]
async fn a_letter_is_handled_once_whichever_way_it_comes_and_its_first_outcome_is_repeated() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    assert_eq!(b.messenger.deliver_letter(letter(1)).await, hello());
    assert_eq!(b.messenger.deliver_letter(letter(1)).await, hello());
    let sent = Outgoing { id: Some(PacketId(2)), ..outgoing("b", "test", "hello") };
    assert_eq!(a.messenger.send(sent.clone()).await, hello());
    assert_eq!(b.messenger.deliver_letter(packet(2)).await, hello(), "it came over a stream before");
    assert_eq!(b.messenger.deliver_letter(packet(3)).await, hello());
    assert_eq!(a.messenger.send(Outgoing { id: Some(PacketId(3)), ..sent }).await, hello());
    let handled: Vec<u128> = b.handler.handled().iter().map(|packet| packet.id.0).collect();
    assert_eq!(handled, [1, 2, 3]);
    let refused = b.messenger.deliver_letter(Packet { kind: "refuse".into(), ..letter(4) }).await;
    assert_eq!(refused, Outcome::refused("not today"));
    for bad in [Packet { kind: RELAY_TYPE.into(), ..letter(5) }, Packet { sender: "a\0".into(), ..letter(5) }] {
        assert!(matches!(b.messenger.deliver_letter(bad).await, Outcome::Refused { .. }));
    }
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_with_a_data_folder_recognizes_a_letter() {
    let fleet = Fleet::new();
    let data = Some(PathBuf::from("/data"));
    let b = fleet.agent_with("b", Role::Messenger, data.clone(), None).await;
    assert_eq!(b.messenger.deliver_letter(letter(1)).await, hello());
    b.stop().await;
    assert!(matches!(b.messenger.deliver_letter(letter(2)).await, Outcome::Away { .. }), "it is shutting down");
    let again = fleet.agent_with("b", Role::Messenger, data, Some(b.address)).await;
    assert_eq!(again.messenger.deliver_letter(letter(1)).await, hello());
    assert_eq!(again.handler.handled(), []);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_hangs_holds_up_its_senders_and_comes_again_after_the_time_of_one_delivery() {
    let fleet = Fleet::new();
    let b = fleet.agent("b").await;
    b.handler.set_open(false);
    let hangs =
        |id, sender: &str| Packet { kind: "hang".into(), sender: sender.into(), deadline_in_ms: 1_000, ..letter(id) };
    let (first, second, other) = (hangs(1, "client:x"), letter(2), Packet { sender: "client:y".into(), ..letter(3) });
    let begun = tokio::time::Instant::now();
    let (first, (second, after), other) = tokio::join!(
        b.messenger.deliver_letter(first),
        async { (b.messenger.deliver_letter(second).await, begun.elapsed()) },
        timeout(Duration::from_millis(500), b.messenger.deliver_letter(other)),
    );
    assert_eq!(first, Outcome::DeadlinePassed { maybe_handled: false });
    assert_eq!((second, after >= Duration::from_secs(1)), (hello(), true), "it is after the first one");
    assert_eq!(other, Ok(hello()), "it waits for no other sender's");
    b.handler.set_open(true);
    let again = Packet { resent: true, ..hangs(1, "client:x") };
    assert_eq!(b.messenger.deliver_letter(again).await, hello());
    let handled: Vec<(u128, bool)> = b.handler.handled().iter().map(|packet| (packet.id.0, packet.resent)).collect();
    assert_eq!(handled, [(3, false), (2, false), (1, true)]);
}

#[tokio::test(start_paused = true)]
async fn beyond_what_may_wait_a_letter_is_not_taken_and_later_it_is() {
    let fleet = Fleet::new();
    let b = fleet.agent("b").await;
    b.handler.set_open(false);
    let large = |id| Packet { kind: "hang".into(), payload: vec![0; MAX_PAYLOAD].into(), ..letter(id) };
    let mut first = Box::pin(b.messenger.deliver_letter(large(1)));
    assert!(futures::poll!(first.as_mut()).is_pending());
    let second = async {
        // There is room for it once the first one is being handled. Then it waits, also without anyone who waits for it.
        while let Some(outcome) = b.messenger.deliver_letter(large(2)).now_or_never() {
            assert_eq!(outcome, overloaded());
            tokio::task::yield_now().await;
        }
    };
    timeout(WITHIN, second).await.expect("it is taken");
    assert_eq!(b.messenger.deliver_letter(large(3)).now_or_never(), Some(overloaded()));
    b.handler.set_open(true);
    assert!(first.await.is_accepted());
    assert!(b.messenger.deliver_letter(large(2)).await.is_accepted());
    assert!(b.messenger.deliver_letter(large(3)).await.is_accepted());
    assert_eq!(b.handler.handled().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_is_to_be_sealed_before_the_fleet_is_known_waits_for_that_for_a_while() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    fleet.publish_keys();
    let known = fleet.directory.hide();
    let soon = Outgoing { deadline: Duration::from_secs(1), ..outgoing("b", "test", "hello") };
    let within = Duration::from_secs(30);
    let away = a.messenger.seal_letter(soon.clone(), within).await;
    assert!(matches!(&away, Err(Outcome::Away { reason }) if reason.contains("does not know")), "{away:?}");
    let becomes_known = async {
        tokio::time::sleep(within / 2).await;
        known.send_modify(|changes| *changes += 1);
    };
    let (sealed, ()) = tokio::join!(a.messenger.seal_letter(soon, within), becomes_known);
    let sealed = sealed.expect("it is sealed");
    let key_id = Content::key_id(keys("b")[0].public());
    assert_eq!((sealed.deadline, sealed.key_id.as_deref()), (Duration::from_secs(1), Some(&*key_id)));
    let arrived = Packet { sender: "a".into(), payload: sealed.payload, ..letter(sealed.id.expect("an id").0) };
    let arrived = Packet { key_id: Some(key_id.into()), ..arrived };
    assert!(b.messenger.deliver_letter(arrived).await.is_accepted());
    assert_eq!(b.handler.handled()[0].payload, "hello");
}

fn overloaded() -> Outcome {
    Outcome::overloaded("this agent's handler is behind with the messages of the sender")
}

#[tokio::test(start_paused = true)]
async fn a_sealed_letter_is_opened_and_one_for_another_key_is_refused() {
    let fleet = Fleet::new();
    let b = fleet.agent("b").await;
    let mut sealed = letter(1);
    sealing::seal(&mut sealed, keys("b")[0].public(), &OsRandom).expect("it is sealed");
    assert_eq!(b.messenger.deliver_letter(sealed).await, hello());
    assert_eq!(b.handler.handled()[0].payload, packet(1).payload);
    let mut other = letter(2);
    sealing::seal(&mut other, keys("c")[0].public(), &OsRandom).expect("it is sealed");
    assert!(matches!(b.messenger.deliver_letter(other).await, Outcome::Refused { .. }));
}

/// A letter as a client sends it, and what opens the reply.
fn content(id: u128, agent: &str) -> (Packet, sealing::ReplyKey) {
    let content = Content::new(b"hello", &OsRandom).expect("it is encrypted");
    let letter = Packet { agent: agent.into(), ..letter(id) };
    let key = keys(agent)[0].public().clone();
    let (wrap, reply) = content.wrap(&sealing::about(&letter), &key, &OsRandom).expect("it is wrapped");
    let payload = Content::payload(&wrap, content.ciphertext());
    (Packet { payload, key_id: Some(Content::key_id(&key).into()), ..letter }, reply)
}

#[tokio::test(start_paused = true)]
async fn the_reply_to_a_sealed_letter_is_sealed_for_its_sender_also_when_it_comes_again() {
    let fleet = Fleet::new();
    let b = fleet.agent("b").await;
    let (sealed, secret) = content(1, "b");
    let mut replies = Vec::new();
    for _ in 0..2 {
        let Outcome::Accepted { reply: Some(reply), .. } = b.messenger.deliver_letter(sealed.clone()).await else {
            panic!("it replies");
        };
        assert_eq!(secret.open(&sealing::about(&sealed), &reply).as_deref(), Ok(&b"hello"[..]));
        replies.push(reply);
    }
    assert_ne!(replies[0], replies[1]);
    let handled = b.handler.handled();
    assert_eq!((handled.len(), &*handled[0].payload, &handled[0].key_id), (1, &b"hello"[..], &None));
    let (large, _) = content(2, "b");
    b.handler.reply_with(MAX_PAYLOAD - OVERHEAD);
    assert!(matches!(b.messenger.deliver_letter(large).await, Outcome::Accepted { reply: Some(_), .. }));
    b.handler.reply_with(MAX_PAYLOAD - OVERHEAD + 1);
    let (larger, _) = content(3, "b");
    let dropped = Outcome::reply_forgotten();
    assert_eq!(b.messenger.deliver_letter(larger).await, dropped, "sealed, it is too large");
}

#[tokio::test(start_paused = true)]
async fn a_reply_is_for_whoever_sealed_the_letter_and_for_no_repetition_that_is_sealed_otherwise() {
    let fleet = Fleet::strict();
    let data = Some(PathBuf::from("/data"));
    let b = fleet.agent_with("b", Role::Worker, data.clone(), None).await;
    let ((sealed, secret), (anew, _)) = (content(1, "b"), content(1, "b"));
    let dropped = Outcome::reply_forgotten();
    let with_key_of_another = {
        let payload = [&anew.payload[..WRAP_BYTES], &sealed.payload[WRAP_BYTES..]].concat().into();
        Packet { payload, ..sealed.clone() }
    };
    let too_short = Packet { payload: anew.payload.slice(..WRAP_BYTES - 1), ..anew.clone() };
    for _ in 0..2 {
        let Outcome::Accepted { reply: Some(reply), .. } = b.messenger.deliver_letter(sealed.clone()).await else {
            panic!("it replies");
        };
        assert_eq!(secret.open(&sealing::about(&sealed), &reply).as_deref(), Ok(&b"hello"[..]));
        for other in [anew.clone(), with_key_of_another.clone(), too_short.clone(), letter(1)] {
            assert_eq!(b.messenger.deliver_letter(other).await, dropped);
        }
    }
    assert_eq!(b.handler.handled().len(), 1);
    b.stop().await;
    let again = fleet.agent_with("b", Role::Worker, data, Some(b.address)).await;
    for repeated in [sealed, anew, letter(1)] {
        assert_eq!(again.messenger.deliver_letter(repeated).await, dropped, "for whom it was sealed is not known");
    }
    assert_eq!(again.handler.handled(), []);
}

#[tokio::test(start_paused = true)]
async fn a_letter_whose_content_or_wrap_is_not_its_own_is_refused() {
    let fleet = Fleet::new();
    let b = fleet.agent("b").await;
    type Tamper = fn(Packet, u128) -> Packet;
    let with_wrap_of = |wrap: Packet, letter: Packet| {
        let payload = [&wrap.payload[..WRAP_BYTES], &letter.payload[WRAP_BYTES..]].concat().into();
        Packet { payload, ..letter }
    };
    let tampers: [(&str, Tamper); 7] = [
        ("another id", |letter, id| Packet { id: PacketId(id + 100), ..letter }),
        ("another sender", |letter, _| Packet { sender: "client:y".into(), ..letter }),
        ("a truncated content", |letter, _| Packet {
            payload: letter.payload.slice(..letter.payload.len() - 1),
            ..letter
        }),
        ("a truncated wrap", |letter, _| Packet { payload: letter.payload.slice(..WRAP_BYTES - 1), ..letter }),
        ("nothing", |letter, _| Packet { payload: Bytes::new(), ..letter }),
        ("no wrap", |letter, _| Packet {
            payload: letter.payload.slice(WRAP_BYTES..),
            key_id: Some(CARRIER.into()),
            ..letter
        }),
        ("the other form", |letter, _| Packet { key_id: Some(keys("b")[0].public().id().into()), ..letter }),
    ];
    // Each is a message of its own, or it would be refused as what it repeats.
    let refused = async |what: &str, bad: Packet| {
        let refused = b.messenger.deliver_letter(bad).await;
        assert!(matches!(refused, Outcome::Refused { .. }), "{what}: {refused}");
    };
    for (id, (what, tamper)) in (1..).zip(tampers) {
        refused(what, tamper(content(id, "b").0, id)).await;
    }
    refused("the wrap of another target", with_wrap_of(content(21, "c").0, content(21, "b").0)).await;
    refused("the content of another message", with_wrap_of(content(22, "b").0, content(23, "b").0)).await;
    refused("the wrap of another sending", with_wrap_of(content(24, "b").0, content(24, "b").0)).await;
    assert_eq!(b.handler.handled(), []);
}
