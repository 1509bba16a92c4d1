//! Changes of members.

use robeing_bft::{
    Verified,
    crypto::Signer,
    epoch::{Handover, Membership},
    error::{EpochError, Invalid},
    limits::{MAX_CHECKPOINT_INTERVAL, MAX_CLIENTS, MAX_MEMBERS, MAX_NAME_BYTES, MAX_REQUEST_BYTES, MAX_WINDOW},
    message::{Message, Operation, Request},
    replica::{Event, Refusal, Replica},
    wire::Wire,
};

use crate::{
    fixture::{Group, member, parameters},
    keys::TestSigner,
    lan::Lan,
    ledger::Ledger,
};

fn change(group: &Group, id: u64, operation: Operation) -> Message {
    Message::Request(Request::sign(&group.epoch, id, operation, &group.clients[0]))
}

/// A group that has decided three calls and to replace member 3 by member 9.
fn ended() -> (Group, Lan) {
    let mut group = Group::new(4);
    group.verifier.add(&member(9).1);
    let mut lan = group.lan();
    for id in 1..=3 {
        let request = lan.request(id, &format!("call {id}"), &group.clients[0]);
        lan.give(0, request).unwrap();
        lan.run();
    }
    let operation = group.change(&[3], &[9]);
    lan.give(1, change(&group, 4, operation)).unwrap();
    lan.run();
    (group, lan)
}

#[test]
fn members_hand_over_to_the_next_epoch_which_goes_on_with_the_log() {
    let (group, mut lan) = ended();
    assert!(lan.replicas.iter().all(Replica::has_ended));
    assert_eq!(lan.handovers.len(), 4);
    // A member that crashed before it could use its handover gets it again.
    let records = lan.disks[2].clone();
    let restarted = Replica::start(&group.epoch, Ledger::default(), &group.initial, records, &group.members[2]);
    assert_eq!(restarted.unwrap().1.handover.as_deref(), Some(&lan.handovers[2]));
    let late = lan.request(5, "too late", &group.clients[0]);
    lan.give(0, late).unwrap();
    assert!(matches!(lan.events.last(), Some(Event::Refused { why: Refusal::Ended, .. })));

    let handover = Handover::decoded(&lan.handovers[0].encoded()).unwrap();
    let epoch = handover.verify(&Membership::clone(&group.epoch), &group.verifier).unwrap();
    assert_eq!(epoch.start().seq.0, 4);
    let signers: Vec<Box<dyn Signer>> =
        [0, 1, 2, 9].into_iter().map(|number| Box::new(TestSigner::new(number)) as Box<dyn Signer>).collect();
    let mut next = Lan::new(&epoch, &handover.state, signers, Box::new(group.verifier.clone()));
    // What was signed for the epoch before is worth nothing in this one.
    let old = lan.request(5, "again", &group.clients[0]);
    assert!(matches!(next.give(0, old), Err(Invalid::Signature(_))));
    // And what was executed in it is not executed again.
    let again = next.request(3, "call 3", &group.clients[0]);
    next.give(0, again).unwrap();
    let request = next.request(5, "call 5", &group.clients[0]);
    next.give(2, request).unwrap();
    next.run();
    assert_eq!(next.executed(), [5; 4]);
    assert!(next.replicas.iter().all(|replica| replica.application().calls.len() == 4));
    let decision = next.decided[3].last().unwrap();
    assert_eq!(decision.verify(&epoch, &group.verifier), Ok(()));
    assert!(decision.verify(&group.epoch, &group.verifier).is_err());
}

#[test]
fn a_handover_of_mixed_parts_is_refused() {
    let (group, lan) = ended();
    let good = &lan.handovers[0];
    let verify = |handover: &Handover| handover.verify(&group.epoch, &group.verifier).map(|_| ());
    assert_eq!(verify(good), Ok(()));
    let other = Handover { decision: lan.decided[0][0].clone(), ..good.clone() };
    assert_eq!(verify(&other), Err(Invalid::Handover("decision")));
    let other = Handover { state: group.initial.clone(), ..good.clone() };
    assert_eq!(verify(&other), Err(Invalid::Handover("state")));
}

#[test]
fn no_epoch_follows_without_the_approval_of_a_quorum() {
    let group = Group::new(4);
    let mut lan = group.lan();
    let operation = group.change(&[3], &[9]);
    let Operation::NewEpoch(approved) = &operation else { unreachable!() };
    let mut few = approved.clone();
    few.approvals.pop();
    let refused = lan.give(0, change(&group, 1, Operation::NewEpoch(few)));
    assert!(matches!(refused, Err(Invalid::Quorum { have: 2, need: 3, .. })));
    let mut twice = approved.clone();
    twice.approvals[2] = twice.approvals[1];
    let refused = lan.give(0, change(&group, 1, Operation::NewEpoch(twice)));
    assert!(matches!(refused, Err(Invalid::Order(_))));
    let mut other = approved.clone();
    other.next.members.pop();
    other.next.members.push(member(10).0);
    let refused = lan.give(0, change(&group, 1, Operation::NewEpoch(other)));
    assert!(matches!(refused, Err(Invalid::Signature(_))));
    let mut far = approved.clone();
    far.next.number += 1;
    let refused = lan.give(0, change(&group, 1, Operation::NewEpoch(far)));
    assert_eq!(refused, Err(Invalid::Epoch(EpochError::NotNext)));
    assert_eq!(lan.executed(), [0; 4]);
}

#[test]
fn a_membership_keeps_to_its_limits() {
    let good = Membership::clone(&Group::new(4).epoch);
    let check = |change: &dyn Fn(&mut Membership)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed.check()
    };
    let members = |count: usize| (0..count as u64).map(|number| member(number).0).collect::<Vec<_>>();
    let clients = |count: usize| {
        let mut clients: Vec<_> =
            (0..count as u64).map(|number| TestSigner::new(5_000 + number).public_key()).collect();
        clients.sort();
        clients
    };
    assert_eq!(check(&|one| one.members = members(MAX_MEMBERS)), Ok(()));
    assert_eq!(check(&|one| one.members = members(MAX_MEMBERS + 1)), Err(EpochError::Members(MAX_MEMBERS + 1)));
    assert_eq!(check(&|one| one.members = members(3)), Err(EpochError::Members(3)));
    assert_eq!(check(&|one| one.clients = clients(MAX_CLIENTS)), Ok(()));
    assert_eq!(check(&|one| one.clients = clients(MAX_CLIENTS + 1)), Err(EpochError::Clients(MAX_CLIENTS + 1)));
    assert_eq!(check(&|one| one.clients.reverse()), Err(EpochError::ClientOrder));
    assert_eq!(check(&|one| one.clients = vec![one.members[0].key]), Err(EpochError::ClientOrder));
    assert_eq!(check(&|one| one.fleet = "f".repeat(MAX_NAME_BYTES)), Ok(()));
    assert!(matches!(check(&|one| one.fleet = "f".repeat(MAX_NAME_BYTES + 1)), Err(EpochError::Name(_))));
    assert!(matches!(check(&|one| one.group.clear()), Err(EpochError::Name(_))));
    assert_eq!(check(&|one| one.members[1].key = one.members[0].key), Err(EpochError::Duplicate("key")));
    assert_eq!(
        check(&|one| one.members[1].incarnation = one.members[0].incarnation),
        Err(EpochError::Duplicate("incarnation"))
    );
    assert_eq!(check(&|one| one.members[1].name = one.members[0].name.clone()), Err(EpochError::Duplicate("name")));
    let parameter = |name| Err(EpochError::Parameter(name));
    assert_eq!(check(&|one| one.parameters.window = 7), parameter("window"));
    assert_eq!(check(&|one| one.parameters.window = MAX_WINDOW), Ok(()));
    assert_eq!(check(&|one| one.parameters.window = MAX_WINDOW + 1), parameter("window"));
    let interval = MAX_CHECKPOINT_INTERVAL + 1;
    assert_eq!(check(&|one| one.parameters.checkpoint_interval = interval), parameter("checkpoint_interval"));
    assert_eq!(check(&|one| one.parameters.in_flight = 0), parameter("in_flight"));
    assert_eq!(check(&|one| one.parameters.batch_requests = 0), parameter("batch_requests"));
    assert_eq!(check(&|one| one.parameters.resend_ms = 0), parameter("resend_ms"));
    assert_eq!(check(&|one| one.parameters.view_timeout_ms = u64::MAX), parameter("view_timeout_ms"));
}

#[test]
fn the_largest_change_of_members_fits_into_a_request() {
    let mut group = Group::with(MAX_MEMBERS as u64, parameters());
    let Operation::NewEpoch(mut change) = group.change(&[], &[]) else { unreachable!() };
    let mut clients: Vec<_> =
        (0..MAX_CLIENTS as u64).map(|number| TestSigner::new(5_000 + number).public_key()).collect();
    clients.sort();
    change.next.clients = clients;
    change.next.members.iter_mut().for_each(|member| member.name += &"x".repeat(MAX_NAME_BYTES - member.name.len()));
    change.approvals.clear();
    for (replica, signer) in group.epoch.replicas().zip(&group.members).take(group.epoch.quorums().quorum()) {
        change.approvals.push(change.next.approve(&group.epoch, replica, signer));
    }
    group.clients.truncate(1);
    let request = Request::sign(&group.epoch, 1, Operation::NewEpoch(change), &group.clients[0]);
    assert!(request.size() > MAX_REQUEST_BYTES / 2);
    let checked = Verified::check(Message::Request(request), &group.epoch, &group.verifier);
    assert!(checked.is_ok(), "{checked:?}");
}

#[test]
fn the_first_state_is_that_of_the_application() {
    let group = Group::new(4);
    let mut other = Ledger::default();
    other.calls.push(Default::default());
    let state = robeing_bft::state::State::genesis(&other).unwrap();
    let records = group.enrolled(0);
    let refused = Replica::start(&group.epoch, other, &state, records, &group.members[0]).map(|_| ());
    assert_eq!(refused, Err(robeing_bft::error::StartError::WrongState));
}
