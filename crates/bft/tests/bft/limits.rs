//! The edges of limits that take a whole group to reach.

use robeing_bft::{
    certificate::View,
    crypto::Digest,
    epoch::{Epoch, Membership},
    error::DecodeError,
    limits::{
        CHUNKS_IN_FLIGHT, DECISIONS_PER_STATUS, FORWARDED_AT_ONCE, MAX_DOUBLINGS, MAX_MESSAGE_BYTES,
        MAX_PENDING_PER_CLIENT, MAX_RECORD_BYTES, MAX_TIMEOUT_MS, STATE_CHUNK_BYTES,
    },
    message::{Message, Wanted},
    record::Record,
    replica::{Event, Timer},
    state::State,
};

use crate::{
    fixture::{Group, parameters},
    ledger::Ledger,
};

#[test]
fn longer_messages_and_records_are_not_decoded() {
    let too_long = |max: usize| DecodeError::TooLong { length: max + 1, max };
    assert_eq!(Message::decode(&vec![1; MAX_MESSAGE_BYTES + 1]), Err(too_long(MAX_MESSAGE_BYTES)));
    assert_ne!(Message::decode(&vec![1; MAX_MESSAGE_BYTES]), Err(too_long(MAX_MESSAGE_BYTES)));
    assert_eq!(Record::decode(&vec![1; MAX_RECORD_BYTES + 1]), Err(too_long(MAX_RECORD_BYTES)));
    assert_ne!(Record::decode(&vec![1; MAX_RECORD_BYTES]), Err(too_long(MAX_RECORD_BYTES)));
}

#[test]
fn the_timeout_doubles_with_each_view_up_to_its_limit() {
    let group = Group::new(4);
    let mut lan = group.lan();
    // No view begins.
    lan.lost = |message| matches!(message, Message::NewView(_) | Message::PrePrepare(_));
    let request = lan.request(1, "call", &group.clients[0]);
    (0..4).for_each(|to| lan.give(to, request.clone()).unwrap());
    lan.run();
    for view in 0..u64::from(MAX_DOUBLINGS) + 4 {
        let doublings = u32::try_from(view).unwrap().min(MAX_DOUBLINGS);
        let expected = (parameters().view_timeout_ms << doublings).min(MAX_TIMEOUT_MS);
        // The primary of a view begins it by itself.
        let waiting = usize::try_from(view + 1).unwrap() % 4;
        assert_eq!(lan.timeouts[waiting], Some((View(view), expected)));
        (0..4).for_each(|replica| lan.fire(replica, Timer::View));
        lan.run();
    }
    lan.lost = |_| false;
    lan.ticks(6);
    assert_eq!(lan.executed(), [1; 4]);
}

#[test]
fn waiting_requests_are_forwarded_in_portions() {
    let group = Group::new(4);
    let mut lan = group.lan();
    lan.cut = vec![true; 4];
    for client in &group.clients {
        for id in 1..=MAX_PENDING_PER_CLIENT as u64 {
            let request = lan.request(id, "call", client);
            lan.give(1, request).unwrap();
        }
    }
    lan.queue.clear();
    lan.fire(1, Timer::Resend);
    let forwarded = lan.queue.iter().filter(|(_, message)| matches!(message, Message::Request(_))).count();
    assert_eq!(forwarded, FORWARDED_AT_ONCE);
}

#[test]
fn a_replica_that_lags_behind_gets_decisions_in_portions() {
    let parameters = robeing_bft::epoch::Parameters { checkpoint_interval: 32, window: 64, ..parameters() };
    let group = Group::with(4, parameters);
    let mut lan = group.lan();
    lan.cut[3] = true;
    for id in 1..=30 {
        let request = lan.request(id, &format!("call {id}"), &group.clients[0]);
        lan.give(0, request).unwrap();
        lan.run();
    }
    assert_eq!(lan.executed(), [30, 30, 30, 0]);
    lan.cut[3] = false;
    lan.ticks(1);
    assert_eq!(lan.replicas[3].executed().0, DECISIONS_PER_STATUS as u64);
    lan.ticks(2);
    assert_eq!(lan.executed(), [30; 4]);
}

#[test]
fn a_large_state_is_transferred_in_chunks() {
    let mut group = Group::new(4);
    let calls = (0..6 * STATE_CHUNK_BYTES as u64 / 32).map(|number| Digest::of("old call", &number)).collect();
    let ledger = Ledger { calls };
    group.initial = State::genesis(&ledger).unwrap();
    group.epoch = Epoch::first(Membership::clone(&group.epoch), &group.initial).unwrap();
    let mut lan = group.lan();
    lan.cut[3] = true;
    for id in 1..=10 {
        let request = lan.request(id, &format!("call {id}"), &group.clients[0]);
        lan.give(0, request).unwrap();
        lan.run();
    }
    lan.cut[3] = false;
    // The first tick tells it of the checkpoint, the second one begins the transfer.
    lan.ticks(1);
    lan.fire(3, Timer::Resend);
    let mut asked = 0_usize;
    while let Some((to, message)) = lan.queue.pop_front() {
        match &message {
            Message::Query(query) if matches!(query.body, Wanted::Chunk(_)) => asked += 1,
            Message::Chunk(_) => asked -= 1,
            _ => {}
        }
        lan.give(to, message).unwrap();
        // Those that are in the queue were asked for and not answered, or answered and not taken.
        let of_chunks = |(_, message): &&(usize, Message)| match message {
            Message::Query(query) => matches!(query.body, Wanted::Chunk(_)),
            Message::Chunk(_) => true,
            _ => false,
        };
        assert!(lan.queue.iter().filter(of_chunks).count() <= CHUNKS_IN_FLIGHT);
    }
    assert_eq!(asked, 0);
    assert!(lan.events.iter().any(|event| matches!(event, Event::Restored { .. })));
    lan.ticks(2);
    assert_eq!(lan.executed(), [10; 4]);
    assert_eq!(lan.replicas[3].application(), lan.replicas[0].application());
}
