//! Lanes: which request comes next.

use super::*;

const ROOM: Room = Room { bytes: 1_000_000, commands: 100 };

#[derive(Debug, PartialEq)]
struct Request {
    sender: u64,
    weight: u32,
    bytes: usize,
}

impl Waiting for Request {
    fn sender(&self) -> Sender {
        Sender { id: self.sender, weight: self.weight }
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn commands(&self) -> usize {
        1
    }
}

fn request(sender: u64, bytes: usize) -> Request {
    Request { sender, weight: 1, bytes }
}

fn senders(batch: &Batch<Request>) -> Vec<u64> {
    batch.requests.iter().map(|request| request.sender).collect()
}

#[test]
fn what_keeps_the_fleet_whole_goes_first_and_users_last() {
    let mut lanes = Lanes::default();
    lanes.push(Lane::Users, request(1, 10));
    lanes.push(Lane::Completions, request(2, 10));
    lanes.push(Lane::Fleet, request(3, 10));
    assert_eq!(senders(&lanes.next_batch(ROOM)), [3, 2, 1]);
    assert!(lanes.is_empty());
}

#[test]
fn a_loss_goes_with_the_next_entry_however_much_waits() {
    let mut lanes = Lanes::default();
    for sender in 0..100 {
        lanes.push(Lane::Users, request(sender, ROOM.bytes));
        lanes.push(Lane::Completions, request(sender, ROOM.bytes));
    }
    lanes.next_batch(ROOM);
    lanes.push(Lane::Fleet, request(777, 10));
    assert_eq!(senders(&lanes.next_urgent(ROOM)), [777], "beside the entries in flight");
    lanes.push(Lane::Fleet, request(777, 10));
    assert_eq!(senders(&lanes.next_batch(ROOM))[0], 777);
    lanes.push(Lane::Fleet, request(777, 10));
    let (lane, batch) = lanes.next_of_one_lane(ROOM);
    assert_eq!((lane, senders(&batch)), (Lane::Fleet, vec![777]));
}

#[test]
fn one_who_sends_much_delays_nobody_who_sends_little() {
    let mut lanes = Lanes::default();
    for _ in 0..50 {
        lanes.push(Lane::Users, request(1, 900_000));
    }
    lanes.push(Lane::Users, request(2, 100));
    lanes.push(Lane::Users, request(3, 100));
    let first = senders(&lanes.next_batch(ROOM));
    assert_eq!(first, [2, 3, 1], "the small ones did not wait behind fifty large ones");
}

#[test]
fn senders_take_turns_by_bytes() {
    let mut lanes = Lanes::default();
    for _ in 0..40 {
        lanes.push(Lane::Users, request(1, 400_000));
    }
    for _ in 0..400 {
        lanes.push(Lane::Users, request(2, 40_000));
    }
    let mut sent = [0; 3];
    for _ in 0..12 {
        for request in lanes.next_batch(ROOM).requests {
            sent[request.sender as usize] += request.bytes;
        }
    }
    let [_, large, small] = sent;
    assert!(large.abs_diff(small) <= 1_000_000, "{large} bytes went for one, {small} for the other");
}

#[test]
fn a_coordinator_that_stands_for_several_has_as_many_turns() {
    let mut lanes = Lanes::default();
    for _ in 0..400 {
        lanes.push(Lane::Users, Request { weight: 3, ..request(1, 50_000) });
        lanes.push(Lane::Users, request(2, 50_000));
    }
    let mut sent = [0_usize; 3];
    for _ in 0..10 {
        for request in lanes.next_batch(ROOM).requests {
            sent[request.sender as usize] += 1;
        }
    }
    assert!(sent[1] >= sent[2] * 5 / 2 && sent[1] <= sent[2] * 7 / 2, "{sent:?}");
}

#[test]
fn an_entry_ends_at_its_limits_and_a_larger_request_goes_alone() {
    let mut lanes = Lanes::default();
    for bytes in [ROOM.bytes + 1, ROOM.bytes, 1] {
        lanes.push(Lane::Users, request(1, bytes));
    }
    assert_eq!(lanes.next_batch(ROOM).bytes, ROOM.bytes + 1);
    assert_eq!(lanes.next_batch(ROOM).bytes, ROOM.bytes);
    assert_eq!(lanes.next_batch(ROOM).bytes, 1);
    for _ in 0..=ROOM.commands {
        lanes.push(Lane::Users, request(1, 1));
    }
    assert_eq!(lanes.next_batch(ROOM).requests.len(), ROOM.commands);
    assert_eq!(lanes.next_batch(ROOM).requests.len(), 1);
    assert!(lanes.next_batch(ROOM).requests.is_empty());
}

#[test]
fn users_are_not_starved_by_the_ends_of_attempts() {
    for one_lane in [false, true] {
        let mut lanes = Lanes::default();
        for _ in 0..20 {
            lanes.push(Lane::Completions, request(1, ROOM.bytes));
        }
        lanes.push(Lane::Users, request(2, ROOM.bytes));
        let went = (1..).find(|_| {
            let batch = if one_lane { lanes.next_of_one_lane(ROOM).1 } else { lanes.next_batch(ROOM) };
            senders(&batch).contains(&2)
        });
        assert_eq!(went, Some(MAX_PASSED_OVER + 1), "one lane at once: {one_lane}");
    }
    let mut lanes = Lanes::default();
    for _ in 0..200 {
        lanes.push(Lane::Completions, request(1, 10_000));
        lanes.push(Lane::Users, request(2, 10_000));
    }
    let batch = senders(&lanes.next_batch(ROOM));
    assert_eq!(batch.iter().filter(|sender| **sender == 2).count(), 25, "their share of an entry");
}

#[test]
fn what_is_put_back_goes_first_in_its_old_order() {
    let mut lanes = Lanes::default();
    for bytes in 1..=4 {
        lanes.push(Lane::Users, request(1, bytes));
    }
    let batch = lanes.next_batch(Room { commands: 2, ..ROOM });
    for request in batch.requests.into_iter().rev() {
        lanes.put_back(Lane::Users, request);
    }
    let again: Vec<usize> = lanes.next_batch(ROOM).requests.iter().map(|request| request.bytes).collect();
    assert_eq!(again, [1, 2, 3, 4]);
}

#[test]
fn what_nobody_wants_any_more_is_dropped_and_what_is_extracted_is_gone() {
    let mut lanes = Lanes::default();
    for bytes in 1..=4 {
        lanes.push(Lane::Users, request(1, bytes));
        lanes.push(Lane::Fleet, request(2, bytes));
    }
    let mut dropped = Vec::new();
    lanes.drop_oldest(|request| request.sender == 1 && request.bytes < 3, |request| dropped.push(request));
    assert_eq!(dropped, [request(1, 1), request(1, 2)]);
    assert_eq!(lanes.extract(|request| request.sender == 2).len(), 4);
    assert!(lanes.is_lane_empty(Lane::Fleet));
    assert_eq!(senders(&lanes.next_batch(ROOM)), [1, 1]);
    assert!(lanes.is_empty());
}
