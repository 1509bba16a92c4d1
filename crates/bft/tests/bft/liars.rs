//! What liars do. Each runs an honest replica and sends something else instead of, or besides, what it wants to send.
//! Liars know each other's plot, but not the keys of others.

use std::collections::BTreeMap;

use robeing_bft::{
    certificate::{Prepared, Proposal, Seq, View},
    crypto::{Context, Digest, Signature},
    epoch::ReplicaId,
    message::{Batch, Body, Message, NewView, PrePrepare, Request, ViewChange, Vote},
    new_view::select,
};

use crate::{fixture::Random, world::World};

/// A behaviour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lie {
    /// As primary, proposes different batches to different members; as any member, votes for all of them.
    Equivocate,
    /// Sends nothing.
    Silent,
    /// Sends old messages again.
    Replay,
    /// Sends messages with others' names and false proofs.
    Forge,
    /// Conceals and invents in view changes, and begins views against the rules.
    ViewChanges,
    /// Delays to some, also when the network is quiet.
    Delay,
    /// Loses its disk, and cannot come back.
    LostDisk,
}

const ALL: [Lie; 7] =
    [Lie::Equivocate, Lie::Silent, Lie::Replay, Lie::Forge, Lie::ViewChanges, Lie::Delay, Lie::LostDisk];

/// The number of heard messages that are kept for replays.
const HEARD: usize = 64;

/// What all liars know.
#[derive(Default, Debug)]
pub struct Plot {
    /// On which side of the plot each member is.
    pub sides: u64,
    /// The two proposals for a view and sequence number.
    forks: BTreeMap<(View, Seq), [PrePrepare; 2]>,
    heard: Vec<Message>,
    requests: Vec<Request>,
}

impl Plot {
    /// A liar hears a message.
    pub fn hear(&mut self, message: &Message, random: &mut Random) {
        if let Message::Request(request) = message
            && !self.requests.contains(request)
        {
            self.requests.push(request.clone());
        }
        if self.heard.len() < HEARD {
            self.heard.push(message.clone());
        } else {
            let index = random.below(HEARD as u64) as usize;
            self.heard[index] = message.clone();
        }
    }

    fn side(&self, member: usize) -> usize {
        usize::from(self.sides >> member & 1 == 1)
    }

    fn any_heard(&self, random: &mut Random) -> Option<Message> {
        self.heard.get(random.below(self.heard.len() as u64) as usize).cloned()
    }
}

/// A message, its receiver and an additional delay.
type Sent = (usize, Message, u64);

impl Lie {
    pub fn draw(random: &mut Random) -> Self {
        ALL[random.below(ALL.len() as u64) as usize]
    }

    /// Returns what is sent instead of a message.
    pub fn instead(self, world: &mut World, from: usize, to: usize, message: &Message) -> Vec<Sent> {
        let same = || vec![(to, message.clone(), 0)];
        match self {
            Self::Silent => Vec::new(),
            Self::LostDisk => same(),
            Self::Equivocate => equivocate(world, from, to, message).unwrap_or_else(same),
            Self::Replay => {
                let mut sent = same();
                if let Some(old) = world.plot.any_heard(&mut world.random).filter(|_| world.random.percent(30)) {
                    sent.push((world.random.below(world.plan.members) as usize, old, 0));
                }
                sent
            }
            Self::Forge => {
                let mut sent = same();
                if world.random.percent(30) {
                    let heard = world.plot.any_heard(&mut world.random);
                    let forged = heard.and_then(|heard| forge(heard, &mut world.random));
                    sent.extend(forged.map(|forged| (to, forged, 0)));
                }
                sent
            }
            Self::ViewChanges => lie_in_view_changes(world, from, to, message),
            Self::Delay => {
                let slow = world.plot.side(to) == 1 || world.random.percent(10);
                vec![(to, message.clone(), if slow { world.random.below(3_000) } else { 0 })]
            }
        }
    }
}

/// Returns another batch than the honest one.
fn another(world: &World, batch: &Batch) -> Batch {
    let mut requests: Vec<Request> = batch.requests().to_vec();
    let other = world.plot.requests.iter().find(|request| !requests.contains(request));
    match other {
        Some(other) => requests = vec![other.clone()],
        None => requests.reverse(),
    }
    if requests == batch.requests() {
        // The same request twice is another batch.
        requests.extend(batch.requests().first().cloned());
    }
    Batch::new(requests)
}

fn fork(world: &mut World, from: usize, honest: &PrePrepare) -> [PrePrepare; 2] {
    let Proposal { view, seq, .. } = honest.proposal;
    if let Some(known) = world.plot.forks.get(&(view, seq)) {
        return known.clone();
    }
    let other = another(world, &honest.batch);
    let other = PrePrepare::sign(&world.domain(), (view, seq), other, &world.group.members[from]);
    let both = [honest.clone(), other];
    world.plot.forks.insert((view, seq), both.clone());
    both
}

/// Each side gets a proposal of its own with the votes of all liars for it; now and then the other one as well.
fn equivocate(world: &mut World, from: usize, to: usize, message: &Message) -> Option<Vec<Sent>> {
    let side = world.plot.side(to);
    match message {
        Message::PrePrepare(honest) => {
            let both = fork(world, from, honest);
            let mine = both[side].clone();
            let liars: Vec<usize> = (0..world.nodes.len()).filter(|node| world.nodes[*node].lie.is_some()).collect();
            let mut sent = vec![(to, Message::PrePrepare(mine.clone()), 0)];
            for liar in liars {
                if liar != from {
                    sent.push((to, Message::Prepare(world.vote(Context::Prepare, liar, mine.proposal)), 0));
                }
                sent.push((to, Message::Commit(world.vote(Context::Commit, liar, mine.proposal)), 0));
            }
            if world.random.percent(50) {
                let late = world.random.below(60);
                sent.push((to, Message::PrePrepare(both[1 - side].clone()), late));
            }
            Some(sent)
        }
        Message::Prepare(vote) => voted(world, from, to, vote, Context::Prepare),
        Message::Commit(vote) => voted(world, from, to, vote, Context::Commit),
        _ => None,
    }
}

fn voted(world: &World, from: usize, to: usize, vote: &Vote, context: Context) -> Option<Vec<Sent>> {
    let forks = world.plot.forks.get(&(vote.proposal.view, vote.proposal.seq))?;
    let vote = world.vote(context, from, forks[world.plot.side(to)].proposal);
    let message = if context == Context::Prepare { Message::Prepare(vote) } else { Message::Commit(vote) };
    Some(vec![(to, message, 0)])
}

/// Changes a message so that it lies about its sender or its proof.
fn forge(heard: Message, random: &mut Random) -> Option<Message> {
    let flip = |signature: &mut Signature, random: &mut Random| {
        signature.0[random.below(32) as usize] ^= 1 << random.below(8);
    };
    Some(match heard {
        Message::PrePrepare(mut message) => {
            message.proposal.seq = Seq(message.proposal.seq.0 + random.below(3));
            flip(&mut message.signature, random);
            Message::PrePrepare(message)
        }
        Message::Prepare(mut vote) => {
            vote.replica = ReplicaId(u16::try_from(random.below(4)).unwrap());
            vote.proposal.digest = Digest([7; 32]);
            Message::Prepare(vote)
        }
        Message::Commit(vote) => Message::Prepare(vote),
        Message::Checkpoint(mut vote) => {
            vote.checkpoint.digest = Digest([9; 32]);
            Message::Checkpoint(vote)
        }
        Message::ViewChange(mut message) => {
            message.view = message.view.next();
            Message::ViewChange(message)
        }
        Message::NewView(mut message) => {
            message.proposals.pop();
            Message::NewView(message)
        }
        Message::Decision(mut decision) => {
            decision.batch = Batch::null();
            Message::Decision(decision)
        }
        Message::Stable(mut stable) => {
            stable.checkpoint.seq = stable.checkpoint.seq.plus(random.below(100));
            Message::Stable(stable)
        }
        _ => return None,
    })
}

/// A certificate that nobody signed.
fn invented(world: &World, from: usize, template: &Prepared) -> Prepared {
    let mut prepared = template.clone();
    prepared.proposal.digest = Digest([3; 32]);
    let vote = world.vote(Context::Prepare, from, prepared.proposal);
    prepared.prepares.iter_mut().for_each(|one| one.signature = vote.signature);
    prepared
}

fn lie_in_view_changes(world: &mut World, from: usize, to: usize, message: &Message) -> Vec<Sent> {
    let (domain, signer) = (world.domain(), world.group.members[from].clone());
    let me = ReplicaId(u16::try_from(from).unwrap());
    match message {
        Message::ViewChange(honest) => {
            let kind = world.random.below(4);
            let (mut stable, mut prepared) = (honest.stable.clone(), Vec::new());
            if kind == 1 {
                stable = None;
            } else if kind == 2 {
                prepared = honest.prepared.iter().map(|one| invented(world, from, one)).collect();
            } else if kind == 3 {
                prepared = honest.prepared.iter().step_by(2).cloned().collect();
            }
            let lie = ViewChange::sign(&domain, (me, honest.view), stable, prepared, &signer);
            vec![(to, Message::ViewChange(Box::new(lie)), 0)]
        }
        Message::NewView(honest) => false_new_view(world, from, to, honest),
        Message::Status(_) if world.random.percent(10) => {
            // Nobody else wants this view.
            let view = View(world.random.below(40) + 1);
            let lie = ViewChange::sign(&domain, (me, view), None, Vec::new(), &signer);
            vec![(to, message.clone(), 0), (to, Message::ViewChange(Box::new(lie)), 0)]
        }
        // Few learn of what is decided.
        Message::Commit(_) if world.plot.side(to) == 1 => Vec::new(),
        _ => vec![(to, message.clone(), 0)],
    }
}

/// Begins a view with other proposals than follow from the view changes, with and without view changes that have been
/// emptied, and sends the batches of these proposals.
fn false_new_view(world: &mut World, from: usize, to: usize, honest: &NewView) -> Vec<Sent> {
    let (domain, signer) = (world.domain(), world.group.members[from].clone());
    let view = honest.view;
    // All members get the same lie.
    let mut random = Random(world.plan.seed ^ view.0);
    let (mut proposals, mut bodies) = (Vec::new(), Vec::new());
    for (index, old) in honest.proposals.iter().enumerate() {
        let requests = &world.plot.requests;
        let request = requests.get((index + random.below(5) as usize) % requests.len().max(1));
        let batch = Batch::new(request.cloned().into_iter().collect());
        let seq = old.proposal.seq;
        proposals.push(Proposal { view, seq, kind: batch.kind(), digest: batch.digest() });
        bodies.push((to, Message::Body(Body { seq, batch }), 20));
    }
    let mut emptied = honest.view_changes.clone();
    if let Some(own) = emptied.iter_mut().find(|one| usize::from(one.replica.0) == from) {
        *own = ViewChange::sign(&domain, (own.replica, view), None, Vec::new(), &signer);
    }
    let lawful = select(&world.group.epoch, view, &emptied).proposals;
    let lie = match random.below(3) {
        0 => NewView::sign(&domain, view, emptied, lawful, &signer),
        1 => NewView::sign(&domain, view, Vec::new(), proposals, &signer),
        _ => NewView::sign(&domain, view, honest.view_changes.clone(), proposals, &signer),
    };
    let mut sent = vec![(to, Message::NewView(Box::new(lie)), 0)];
    sent.extend(bodies);
    if random.percent(50) {
        sent.push((to, Message::NewView(Box::new(honest.clone())), 30));
    }
    sent
}
