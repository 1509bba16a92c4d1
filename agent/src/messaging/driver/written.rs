//! What is written to a stream: the bytes that gRPC takes when the stream has room for them. So what there is to write is
//! decided as late as possible, and much is written together when much has come up.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::{Stream, task::AtomicWaker};
use prost::Message;
use robeing_platform::compute;
use robeing_proto::message::v1::Frame;
use tokio::sync::mpsc;

use super::{
    replies::{Report, Seal},
    shared::Shared,
    state::{Link, LinkState, SEALS_IN_A_ROW, reply_len},
};
use crate::messaging::{
    frame::{BATCH_OUTCOMES, BATCH_REPLIES},
    outcome::Outcome,
    packet::{Packet, PacketId, Priority},
    wire,
};

/// Number of frames other than those with messages, Hello and Close, that wait for the stream to take them.
pub const OUTGOING_FRAMES: usize = 2;

/// The link's side of what is written to a stream. The stream ends once it is dropped.
pub(super) struct Outlet {
    frames: mpsc::Sender<Bytes>,
    waker: Arc<AtomicWaker>,
}

impl Outlet {
    /// Writes Hello or Close. If there is no room, nothing is written.
    pub fn say(&self, frame: &Frame) {
        let _ = self.frames.try_send(frame.encode_to_vec().into());
    }

    /// Lets the messages of the link be written to this stream.
    pub fn establish(&self, state: &mut LinkState) {
        // One that has ended already would never be woken.
        state.writer = (!self.is_closed()).then(|| Arc::clone(&self.waker));
        state.is_roused = false;
        self.waker.wake();
    }

    /// Returns whether nothing that is written will be taken.
    pub fn is_closed(&self) -> bool {
        self.frames.is_closed()
    }
}

/// The frames of a stream, for gRPC.
pub struct Written {
    shared: Arc<Shared>,
    link: Arc<Link>,
    frames: mpsc::Receiver<Bytes>,
    waker: Arc<AtomicWaker>,
    /// It has let other tasks run since there was nothing to write.
    has_yielded: bool,
    /// Number of replies that were sealed since other tasks had their turn, at most [`SEALS_IN_A_ROW`].
    sealed: usize,
    /// The memory of frames that follow one another.
    buffer: BytesMut,
}

/// Creates both sides of what is written to a stream of a link.
pub(super) fn written(shared: &Arc<Shared>, link: &Arc<Link>) -> (Outlet, Written) {
    let (sender, frames) = mpsc::channel(OUTGOING_FRAMES);
    let waker = Arc::new(AtomicWaker::new());
    let outlet = Outlet { frames: sender, waker: Arc::clone(&waker) };
    let (shared, link) = (Arc::clone(shared), Arc::clone(link));
    (outlet, Written { shared, link, frames, waker, has_yielded: false, sealed: 0, buffer: BytesMut::new() })
}

impl Stream for Written {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Poll::Ready(frame) = self.frames.poll_recv(context) {
            return Poll::Ready(frame);
        }
        self.poll_link(context)
    }
}

impl Written {
    /// Returns the next frame with messages, outcomes or credits, or one that was said a moment ago.
    fn poll_link(&mut self, context: &Context<'_>) -> Poll<Option<Bytes>> {
        self.waker.register(context.waker());
        let this = self;
        if this.sealed >= SEALS_IN_A_ROW {
            this.sealed = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut state = this.link.lock();
        if !is_writer(&state, &this.waker) {
            return Poll::Pending;
        }
        // Hello was said before the stream became that of the link, maybe since it was last looked.
        if let Ok(frame) = this.frames.try_recv() {
            return Poll::Ready(Some(frame));
        }
        state.is_roused = false;
        if !this.has_yielded && state.has_several && state.outbox.can_send() {
            // Other tasks may be about to send, too, and their messages share a frame.
            this.has_yielded = true;
            state.is_roused = true;
            drop(state);
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let mut next = Next::take(&this.shared, &this.link, &mut state, SEALS_IN_A_ROW - this.sealed);
        drop(state);
        if next.is_empty() {
            (this.has_yielded, this.sealed, this.buffer) = (false, 0, BytesMut::new());
            return Poll::Pending;
        }
        this.sealed += next.seal(&this.shared);
        let frame = wire::encode(&mut this.buffer, &next.packets, &next.outcomes, &next.credits);
        Poll::Ready(Some(frame))
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.frames.close();
        let mut state = self.link.lock();
        if is_writer(&state, &self.waker) {
            state.writer = None;
        }
        drop(state);
        self.link.wake.notify_one();
    }
}

fn is_writer(state: &LinkState, waker: &Arc<AtomicWaker>) -> bool {
    state.writer.as_ref().is_some_and(|writer| Arc::ptr_eq(writer, waker))
}

/// What the next frame has.
struct Next {
    packets: Vec<(Arc<Packet>, u64)>,
    outcomes: Vec<(PacketId, Outcome)>,
    /// For whom replies in them are to be sealed, with their places.
    seals: Vec<(usize, Seal)>,
    credits: Vec<(Priority, u64)>,
}

impl Next {
    /// Takes what there is to write, with at most so many replies that are to be sealed.
    fn take(shared: &Shared, link: &Link, state: &mut LinkState, max_seals: usize) -> Self {
        let credits = if state.has_room() { shared.inbox().credits(&link.peer) } else { Vec::new() };
        let (outcomes, seals) = next_outcomes(state, max_seals);
        if state.is_held && state.has_room() {
            state.is_held = false;
            shared.inbox().resume(&link.peer);
            shared.work.notify_one();
        }
        let mut packets = Vec::new();
        if state.outbox.can_send() {
            let now = shared.now();
            packets = state.outbox.next_batch(now);
            if !packets.is_empty() {
                state.written = now;
            }
            shared.settle(state);
        }
        Self { packets, outcomes, seals, credits }
    }

    /// Seals the replies that are to be. Returns how many these are.
    fn seal(&mut self, shared: &Shared) -> usize {
        let seals = std::mem::take(&mut self.seals);
        if !seals.is_empty() {
            compute(|| {
                for (place, seal) in &seals {
                    if let Some((_, outcome)) = self.outcomes.get_mut(*place) {
                        *outcome = shared.sealed(outcome.clone(), seal);
                    }
                }
            });
        }
        seals.len()
    }

    fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.outcomes.is_empty() && self.credits.is_empty()
    }
}

/// The outcomes of a frame, and how the replies at some places of them are to be sealed.
type Outcomes = (Vec<(PacketId, Outcome)>, Vec<(usize, Seal)>);

/// Takes the outcomes of the next frame, with at most so many replies that are to be sealed.
fn next_outcomes(state: &mut LinkState, max_seals: usize) -> Outcomes {
    let (mut outcomes, mut seals, mut bytes) = (Vec::new(), Vec::new(), 0);
    while outcomes.len() < BATCH_OUTCOMES
        && seals.len() < max_seals
        && bytes < BATCH_REPLIES
        && let Some((id, Report { outcome, seal })) = state.next_report()
    {
        bytes += reply_len(&outcome);
        seals.extend(seal.map(|seal| (outcomes.len(), seal)));
        outcomes.push((id, outcome));
    }
    (outcomes, seals)
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use robeing_platform::OsRandom;

    use super::*;
    use crate::messaging::{
        driver::{
            copies::Passed,
            fixture::{shared, shared_of},
            state::MAX_UNSENT,
        },
        memory::KEPT_REPLY,
        routing::{Entry, Role, Snapshot},
        sealing::{OpeningKey, PASSED_OVERHEAD},
        tests::fixture::{entry, hello, packet},
    };

    fn next(written: &mut Written) -> Frame {
        match written.poll_link(&Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(frame)) => wire::decode(&frame).expect("a frame"),
            other => panic!("no frame: {other:?}"),
        }
    }

    fn outcomes(count: usize) -> impl Iterator<Item = (PacketId, Outcome)> {
        (0..count as u128).map(|id| (PacketId(id), Outcome::accepted(None)))
    }

    #[tokio::test(start_paused = true)]
    async fn hello_is_written_first_also_if_it_is_said_while_the_next_frame_is_looked_for() {
        let (shared, link) = (shared(), Arc::new(Link::new("a".into())));
        let (outlet, mut written) = written(&shared, &link);
        assert!(written.poll_link(&Context::from_waker(Waker::noop())).is_pending());
        outlet.say(&hello("b", "a", 1).to_frame());
        {
            let mut state = link.lock();
            outlet.establish(&mut state);
            shared.add_reports(&link, &mut state, outcomes(1));
        }
        assert!(next(&mut written).hello.is_some());
        assert_eq!(next(&mut written).outcomes.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_room_for_outcomes_no_packet_is_handed_out_until_some_are_written() {
        let (shared, link) = (shared(), Arc::new(Link::new("a".into())));
        let (outlet, mut written) = written(&shared, &link);
        outlet.establish(&mut link.lock());
        shared.inbox().connect(&link.peer);
        for number in 1..=2 {
            let priority = Priority::new(number).unwrap();
            let packet = Packet { seq: 1, priority, ..packet(number.into()) };
            shared.inbox().receive(0, &link.peer, packet).unwrap();
        }
        shared.add_reports(&link, &mut link.lock(), outcomes(MAX_UNSENT - 1));
        assert!(shared.inbox().hand_out().is_some(), "there is room for one");
        shared.add_reports(&link, &mut link.lock(), outcomes(1));
        assert!(shared.inbox().hand_out().is_none());
        assert_eq!(next(&mut written).outcomes.len(), BATCH_OUTCOMES);
        assert!(shared.inbox().hand_out().is_some());
    }

    /// Lets so many repetitions of one packet, whose reply has this size, be reported to a messenger. Returns the outcomes in
    /// each frame until nothing is left; 0: other tasks have their turn.
    fn repetitions(count: usize, reply: usize) -> Vec<usize> {
        let key = OpeningKey::generate(&OsRandom);
        let sender = Entry { sealing_key: Some(key.public().clone()), ..entry("a", 0.5) };
        let shared = shared_of(Role::Worker, Snapshot::from_iter([sender]));
        let link = Arc::new(Link::new("m".into()));
        let (outlet, mut written) = written(&shared, &link);
        outlet.establish(&mut link.lock());
        let copy = Arc::new(Passed::of(&link.peer, &packet(1)).expect("it has passed a messenger"));
        let outcome = Outcome::accepted(Some(vec![0; reply].into()));
        let report = |_| {
            let report = Report { outcome: outcome.clone(), seal: Some(Seal::Sender(Arc::clone(&copy))) };
            (PacketId(1), report)
        };
        shared.add_reports(&link, &mut link.lock(), (0..count).map(report));
        let mut frames = Vec::new();
        while frames.iter().sum::<usize>() < count {
            match written.poll_link(&Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(frame)) => {
                    let outcomes = wire::decode(&frame).expect("a frame").outcomes;
                    assert_eq!(frame.len() / (reply + PASSED_OVERHEAD), outcomes.len(), "sealed, and nothing else");
                    frames.push(outcomes.len());
                }
                Poll::Ready(None) => panic!("the stream has ended"),
                Poll::Pending => frames.push(0),
            }
        }
        frames
    }

    #[tokio::test(start_paused = true)]
    async fn however_often_a_messenger_repeats_a_packet_few_replies_are_sealed_in_a_row_and_few_at_once() {
        let small = repetitions(3 * SEALS_IN_A_ROW + 1, 1_000);
        assert_eq!(small, [SEALS_IN_A_ROW, 0, SEALS_IN_A_ROW, 0, SEALS_IN_A_ROW, 0, 1]);
        let in_a_frame = BATCH_REPLIES / KEPT_REPLY;
        let large = repetitions(SEALS_IN_A_ROW + 1, KEPT_REPLY);
        assert!(large.iter().all(|outcomes| *outcomes <= in_a_frame), "{large:?}");
        assert_eq!(large.iter().position(|outcomes| *outcomes == 0), Some(SEALS_IN_A_ROW / in_a_frame));
    }
}
