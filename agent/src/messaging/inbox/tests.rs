//! Tests of the inbox.

use super::*;
use crate::messaging::{packet::MAX_PAYLOAD, tests::fixture::packet};

fn name(name: &str) -> Arc<str> {
    name.into()
}

fn inbox(peers: &[&str]) -> Inbox {
    let mut inbox = Inbox::new(Memory::default(), MAX_HANDLING);
    for peer in peers {
        assert_eq!(inbox.connect(&name(peer)), [LANE_WINDOW; LANES]);
    }
    inbox
}

fn from(peer: &str, seq: u64, priority: u32) -> Packet {
    let priority = Priority::new(priority).unwrap();
    Packet { seq, priority, sender: name(peer), ..packet(u128::from(seq) << 8 | u128::from(priority.get())) }
}

fn receive(inbox: &mut Inbox, packet: &Packet) -> Result<Received, Violation> {
    inbox.receive(0, &Arc::clone(&packet.sender), packet.clone())
}

fn finish(inbox: &mut Inbox, handed: &Handed, outcome: &Outcome) -> Vec<Arc<str>> {
    inbox.finish(&handed.peer, handed.packet.priority);
    inbox.conclude(0, &handed.packet.sender, handed.packet.id, outcome).peers().collect()
}

#[test]
fn a_lane_hands_out_one_packet_at_a_time_in_order_and_urgent_ones_first() {
    let mut inbox = inbox(&["a", "c"]);
    let packets = [from("a", 1, 5), from("a", 2, 5), from("c", 1, 5), from("c", 2, 5), from("c", 3, 9)];
    for packet in &packets {
        assert_eq!(receive(&mut inbox, packet), Ok(Received::Queued));
    }
    let handed: Vec<_> = std::iter::from_fn(|| inbox.hand_out()).collect();
    let of = |handed: &Handed| ((*handed.peer).to_owned(), handed.packet.seq);
    assert_eq!(handed.iter().map(of).collect::<Vec<_>>(), [("c".into(), 3), ("a".into(), 1), ("c".into(), 1)]);
    assert_eq!((inbox.handling(), inbox.waiting()), (3, 2));
    assert_eq!(finish(&mut inbox, &handed[2], &Outcome::accepted(None)), [name("c")]);
    let next = inbox.hand_out().unwrap();
    assert_eq!(of(&next), ("c".into(), 2));
    assert_eq!(inbox.hand_out(), None);
}

#[test]
fn a_repetition_is_not_handled_again_and_gets_the_outcome() {
    let mut inbox = inbox(&["a", "m"]);
    let first = from("a", 1, 5);
    receive(&mut inbox, &first).unwrap();
    inbox.disconnect(&name("a"));
    inbox.connect(&name("a"));
    assert_eq!(receive(&mut inbox, &first), Ok(Received::Pending));
    assert_eq!(inbox.receive(0, &name("m"), first.clone()), Ok(Received::Pending), "by way of a messenger");
    let handed = inbox.hand_out().unwrap();
    assert_eq!(finish(&mut inbox, &handed, &Outcome::refused("no")), [name("a"), name("m")]);
    inbox.connect(&name("a"));
    assert_eq!(receive(&mut inbox, &first), Ok(Received::Repeated(Outcome::refused("no"))));
    assert_eq!(inbox.hand_out(), None);
}

#[test]
fn a_repetition_waits_until_the_outcome_is_on_record() {
    let mut inbox = inbox(&["a"]);
    receive(&mut inbox, &from("a", 1, 5)).unwrap();
    let handed = inbox.hand_out().unwrap();
    inbox.finish(&handed.peer, handed.packet.priority);
    inbox.connect(&name("a"));
    assert_eq!(receive(&mut inbox, &from("a", 1, 5)), Ok(Received::Pending));
    let id = handed.packet.id;
    assert!(inbox.conclude(0, &name("a"), id, &Outcome::accepted(None)).peers().eq([name("a")]));
}

#[test]
fn what_was_not_handled_may_come_again() {
    let mut inbox = inbox(&["a"]);
    receive(&mut inbox, &from("a", 1, 5)).unwrap();
    let handed = inbox.hand_out().unwrap();
    let passed = Outcome::DeadlinePassed { maybe_handled: false };
    assert_eq!(finish(&mut inbox, &handed, &passed), [name("a")]);
    inbox.connect(&name("m"));
    let relayed = Packet { seq: 9, ..from("a", 1, 5) };
    assert_eq!(inbox.receive(0, &name("m"), relayed), Ok(Received::Queued), "by way of a messenger");
}

#[test]
fn what_came_too_late_is_not_handled_after_what_followed_it() {
    let mut inbox = inbox(&["a"]);
    inbox.identify(&name("a"), 1, true);
    receive(&mut inbox, &from("a", 1, 5)).unwrap();
    receive(&mut inbox, &from("a", 2, 5)).unwrap();
    let handed = inbox.hand_out().unwrap();
    finish(&mut inbox, &handed, &Outcome::DeadlinePassed { maybe_handled: false });
    assert_eq!(inbox.hand_out().unwrap().packet.seq, 2);
    inbox.connect(&name("a"));
    inbox.identify(&name("a"), 1, true);
    let late = Received::Repeated(Outcome::DeadlinePassed { maybe_handled: true });
    assert_eq!(receive(&mut inbox, &from("a", 1, 5)), Ok(late));
    inbox.connect(&name("a"));
    inbox.identify(&name("a"), 2, true);
    assert_eq!(receive(&mut inbox, &from("a", 1, 5)), Ok(Received::Queued), "another link begins again at 1");
}

/// Begins another stream of a peer of which nothing is left, over the link of this incarnation.
fn begin_again(inbox: &mut Inbox, peer: &str, incarnation: u64, is_of_link: bool) {
    inbox.disconnect(&name(peer));
    assert!(inbox.peers.is_empty());
    inbox.connect(&name(peer));
    inbox.identify(&name(peer), incarnation, is_of_link);
}

#[test]
fn what_was_put_off_is_not_handled_after_what_followed_it_also_when_the_stream_broke_meanwhile() {
    let mut inbox = inbox(&["a"]);
    inbox.identify(&name("a"), 1, true);
    for (seq, outcome) in [(1, Outcome::overloaded("it has just started")), (2, Outcome::accepted(None))] {
        receive(&mut inbox, &from("a", seq, 5)).unwrap();
        let handed = inbox.hand_out().unwrap();
        finish(&mut inbox, &handed, &outcome);
    }
    for _ in 0..2 {
        begin_again(&mut inbox, "a", 1, true);
        let late = Received::Repeated(Outcome::DeadlinePassed { maybe_handled: true });
        assert_eq!(receive(&mut inbox, &from("a", 1, 5)), Ok(late));
        assert_eq!(receive(&mut inbox, &from("a", 2, 5)), Ok(Received::Repeated(Outcome::accepted(None))));
    }
    begin_again(&mut inbox, "a", 2, true);
    assert_eq!(receive(&mut inbox, &from("a", 1, 5)), Ok(Received::Queued), "another link begins again at 1");
}

#[test]
fn a_peer_of_an_earlier_version_begins_again_at_1_with_the_same_incarnation() {
    let mut inbox = inbox(&["a"]);
    inbox.identify(&name("a"), 1, false);
    receive(&mut inbox, &from("a", 7, 5)).unwrap();
    let handed = inbox.hand_out().unwrap();
    finish(&mut inbox, &handed, &Outcome::accepted(None));
    begin_again(&mut inbox, "a", 1, false);
    assert_eq!(receive(&mut inbox, &from("a", 1, 5)), Ok(Received::Queued));
}

#[test]
fn a_peer_may_send_what_it_was_granted_and_no_more() {
    let mut inbox = inbox(&["a"]);
    let large = |seq| Packet { payload: vec![0; MAX_PAYLOAD / 2].into(), ..from("a", seq, 5) };
    let fitting = LANE_WINDOW / large(1).cost();
    for seq in 1..=fitting {
        assert_eq!(receive(&mut inbox, &large(seq)), Ok(Received::Queued));
    }
    assert_eq!(inbox.credits(&name("a")), [], "nothing was handled");
    let overrun = receive(&mut inbox, &large(fitting + 1)).unwrap_err();
    assert!(overrun.to_string().contains("but was granted"), "{overrun}");

    let limits = inbox.connect(&name("a"));
    assert_eq!(limits[4], LANE_WINDOW - fitting * large(1).cost(), "what waits counts against a new stream");
    assert_eq!(limits[5], LANE_WINDOW);
    inbox.hand_out().unwrap();
    let granted = limits[4] + large(1).cost();
    assert_eq!(inbox.credits(&name("a")), [(Priority::default(), granted)]);
    assert_eq!(inbox.credits(&name("a")), [], "credits are granted once");
}

#[test]
fn numbers_increase_within_a_stream() {
    let mut inbox = inbox(&["a"]);
    receive(&mut inbox, &from("a", 3, 5)).unwrap();
    let violation = receive(&mut inbox, &from("a", 3, 5)).unwrap_err();
    assert_eq!(violation.to_string(), "\"a\" sent number 3 after number 3 in the lane of priority 5");
    receive(&mut inbox, &from("a", 1, 6)).unwrap();
    inbox.connect(&name("a"));
    assert_eq!(receive(&mut inbox, &from("a", 3, 5)), Ok(Received::Pending));
    inbox.disconnect(&name("a"));
    assert!(matches!(receive(&mut inbox, &from("a", 9, 5)), Err(Violation::NotConnected(_))));
}

#[test]
fn a_few_packets_at_once_and_some_only_for_urgent_ones() {
    let names: Vec<String> = (0..MAX_HANDLING).map(|n| format!("agent-{n}")).collect();
    let mut inbox = inbox(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let kept_free = MAX_HANDLING / URGENT_SHARE;
    for name in &names {
        receive(&mut inbox, &from(name, 1, 5)).unwrap();
    }
    assert_eq!(std::iter::from_fn(|| inbox.hand_out()).count(), MAX_HANDLING - kept_free);
    for name in &names {
        receive(&mut inbox, &from(name, 1, 6)).unwrap();
    }
    assert_eq!(std::iter::from_fn(|| inbox.hand_out()).count(), kept_free);
    assert_eq!(inbox.handling(), MAX_HANDLING);
    let mut single = Inbox::new(Memory::default(), 0);
    single.connect(&name("a"));
    receive(&mut single, &from("a", 1, 1)).unwrap();
    assert!(single.hand_out().is_some(), "a handler of one packet at a time handles every priority");
}

#[test]
fn a_peer_that_is_held_waits_and_goes_on_where_it_was() {
    let mut inbox = inbox(&["a", "c"]);
    receive(&mut inbox, &from("a", 1, 5)).unwrap();
    receive(&mut inbox, &from("a", 2, 5)).unwrap();
    let handed = inbox.hand_out().unwrap();
    inbox.hold(&name("a"));
    inbox.finish(&handed.peer, handed.packet.priority);
    receive(&mut inbox, &from("a", 1, 9)).unwrap();
    receive(&mut inbox, &from("c", 1, 5)).unwrap();
    assert_eq!(std::iter::from_fn(|| inbox.hand_out()).map(|handed| handed.peer).collect::<Vec<_>>(), [name("c")]);
    inbox.resume(&name("a"));
    inbox.resume(&name("a"));
    let rest: Vec<_> = std::iter::from_fn(|| inbox.hand_out()).map(|handed| handed.packet.seq).collect();
    assert_eq!(rest, [1, 2]);
    receive(&mut inbox, &from("a", 1, 3)).unwrap();
    inbox.hold(&name("a"));
    assert_eq!(inbox.hand_out(), None);
    inbox.disconnect(&name("a"));
    assert_eq!(inbox.hand_out().unwrap().packet.priority.get(), 3, "what has arrived is handled");
}

#[test]
fn nothing_is_left_of_a_peer_that_is_gone() {
    let mut inbox = inbox(&["a"]);
    receive(&mut inbox, &from("a", 1, 5)).unwrap();
    inbox.disconnect(&name("a"));
    let handed = inbox.hand_out().unwrap();
    assert!(inbox.is_busy_with(&name("a")));
    finish(&mut inbox, &handed, &Outcome::accepted(None));
    assert!(inbox.peers.is_empty() && inbox.ready.iter().all(VecDeque::is_empty));
}
