//! Restarts from records, and disks with which a replica must not start.

use robeing_bft::{
    certificate::View,
    crypto::Digest,
    error::StartError,
    message::Message,
    record::Record,
    replica::{Replica, Timer, To},
};

use crate::{fixture::Group, ledger::Ledger};

fn start(group: &Group, records: Vec<Record>, member: usize) -> Result<(), StartError> {
    Replica::start(&group.epoch, Ledger::default(), &group.initial, records, &group.members[member]).map(|_| ())
}

#[test]
fn a_replica_without_its_disk_does_not_come_back() {
    let group = Group::new(4);
    let own = group.enrolled(0);
    assert_eq!(start(&group, own.clone(), 0), Ok(()));
    assert_eq!(start(&group, Vec::new(), 0), Err(StartError::NoIdentity));
    // A new disk has another identity.
    let new = vec![Record::Identity(crate::fixture::incarnation(77))];
    assert_eq!(start(&group, new, 0), Err(StartError::NotAMember(0)));
    // The key alone is not enough, and neither is another member's disk.
    assert_eq!(start(&group, own, 1), Err(StartError::WrongKey));
}

#[test]
fn records_that_do_not_belong_together_are_refused() {
    let group = Group::new(4);
    let identity = group.enrolled(0).remove(0);
    let started = Record::Started(*group.epoch.domain());
    let with = |records: Vec<Record>| start(&group, records, 0);
    assert_eq!(with(vec![identity.clone(), Record::Started(Digest([1; 32]))]), Err(StartError::OtherEpoch));
    assert_eq!(with(vec![identity.clone(), Record::ViewChange(View(1))]), Err(StartError::OtherEpoch));
    assert_eq!(with(vec![started.clone()]), Err(StartError::NoIdentity));
    assert_eq!(with(vec![identity.clone(), started.clone(), identity.clone()]), Err(StartError::Damaged(2)));
    let view = Record::ViewChange(View(2));
    assert_eq!(with(vec![identity.clone(), started.clone(), view.clone()]), Ok(()));
    assert_eq!(with(vec![identity, started, view.clone(), view]), Err(StartError::Damaged(3)));
}

#[test]
fn a_restarted_replica_says_what_it_said_before() {
    let group = Group::new(4);
    let mut lan = group.lan();
    // Nobody hears the primary, so that its proposals stay undecided.
    lan.cut = vec![true; 4];
    for id in 1..=3 {
        let request = lan.request(id, &format!("call {id}"), &group.clients[0]);
        lan.give(0, request).unwrap();
    }
    let proposals = |lan: &crate::lan::Lan| {
        let queued = lan.queue.iter().filter(|(to, message)| *to == 1 && matches!(message, Message::PrePrepare(_)));
        queued.map(|(_, message)| message.clone()).collect::<Vec<_>>()
    };
    let before = proposals(&lan);
    assert_eq!(before.len(), 3);
    let records = lan.disks[0].clone();
    let (replica, _) =
        Replica::start(&group.epoch, Ledger::default(), &group.initial, records, &group.members[0]).unwrap();
    lan.replicas[0] = replica;
    lan.queue.clear();
    lan.cut = vec![false; 4];
    // Another request gets another number; the old proposals are repeated when a backup lacks them.
    let request = lan.request(4, "call 4", &group.clients[0]);
    lan.give(0, request).unwrap();
    assert_eq!(proposals(&lan).len(), 1);
    lan.ticks(4);
    assert_eq!(lan.executed(), [4; 4]);
    assert!(lan.decided[1].iter().zip(&before).all(|(decision, before)| match before {
        Message::PrePrepare(before) => decision.batch == before.batch,
        _ => false,
    }));
}

#[test]
fn a_replica_that_left_a_view_stays_away_from_it_after_a_restart() {
    let group = Group::new(4);
    let mut lan = group.lan();
    lan.cut = vec![true; 4];
    let request = lan.request(1, "call", &group.clients[0]);
    lan.give(1, request.clone()).unwrap();
    lan.fire(1, Timer::View);
    assert_eq!(lan.replicas[1].view(), (View(1), false));
    let records = lan.disks[1].clone();
    let started = Replica::start(&group.epoch, Ledger::default(), &group.initial, records, &group.members[1]);
    let (replica, outputs) = started.unwrap();
    assert_eq!(replica.view(), (View(1), false));
    let repeats = |(to, message): &(To, Message)| *to == To::All && matches!(message, Message::ViewChange(_));
    assert!(outputs.messages.iter().any(repeats));
    lan.replicas[1] = replica;
    // The old primary's proposal comes too late.
    lan.queue.clear();
    lan.give(0, request).unwrap();
    let (_, proposal) = lan.queue.iter().find(|(to, _)| *to == 1).cloned().unwrap();
    lan.queue.clear();
    lan.give(1, proposal).unwrap();
    assert!(lan.queue.is_empty());
}
