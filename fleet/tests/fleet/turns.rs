//! Which of the requests that wait for resources is granted next, and how long one keeps others waiting.

use robeing_fleet::{
    Quota, Refusal, Reply, RequestResources,
    limits::{MAX_DURATION_MS, MAX_HOLD_MS, MAX_SWEPT, SWEEP_PAUSE_MS},
};

use crate::{
    allocations::{WAITS, from, granted, pool, set, token},
    fixture::{amounts, patient, request},
};

/// Returns a request that is neither over nor given up in this test.
fn lasting(request: RequestResources) -> RequestResources {
    RequestResources { ttl: MAX_DURATION_MS, wait: MAX_DURATION_MS, ..request }
}

fn others_wait(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(Refusal::InsufficientResources { others_wait: true, .. }))
}

#[test]
fn what_the_agents_can_not_give_keeps_nobody_waiting_in_its_own_queue_either() {
    let (mut trial, _) = pool([amounts(4, 0)]);
    let many = 2 * MAX_SWEPT as u128 + 1;
    for n in 0..many {
        assert_eq!(trial.request(patient(n, amounts(5, 0))), WAITS);
    }
    assert_eq!(trial.request(request(100, amounts(4, 0))), granted(1), "at once");
    assert_eq!(trial.request(patient(101, amounts(4, 0))), WAITS);
    trial.free(100, None);
    trial.after(0);
    for _ in 0..many.div_ceil(MAX_SWEPT as u128) {
        trial.after(SWEEP_PAUSE_MS);
    }
    assert_eq!(token(&trial, 101), Some(2), "after all that came before it were looked at");
}

#[test]
fn a_request_keeps_others_waiting_for_so_long_and_then_none_does_for_as_long() {
    let (mut trial, _) = pool([amounts(4, 0)]);
    trial.request(lasting(request(1, amounts(2, 0))));
    assert_eq!(trial.request(lasting(request(2, amounts(4, 0)))), WAITS);
    assert_eq!(trial.request(lasting(request(3, amounts(1, 0)))), WAITS);
    trial.after(MAX_HOLD_MS - 1);
    assert!(others_wait(&trial.request(request(4, amounts(1, 0)))));
    assert_eq!(token(&trial, 3), None);
    trial.after(1);
    assert_eq!(token(&trial, 3), Some(2));
    assert_eq!(trial.request(request(4, amounts(1, 0))), granted(3));
    trial.free(4, None);
    assert_eq!(trial.request(request(5, amounts(1, 0))), granted(4), "still none does");
    trial.after(MAX_HOLD_MS);
    trial.free(3, None);
    assert!(others_wait(&trial.request(request(6, amounts(1, 0)))), "it is the large one's turn again");
    trial.free(1, None);
    trial.after(0);
    assert!(token(&trial, 2).is_some());
}

#[test]
fn of_equal_shares_the_oldest_request_is_next_whatever_its_queue_is_called() {
    let (mut trial, _) = pool([amounts(2, 0)]);
    set(&mut trial, &[("aaa", 1, Quota::default()), ("zzz", 1, Quota::default())]);
    trial.request(from("aaa", request(1, amounts(1, 0))));
    assert_eq!(trial.request(from("zzz", patient(2, amounts(2, 0)))), WAITS);
    assert_eq!(trial.request(from("aaa", patient(3, amounts(1, 0)))), WAITS);
    trial.free(1, None);
    trial.after(0);
    assert_eq!((token(&trial, 2), token(&trial, 3)), (Some(2), None));
}

#[test]
fn a_queue_with_a_smaller_share_is_served_while_another_one_waits_for_room() {
    let (mut trial, _) = pool([amounts(4, 0)]);
    set(&mut trial, &[("other", 1, Quota::default())]);
    trial.request(request(1, amounts(2, 0)));
    assert_eq!(trial.request(patient(2, amounts(4, 0))), WAITS);
    assert_eq!(trial.request(from("other", request(3, amounts(1, 0)))), granted(2));
    trial.free(1, None);
    trial.after(0);
    assert!(others_wait(&trial.request(from("other", request(4, amounts(1, 0))))), "it has the larger one now");
}
