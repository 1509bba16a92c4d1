//! What one member can send: nothing of it makes a replica panic or keep more than its limits.

use bytes::Bytes;
use robeing_bft::{
    Verified,
    certificate::{Checkpoint, Kind, Proposal, Seq, View},
    crypto::{Context, Digest},
    epoch::ReplicaId,
    error::Invalid,
    limits::{
        ANSWERS_PER_TICK, BODIES_PER_SLOT, CHECKPOINTS_PER_MEMBER, COST_OF_STATUS, MAX_BATCH_BYTES,
        MAX_PENDING_PER_CLIENT, MAX_REQUEST_BYTES, STATE_CHUNK_BYTES,
    },
    message::{
        Batch, Body, BodyId, CheckpointVote, Chunk, ChunkId, Message, Operation, PrePrepare, Request, Signed,
        StatusBody, ViewChange, Vote, Wanted,
    },
    replica::{Event, Refusal, Timer},
};

use crate::{
    fixture::{Group, Random, parameters},
    world::{Plan, World},
};

fn number(random: &mut Random) -> u64 {
    match random.below(6) {
        0 => u64::MAX - random.below(3),
        1 => random.next(),
        _ => random.below(20),
    }
}

/// A message that member 0, the primary of view 0, may sign.
fn draw(group: &Group, random: &mut Random) -> Message {
    let (domain, signer, me) = (*group.epoch.domain(), &group.members[0], ReplicaId(0));
    let (view, seq) = (View(number(random)), Seq(number(random)));
    let digest = Digest([random.below(4) as u8; 32]);
    let kind = [Kind::Null, Kind::Calls, Kind::Epoch][random.below(3) as usize];
    let proposal = Proposal { view, seq, kind, digest };
    let call = Operation::Call(random.next().to_be_bytes().to_vec().into());
    let request = Request::sign(&group.epoch, number(random), call, signer);
    match random.below(9) {
        0 => Message::Request(request),
        1 => Message::PrePrepare(PrePrepare::sign(&domain, (view, seq), Batch::new(vec![request]), signer)),
        2 => Message::Prepare(Vote::sign(Context::Prepare, &domain, me, proposal, signer)),
        3 => Message::Commit(Vote::sign(Context::Commit, &domain, me, proposal, signer)),
        4 => {
            let checkpoint = Checkpoint { seq, digest };
            let signature = Context::Checkpoint.sign(&domain, &checkpoint, signer);
            Message::Checkpoint(CheckpointVote { replica: me, checkpoint, signature })
        }
        5 => Message::ViewChange(Box::new(ViewChange::sign(&domain, (me, view), None, Vec::new(), signer))),
        6 => {
            let body = StatusBody { view, active: random.percent(50), stable: seq, executed: Seq(number(random)) };
            Message::Status(Signed::sign(Context::Status, &domain, me, body, signer))
        }
        7 => {
            let wanted = [
                Wanted::Manifest(seq),
                Wanted::Chunk(ChunkId { seq, index: random.next() as u16 }),
                Wanted::Body(BodyId { seq, digest }),
            ][random.below(3) as usize];
            Message::Query(Signed::sign(Context::Query, &domain, me, wanted, signer))
        }
        _ => Message::Body(Body { seq, batch: Batch::new(vec![request]) }),
    }
}

#[test]
fn a_flood_of_one_member_stays_within_the_limits() {
    for members in [4, 7] {
        let group = Group::new(members);
        let mut lan = group.lan();
        let mut random = Random(members);
        for _ in 0..6_000 {
            let message = draw(&group, &mut random);
            let _ = lan.give(1, message);
            let window = parameters().window as usize;
            let [log, bodies, view_changes, votes, states] = lan.replicas[1].kept();
            assert!(log <= window && bodies <= window * (BODIES_PER_SLOT + 1));
            assert!(view_changes <= members as usize && votes <= CHECKPOINTS_PER_MEMBER && states == 0);
            lan.queue.clear();
        }
        // Alone it moves nobody to another view, and decides nothing.
        assert_eq!(lan.replicas[1].view(), (View(0), true));
        assert_eq!(lan.replicas[1].executed(), Seq(0));
        assert!(!lan.replicas[1].is_halted());
    }
}

#[test]
fn answers_to_one_member_are_limited_between_ticks() {
    let group = Group::new(4);
    let mut lan = group.lan();
    for id in 1..=6 {
        let request = lan.request(id, "call", &group.clients[0]);
        lan.give(0, request).unwrap();
        lan.run();
    }
    lan.fire(1, Timer::Resend);
    lan.queue.clear();
    let body = StatusBody { view: View(0), active: true, stable: Seq(0), executed: Seq(0) };
    let status =
        Message::Status(Signed::sign(Context::Status, group.epoch.domain(), ReplicaId(2), body, &group.members[2]));
    let mut answered = || {
        let before = lan.queue.len();
        lan.give(1, status.clone()).unwrap();
        lan.queue.len() > before
    };
    for _ in 0..ANSWERS_PER_TICK / COST_OF_STATUS {
        assert!(answered());
    }
    assert!(!answered());
    lan.queue.clear();
    lan.fire(1, Timer::Resend);
    lan.queue.clear();
    lan.give(1, status).unwrap();
    assert!(!lan.queue.is_empty());
}

#[test]
fn requests_and_batches_keep_to_their_limits() {
    let group = Group::new(4);
    let check = |message| Verified::check(message, &group.epoch, &group.verifier).map(|_| ());
    let client = &group.clients[0];
    let call = |id, size: usize| Request::sign(&group.epoch, id, Operation::Call(Bytes::from(vec![0; size])), client);
    assert_eq!(check(Message::Request(call(1, MAX_REQUEST_BYTES))), Ok(()));
    let long = MAX_REQUEST_BYTES + 1;
    assert_eq!(check(Message::Request(call(1, long))), Err(Invalid::RequestTooLarge(long)));
    assert_eq!(check(Message::Request(call(0, 1))), Err(Invalid::RequestId));
    let stranger = crate::keys::TestSigner::new(99);
    let request = Request::sign(&group.epoch, 1, Operation::Call(Bytes::new()), &stranger);
    assert_eq!(check(Message::Request(request)), Err(Invalid::NotAClient));

    let propose = |group: &Group, requests| {
        let batch = Batch::new(requests);
        Message::PrePrepare(PrePrepare::sign(group.epoch.domain(), (View(0), Seq(1)), batch, &group.members[0]))
    };
    let most = u64::from(parameters().batch_requests);
    assert_eq!(check(propose(&group, (1..=most).map(|id| call(id, 1)).collect())), Ok(()));
    let refused = check(propose(&group, (0..=most).map(|id| call(id + 1, 1)).collect()));
    assert!(matches!(refused, Err(Invalid::BatchTooLarge { .. })));
    assert_eq!(check(propose(&group, Vec::new())), Err(Invalid::WrongBatch(Seq(1))));
    let change = Request::sign(&group.epoch, 2, group.change(&[], &[9]), client);
    assert_eq!(check(propose(&group, vec![change.clone()])), Ok(()));
    assert_eq!(check(propose(&group, vec![call(1, 1), change])), Err(Invalid::MixedBatch));

    let many = robeing_bft::epoch::Parameters { batch_requests: 100, ..parameters() };
    let group = Group::with(4, many);
    let count = (MAX_BATCH_BYTES / MAX_REQUEST_BYTES) as u64;
    let requests = (1..=count).map(|id| {
        Request::sign(&group.epoch, id, Operation::Call(Bytes::from(vec![0; MAX_REQUEST_BYTES])), &group.clients[0])
    });
    let refused = Verified::check(propose(&group, requests.collect()), &group.epoch, &group.verifier).map(|_| ());
    assert!(matches!(refused, Err(Invalid::BatchTooLarge { .. })));

    let chunk =
        |size| Message::Chunk(Chunk { id: ChunkId { seq: Seq(4), index: 0 }, data: Bytes::from(vec![0; size]) });
    assert_eq!(check(chunk(STATE_CHUNK_BYTES)), Ok(()));
    assert!(check(chunk(STATE_CHUNK_BYTES + 1)).is_err());
}

#[test]
fn a_client_with_too_many_waiting_requests_is_refused() {
    let group = Group::new(4);
    let mut lan = group.lan();
    lan.cut = vec![true; 4];
    for id in 1..=MAX_PENDING_PER_CLIENT as u64 + 1 {
        let request = lan.request(id, "call", &group.clients[0]);
        lan.give(1, request).unwrap();
    }
    assert!(matches!(lan.events[..], [Event::Refused { why: Refusal::Full, id: 17, .. }]));
}

#[test]
fn a_message_with_any_bit_changed_is_refused_or_proves_itself() {
    let mut world = World::new(Plan { requests: 25, ..Plan::of(7) });
    world.samples = Some(Default::default());
    world.run();
    let samples = world.samples.take().unwrap();
    assert!(samples.len() >= 10, "{:?}", samples.keys());
    let mut random = Random(1);
    for bytes in samples.values().flatten() {
        let positions: Vec<usize> = (0..200).map(|_| random.below(bytes.len() as u64) as usize).collect();
        for position in positions {
            let mut changed = bytes.clone();
            changed[position] ^= 1 << random.below(8);
            let Ok(message) = Message::decode(&changed) else { continue };
            assert_eq!(message.encode(), changed, "a second encoding");
            // These are believed for their digest alone.
            let by_digest = matches!(message, Message::Body(_) | Message::Chunk(_) | Message::Manifest(_));
            let checked = Verified::check(message, &world.group.epoch, &world.group.verifier);
            assert!(checked.is_err() || by_digest, "{checked:?}");
        }
    }
}
