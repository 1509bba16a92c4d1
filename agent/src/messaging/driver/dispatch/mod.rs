//! Hands packets to the handler, records what becomes of them, and reports it to their senders.

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc, task::Poll, time::Duration};

use futures::{FutureExt, StreamExt, poll, stream::FuturesUnordered};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::{coop::consume_budget, yield_now},
    time::{timeout, timeout_at},
};
use tracing::{error, info, warn};

use super::{
    copies::{Passed, by_messenger},
    letters::is_letters,
    relay,
    replies::Report,
    shared::Shared,
    state::reply_len,
};
use crate::messaging::{
    handlers::{Delivery, Handler},
    inbox::{Handed, is_handled},
    journal::{Journal, MAX_GROUP, Record, records_of},
    outcome::{MAX_REPLY, Outcome},
    packet::{Packet, PacketId, Priority, RELAY_TYPE},
    policy::Verdict,
    routing::Role,
    sealing,
};

/// Maximum number of groups of outcomes that wait to be recorded; then nothing is handed out until one is.
const QUEUE: usize = 64;
/// Maximum size of the replies in them, in bytes: 16 MiB. A disk that hangs must not fill the memory with them.
const QUEUED_REPLIES: usize = 16 << 20;
const _: () = assert!(MAX_REPLY <= QUEUED_REPLIES);
/// Maximum number of ended deliveries that are concluded together.
const TOGETHER: usize = 256;
/// Nothing more is handed out once the replies of those have this size, in bytes: 4 MiB.
const TOGETHER_REPLIES: usize = 4 << 20;
/// How long deliveries that are under way may take once the agent stops. The messages of others come again after a restart.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// A packet that the handler is done with.
pub(super) struct Done {
    sender: Arc<str>,
    id: PacketId,
    requires_ack: bool,
    outcome: Outcome,
    /// The copy that was handled, if that has passed a messenger.
    passed: Option<Arc<Passed>>,
}

/// Outcomes that wait to be recorded.
pub(super) struct Group {
    done: Vec<Done>,
    /// The room that their replies take in the queue.
    room: Option<OwnedSemaphorePermit>,
}

/// Passes outcomes to the task that records them.
pub(super) struct Recorder {
    groups: mpsc::Sender<Group>,
    room: Arc<Semaphore>,
}

impl Recorder {
    /// Adds outcomes to the queue, once there is room. The task that records them ends only after the caller.
    async fn record(&self, done: Vec<Done>) {
        let bytes: usize = done.iter().map(|done| reply_len(&done.outcome)).sum();
        let bytes = u32::try_from(bytes.min(QUEUED_REPLIES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.room).acquire_many_owned(bytes).await.ok();
        drop(self.groups.send(Group { done, room }).await);
    }
}

/// Creates the queue of the task that records outcomes.
pub(super) fn queue() -> (Recorder, mpsc::Receiver<Group>) {
    let (groups, queue) = mpsc::channel(QUEUE);
    (Recorder { groups, room: Arc::new(Semaphore::new(QUEUED_REPLIES)) }, queue)
}

/// A packet that is with the handler: what is needed when it ends.
struct Ticket {
    peer: Arc<str>,
    priority: Priority,
    sender: Arc<str>,
    id: PacketId,
    requires_ack: bool,
    passed: Option<Arc<Passed>>,
}

impl Ticket {
    fn of(handed: &Handed) -> Self {
        let Packet { priority, id, requires_ack, .. } = *handed.packet;
        let (peer, sender) = (Arc::clone(&handed.peer), Arc::clone(&handed.packet.sender));
        let passed = Passed::of(&peer, &handed.packet).map(Arc::new);
        Self { peer, priority, sender, id, requires_ack, passed }
    }
}

/// A packet, and what became of it.
type Ended = (Ticket, Outcome);

/// Hands packets to the handler until the agent stops, and then waits for at most [`STOP_GRACE`] for those that it has.
/// Outcomes go to `recorder`; without one, none is recorded.
pub(super) async fn run(shared: Arc<Shared>, handler: Arc<dyn Handler>, recorder: Option<Recorder>) {
    let mut handling = FuturesUnordered::new();
    let mut first = None;
    while !shared.stop.is_cancelled() {
        let start = |handed| Box::pin(handle(&shared, &*handler, handed));
        let ended = end_together(&shared, first.take(), &mut handling, start);
        if ended.is_empty() {
            tokio::select! {
                () = shared.stop.cancelled() => break,
                Some(ended) = handling.next() => first = Some(ended),
                () = shared.work.notified() => {}
            }
            continue;
        }
        let is_full = ended.len() >= TOGETHER;
        pass(&shared, recorder.as_ref(), ended).await;
        if is_full {
            // A handler that never waits must not keep the streams from being read and written.
            yield_now().await;
        }
        // Deliveries that wait make no progress once this task has used up its budget.
        consume_budget().await;
    }
    let mut ended = end_soon(first, handling).await;
    while !ended.is_empty() {
        let others = ended.split_off(ended.len().min(TOGETHER));
        pass(&shared, recorder.as_ref(), std::mem::replace(&mut ended, others)).await;
    }
}

/// Passes on what became of packets.
async fn pass(shared: &Shared, recorder: Option<&Recorder>, ended: Vec<Ended>) {
    let done = ended.into_iter().map(|(ticket, outcome)| concluded(shared, ticket, outcome)).collect();
    match recorder {
        None => conclude(shared, done),
        Some(recorder) => recorder.record(done).await,
    }
}

/// Waits for deliveries for at most [`STOP_GRACE`]. Returns those that have ended, `first` among them.
async fn end_soon<F: Future<Output = Ended>>(first: Option<Ended>, mut handling: FuturesUnordered<F>) -> Vec<Ended> {
    let mut ended: Vec<Ended> = first.into_iter().collect();
    let others = async {
        while let Some(one) = handling.next().await {
            ended.push(one);
        }
    };
    // What takes longer is given up.
    let _ = timeout(STOP_GRACE, others).await;
    ended
}

/// Hands out packets for as long as others end at once, so that a lane, whose packets are handled one after another, is
/// concluded as a whole. Returns what has ended, `first` among it: at most [`TOGETHER`], and about [`TOGETHER_REPLIES`].
fn end_together<F: Future<Output = Ended> + Unpin>(
    shared: &Shared,
    first: Option<Ended>,
    handling: &mut FuturesUnordered<F>,
    start: impl Fn(Handed) -> F,
) -> Vec<Ended> {
    let mut ended: Vec<Ended> = first.into_iter().collect();
    let (mut finished, mut replies) = (0, 0);
    let mut begun = Vec::new();
    loop {
        {
            let mut inbox = shared.inbox();
            for (ticket, outcome) in &ended[finished..] {
                inbox.finish(&ticket.peer, ticket.priority);
                replies += reply_len(outcome);
            }
            finished = ended.len();
            while replies < TOGETHER_REPLIES
                && finished + begun.len() < TOGETHER
                && let Some(handed) = inbox.hand_out()
            {
                begun.push(handed);
            }
        }
        for handed in begun.drain(..) {
            let mut delivery = start(handed);
            // Most end at once; only the others are worth a place among those that are waited for.
            match (&mut delivery).now_or_never() {
                Some(one) => ended.push(one),
                None => handling.push(delivery),
            }
        }
        while replies < TOGETHER_REPLIES
            && ended.len() < TOGETHER
            && let Some(Some(one)) = handling.next().now_or_never()
        {
            ended.push(one);
        }
        if ended.len() == finished {
            return ended;
        }
    }
}

fn concluded(shared: &Shared, ticket: Ticket, outcome: Outcome) -> Done {
    shared.metrics.received(&outcome);
    let Ticket { peer, sender, id, requires_ack, passed, .. } = ticket;
    if !requires_ack
        && peer != shared.me
        && let Some(link) = shared.existing_link(&peer)
    {
        // No outcome goes to the peer, but it may be granted more.
        link.rouse(link.lock());
    }
    Done { sender, id, requires_ack, outcome, passed }
}

/// Handles one packet.
async fn handle(shared: &Arc<Shared>, handler: &dyn Handler, handed: Handed) -> Ended {
    let ticket = Ticket::of(&handed);
    let outcome = if handed.deadline <= shared.now() {
        Outcome::DeadlinePassed { maybe_handled: false }
    } else {
        deliver(shared, handler, handed).await
    };
    // The time for one delivery of a letter is limited, but the letter waits for longer, and is delivered again.
    let outcome = match outcome {
        Outcome::DeadlinePassed { .. } if is_letters(&ticket.peer) => Outcome::DeadlinePassed { maybe_handled: false },
        outcome => outcome,
    };
    (ticket, outcome)
}

async fn deliver(shared: &Arc<Shared>, handler: &dyn Handler, handed: Handed) -> Outcome {
    let deadline = shared.instant(handed.deadline);
    if &*handed.packet.kind == RELAY_TYPE {
        if shared.role != Role::Messenger {
            shared.metrics.rejected("not_a_messenger");
            return Outcome::refused(format!("{:?} is no messenger and passes on no messages", shared.me));
        }
        // Boxed, so that other deliveries are small.
        return Box::pin(relay::pass_on(shared, &handed.packet, deadline)).await;
    }
    let came_by_messenger = by_messenger(&handed.peer, &handed.packet.sender);
    let packet = match opened(shared, *handed.packet) {
        Ok(packet) => packet,
        // Its sender sealed it for an earlier key, for the way of a messenger. It may come directly, unsealed.
        Err(Outcome::Refused { reason }) if came_by_messenger => return Outcome::away(reason),
        Err(refused) => return refused,
    };
    let packet = match allowed(shared, packet) {
        Ok(packet) => packet,
        Err(refused) => return refused,
    };
    let Some(packet) = shared.take_reply(packet) else { return Outcome::accepted(None) };
    let mut delivery = handler.deliver(Delivery { packet, deadline });
    // Most handlers decide at once, and need no timer.
    if let Poll::Ready(outcome) = poll!(&mut delivery) {
        return limited(outcome.into());
    }
    match timeout_at(deadline, delivery).await {
        Ok(outcome) => limited(outcome.into()),
        Err(_) => Outcome::DeadlinePassed { maybe_handled: true },
    }
}

/// Opens a sealed payload. An agent without keys leaves that to its handler.
fn opened(shared: &Shared, mut packet: Packet) -> Result<Packet, Outcome> {
    let Some(id) = packet.key_id.as_deref().filter(|_| !shared.keys.is_empty()) else { return Ok(packet) };
    let unknown =
        || Outcome::refused(format!("{:?} has no key {id:?}; seal the message for its present key", shared.me));
    let key = shared.keys.iter().find(|key| key.is_of(id)).ok_or_else(unknown)?;
    sealing::open(&mut packet, key).map_err(Outcome::refused)?;
    Ok(packet)
}

/// Applies the fleet's policies. The sender's role is the one that the directory knows.
fn allowed(shared: &Shared, packet: Packet) -> Result<Packet, Outcome> {
    let snapshot = shared.directory.snapshot();
    let role = snapshot.get(&packet.sender).map_or("", |entry| entry.role.name());
    match shared.policy.check(&packet, role) {
        Verdict::Allowed => Ok(packet),
        Verdict::Redacted(payload) => Ok(Packet { payload, ..packet }),
        Verdict::Refused(reason) => {
            shared.metrics.rejected("policy");
            Err(Outcome::refused(reason))
        }
        Verdict::NotKnown => {
            let me = &shared.me;
            Err(Outcome::overloaded(format!("{me:?} does not know the fleet's policies yet; send the message again")))
        }
    }
}

/// Drops a reply that is too large to be sent.
fn limited(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Accepted { reply: Some(reply), .. } if reply.len() > MAX_REPLY => {
            warn!(bytes = reply.len(), limit = MAX_REPLY, "dropped the reply to a message, which is too large");
            Outcome::reply_forgotten()
        }
        outcome => outcome,
    }
}

/// Remembers outcomes, and reports them to those who wait for them.
fn conclude(shared: &Shared, done: Vec<Done>) {
    let now = shared.now();
    let mut reports: BTreeMap<Arc<str>, Vec<(PacketId, Report)>> = BTreeMap::new();
    {
        let mut inbox = shared.inbox();
        for Done { sender, id, outcome, passed, .. } in done {
            let waiting = inbox.conclude(now, &sender, id, &outcome);
            shared.note_handled(&inbox, passed.as_ref(), &outcome);
            for peer in waiting.peers() {
                let report = match by_messenger(&peer, &sender) {
                    true => shared.concluded_for(&peer, &(Arc::clone(&sender), id), passed.as_ref(), outcome.clone()),
                    false => outcome.clone().into(),
                };
                reports.entry(peer).or_default().push((id, report));
            }
        }
    }
    reports.into_iter().for_each(|(peer, reports)| shared.report(&peer, reports));
}

/// Records outcomes before they are reported, as many as have come up together, until the dispatcher has ended.
pub(super) async fn record(shared: Arc<Shared>, mut journal: Journal, mut queue: mpsc::Receiver<Group>) {
    let mut is_failing = false;
    while let Some(Group { done: mut group, room }) = queue.recv().await {
        let mut rooms = vec![room];
        // Each may bring as many as are concluded together.
        while group.len() + TOGETHER <= MAX_GROUP
            && let Ok(more) = queue.try_recv()
        {
            group.extend(more.done);
            rooms.push(more.room);
        }
        let records: Vec<Record> =
            group.iter().filter(|done| done.requires_ack && is_handled(&done.outcome)).map(Done::record).collect();
        if !records.is_empty() {
            let written = write(&shared, &mut journal, &records).await;
            match &written {
                Ok(()) if is_failing => info!("the journal of messages is written again"),
                Err(error) if !is_failing => error!(
                    %error, "the journal of messages can't be written: after a restart, messages may be handled twice"
                ),
                _ => {}
            }
            is_failing = written.is_err();
            if is_failing {
                shared.metrics.journal_failures.inc();
            }
        }
        conclude(&shared, group);
        drop(rooms);
    }
}

impl Done {
    fn record(&self) -> Record {
        Record { sender: Arc::clone(&self.sender), id: self.id, outcome: self.outcome.clone() }
    }
}

async fn write(shared: &Shared, journal: &mut Journal, records: &[Record]) -> std::io::Result<()> {
    if journal.needs_memory() {
        // They are encoded without the lock.
        let remembered = records_of(shared.inbox().memory());
        journal.replace(&remembered).await?;
    }
    journal.append(records).await
}
