//! Pre-prepares are accepted, and commits sent, in the order of sequence numbers.

use robeing_bft::{
    certificate::{Proposal, Seq, View},
    crypto::Context,
    epoch::ReplicaId,
    limits::{FORWARDED_AT_ONCE, MAX_PENDING_PER_CLIENT},
    message::{Batch, Message, Operation, PrePrepare, Request, Vote},
    replica::{Replica, Timer},
};

use crate::{fixture::Group, lan::Lan};

/// A proposal of the primary of view 0.
fn propose(group: &Group, seq: u64, operation: Operation) -> PrePrepare {
    let batch = Batch::new(vec![Request::sign(&group.epoch, seq, operation, &group.clients[0])]);
    PrePrepare::sign(group.epoch.domain(), (View(0), Seq(seq)), batch, &group.members[0])
}

fn call(group: &Group, seq: u64) -> PrePrepare {
    propose(group, seq, Operation::Call(seq.to_be_bytes().to_vec().into()))
}

fn vote(group: &Group, context: Context, by: usize, proposal: Proposal) -> Vote {
    let replica = ReplicaId(u16::try_from(by).unwrap());
    Vote::sign(context, group.epoch.domain(), replica, proposal, &group.members[by])
}

/// The sequence numbers for which member 1 sent these votes to member 2.
fn sent(lan: &Lan, context: Context) -> Vec<u64> {
    let votes = lan.queue.iter().filter(|(to, _)| *to == 2).filter_map(|(_, message)| match message {
        Message::Prepare(vote) if context == Context::Prepare => Some(vote.proposal.seq.0),
        Message::Commit(vote) if context == Context::Commit => Some(vote.proposal.seq.0),
        _ => None,
    });
    votes.collect()
}

#[test]
fn a_proposal_that_comes_early_waits_for_its_turn() {
    let group = Group::new(4);
    let mut lan = group.lan();
    for seq in [3, 2] {
        lan.give(1, Message::PrePrepare(call(&group, seq))).unwrap();
        assert!(sent(&lan, Context::Prepare).is_empty());
    }
    lan.give(1, Message::PrePrepare(call(&group, 1))).unwrap();
    assert_eq!(sent(&lan, Context::Prepare), [1, 2, 3]);
}

#[test]
fn a_commit_waits_for_all_commits_before_it() {
    let group = Group::new(4);
    let mut lan = group.lan();
    for seq in 1..=3 {
        lan.give(1, Message::PrePrepare(call(&group, seq))).unwrap();
    }
    for seq in [3, 2] {
        let prepare = vote(&group, Context::Prepare, 2, call(&group, seq).proposal);
        lan.give(1, Message::Prepare(prepare)).unwrap();
        assert!(sent(&lan, Context::Commit).is_empty());
    }
    let prepare = vote(&group, Context::Prepare, 2, call(&group, 1).proposal);
    lan.give(1, Message::Prepare(prepare)).unwrap();
    assert_eq!(sent(&lan, Context::Commit), [1, 2, 3]);
}

#[test]
fn nothing_is_accepted_after_the_end_of_the_epoch() {
    let group = Group::new(4);
    let mut lan = group.lan();
    let end = propose(&group, 1, group.change(&[], &[9]));
    lan.give(1, Message::PrePrepare(end)).unwrap();
    lan.give(1, Message::PrePrepare(call(&group, 2))).unwrap();
    assert_eq!(sent(&lan, Context::Prepare), [1]);
}

#[test]
fn a_replica_that_learns_of_the_end_votes_for_nothing_any_more() {
    let group = Group::new(4);
    let mut lan = group.lan();
    // The primary lies: it proposes something else at 1 than what the others decide.
    lan.give(1, Message::PrePrepare(call(&group, 1))).unwrap();
    lan.give(1, Message::PrePrepare(call(&group, 2))).unwrap();
    let early = call(&group, 4);
    lan.give(1, Message::PrePrepare(early)).unwrap();
    let end = propose(&group, 1, group.change(&[], &[9]));
    for by in [0, 2, 3] {
        let commit = vote(&group, Context::Commit, by, end.proposal);
        lan.give(1, Message::Commit(commit)).unwrap();
    }
    // It is decided, but its batch is missing.
    assert!(!lan.replicas[1].has_ended());
    for by in [2, 3] {
        let prepare = vote(&group, Context::Prepare, by, call(&group, 2).proposal);
        lan.give(1, Message::Prepare(prepare)).unwrap();
    }
    assert!(sent(&lan, Context::Commit).is_empty());
    let body = robeing_bft::message::Body { seq: Seq(1), batch: end.batch };
    lan.give(1, Message::Body(body)).unwrap();
    assert!(Replica::has_ended(&lan.replicas[1]));
    lan.give(1, Message::PrePrepare(call(&group, 3))).unwrap();
    assert_eq!(sent(&lan, Context::Prepare), [1, 2]);
    assert!(sent(&lan, Context::Commit).is_empty());
}

#[test]
fn a_request_of_a_member_reaches_all_if_the_primary_is_silent() {
    let group = Group::new(4);
    let mut lan = group.lan();
    lan.cut[0] = true;
    let request = lan.request(1, "mine", &group.members[1]);
    lan.give(1, request).unwrap();
    lan.run();
    assert!(lan.timers[2][Timer::View as usize].is_none(), "the others wait for nothing");
    lan.ticks(1);
    for member in 1..4 {
        assert!(lan.timers[member][Timer::View as usize].is_some(), "{member} suspects the primary soon");
        lan.fire(member, Timer::View);
    }
    lan.run();
    assert_eq!(lan.executed(), [0, 1, 1, 1]);
}

#[test]
fn requests_of_others_do_not_keep_those_of_a_member_from_reaching_all() {
    let group = Group::new(4);
    let mut lan = group.lan();
    lan.cut[0] = true;
    // As many as are forwarded at once, which nobody else knows.
    for client in &group.clients[..FORWARDED_AT_ONCE / MAX_PENDING_PER_CLIENT] {
        for id in 1..=MAX_PENDING_PER_CLIENT as u64 {
            let request = lan.request(id, "theirs", client);
            lan.give(1, request).unwrap();
        }
    }
    let request = lan.request(1, "mine", &group.members[1]);
    lan.give(1, request).unwrap();
    lan.run();
    lan.ticks(1);
    for member in 1..4 {
        assert!(lan.timers[member][Timer::View as usize].is_some(), "{member} suspects the primary soon");
    }
}
