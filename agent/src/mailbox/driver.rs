//! Keeps the stream of the mailbox open, hands letters to the port, and writes the answers.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
    stream::FuturesUnordered,
};
use robeing_net::limited;
use robeing_platform::{Random, jittered};
use robeing_proto::{
    internal::v1::{
        FromMailbox, InboxPage, InboxQuery, Letter, LetterAnswer, LetterAnswers, MailboxOpen, ToMailbox,
        from_mailbox::Message as FromAgent, mailbox_client::MailboxClient, to_mailbox::Message as ToAgent,
    },
    v1::ReadInboxResponse,
};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, sleep_until, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};
use tracing::{debug, info, warn};

use super::{
    held::{Held, MAX_HELD, Taken},
    port::LetterPort,
};
use crate::{
    messaging::{Outcome, Packet, PacketId, Priority, outcome::MAX_REASON, packet::MAX_DEADLINE_MS},
    upstream::SharedUpstream,
};

/// How long it may take to open a stream.
const OPEN_WITHIN: Duration = Duration::from_secs(10);
/// Shortest pause before a stream is opened again; it doubles with each failure, up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a stream is opened again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A stream that was open for this long ends a row of failures.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// Messages in flight to the coordinator.
const OUTGOING: usize = 2;
/// Shortest pause before a letter is delivered again that could not be handled; it doubles up to [`MAX_AGAIN`].
const MIN_AGAIN: Duration = Duration::from_millis(100);
/// Longest pause before a letter is delivered again.
const MAX_AGAIN: Duration = Duration::from_secs(5);
/// Maximum number of queries of the inbox that are answered at once: what a coordinator asks at most.
pub const MAX_QUERIES: usize = 16;
/// Largest reply to a letter, bytes: 1 MiB.
pub const MAX_LETTER_REPLY: usize = 1 << 20;
/// Bytes that a letter counts for besides its payload.
const LETTER_BYTES: usize = 1024;

/// What the mailbox of an agent is made of.
#[derive(Clone)]
pub struct Deps {
    /// The cluster of the agent.
    pub cluster_id: String,
    /// The agent's name, which is that of its certificate.
    pub name: Arc<str>,
    /// Chooses the coordinator.
    pub upstream: SharedUpstream,
    /// Takes the letters.
    pub port: Arc<dyn LetterPort>,
    /// The source of randomness, for pauses.
    pub random: Arc<dyn Random>,
    /// Ends the mailbox.
    pub stop: CancellationToken,
}

/// An open stream.
struct Stream {
    incoming: Streaming<ToMailbox>,
    outgoing: mpsc::Sender<FromMailbox>,
    opened: Instant,
    generation: u64,
}

type Opening = BoxFuture<'static, Result<Stream, Status>>;
type Delivering = BoxFuture<'static, (PacketId, Option<LetterAnswer>)>;
type Reading = BoxFuture<'static, InboxPage>;
/// The turn of the letters of one sender and priority, which wait for it in their order.
type Turn = Arc<Mutex<()>>;

enum Link {
    /// No stream is opened before this time.
    Pausing(Instant),
    Opening(u64, Opening),
    Open(Box<Stream>),
}

/// What the task waits for.
enum Event {
    Opened(Result<Stream, Status>),
    Heard(Result<Option<ToMailbox>, Status>),
    MayWrite(Option<mpsc::OwnedPermit<FromMailbox>>),
    Delivered(PacketId, Option<LetterAnswer>),
    Read(InboxPage),
    Paused,
    Stop,
}

struct Mailbox {
    deps: Deps,
    link: Link,
    held: Held,
    delivering: FuturesUnordered<Delivering>,
    /// The turns of those who have letters here, and of some who had.
    turns: HashMap<(Arc<str>, Priority), Turn>,
    reading: FuturesUnordered<Reading>,
    /// Pages to be written; they are of the present stream.
    pages: Vec<InboxPage>,
    pause: Duration,
    /// The last problem that was logged as a warning.
    complaint: String,
}

/// Attends the mailbox of an agent until `stop` is cancelled.
pub async fn run(deps: Deps) {
    let mut mailbox = Mailbox {
        deps,
        link: Link::Pausing(Instant::now()),
        held: Held::default(),
        delivering: FuturesUnordered::new(),
        turns: HashMap::new(),
        reading: FuturesUnordered::new(),
        pages: Vec::new(),
        pause: MIN_PAUSE,
        complaint: String::new(),
    };
    while mailbox.step().await {}
}

impl Mailbox {
    /// Does one thing. Returns whether to continue.
    async fn step(&mut self) -> bool {
        self.begin_opening();
        match self.event().await {
            Event::Opened(Ok(stream)) => {
                debug!("the mailbox is open");
                self.link = Link::Open(Box::new(stream));
            }
            Event::Opened(Err(status)) => self.failed(&status),
            Event::Heard(Ok(Some(message))) => {
                if let Err(status) = self.heard(message) {
                    self.failed(&status);
                }
            }
            Event::Heard(Ok(None)) => self.failed(&Status::unavailable("the coordinator closed the stream")),
            Event::Heard(Err(status)) => self.failed(&status),
            Event::MayWrite(Some(permit)) => self.write(permit),
            Event::MayWrite(None) => self.failed(&Status::unavailable("the stream broke")),
            Event::Delivered(id, Some(answer)) => self.held.answer(id, answer),
            Event::Delivered(id, None) => self.held.drop(id),
            Event::Read(page) => self.pages.push(page),
            Event::Paused => {}
            Event::Stop => return false,
        }
        true
    }

    /// Begins to open a stream if it is time, and there is room for the letters that it may bring.
    fn begin_opening(&mut self) {
        let Link::Pausing(until) = self.link else { return };
        if Instant::now() < until || !self.held.may_open() {
            return;
        }
        match self.deps.upstream.channel() {
            Some((generation, channel)) => {
                let open = MailboxOpen { cluster_id: self.deps.cluster_id.clone(), agent: self.deps.name.to_string() };
                self.link = Link::Opening(generation, open_stream(channel, generation, open).boxed());
            }
            None => self.pause("no coordinator has a usable address"),
        }
    }

    async fn event(&mut self) -> Event {
        let writes = self.held.has_answers() || !self.pages.is_empty();
        let may_open = self.held.may_open();
        let reads = self.reading.len() < MAX_QUERIES;
        let (mut pausing, mut opening, mut hearing, mut writing) = (None, None, None, None);
        match &mut self.link {
            Link::Pausing(until) if may_open => pausing = Some(sleep_until(*until)),
            Link::Pausing(_) => {}
            Link::Opening(_, stream) => opening = Some(stream),
            Link::Open(stream) => {
                hearing = reads.then(|| stream.incoming.message());
                writing = writes.then(|| stream.outgoing.clone().reserve_owned());
            }
        }
        tokio::select! {
            () = self.deps.stop.cancelled() => Event::Stop,
            Some(opened) = OptionFuture::from(opening) => Event::Opened(opened),
            Some(permit) = OptionFuture::from(writing) => Event::MayWrite(permit.ok()),
            Some((id, answer)) = self.delivering.next() => Event::Delivered(id, answer),
            Some(page) = self.reading.next() => Event::Read(page),
            Some(heard) = OptionFuture::from(hearing) => Event::Heard(heard),
            Some(()) = OptionFuture::from(pausing) => Event::Paused,
        }
    }

    /// Handles a message of the coordinator.
    fn heard(&mut self, message: ToMailbox) -> Result<(), Status> {
        match message.message {
            Some(ToAgent::Letters(letters)) => letters.letters.into_iter().try_for_each(|letter| self.take(letter)),
            Some(ToAgent::InboxQuery(query)) => {
                let port = Arc::clone(&self.deps.port);
                self.reading.push(read(port, query).boxed());
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn take(&mut self, letter: Letter) -> Result<(), Status> {
        let id = PacketId::from_bytes(&letter.id).map_err(|error| Status::invalid_argument(error.to_string()))?;
        match self.held.take(id, letter.payload.len() + LETTER_BYTES) {
            Taken::Known => return Ok(()),
            Taken::TooMany => {
                return Err(Status::resource_exhausted(format!(
                    "the coordinator sent a letter while {} are held",
                    self.held.len()
                )));
            }
            Taken::New => {}
        }
        let until = Instant::now() + Duration::from_millis(letter.expires_in_ms);
        match packet(id, letter, &self.deps.name) {
            Ok(packet) => {
                let turn = self.turn(&packet);
                self.delivering.push(deliver(self.deps.clone(), packet, until, turn).boxed());
            }
            Err(refused) => self.held.answer(id, refused),
        }
        Ok(())
    }

    /// Returns the turn of a letter's sender and priority. The notices of ballots do not wait for each other, so each has a
    /// turn of its own.
    fn turn(&mut self, packet: &Packet) -> Turn {
        if packet.is_ballot_notice() {
            return Turn::default();
        }
        if self.turns.len() >= MAX_HELD {
            // Each letter that is held has its turn, so few are left.
            self.turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(self.turns.entry((Arc::clone(&packet.sender), packet.priority)).or_default())
    }

    fn write(&mut self, permit: mpsc::OwnedPermit<FromMailbox>) {
        let message = match self.pages.pop() {
            Some(page) => FromAgent::InboxPage(page),
            None => FromAgent::Answers(LetterAnswers { answers: self.held.next_answers() }),
        };
        drop(permit.send(FromMailbox { message: Some(message) }));
    }

    /// Gives up the stream, and moves on to another coordinator.
    fn failed(&mut self, status: &Status) {
        let (generation, opened) = match &self.link {
            Link::Open(stream) => (Some(stream.generation), Some(stream.opened)),
            Link::Opening(generation, _) => (Some(*generation), None),
            Link::Pausing(_) => (None, None),
        };
        if opened.is_some_and(|opened| opened.elapsed() >= STABLE_AFTER) {
            (self.pause, self.complaint) = (MIN_PAUSE, String::new());
        }
        self.deps.upstream.enrol_again_if_unknown(status);
        if let Some(generation) = generation {
            self.deps.upstream.failed(generation);
        }
        self.pause(status.message());
    }

    fn pause(&mut self, problem: &str) {
        if self.complaint == problem {
            debug!(problem, "the mailbox is not open");
        } else if self.complaint.is_empty() {
            info!(problem, "the mailbox is not open; opening it at another coordinator");
            problem.clone_into(&mut self.complaint);
        } else {
            warn!(problem, "the mailbox is not open; retrying");
            problem.clone_into(&mut self.complaint);
        }
        self.link = Link::Pausing(Instant::now() + jittered(&*self.deps.random, self.pause));
        self.pause = (2 * self.pause).min(MAX_PAUSE);
        // They are of the stream that is over.
        self.reading.clear();
        self.pages.clear();
    }
}

async fn open_stream(channel: Channel, generation: u64, open: MailboxOpen) -> Result<Stream, Status> {
    let (outgoing, messages) = mpsc::channel(OUTGOING);
    let first = FromMailbox { message: Some(FromAgent::Open(open)) };
    // It has room for it.
    let _ = outgoing.try_send(first);
    let mut client = limited!(MailboxClient::new(channel));
    let opening = timeout(OPEN_WITHIN, client.attend(ReceiverStream::new(messages))).await;
    let opened = opening.map_err(|_| Status::deadline_exceeded("the coordinator did not answer in time"))??;
    Ok(Stream { incoming: opened.into_inner(), outgoing, opened: Instant::now(), generation })
}

/// Converts a letter to a packet, or returns the answer with which it is refused.
pub(crate) fn packet(id: PacketId, letter: Letter, me: &Arc<str>) -> Result<Packet, LetterAnswer> {
    let priority = Priority::new(letter.priority).map_err(|error| refused(id, &error.to_string()))?;
    let packet = Packet {
        id,
        timestamp_ms: letter.timestamp_ms,
        sender: letter.sender.into(),
        receiver: letter.receiver.into(),
        agent: Arc::clone(me),
        kind: letter.r#type.into(),
        payload: letter.payload,
        priority,
        requires_ack: true,
        deadline_in_ms: letter.expires_in_ms.clamp(1, MAX_DEADLINE_MS),
        reply_to: None,
        key_id: (!letter.key_id.is_empty()).then(|| letter.key_id.into()),
        seq: 0,
        resent: letter.resent,
    };
    packet.validate().map_err(|error| refused(id, &error.to_string()))?;
    Ok(packet)
}

/// Delivers a letter until the handler has decided. Returns `None` if it has expired. The letters after it in its turn
/// wait, also while it can't be taken. Once the time of one delivery has passed it lets them go first, so that a letter
/// that is never decided does not keep them for days.
async fn deliver(deps: Deps, mut packet: Packet, until: Instant, turn: Turn) -> (PacketId, Option<LetterAnswer>) {
    let id = packet.id;
    let mut pause = MIN_AGAIN;
    let mut has_turn = None;
    loop {
        // Those who wait get it in their order.
        if has_turn.is_none() {
            match timeout_at(until, turn.lock()).await {
                Ok(turn) => has_turn = Some(turn),
                Err(_) => return (id, None),
            }
        }
        let left = until.saturating_duration_since(Instant::now()).as_millis();
        if left == 0 {
            return (id, None);
        }
        packet.deadline_in_ms = u64::try_from(left).unwrap_or(u64::MAX).min(MAX_DEADLINE_MS);
        let outcome = deps.port.deliver(packet.clone()).await;
        if matches!(outcome, Outcome::DeadlinePassed { .. }) {
            has_turn = None;
        }
        if let Some(answer) = answer(id, outcome) {
            return (id, Some(answer));
        }
        sleep_until((Instant::now() + jittered(&*deps.random, pause)).min(until)).await;
        pause = (2 * pause).min(MAX_AGAIN);
        packet.resent = true;
    }
}

/// Returns the answer to a letter with this outcome; `None` if it has to be delivered again.
fn answer(id: PacketId, outcome: Outcome) -> Option<LetterAnswer> {
    let accepted = LetterAnswer { id: id.to_bytes(), ..LetterAnswer::default() };
    Some(match outcome {
        Outcome::Accepted { reply: Some(reply), .. } if reply.len() <= MAX_LETTER_REPLY => {
            LetterAnswer { reply: Some(reply), ..accepted }
        }
        Outcome::Accepted { reply, reply_forgotten, .. } => {
            LetterAnswer { reply_dropped: reply.is_some() || reply_forgotten, ..accepted }
        }
        Outcome::Sent => accepted,
        Outcome::Refused { reason } => refused(id, &reason),
        Outcome::NoSuchAgent { .. }
        | Outcome::Away { .. }
        | Outcome::DeadlinePassed { .. }
        | Outcome::Overloaded { .. } => return None,
    })
}

fn refused(id: PacketId, reason: &str) -> LetterAnswer {
    let reason = reason[..reason.floor_char_boundary(MAX_REASON)].to_owned();
    LetterAnswer { id: id.to_bytes(), refused: Some(reason), ..LetterAnswer::default() }
}

async fn read(port: Arc<dyn LetterPort>, query: InboxQuery) -> InboxPage {
    let seq = query.seq;
    match port.read_inbox(query.request.unwrap_or_default()).await {
        Ok(page) => InboxPage { seq, page: Some(page), refused: String::new() },
        Err(refused) => InboxPage { seq, page: Some(ReadInboxResponse::default()), refused },
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn decisions_are_answers_and_everything_else_comes_again() {
        let id = PacketId(7);
        let of = |outcome| answer(id, outcome);
        let plain = LetterAnswer { id: id.to_bytes(), ..LetterAnswer::default() };
        assert_eq!(of(Outcome::accepted(None)), Some(plain.clone()));
        let reply = Bytes::from(vec![0; MAX_LETTER_REPLY]);
        let replied = LetterAnswer { reply: Some(reply.clone()), ..plain.clone() };
        assert_eq!(of(Outcome::accepted(Some(reply))), Some(replied));
        let dropped = LetterAnswer { reply_dropped: true, ..plain.clone() };
        assert_eq!(of(Outcome::accepted(Some(vec![0; MAX_LETTER_REPLY + 1].into()))), Some(dropped.clone()));
        assert_eq!(of(Outcome::reply_forgotten()), Some(dropped));
        let no = LetterAnswer { refused: Some("no".into()), ..plain };
        assert_eq!(of(Outcome::refused("no")), Some(no));
        for outcome in [
            Outcome::away("gone"),
            Outcome::overloaded("full"),
            Outcome::DeadlinePassed { maybe_handled: false },
            Outcome::DeadlinePassed { maybe_handled: true },
        ] {
            assert_eq!(of(outcome), None);
        }
    }

    #[test]
    fn a_letter_that_is_no_message_is_refused_and_a_long_one_has_the_time_of_one_delivery() {
        let letter = || Letter {
            sender: "client:x".into(),
            receiver: "role:worker".into(),
            r#type: "note".into(),
            priority: 7,
            expires_in_ms: 2 * MAX_DEADLINE_MS,
            key_id: "k".into(),
            ..Letter::default()
        };
        let read = packet(PacketId(1), letter(), &"b".into()).expect("a message");
        assert_eq!((read.deadline_in_ms, read.priority.get(), read.key_id.as_deref()), (MAX_DEADLINE_MS, 7, Some("k")));
        for bad in [
            Letter { priority: 11, ..letter() },
            Letter { sender: String::new(), ..letter() },
            Letter { sender: "s".repeat(crate::messaging::packet::MAX_NAME + 1), ..letter() },
        ] {
            let refused = packet(PacketId(1), bad, &"b".into()).expect_err("no message");
            assert!(refused.refused.is_some() && refused.id == PacketId(1).to_bytes());
        }
    }
}
