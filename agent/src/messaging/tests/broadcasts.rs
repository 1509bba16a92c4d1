//! Broadcasts to many agents, through messengers that fail.

use std::{path::PathBuf, time::Duration};

use bytes::Bytes;

use super::fleet::{Agent, Fleet, keys, outgoing};
use crate::messaging::{
    Directory, Entry, Outcome, Outgoing, PacketId, Presence, Role, broadcast::DIRECT_FANOUT, outbox::LANE_BYTES,
};

/// Starts so many workers.
pub async fn workers(fleet: &Fleet, count: usize) -> Vec<Agent> {
    let mut workers = Vec::new();
    for n in 0..count {
        workers.push(fleet.agent(&format!("worker-{n:03}")).await);
    }
    workers
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_reports_who_acknowledged_and_who_did_not() {
    let fleet = Fleet::new();
    let sender = fleet.agent("sender").await;
    let workers = workers(&fleet, 3).await;
    let refusing = Outgoing { deadline: Duration::from_secs(3), ..outgoing("everyone", "hang", "x") };
    workers[1].handler.set_open(false);
    fleet.set_presence("worker-002", Presence::Away);
    let report = sender.messenger.broadcast(refusing).await.unwrap();
    assert_eq!(report.acknowledged, ["worker-000".into()]);
    assert_eq!(report.missed, [("worker-001".into(), Outcome::DeadlinePassed { maybe_handled: true })]);
    assert_eq!(sender.handler.handled().len(), 0, "all but the sender");
}

#[tokio::test(start_paused = true)]
async fn a_broadcast_to_many_goes_through_messengers_and_each_receiver_handles_it_once() {
    let fleet = Fleet::new();
    let sender = fleet.agent("sender").await;
    let messengers = [fleet.messenger("relay-1").await, fleet.messenger("relay-2").await];
    let workers = workers(&fleet, DIRECT_FANOUT + 6).await;
    let report = sender.messenger.broadcast(outgoing("role:worker", "test", "x")).await.unwrap();
    assert_eq!((report.acknowledged.len(), report.missed), (workers.len(), vec![]));
    assert_eq!(sender.messenger.links(), 2, "it needs streams to the messengers alone");
    for worker in &workers {
        let handled = worker.handler.handled();
        assert_eq!((handled.len(), &*handled[0].sender), (1, "sender"));
    }
    assert!(messengers.iter().all(|messenger| messenger.handler.handled().is_empty()));
}

#[tokio::test(start_paused = true)]
async fn what_an_agent_sends_of_its_own_accord_counts_and_not_what_it_passes_on_or_replies() {
    let fleet = Fleet::new();
    let (sender, relay) = (fleet.agent("sender").await, fleet.messenger("relay").await);
    let workers = workers(&fleet, DIRECT_FANOUT + 1).await;
    let counts = || [&sender, &relay, &workers[0]].map(|agent| agent.metrics.sent_count().get());
    let report = sender.messenger.broadcast(outgoing("role:worker", "test", "x")).await.unwrap();
    assert_eq!(report.acknowledged.len(), workers.len());
    assert_eq!(counts(), [1, 0, 0], "a broadcast is one message, however many messengers pass it on to however many");
    assert!(sender.messenger.send_via("relay", outgoing("worker-000", "test", "x")).await.is_accepted());
    assert!(sender.send("worker-000", "test", "x").await.is_accepted());
    sender.messenger.ask(outgoing("worker-000", "test", "x")).await.expect("a reply");
    assert_eq!(counts(), [4, 0, 0]);
    let reply = Outgoing { reply_to: Some(PacketId(9)), ..outgoing("sender", "test", "x") };
    assert!(workers[0].messenger.send(reply).await.is_accepted());
    assert!(sender.send("sender", "test", "x").await.is_accepted());
    assert_eq!(counts(), [4, 0, 0], "neither replies nor messages to itself");
}

#[tokio::test(start_paused = true)]
async fn what_messengers_pass_on_of_a_broadcast_is_read_by_its_receivers_alone() {
    const SECRET: &str = "nobody else is to read this";
    let fleet = Fleet::strict();
    let sender = fleet.agent("sender").await;
    let _messengers = [fleet.messenger("relay-1").await, fleet.messenger("relay-2").await];
    let workers = workers(&fleet, DIRECT_FANOUT + 6).await;
    fleet.publish_keys();
    let report = sender.messenger.broadcast(outgoing("role:worker", "silent", SECRET)).await.unwrap();
    assert_eq!((report.acknowledged.len(), report.missed), (workers.len(), vec![]));
    assert_eq!(sender.messenger.links(), 2, "it needs streams to the messengers alone");
    for worker in &workers {
        let handled = worker.handler.handled();
        assert_eq!((handled.len(), &*handled[0].payload, &handled[0].key_id), (1, SECRET.as_bytes(), &None));
    }
    assert!(fleet.network.heard(SECRET.as_bytes()).is_empty(), "not on any connection");
    assert!(!fleet.network.heard(b"robeing.relay.v1").is_empty(), "it was listened to");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_without_a_key_gets_a_broadcast_directly_and_so_does_one_whose_key_is_outdated() {
    const SECRET: &str = "nobody else is to read this";
    let fleet = Fleet::strict();
    let sender = fleet.agent("sender").await;
    let relay = fleet.messenger("relay").await;
    let (_workers, keyless) = (workers(&fleet, DIRECT_FANOUT + 1).await, fleet.agent("keyless").await);
    let outdated = fleet.agent("outdated").await;
    fleet.publish_keys();
    let known = fleet.directory.snapshot().get("outdated").cloned().expect("an agent");
    fleet.directory.put(Entry { sealing_key: Some(keys("earlier")[0].public().clone()), ..(*known).clone() });
    let report = sender.messenger.broadcast(outgoing("role:worker", "silent", SECRET)).await.unwrap();
    assert_eq!((report.acknowledged.len(), report.missed), (DIRECT_FANOUT + 3, vec![]));
    assert_eq!(sender.messenger.links(), 3);
    for agent in [&keyless, &outdated] {
        assert_eq!(agent.handler.handled().iter().map(|packet| packet.payload.clone()).collect::<Vec<_>>(), [SECRET]);
    }
    let mut heard = fleet.network.heard(SECRET.as_bytes());
    heard.sort();
    let mut direct = [keyless.address.to_string(), outdated.address.to_string()];
    direct.sort();
    assert_eq!(heard, direct, "the messenger at {} has not", relay.address);
    // One that can't be reached directly is reported so.
    sender.wall_off(&keyless, true);
    fleet.network.cut_all();
    let report = sender.messenger.broadcast(outgoing("role:worker", "silent", "again")).await.unwrap();
    let missed: Vec<_> = report.missed.iter().map(|(name, _)| &**name).collect();
    assert_eq!(missed, ["keyless"]);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_can_not_be_sealed_does_not_go_by_a_messenger() {
    let fleet = Fleet::strict();
    let (a, b, _relay) = (fleet.agent("a").await, fleet.agent("b").await, fleet.messenger("relay").await);
    a.wall_off(&b, true);
    let soon = || Outgoing { deadline: Duration::from_secs(5), ..outgoing("b", "silent", "x") };
    assert!(matches!(a.messenger.send(soon()).await, Outcome::Away { .. }));
    assert!(matches!(a.messenger.send_via("relay", soon()).await, Outcome::Away { .. }));
    fleet.publish_keys();
    assert!(a.messenger.send(soon()).await.is_accepted());
    assert!(a.messenger.send_via("relay", soon()).await.is_accepted());
    assert_eq!(b.handler.handled().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_messenger_that_is_gone_is_replaced() {
    let fleet = Fleet::new();
    let sender = fleet.agent("sender").await;
    let (gone, _works) = (fleet.messenger("relay-1").await, fleet.messenger("relay-2").await);
    let workers = workers(&fleet, DIRECT_FANOUT + 1).await;
    gone.stop().await;
    let report = sender.messenger.broadcast(outgoing("role:worker", "test", "x")).await.unwrap();
    assert_eq!((report.acknowledged.len(), report.missed), (workers.len(), vec![]));
    assert!(workers.iter().all(|worker| worker.handler.handled().len() == 1));
}

#[tokio::test(start_paused = true)]
async fn a_messenger_joins_agents_that_can_not_reach_each_other() {
    let fleet = Fleet::new();
    let (a, b, relay) = (fleet.agent("a").await, fleet.agent("b").await, fleet.messenger("relay").await);
    let sent = a.messenger.send_via("relay", outgoing("b", "test", "x")).await;
    assert_eq!(sent, Outcome::accepted(Some("x".into())));
    assert_eq!(a.messenger.send_via("relay", outgoing("b", "refuse", "x")).await, Outcome::refused("not today"));
    assert_eq!((b.handler.handled().len(), relay.handler.handled().len()), (2, 0));
    let refused = a.messenger.send_via("b", outgoing("a", "test", "x")).await;
    assert!(matches!(&refused, Outcome::Refused { reason } if reason.contains("no messenger")), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn a_message_to_an_agent_that_can_not_be_reached_takes_the_way_of_a_messenger() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    a.wall_off(&b, true);
    let soon = Outgoing { deadline: Duration::from_secs(5), ..outgoing("b", "test", "x") };
    let lost = a.messenger.send(soon).await;
    assert!(matches!(lost, Outcome::Away { .. }), "without a messenger: {lost}");
    let _relay = fleet.messenger("relay").await;
    assert_eq!(a.send("b", "test", "x").await, Outcome::accepted(Some("x".into())));
    assert_eq!(a.send("b", "refuse", "x").await, Outcome::refused("not today"));
    let asked = a.messenger.ask(outgoing("b", "test", "y")).await.expect("a reply");
    assert_eq!(asked.payload, "y");
    assert_eq!(a.metrics.detours.get(), 3);
    assert!(b.handler.handled().iter().all(|packet| packet.resent), "an earlier stream may have carried them");
    // The direct way, once it is open, leads to no second handling.
    a.wall_off(&b, false);
    assert!(a.send("b", "test", "last").await.is_accepted());
    assert_eq!((b.handler.handled().len(), a.metrics.detours.get()), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn what_a_messenger_was_to_pass_on_when_it_stopped_is_passed_on_after_its_restart() {
    let fleet = Fleet::new();
    let (a, b, data) = (fleet.agent("a").await, fleet.agent("b").await, Some(PathBuf::from("/data")));
    let relay = fleet.agent_with("relay", Role::Messenger, data.clone(), None).await;
    relay.wall_off(&b, true);
    let restart = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        relay.stop().await;
        fleet.agent_with("relay", Role::Messenger, data, Some(relay.address)).await
    };
    let (sent, _again) = tokio::join!(a.messenger.send_via("relay", outgoing("b", "test", "x")), restart);
    assert_eq!(sent, Outcome::accepted(Some("x".into())));
    assert_eq!(b.handler.handled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_to_send_of_what_a_messenger_has_passed_on() {
    let fleet = Fleet::new();
    let (a, b, _relay) = (fleet.agent("a").await, fleet.agent("b").await, fleet.messenger("relay").await);
    a.wall_off(&b, true);
    let payload = Bytes::from(vec![0; 1 << 19]);
    let large = || Outgoing { deadline: Duration::from_secs(600), ..outgoing("b", "silent", payload.clone()) };
    // So many do not fit into a lane at once.
    for sent in 1..=2 * LANE_BYTES / payload.len() as u64 {
        let outcome = a.messenger.send(large()).await;
        assert!(outcome.is_accepted(), "number {sent}: {outcome}");
    }
    a.wall_off(&b, false);
    // Longer than the pause between attempts to open a stream.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let handled = b.handler.handled().len();
    assert!(a.send("b", "silent", "last").await.is_accepted());
    assert_eq!((b.handler.handled().len(), b.metrics.repetitions()), (handled + 1, 0), "no direct copy has come");
}

#[tokio::test(start_paused = true)]
async fn a_message_that_a_messenger_has_passed_on_is_not_reported_as_unhandled() {
    let fleet = Fleet::new();
    let (a, b, _relay) = (fleet.agent("a").await, fleet.agent("b").await, fleet.messenger("relay").await);
    a.wall_off(&b, true);
    b.handler.set_open(false);
    let soon = Outgoing { deadline: Duration::from_secs(5), ..outgoing("b", "hang", "x") };
    assert_eq!(a.messenger.send(soon).await, Outcome::DeadlinePassed { maybe_handled: true });
}

#[tokio::test(start_paused = true)]
async fn a_message_that_was_sealed_for_an_earlier_key_is_taken_on_the_direct_way() {
    let fleet = Fleet::new();
    let (a, b, _relay) = (fleet.agent("a").await, fleet.agent("b").await, fleet.messenger("relay").await);
    let known = fleet.directory.snapshot().get("b").cloned().expect("an agent");
    fleet.directory.put(Entry { sealing_key: Some(keys("earlier")[0].public().clone()), ..(*known).clone() });
    a.wall_off(&b, true);
    let sent = a.send("b", "test", "x");
    let opens = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        a.wall_off(&b, false);
    };
    let (sent, ()) = tokio::join!(sent, opens);
    assert_eq!(sent, Outcome::accepted(Some("x".into())));
    let handled = b.handler.handled();
    assert_eq!((handled.len(), &*handled[0].payload, handled[0].resent), (1, &b"x"[..], true));
}

#[tokio::test(start_paused = true)]
async fn a_sealed_message_is_read_by_its_receiver_alone() {
    let fleet = Fleet::new();
    let (a, b, _relay) = (fleet.agent("a").await, fleet.agent("b").await, fleet.messenger("relay").await);
    let keyless = fleet.agent("keyless").await;
    let key = &keys("b")[0];
    let sealed = a.messenger.seal(outgoing("b", "silent", "secret"), key.public()).unwrap();
    assert_ne!(sealed.payload, "secret");
    assert!(a.messenger.send_via("relay", sealed.clone()).await.is_accepted());
    assert_eq!(b.handler.handled()[0].payload, "secret");
    let other = a.messenger.seal(outgoing("b", "silent", "secret"), keys("a")[0].public()).unwrap();
    let refused = a.messenger.send(other).await;
    assert!(matches!(&refused, Outcome::Refused { reason } if reason.contains("has no key")), "{refused}");
    let foreign = Outgoing { id: None, ..sealed.clone() };
    let refused = a.messenger.send(foreign).await;
    assert!(matches!(&refused, Outcome::Refused { reason } if reason.contains("can't be opened")), "{refused}");
    let passed = Outgoing { to: "keyless".parse().unwrap(), ..sealed };
    assert!(a.messenger.send(passed.clone()).await.is_accepted(), "its handler has the key");
    assert_eq!(keyless.handler.handled()[0].payload, passed.payload);
}
