//! State transfer (1999, section 4.3; 2002, section 5.3.2): a replica that lags behind a stable checkpoint gets that
//! state in chunks from different members. It believes each chunk because of the checkpoint's certificate.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;

use super::{Cx, Event, Fault, Replica};
use crate::{
    application::Application,
    certificate::{Seq, Stable},
    crypto::Digest,
    epoch::ReplicaId,
    limits::{ANSWERS_PER_TICK, CHUNKS_IN_FLIGHT, IDLE_TICKS_OF_PIN},
    message::{Body, BodyId, Chunk, ChunkId, Message, Wanted},
    state::{Manifest, State},
};

/// A state that is being transferred.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    target: Stable,
    manifest: Option<Manifest>,
    chunks: BTreeMap<u16, Bytes>,
    /// The chunks that were asked for, and not answered since the last tick.
    asked: BTreeSet<u16>,
    /// Advances at each tick, so that another member is asked for each chunk.
    turn: u64,
    /// Whether something came since the last tick.
    progress: bool,
}

/// A state that a member is getting from this replica. It is kept although later checkpoints are stable, so that a
/// transfer can end while the group goes on.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    state: Arc<State>,
    /// Ticks since the last question.
    idle: u32,
}

impl Transfer {
    pub fn seq(&self) -> Seq {
        self.target.checkpoint.seq
    }
}

impl<A: Application> Replica<A> {
    /// Begins to get the state of the latest stable checkpoint of others.
    pub(super) fn start_transfer(&mut self, cx: &mut Cx<'_>) {
        let Some(target) = self.ahead.clone().filter(|ahead| ahead.checkpoint.seq > self.executed) else { return };
        if self.transfer.as_ref().is_none_or(|transfer| transfer.seq() < target.checkpoint.seq) {
            let turn = self.transfer.as_ref().map_or(0, |transfer| transfer.turn);
            let (chunks, asked) = (BTreeMap::new(), BTreeSet::new());
            self.transfer = Some(Transfer { target, manifest: None, chunks, asked, turn, progress: false });
            self.ask_for_state(cx);
        }
    }

    /// Asks again, and others, for what has not come.
    pub(super) fn retry_transfer(&mut self, cx: &mut Cx<'_>) {
        self.transfer.take_if(|transfer| transfer.seq() <= self.executed);
        let later = self.ahead.as_ref().map(|ahead| ahead.checkpoint.seq);
        match &mut self.transfer {
            // Nobody has that state any more.
            Some(transfer) if !transfer.progress && later > Some(transfer.seq()) => self.start_transfer(cx),
            Some(transfer) => {
                transfer.progress = false;
                transfer.turn = transfer.turn.wrapping_add(1);
                transfer.asked.clear();
                self.ask_for_state(cx);
            }
            None => self.start_transfer(cx),
        }
    }

    fn ask_for_state(&mut self, cx: &mut Cx<'_>) {
        let others: Vec<ReplicaId> = self.epoch.replicas().filter(|replica| *replica != self.me).collect();
        let Some(transfer) = &mut self.transfer else { return };
        let (seq, turn) = (transfer.seq(), transfer.turn);
        let other = |index: u64| {
            let index = turn.wrapping_add(index).checked_rem(others.len() as u64).unwrap_or_default();
            others.get(usize::try_from(index).unwrap_or_default()).copied().unwrap_or_default()
        };
        let mut questions = Vec::new();
        match &transfer.manifest {
            // All are asked, so that all keep that state.
            None => questions.extend((0..others.len() as u64).map(|index| (other(index), Wanted::Manifest(seq)))),
            Some(manifest) => {
                let count = u16::try_from(manifest.chunks.len()).unwrap_or(u16::MAX);
                let missing = (0..count).filter(|index| !transfer.chunks.contains_key(index));
                let window: Vec<u16> = missing.take(CHUNKS_IN_FLIGHT).collect();
                for index in window {
                    if transfer.asked.insert(index) {
                        questions.push((other(index.into()), Wanted::Chunk(ChunkId { seq, index })));
                    }
                }
            }
        }
        for (to, wanted) in questions {
            let query = self.query(wanted, cx);
            cx.send(to, query);
        }
    }

    /// Takes the digests of the chunks.
    pub(super) fn on_manifest(&mut self, manifest: Manifest, cx: &mut Cx<'_>) {
        let Some(transfer) = &mut self.transfer else { return };
        if transfer.manifest.is_none() && manifest.checkpoint() == transfer.target.checkpoint {
            transfer.manifest = Some(manifest);
            transfer.progress = true;
            self.ask_for_state(cx);
        }
    }

    /// Takes a chunk. The last one completes the state.
    pub(super) fn on_chunk(&mut self, chunk: Chunk, cx: &mut Cx<'_>) {
        let Some(transfer) = &mut self.transfer else { return };
        let Some(manifest) = &transfer.manifest else { return };
        let Chunk { id: ChunkId { seq, index }, data } = chunk;
        let expected = manifest.chunks.get(usize::from(index));
        if seq != manifest.seq || expected != Some(&Digest::of_bytes(&data)) {
            return;
        }
        transfer.chunks.insert(index, data);
        transfer.progress = true;
        transfer.asked.remove(&index);
        if transfer.chunks.len() < manifest.chunks.len() {
            return self.ask_for_state(cx);
        }
        let bytes: Vec<u8> = transfer.chunks.values().flat_map(|chunk| chunk.iter().copied()).collect();
        let target = transfer.target.clone();
        self.transfer = None;
        match State::from_bytes(bytes.into()) {
            Ok(state) => self.restore(target, Arc::new(state), cx),
            Err(error) => self.halt(Fault::Snapshot(error.to_string()), cx),
        }
    }

    /// Goes on from a state that is proven.
    fn restore(&mut self, target: Stable, state: Arc<State>, cx: &mut Cx<'_>) {
        let from = self.executed.next();
        if state.checkpoint() != target.checkpoint || target.checkpoint.seq < from {
            return;
        }
        if let Err(error) = self.load(&state) {
            return self.halt(Fault::Snapshot(error), cx);
        }
        self.own_states.clear();
        self.pending.settle_all(&self.clients);
        if self.has_ended() {
            self.pending.clear();
        }
        cx.event(Event::Restored { from, to: self.executed });
        self.stabilize(target, state, cx);
        self.accept_waiting(cx);
        self.advance(self.executed.next(), cx);
    }

    /// Replaces what belongs to the application by a state.
    pub(super) fn load(&mut self, state: &State) -> Result<(), String> {
        let content = state.content();
        self.application.restore(&content.snapshot)?;
        self.clients = content.clients.clone();
        self.history = content.history;
        self.executed = content.seq;
        // In the state with which an epoch starts, it is the next one.
        let next = content.next_epoch.as_ref();
        self.next_epoch = next.filter(|next| next.domain() != *self.epoch.domain()).cloned();
        Ok(())
    }

    /// Returns whether a member may get more answers, of this cost, before the next tick.
    pub(super) fn may_answer(&mut self, replica: ReplicaId, cost: u32) -> bool {
        let count = self.answers.entry(replica).or_default();
        *count = count.saturating_add(cost);
        *count <= ANSWERS_PER_TICK && replica != self.me
    }

    /// Answers a member that lacks something.
    pub(super) fn on_query(&mut self, from: ReplicaId, wanted: Wanted, cx: &mut Cx<'_>) {
        if !self.may_answer(from, 1) {
            return;
        }
        match wanted {
            Wanted::Body(BodyId { seq, digest }) => {
                let batch = self.log.get(&seq).and_then(|slot| slot.body(&digest)).cloned();
                if let Some(batch) = batch {
                    cx.send(from, Message::Body(Body { seq, batch }));
                }
            }
            Wanted::Manifest(seq) => {
                self.pin(from, seq);
                if let Some(state) = self.state_for(from, seq, cx) {
                    cx.send(from, Message::Manifest(state.manifest().clone()));
                }
            }
            Wanted::Chunk(id) => {
                let chunk = self.state_for(from, id.seq, cx).and_then(|state| state.chunk(id.index));
                if let Some(data) = chunk {
                    cx.send(from, Message::Chunk(Chunk { id, data }));
                }
            }
        }
    }

    /// Keeps the stable state for a member that gets it from now on. Each keeps at most one, and f + 1 members do.
    fn pin(&mut self, from: ReplicaId, seq: Seq) {
        let room = self.pins.len() < self.epoch.quorums().weak() || self.pins.contains_key(&from);
        if room && seq == self.stable.seq {
            self.pins.insert(from, Pin { state: self.stable.state.clone(), idle: 0 });
        }
    }

    /// Forgets the states that nobody gets any more.
    pub(super) fn unpin(&mut self) {
        self.pins.values_mut().for_each(|pin| pin.idle = pin.idle.saturating_add(1));
        self.pins.retain(|_, pin| pin.idle <= IDLE_TICKS_OF_PIN);
    }

    /// Returns the state at a checkpoint, for a member; if it is gone, sends the proof of a later one.
    fn state_for(&mut self, from: ReplicaId, seq: Seq, cx: &mut Cx<'_>) -> Option<Arc<State>> {
        if let Some(pin) = self.pins.get_mut(&from).filter(|pin| pin.state.manifest().seq == seq) {
            pin.idle = 0;
            return Some(pin.state.clone());
        }
        if seq == self.stable.seq {
            return Some(self.stable.state.clone());
        }
        if seq < self.stable.seq
            && let Some(stable) = &self.stable.certificate
        {
            cx.send(from, Message::Stable(stable.clone()));
        }
        None
    }
}
