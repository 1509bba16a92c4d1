//! The link to another agent: what its task shares with senders, with the dispatcher and with what writes the stream.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
};

use futures::task::AtomicWaker;
use robeing_platform::sync::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

use super::{connect::Stream, replies::Report};
use crate::messaging::{
    outbox::Outbox,
    outcome::Outcome,
    packet::{Packet, PacketId},
};

/// Number of attempts to open a stream that must have failed in a row before a messenger is asked.
pub(super) const FAILURES: u32 = 2;
/// While this many outcomes wait to be sent to a peer, or replies of [`MAX_UNSENT_BYTES`], it is granted nothing, and none
/// of its packets is handed to the handler. What the handler has then is reported nevertheless.
pub const MAX_UNSENT: usize = 8_192;
/// See [`MAX_UNSENT`], in bytes: 4 MiB.
pub const MAX_UNSENT_BYTES: usize = 4 << 20;
/// Number of replies that are sealed, or keys that are wrapped, in a row, before other tasks of the thread have their
/// turn: about 3 ms.
pub const SEALS_IN_A_ROW: usize = 32;

/// The link to another agent: what its task shares with senders and with the dispatcher.
pub(super) struct Link {
    pub peer: Arc<str>,
    state: Mutex<LinkState>,
    pub wake: Notify,
}

/// What a sender gets that waits for the outcome of a packet.
pub(super) enum Settled {
    Outcome(Outcome),
    /// No stream to the receiver can be opened. The packet waits nevertheless.
    Unreachable(Box<Unreachable>),
}

/// A packet whose receiver can't be reached.
pub(super) struct Unreachable {
    pub packet: Packet,
    /// When its deadline passes, as a time of the pure parts.
    pub deadline: u64,
    /// Receives its outcome.
    pub outcome: oneshot::Receiver<Settled>,
}

/// Who waits for a packet.
pub(super) struct Waiting {
    pub cost: u64,
    pub settled: oneshot::Sender<Settled>,
    /// It wants to know, once, that the receiver can't be reached.
    pub has_detour: bool,
}

impl Waiting {
    pub fn is_unreachable(&mut self, packet: &Packet, deadline: u64) {
        if std::mem::take(&mut self.has_detour) {
            let (settled, outcome) = oneshot::channel();
            let unreachable = Box::new(Unreachable { packet: packet.clone(), deadline, outcome });
            // The sender may have stopped waiting.
            let _ = std::mem::replace(&mut self.settled, settled).send(Settled::Unreachable(unreachable));
        }
    }
}

#[derive(Default)]
pub(super) struct LinkState {
    pub outbox: Outbox<Waiting>,
    /// Several messages had their outcome at once, so that several more may be sent at once.
    pub has_several: bool,
    /// Wakes what writes the stream; `None`: there is none.
    pub writer: Option<Arc<AtomicWaker>>,
    /// It was woken, and has not looked since.
    pub is_roused: bool,
    /// When packets were last written, and until when the task of the link sleeps, as times of the pure parts.
    pub written: u64,
    pub sleeps_until: u64,
    /// Outcomes of the peer's packets, to be sent.
    pub unsent: VecDeque<(PacketId, Report)>,
    pub unsent_bytes: usize,
    /// Outcomes were dropped that the peer, which has a stream, is not going to ask for before that ends.
    pub has_dropped: bool,
    /// There was no room for more outcomes, so that none of the peer's packets is handed out.
    pub is_held: bool,
    /// A stream that the peer has opened.
    pub incoming: Option<Stream>,
    /// Number of attempts to open a stream that have failed since there was one.
    pub failures: u32,
    /// The link's task has ended; another link takes its place.
    pub is_over: bool,
}

impl LinkState {
    /// Records that an attempt to open a stream has failed.
    pub fn failed(&mut self, why: String) {
        self.failures = self.failures.saturating_add(1);
        self.outbox.disconnected(why);
        if self.failures >= FAILURES {
            self.outbox.waiting_mut().for_each(|(packet, deadline, waiting)| waiting.is_unreachable(packet, deadline));
        }
    }

    /// Adds an outcome to be sent to the peer. It is dropped if nothing writes a stream: the peer asks again over the next
    /// one.
    pub fn report(&mut self, id: PacketId, report: impl Into<Report>) {
        if self.writer.is_none() {
            self.has_dropped = true;
            return;
        }
        let report = report.into();
        self.unsent_bytes += reply_len(&report.outcome);
        self.unsent.push_back((id, report));
    }

    /// Takes the next outcome to send to the peer.
    pub fn next_report(&mut self) -> Option<(PacketId, Report)> {
        let next = self.unsent.pop_front()?;
        self.unsent_bytes -= reply_len(&next.1.outcome);
        Some(next)
    }

    /// Drops the outcomes to be sent: without a stream, the peer asks again.
    pub fn clear_reports(&mut self) {
        (self.unsent, self.unsent_bytes) = (VecDeque::new(), 0);
        (self.has_dropped, self.is_held) = (false, false);
    }

    /// Returns whether the peer may be granted more, and its packets may be handed out.
    pub fn has_room(&self) -> bool {
        self.unsent.len() < MAX_UNSENT && self.unsent_bytes < MAX_UNSENT_BYTES
    }
}

/// Returns the size of an outcome's reply, in bytes.
pub(super) fn reply_len(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Accepted { reply: Some(reply), .. } => reply.len(),
        _ => 0,
    }
}

impl Link {
    /// Returns the link to an agent, without a task.
    pub fn new(peer: Arc<str>) -> Self {
        Self { peer, state: Mutex::default(), wake: Notify::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes what writes the stream, because there is something to write; without a stream, the task of the link.
    pub fn rouse(&self, mut state: MutexGuard<'_, LinkState>) {
        let is_early = state.outbox.next_deadline().is_some_and(|deadline| deadline < state.sleeps_until);
        if let Some(writer) = &state.writer
            && !state.is_roused
        {
            writer.wake();
            state.is_roused = true;
        }
        if state.writer.is_none() || is_early {
            self.wake.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(len: usize) -> Outcome {
        Outcome::accepted(Some(vec![0; len].into()))
    }

    #[test]
    fn outcomes_wait_for_what_writes_them_and_without_it_none_is_kept() {
        let mut state = LinkState::default();
        state.report(PacketId(1), reply(9));
        assert_eq!((state.unsent.len(), state.unsent_bytes, state.has_dropped), (0, 0, true));
        state.clear_reports();
        state.writer = Some(Arc::default());
        state.report(PacketId(1), reply(9));
        assert_eq!((state.unsent.len(), state.unsent_bytes, state.has_dropped), (1, 9, false));
    }

    #[test]
    fn there_is_room_for_so_many_outcomes_and_bytes_of_replies() {
        let state = || LinkState { writer: Some(Arc::default()), ..LinkState::default() };
        let mut many = state();
        (1..MAX_UNSENT as u128).for_each(|id| many.report(PacketId(id), Outcome::accepted(None)));
        assert!(many.has_room());
        many.report(PacketId(0), Outcome::accepted(None));
        assert!(!many.has_room());
        many.next_report();
        assert!(many.has_room());
        let mut large = state();
        large.report(PacketId(1), reply(MAX_UNSENT_BYTES - 1));
        assert!(large.has_room());
        large.report(PacketId(2), reply(1));
        assert!(!large.has_room());
    }
}
