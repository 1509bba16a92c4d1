//! A replica: the protocol as a pure step function. One file for each part of it.
//!
//! One rule goes beyond the papers: replicas accept pre-prepares, and send commits, in the order of sequence numbers.
//! An honest replica commits to s in a view only if s − 1 is decided, or if it committed to s − 1 in that view, and never
//! if s − 1 ends the epoch. So if s can be proven, then at s − 1 a quorum either decided or committed, in that view or
//! before, to something that does not end the epoch, and by the usual argument nothing else is ever decided there. The
//! decision that ends an epoch is thus really its last one (see [`crate::new_view`]).

mod checkpoint;
mod execution;
mod io;
mod normal;
mod recovery;
mod slot;
mod state_transfer;
mod status;
mod timers;
mod view_change;
mod wants;

use std::{collections::BTreeMap, sync::Arc};

use self::{
    io::Cx,
    slot::Slot,
    state_transfer::{Pin, Transfer},
    timers::Timers,
};
use crate::{
    application::Application,
    certificate::{Checkpoint, Decision, Seq, Stable, View},
    clients::ClientTable,
    crypto::{Digest, Signature, Signer},
    epoch::{Epoch, Incarnation, Membership, ReplicaId},
    message::{Message, NewView, StatusBody, ViewChange},
    pending::Pending,
    state::State,
};
pub use io::{Event, Fault, Input, Outcome, Outputs, Refusal, Sync, Timer, TimerChange, TimerId, To};

/// A replica of one epoch.
#[derive(Clone, Debug)]
pub struct Replica<A> {
    epoch: Epoch,
    me: ReplicaId,
    incarnation: Incarnation,

    /// The state of the application, and what belongs to it.
    application: A,
    clients: ClientTable,
    /// The digest of all executed decisions.
    history: Digest,
    executed: Seq,
    /// The next epoch, once it is decided. Nothing is executed after it.
    next_epoch: Option<Box<Membership>>,
    /// The decision for it.
    last_decision: Option<Decision>,

    /// The view, or the one that the replica moves to while it is not active.
    view: View,
    active: bool,
    /// What made the view active. The first view needs nothing.
    new_view: Option<Box<NewView>>,
    /// The next sequence number to accept in this view.
    next: Seq,
    /// Whether the end of the epoch is accepted in this view, so that nothing may follow.
    closed: bool,
    /// The view of the last decision that executed a new request: there the timeout is shortest.
    good_view: View,

    /// What is known about sequence numbers after the stable checkpoint.
    log: BTreeMap<Seq, Slot>,
    /// The last stable checkpoint: the low watermark.
    stable: Anchor,
    /// A later stable checkpoint of others.
    ahead: Option<Stable>,
    /// Own states at checkpoints that are not stable yet.
    own_states: BTreeMap<Seq, Arc<State>>,
    checkpoint_votes: BTreeMap<ReplicaId, BTreeMap<Seq, (Checkpoint, Signature)>>,
    /// The view change of the highest view of each member.
    view_changes: BTreeMap<ReplicaId, ViewChange>,
    pending: Pending,
    transfer: Option<Transfer>,
    /// The states that others get from this replica.
    pins: BTreeMap<ReplicaId, Pin>,
    timers: Timers,
    /// The last status of each member, and how many there were.
    heard: BTreeMap<ReplicaId, (StatusBody, u64)>,
    /// How many answers each member got since the last tick.
    answers: BTreeMap<ReplicaId, u32>,
    halted: bool,
}

/// A stable checkpoint.
#[derive(Clone, Debug)]
struct Anchor {
    /// Nothing for the epoch's start.
    certificate: Option<Stable>,
    state: Arc<State>,
    seq: Seq,
}

impl<A: Application> Replica<A> {
    /// Takes one input, and returns what the host has to do.
    pub fn step(&mut self, input: Input, signer: &dyn Signer) -> Outputs {
        let mut cx = Cx::new(signer);
        if self.halted {
            return cx.out;
        }
        match input {
            Input::Message(message) => {
                if let Some(message) = message.for_epoch(&self.epoch) {
                    self.receive(message, &mut cx);
                }
            }
            Input::Timer(id) => self.fired(id, &mut cx),
            Input::Suspect(view) if view == self.view => self.start_view_change(view.next(), &mut cx),
            Input::Suspect(_) => {}
        }
        self.update_timers(&mut cx);
        cx.out
    }

    fn receive(&mut self, message: Message, cx: &mut Cx<'_>) {
        match message {
            Message::Request(request) => self.on_request(request, cx),
            Message::PrePrepare(message) => self.on_pre_prepare(message, cx),
            Message::Prepare(vote) => self.on_prepare(&vote, cx),
            Message::Commit(vote) => self.on_commit(&vote, cx),
            Message::Checkpoint(vote) => self.on_checkpoint(&vote, cx),
            Message::ViewChange(message) => self.on_view_change(*message, cx),
            Message::NewView(message) => self.on_new_view(message, cx),
            Message::Status(signed) => self.on_status(signed.replica, &signed.body, cx),
            Message::Decision(decision) => self.on_decision(*decision, cx),
            Message::Stable(stable) => self.on_proven(stable, cx),
            Message::Query(signed) => self.on_query(signed.replica, signed.body, cx),
            Message::Manifest(manifest) => self.on_manifest(manifest, cx),
            Message::Chunk(chunk) => self.on_chunk(chunk, cx),
            Message::Body(body) => self.on_body(body, cx),
        }
    }

    /// Takes part in nothing from now on.
    fn halt(&mut self, fault: Fault, cx: &mut Cx<'_>) {
        if !std::mem::replace(&mut self.halted, true) {
            cx.event(Event::Halted(fault));
        }
    }

    /// The high watermark. A replica votes for nothing beyond it, since it could not put that into a view change.
    fn high(&self) -> Seq {
        self.stable.seq.plus(self.epoch.parameters.window)
    }

    /// Returns the slot of a sequence number between the watermarks.
    fn slot(&mut self, seq: Seq) -> Option<&mut Slot> {
        let within = seq > self.stable.seq && seq <= self.high();
        within.then(|| self.log.entry(seq).or_default())
    }

    fn is_primary(&self) -> bool {
        self.epoch.primary(self.view) == self.me
    }

    /// The epoch.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// This replica.
    pub fn id(&self) -> ReplicaId {
        self.me
    }

    /// The current view, and whether the replica accepted it.
    pub fn view(&self) -> (View, bool) {
        (self.view, self.active)
    }

    /// The last executed sequence number.
    pub fn executed(&self) -> Seq {
        self.executed
    }

    /// The last stable checkpoint.
    pub fn stable(&self) -> Seq {
        self.stable.seq
    }

    /// The application.
    pub fn application(&self) -> &A {
        &self.application
    }

    /// Whether the next epoch is decided.
    pub fn has_ended(&self) -> bool {
        self.next_epoch.is_some()
    }

    /// Whether the replica halted.
    pub fn is_halted(&self) -> bool {
        self.halted
    }

    /// Numbers of what is kept, each bounded by limits and parameters whatever others send: sequence numbers, batches,
    /// view changes, checkpoint votes, own states.
    pub fn kept(&self) -> [usize; 5] {
        let bodies = self.log.values().map(|slot| slot.bodies().len() + usize::from(slot.waiting.is_some())).sum();
        let votes = self.checkpoint_votes.values().map(BTreeMap::len).sum();
        [self.log.len(), bodies, self.view_changes.len(), votes, self.own_states.len()]
    }
}
