//! The task of a link: it opens a stream to the other agent when there is something to send, moves frames, and ends
//! when nothing was sent for a while.

mod membership;
mod receive;

use std::{ops::ControlFlow, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use robeing_platform::jittered;
use robeing_proto::message::v1::CloseCode;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tracing::{debug, info, warn};

use self::membership::Membership;
use super::{
    connect::{OpenError, Stream, is_unreadable, open},
    shared::Shared,
    state::Link,
    written::written,
};
use crate::messaging::{
    frame::{self, FrameError, Hello},
    inbox::{Frame, Violation},
    outbox::CreditTaken,
    outcome::Outcome,
    packet::{LANES, Texts},
    pairing::{Pair, Verdict},
    routing::Presence,
    wire,
};

/// A stream on which nothing was sent for this long is closed by the side that opened it; by the other one after twice
/// the time.
pub const IDLE_AFTER: Duration = Duration::from_secs(60);
/// How long a link without a stream remains, with its pause before the next attempt to open one.
pub const LINGER: Duration = Duration::from_secs(10);

/// How often it is looked whether an agent to which messages wait is back in the fleet. The directory tells so, too.
const AWAY_PAUSE: Duration = Duration::from_millis(250);

/// Why a stream has ended.
#[derive(Debug, thiserror::Error)]
enum End {
    #[error("the stream broke: {0}")]
    Broken(String),
    #[error("the other side closed the stream: {1}")]
    Closed(CloseCode, String),
    #[error("it sent a frame that can't be read: {0}")]
    Unreadable(String),
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error(transparent)]
    Credit(#[from] CreditTaken),
    #[error("another stream took its place")]
    Replaced,
    #[error("nothing was sent for a while")]
    Idle,
    #[error("the other agent is not in the fleet now")]
    Gone,
    #[error("this agent is shutting down")]
    Leaving,
}

impl End {
    /// Returns the code to close the stream with. `None`: it is closed already.
    fn code(&self) -> Option<CloseCode> {
        match self {
            Self::Broken(_) | Self::Closed(..) => None,
            Self::Unreadable(_) | Self::Frame(_) | Self::Violation(_) | Self::Credit(_) => Some(CloseCode::Violation),
            Self::Replaced => Some(CloseCode::Duplicate),
            Self::Idle | Self::Gone => Some(CloseCode::Idle),
            Self::Leaving => Some(CloseCode::Leaving),
        }
    }
}

type Opening = BoxFuture<'static, Result<Stream, OpenError>>;

/// What the task waits for.
enum Event {
    Opened(Box<Result<Stream, OpenError>>),
    Heard(Result<Option<Bytes>, Status>),
    /// A sender, the dispatcher or the timer: what is due is looked up anyway.
    Woken,
    Stop,
}

struct Task {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// Tells the peer that packets are numbered from 1 again, as they are for each link.
    incarnation: u64,
    pair: Pair,
    member: Membership,
    stream: Option<Stream>,
    opening: Option<Opening>,
    /// A stream that the peer has opened while this side opens one.
    held: Option<Stream>,
    /// The texts of the packets that have arrived, and the number of the latest frame with packets.
    texts: Texts,
    frame: u64,
    /// No attempt to open a stream before this time.
    not_before: Instant,
    /// When something was last sent or received.
    active: Instant,
    /// Ends at the latest when it has to be looked again, and is set anew only then or for an earlier time.
    timer: Pin<Box<Sleep>>,
}

/// Runs a link until nothing is left of it.
pub(super) async fn run(shared: Arc<Shared>, link: Arc<Link>) {
    let mut task = Task::new(shared, link);
    while task.step().await.is_continue() {}
}

impl Task {
    fn new(shared: Arc<Shared>, link: Arc<Link>) -> Self {
        let now = Instant::now();
        let (incarnation, pair) = (shared.random.next_u64(), Pair::new(&shared.me, &link.peer));
        let (stream, opening, held, texts) = (None, None, None, Texts::default());
        let timer = Box::pin(sleep_until(now));
        let (member, frame, not_before, active) = (Membership::default(), 0, now, now);
        Self { shared, link, incarnation, pair, member, stream, opening, held, texts, frame, not_before, active, timer }
    }

    async fn step(&mut self) -> ControlFlow<()> {
        self.take_incoming();
        self.end_if_gone();
        self.begin_opening();
        let timer = self.look();
        if self.is_over() && self.ends() {
            return ControlFlow::Break(());
        }
        match self.event(timer).await {
            Event::Opened(opened) => self.opened(*opened),
            Event::Heard(heard) => self.heard(heard),
            Event::Woken => {}
            Event::Stop => {
                self.leave();
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Settles what is due. Returns when to look again.
    fn look(&mut self) -> Instant {
        self.end_if_stuck();
        let now = self.shared.now();
        let mut state = self.link.lock();
        state.outbox.expire(now);
        self.shared.settle(&mut state);
        self.active = self.active.max(self.shared.instant(state.written));
        let mut timer = self.idle_at();
        if self.is_opening() {
            // It may take longer than a link without a stream remains, and its end wakes this task.
            timer = timer.max(Instant::now() + LINGER);
        }
        if let Some(deadline) = state.outbox.next_deadline() {
            timer = timer.min(self.shared.instant(deadline));
        }
        if let Some(at) = self.member.look_at().filter(|_| self.stream.is_some()) {
            timer = timer.min(at);
        }
        if !state.outbox.is_empty() && self.stream.is_none() && self.opening.is_none() {
            timer = timer.min(self.not_before);
        }
        state.sleeps_until = timer.saturating_duration_since(self.shared.started).as_millis() as u64;
        timer
    }

    /// Returns whether a stream is being opened, or the peer has opened one meanwhile.
    fn is_opening(&self) -> bool {
        self.opening.is_some() || self.held.is_some()
    }

    /// Ends the stream if there is something to write that it does not take.
    fn end_if_stuck(&mut self) {
        if !self.stream.as_ref().is_some_and(|stream| stream.outlet.is_closed()) {
            return;
        }
        let state = self.link.lock();
        let writes = state.has_dropped || !state.unsent.is_empty() || state.outbox.can_send();
        drop(state);
        if writes {
            self.end(&End::Broken("it takes no more frames".to_owned()));
        }
    }

    /// Returns when the stream, or without a stream the link, has been idle for long enough.
    fn idle_at(&self) -> Instant {
        let after = match &self.stream {
            Some(_) if self.pair.is_own() => IDLE_AFTER,
            Some(_) => 2 * IDLE_AFTER,
            None => LINGER,
        };
        self.active + after
    }

    /// Whether nothing is left to do. Ends the stream if it is idle.
    fn is_over(&mut self) -> bool {
        if self.is_opening() || self.idle_at() > Instant::now() {
            return false;
        }
        let is_busy = !self.link.lock().outbox.is_empty() || self.shared.inbox().is_busy_with(&self.link.peer);
        if is_busy {
            self.active = Instant::now();
            return false;
        }
        self.end(&End::Idle);
        true
    }

    async fn event(&mut self, timer: Instant) -> Event {
        if timer < self.timer.deadline() || self.timer.is_elapsed() {
            self.timer.as_mut().reset(timer);
        }
        let opening = async {
            match &mut self.opening {
                Some(opening) => opening.await,
                None => std::future::pending().await,
            }
        };
        let heard = async {
            match &mut self.stream {
                Some(stream) => stream.frames.message().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.shared.stop.cancelled() => Event::Stop,
            opened = opening => Event::Opened(Box::new(opened)),
            heard = heard => Event::Heard(heard),
            () = self.link.wake.notified() => Event::Woken,
            () = self.timer.as_mut() => Event::Woken,
        }
    }

    /// Ends the stream to an agent that is not in the fleet any more, as the directory says.
    fn end_if_gone(&mut self) {
        if self.stream.is_some() && self.member.has_left(&self.shared.directory.snapshot(), &self.link.peer) {
            self.end(&End::Gone);
        }
    }

    /// Opens a stream if there is something to send and none, and the pause is over.
    fn begin_opening(&mut self) {
        if self.stream.is_some() || self.opening.is_some() || Instant::now() < self.not_before {
            return;
        }
        let mut state = self.link.lock();
        if state.outbox.is_empty() {
            return;
        }
        let Some(entry) = self.shared.directory.snapshot().get(&self.link.peer).cloned() else {
            let gone = format!("the agent {:?} is no longer in the fleet", self.link.peer);
            state.outbox.give_up(&Outcome::no_such_agent(gone));
            self.shared.settle(&mut state);
            return;
        };
        self.member.is_known();
        if entry.presence == Presence::Away {
            // It may come back before the deadlines of the messages.
            self.not_before = Instant::now() + AWAY_PAUSE;
            state.outbox.disconnected(format!("the agent {:?} is not in the fleet now", self.link.peer));
            return;
        }
        drop(state);
        let stream = self.shared.random.next_u64().max(1);
        let hello = self.hello(stream);
        self.pair.opening();
        let written = written(&self.shared, &self.link);
        self.opening = Some(open(Arc::clone(&self.shared.connect), entry, hello, written).boxed());
    }

    /// Returns this side's Hello, which begins to count what the peer sends over the stream.
    fn hello(&self, stream: u64) -> Hello {
        Hello {
            agent: (*self.shared.me).into(),
            to: (*self.link.peer).into(),
            incarnation: self.incarnation,
            is_of_link: true,
            journal: self.shared.journal,
            stream,
            lost: self.pair.lost(),
            limits: self.shared.inbox().connect(&self.link.peer),
        }
    }

    fn opened(&mut self, opened: Result<Stream, OpenError>) {
        self.opening = None;
        match opened {
            Ok(stream) => {
                if let Some(held) = self.held.take() {
                    refuse(&held);
                }
                self.establish(stream, true);
            }
            Err(error) => {
                debug!(%error, "no stream to another agent");
                self.pair.failed();
                self.pause();
                self.shared.inbox().disconnect(&self.link.peer);
                let mut state = self.link.lock();
                state.failed(error.to_string());
                state.incoming = state.incoming.take().or(self.held.take());
            }
        }
    }

    /// Decides about a stream that the peer has opened.
    fn take_incoming(&mut self) {
        let Some(incoming) = self.link.lock().incoming.take() else { return };
        match self.pair.incoming(&incoming.hello) {
            Verdict::Refuse => refuse(&incoming),
            Verdict::Hold => self.held = Some(incoming),
            Verdict::Accept => {
                self.opening = None;
                self.held = None;
                self.end(&End::Replaced);
                let hello = self.hello(incoming.hello.stream);
                // Nothing else was said, so there is room.
                incoming.outlet.say(&hello.to_frame());
                self.establish(incoming, false);
            }
        }
    }

    fn establish(&mut self, stream: Stream, is_own: bool) {
        let limits: [u64; LANES] = stream.hello.limits;
        if self.pair.established(self.shared.now(), &stream.hello, is_own) {
            info!(
                agent = %self.link.peer,
                "an agent has forgotten which messages it handled; those without an outcome may be handled twice"
            );
        }
        self.shared.inbox().identify(&self.link.peer, stream.hello.incarnation, stream.hello.is_of_link);
        self.active = Instant::now();
        self.member.begins();
        self.shared.metrics.streams.inc();
        let mut state = self.link.lock();
        state.failures = 0;
        state.clear_reports();
        state.outbox.connected(limits);
        stream.outlet.establish(&mut state);
        drop(state);
        self.stream = Some(stream);
    }

    /// Ends the stream, if there is one.
    fn end(&mut self, end: &End) {
        let Some(stream) = self.stream.take() else { return };
        // Nothing follows Close.
        self.link.lock().writer = None;
        if let Some(code) = end.code() {
            // If there is no room, the end of the stream has to do.
            stream.outlet.say(&frame::close(code, end));
        }
        match end {
            End::Unreadable(_) | End::Frame(_) | End::Violation(_) | End::Credit(_) => {
                self.shared.metrics.rejected("violation");
                warn!(agent = %self.link.peer, %end, "closed the stream of an agent that violates the protocol");
            }
            _ => debug!(agent = %self.link.peer, %end, "a stream ended"),
        }
        self.shared.metrics.streams.dec();
        self.pair.ended(self.shared.now());
        self.shared.inbox().disconnect(&self.link.peer);
        let mut state = self.link.lock();
        state.clear_reports();
        state.outbox.disconnected(end.to_string());
        drop(state);
        // Packets that could not be handed out before wait for no room any more.
        self.shared.work.notify_one();
        self.active = Instant::now();
        self.pause();
    }

    fn pause(&mut self) {
        let pause = Duration::from_millis(self.pair.pause_ms());
        self.not_before = Instant::now() + jittered(&*self.shared.random, pause);
    }

    fn leave(&mut self) {
        self.end(&End::Leaving);
        self.give_up();
        self.shared.end_link(&self.link);
    }

    /// Ends the link if nothing is left of it, or the agent stops. Then a message may have come up a moment ago, which also
    /// gets its outcome.
    fn ends(&self) -> bool {
        let ends = self.shared.end_link(&self.link);
        if ends {
            self.give_up();
        }
        ends
    }

    /// Settles all messages, because the agent stops.
    fn give_up(&self) {
        let mut state = self.link.lock();
        // From here on, senders see that the link is over.
        state.is_over = true;
        state.outbox.give_up(&Outcome::away("this agent is shutting down"));
        self.shared.settle(&mut state);
    }

    fn heard(&mut self, heard: Result<Option<Bytes>, Status>) {
        let end = match heard {
            Ok(Some(frame)) => match self.take(&frame) {
                Ok(()) => return,
                Err(end) => end,
            },
            Ok(None) => End::Broken("the other side ended it".to_owned()),
            Err(status) if is_unreadable(&status) => End::Unreadable(status.message().to_owned()),
            Err(status) => End::Broken(status.message().to_owned()),
        };
        self.end(&end);
    }

    fn take(&mut self, frame: &Bytes) -> Result<(), End> {
        let content = wire::read(frame, &mut self.texts)?;
        if let Some((code, reason)) = content.close {
            return Err(End::Closed(code, reason));
        }
        if !content.packets.is_empty() {
            self.active = Instant::now();
            self.frame += 1;
            self.receive(content.packets, Frame { len: frame.len(), number: self.frame })?;
        }
        if content.outcomes.is_empty() && content.credits.is_empty() {
            return Ok(());
        }
        self.active = Instant::now();
        let mut state = self.link.lock();
        for (id, outcome) in content.outcomes {
            state.outbox.outcome(id, outcome);
        }
        let credited = content.credits.iter().try_for_each(|(lane, limit)| state.outbox.credit(*lane, *limit));
        self.shared.settle(&mut state);
        if !content.credits.is_empty() {
            self.link.rouse(state);
        }
        Ok(credited?)
    }
}

fn refuse(stream: &Stream) {
    stream.outlet.say(&frame::close(CloseCode::Duplicate, "the pair of agents has another stream"));
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::messaging::{
        driver::{
            fixture::shared,
            state::{Settled, Waiting},
        },
        tests::fixture::packet,
    };

    #[tokio::test(start_paused = true)]
    async fn a_message_that_was_written_when_its_link_ends_may_have_been_handled() {
        let (shared, link) = (shared(), Arc::new(Link::new("a".into())));
        let task = Task::new(Arc::clone(&shared), Arc::clone(&link));
        let (settled, outcome) = oneshot::channel();
        {
            let mut state = link.lock();
            state.outbox.offer_with(0, packet(1), Waiting { cost: 0, settled, has_detour: false }).unwrap();
            state.outbox.connected([u64::MAX; LANES]);
            assert_eq!(state.outbox.next_batch(0).len(), 1);
        }
        assert!(!task.ends(), "it has a message");
        shared.stop.cancel();
        assert!(task.ends() && link.lock().is_over);
        let Ok(Settled::Outcome(outcome)) = outcome.await else { panic!("it has an outcome") };
        assert_eq!(outcome, Outcome::DeadlinePassed { maybe_handled: true });
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_stream_is_being_opened_the_link_sleeps_also_when_it_was_idle_for_long() {
        let (shared, link) = (shared(), Arc::new(Link::new("a".into())));
        let mut task = Task::new(shared, link);
        task.opening = Some(std::future::pending().boxed());
        tokio::time::advance(2 * LINGER).await;
        assert!(!task.is_over() && task.look() >= Instant::now() + LINGER);
        task.opening = None;
        assert!(task.look() < Instant::now());
    }
}
