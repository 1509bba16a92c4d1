//! Agents that send messages to each other, over streams that break.

use std::{collections::HashSet, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;

use super::fleet::{Fleet, WITHIN, outgoing};
use crate::messaging::{
    Address, Outcome, Outgoing, Packet, PacketId, Presence, Priority, Role,
    driver::{IDLE_AFTER, LINGER, NoReply},
    outbox::LANE_PACKETS,
};

fn accepted(reply: &'static str) -> Outcome {
    Outcome::accepted(Some(Bytes::from_static(reply.as_bytes())))
}

#[tokio::test(start_paused = true)]
async fn a_send_ends_in_what_became_of_the_message() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    assert_eq!(a.send("b", "test", "hello").await, accepted("hello"));
    assert_eq!(b.send("skill:ocr", "test", "back").await, accepted("back"));
    assert_eq!(a.send("b", "refuse", "").await, Outcome::refused("not today"));
    assert!(matches!(a.send("nobody", "test", "").await, Outcome::NoSuchAgent { .. }));
    assert!(matches!(a.send("everyone", "test", "").await, Outcome::Refused { .. }));
    assert!(matches!(a.send("b", "robeing.relay.v1", "").await, Outcome::Refused { .. }), "reserved");
    let unacknowledged = Outgoing { requires_ack: false, ..outgoing("b", "test", "x") };
    assert_eq!(a.messenger.send(unacknowledged).await, Outcome::Sent);
    let handled = b.handler.wait_for(3).await;
    assert_eq!((&*handled[0].sender, &*handled[0].receiver, &*handled[2].payload), ("a", "agent:b", &b"x"[..]));
    fleet.set_presence("b", Presence::Away);
    assert!(matches!(a.send("b", "test", "").await, Outcome::Away { .. }));
    assert_eq!((a.messenger.links(), b.messenger.links()), (1, 1), "one stream carries both directions");
}

#[tokio::test(start_paused = true)]
async fn what_is_sent_before_the_fleet_is_known_waits_for_that_until_its_deadline() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    let known = fleet.directory.hide();
    let within = |millis| Outgoing { deadline: Duration::from_millis(millis), ..outgoing("b", "test", "hello") };
    assert_eq!(a.messenger.send(within(100)).await, Outcome::DeadlinePassed { maybe_handled: false });
    let everyone = Outgoing { to: Address::Everyone, ..within(60_000) };
    let waiting = async {
        tokio::join!(
            a.messenger.send(within(60_000)),
            a.messenger.ask(within(60_000)),
            a.messenger.broadcast(everyone.clone())
        )
    };
    let becomes_known = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        known.send_modify(|changes| *changes += 1);
    };
    let numbered = (0..50).map(|number| {
        let numbered = Outgoing { payload: number.to_string().into(), ..within(60_000) };
        // Each is sent by a task of its own, which begins in this order.
        tokio::spawn({
            let messenger = a.messenger.clone();
            async move { messenger.send(numbered).await }
        })
    });
    let numbered: Vec<_> = numbered.collect();
    let ((sent, asked, broadcast), ()) = tokio::join!(waiting, becomes_known);
    for sent in numbered {
        assert!(sent.await.unwrap().is_accepted());
    }
    let handled = b.handler.handled();
    let handled = handled.iter().filter_map(|packet| std::str::from_utf8(&packet.payload).ok()?.parse::<i32>().ok());
    assert!(handled.eq(0..50), "they are in order");
    assert_eq!(sent, accepted("hello"));
    assert_eq!(asked.map(|reply| reply.payload), Ok("hello".into()));
    assert_eq!(broadcast.map(|report| report.acknowledged.len()), Ok(1));
}

#[tokio::test(start_paused = true)]
async fn a_message_to_the_agent_itself_is_handled_too() {
    let fleet = Fleet::new();
    let a = fleet.agent("a").await;
    assert_eq!(a.send("a", "test", "note").await, accepted("note"));
    assert_eq!((a.handler.handled().len(), a.messenger.links()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn whatever_is_cut_each_message_is_handled_once_and_in_order() {
    const MESSAGES: usize = 400;
    let fleet = Arc::new(Fleet::new());
    let (a, b) = (Arc::new(fleet.agent("a").await), fleet.agent("b").await);
    let sends = (0..MESSAGES).map(|n| {
        let a = Arc::clone(&a);
        let message = outgoing("b", "silent", n.to_string().repeat(2_000));
        tokio::spawn(async move { a.messenger.send(message).await })
    });
    let sends: Vec<_> = sends.collect();
    for cut in 1..=8 {
        b.handler.wait_for(cut * 40).await;
        fleet.network.cut_all();
    }
    for outcome in join_all(sends).await {
        assert_eq!(outcome.unwrap(), Outcome::accepted(None));
    }
    let handled: Vec<Packet> = b.handler.handled();
    let ids: HashSet<PacketId> = handled.iter().map(|packet| packet.id).collect();
    assert_eq!((handled.len(), ids.len()), (MESSAGES, MESSAGES));
    assert!(handled.windows(2).all(|pair| pair[0].seq < pair[1].seq), "in order");
    let is_resent = handled.iter().any(|packet| packet.resent) || b.metrics.repetitions() > 0;
    assert!(is_resent, "some were under way when their stream was cut");
}

#[tokio::test(start_paused = true)]
async fn a_receiver_with_a_data_folder_recognizes_a_message_after_a_restart() {
    for (data, times) in [(Some(PathBuf::from("/data")), 0), (None, 1)] {
        let fleet = Fleet::new();
        let a = fleet.agent("a").await;
        let b = fleet.agent_with("b", Role::Worker, data.clone(), None).await;
        let message = Outgoing { id: Some(PacketId(7)), ..outgoing("b", "test", "once") };
        assert_eq!(a.messenger.send(message.clone()).await, accepted("once"));
        b.stop().await;
        fleet.disk.crash(3);
        let again = fleet.agent_with("b", Role::Worker, data, None).await;
        assert_eq!(a.messenger.send(message.clone()).await, accepted("once"));
        assert_eq!(again.handler.handled().len(), times);
        assert_eq!(a.messenger.send(Outgoing { id: None, ..message }).await, accepted("once"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_receiver_slows_down_its_sender_and_nobody_else() {
    let fleet = Fleet::new();
    let (a, slow, fast) = (fleet.agent("a").await, fleet.agent("slow").await, fleet.agent("fast").await);
    slow.handler.set_open(false);
    let large = || Outgoing { payload: vec![0; 4_000].into(), ..outgoing("slow", "hang", "") };
    let mut waiting: Vec<_> = (0..LANE_PACKETS).map(|_| Box::pin(a.messenger.send(large()))).collect();
    for send in &mut waiting {
        assert!(futures::poll!(send.as_mut()).is_pending());
    }
    let refused = a.messenger.send(large()).await;
    assert!(matches!(&refused, Outcome::Overloaded { reason } if reason.contains("\"slow\" is full")), "{refused}");
    assert_eq!(a.send("fast", "test", "quick").await, accepted("quick"));
    let urgent = Outgoing { priority: Priority::new(9).unwrap(), ..outgoing("slow", "test", "urgent") };
    assert_eq!(a.messenger.send(urgent).await, accepted("urgent"), "it overtakes the backlog");
    assert_eq!(slow.handler.handled().len(), 1);
    slow.handler.set_open(true);
    let outcomes = tokio::time::timeout(WITHIN, join_all(waiting)).await.expect("all are handled");
    assert!(outcomes.iter().all(Outcome::is_accepted));
    assert_eq!(fast.handler.handled().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_agents_that_open_a_stream_at_once_keep_one() {
    for round in 0..20 {
        let fleet = Fleet::new();
        let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
        if round % 2 == 0 {
            tokio::task::yield_now().await;
        }
        let (ab, ba) = tokio::join!(a.send("b", "test", "1"), b.send("a", "test", "2"));
        assert_eq!((ab, ba), (accepted("1"), accepted("2")));
        assert_eq!((a.metrics.open_streams(), b.metrics.open_streams()), (1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_is_closed_and_opened_again_when_needed() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    assert_eq!(a.send("b", "test", "1").await, accepted("1"));
    tokio::time::sleep(2 * IDLE_AFTER + LINGER + Duration::from_secs(1)).await;
    assert_eq!((a.messenger.links(), b.messenger.links()), (0, 0));
    assert_eq!(b.send("a", "test", "2").await, accepted("2"));
}

#[tokio::test(start_paused = true)]
async fn a_message_over_a_new_link_is_handled_while_one_of_the_link_before_still_is() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    b.handler.set_open(false);
    let long =
        |kind: &str, payload: &'static str| Outgoing { deadline: 5 * IDLE_AFTER, ..outgoing("b", kind, payload) };
    let first = Outgoing { requires_ack: false, ..long("hang", "1") };
    assert_eq!(a.messenger.send(first).await, Outcome::Sent);
    tokio::time::sleep(IDLE_AFTER + LINGER + Duration::from_secs(5)).await;
    assert_eq!((a.messenger.links(), b.messenger.links()), (0, 1));
    let opens = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        b.handler.set_open(true);
    };
    let (outcome, ()) = tokio::join!(a.messenger.send(long("test", "2")), opens);
    assert_eq!(outcome, accepted("2"));
    let handled = b.handler.handled();
    assert_eq!(handled.iter().map(|packet| &*packet.payload).collect::<Vec<_>>(), [b"1", b"2"]);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_says_whether_the_message_may_have_been_handled() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    let soon = |kind: &str| Outgoing { deadline: Duration::from_secs(3), ..outgoing("b", kind, "") };
    b.handler.set_open(false);
    assert_eq!(a.messenger.send(soon("hang")).await, Outcome::DeadlinePassed { maybe_handled: true });
    b.handler.set_open(true);
    assert!(a.messenger.send(soon("test")).await.is_accepted(), "the lane is free again");
    fleet.network.black_hole(b.address);
    fleet.network.cut_all();
    let outcome = a.messenger.send(soon("test")).await;
    assert!(matches!(outcome, Outcome::Away { .. } | Outcome::DeadlinePassed { .. }), "{outcome}");
    let outcome = a.messenger.send(soon("test")).await;
    assert!(matches!(&outcome, Outcome::Away { reason } if reason.contains("\"b\" can't be reached")), "{outcome}");
}

#[tokio::test(start_paused = true)]
async fn a_message_to_an_agent_that_does_not_answer_waits_until_its_deadline() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    fleet.network.black_hole(b.address);
    let started = tokio::time::Instant::now();
    let message = Outgoing { deadline: 6 * LINGER, ..outgoing("b", "test", "x") };
    // A link that did not sleep between the attempts would keep the time from passing.
    let outcome = a.messenger.send(message).await;
    assert!(matches!(&outcome, Outcome::Away { reason } if reason.contains("\"b\" can't be reached")), "{outcome}");
    assert_eq!(started.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_message_waits_until_its_deadline_for_an_agent_that_leaves_the_fleet_and_comes_back() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    a.wall_off(&b, true);
    let message = || Outgoing { deadline: Duration::from_secs(5), ..outgoing("b", "test", "x") };
    let leave = async { fleet.set_presence("b", Presence::Away) };
    let started = tokio::time::Instant::now();
    let (outcome, ()) = tokio::join!(a.messenger.send(message()), leave);
    assert!(matches!(&outcome, Outcome::Away { reason } if reason.contains("not in the fleet now")), "{outcome}");
    assert_eq!(started.elapsed().as_secs(), 5, "its deadline");

    fleet.set_presence("b", Presence::Active);
    let come_back = async {
        fleet.set_presence("b", Presence::Away);
        tokio::time::sleep(Duration::from_secs(3)).await;
        a.wall_off(&b, false);
        fleet.set_presence("b", Presence::Active);
    };
    let (outcome, ()) = tokio::join!(a.messenger.send(message()), come_back);
    assert_eq!(outcome, Outcome::accepted(Some("x".into())));
}

#[tokio::test(start_paused = true)]
async fn the_streams_of_an_agent_end_once_it_is_removed_from_the_fleet_however_much_it_sends() {
    let fleet = Fleet::new();
    fleet.directory.hide().send_replace(1);
    let (a, b, m) = (fleet.agent("a").await, fleet.agent("b").await, fleet.messenger("m").await);
    for sender in [&a, &m] {
        assert!(sender.send("b", "test", "x").await.is_accepted());
    }
    assert_eq!(b.metrics.open_streams(), 2);
    for (removed, left) in [(&a, 1), (&m, 0)] {
        fleet.directory.remove(removed.messenger.name());
        let soon = || Outgoing { deadline: Duration::from_millis(100), ..outgoing("b", "test", "x") };
        // None of these lets the stream become idle.
        for _ in 0..20 {
            removed.messenger.send(soon()).await;
        }
        assert_eq!(b.metrics.open_streams(), left);
        let handled = b.handler.handled().len();
        assert!(!removed.messenger.send(soon()).await.is_accepted());
        assert_eq!(b.handler.handled().len(), handled);
    }
}

#[tokio::test(start_paused = true)]
async fn an_ask_gets_the_reply_of_the_handler_or_of_a_later_message() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    assert_eq!(a.messenger.ask(outgoing("b", "test", "42")).await.unwrap().payload, "42");
    let question = Outgoing { deadline: Duration::from_secs(5), ..outgoing("b", "silent", "?") };
    let ask = a.messenger.ask(question.clone());
    let answer = async {
        let asked = b.handler.wait_for(2).await;
        let reply = Outgoing { reply_to: Some(asked[1].id), ..outgoing("a", "answer", "!") };
        assert_eq!(b.messenger.send(reply).await, Outcome::accepted(None));
    };
    let (reply, ()) = tokio::join!(ask, answer);
    assert_eq!((&*reply.unwrap().payload, a.handler.handled().len()), (&b"!"[..], 0));
    assert_eq!(a.messenger.ask(question).await, Err(NoReply::Late("b".into())));
    let refused = a.messenger.ask(outgoing("b", "refuse", "")).await;
    assert_eq!(refused, Err(NoReply::NotAccepted(Outcome::refused("not today"))));
}

#[tokio::test(start_paused = true)]
async fn two_asks_at_once_with_one_id_are_one_ask_and_a_refusal() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    let question = Outgoing { id: Some(PacketId(7)), ..outgoing("b", "silent", "?") };
    let first = a.messenger.ask(question.clone());
    let rest = async {
        b.handler.wait_for(1).await;
        let second = a.messenger.ask(question.clone()).await;
        assert!(
            matches!(&second, Err(NoReply::NotAccepted(Outcome::Refused { reason })) if reason.contains("its own id")),
            "{second:?}"
        );
        let reply = Outgoing { reply_to: Some(PacketId(7)), ..outgoing("a", "answer", "!") };
        assert_eq!(b.messenger.send(reply).await, Outcome::accepted(None));
    };
    let (reply, ()) = tokio::join!(first, rest);
    assert_eq!(reply.map(|reply| reply.payload), Ok(Bytes::from_static(b"!")));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_leaves_no_send_without_an_outcome() {
    let fleet = Fleet::new();
    let (a, b) = (fleet.agent("a").await, fleet.agent("b").await);
    b.handler.set_open(false);
    let never = a.send("b", "hang", "");
    let unsent = a.send("missing", "test", "");
    let stop = async {
        tokio::task::yield_now().await;
        a.stop().await;
    };
    a.handler.set_open(false);
    let own = a.send("a", "hang", "");
    let (never, _, own, ()) = tokio::join!(never, unsent, own, stop);
    assert_eq!(own, Outcome::DeadlinePassed { maybe_handled: true });
    assert!(matches!(never, Outcome::Away { .. } | Outcome::DeadlinePassed { maybe_handled: true }), "{never}");
    assert!(matches!(a.send("b", "test", "").await, Outcome::Away { .. }), "after the end");
    assert_eq!(a.messenger.links(), 0);
}
