//! Gets commands into the log. What arrives while the entries before are being written goes into one entry (group commit). On
//! a follower the same batches go to the leader. A batch that was refused, or whose fate is unknown, because leadership changed
//! meanwhile, is proposed again: every command is idempotent, by the ids it carries.
//!
//! What waits is bounded by bytes, for each lane (see [`lanes`]): a sender beyond that waits before it hands anything in, and
//! so does not read on from its client. Senders get room in the order in which they asked for it.

mod gate;
mod lanes;

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use robeing_fleet::{Command, Reply, decode_reply, encode_command};
use robeing_net::{Transport, limited};
use robeing_proto::{
    budget::MESSAGE_BUDGET_BYTES,
    budget::in_messages,
    internal::v1::{self as internal, raft_client::RaftClient},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};
use tonic::transport::Channel;

pub use self::lanes::{Lane, Sender};
use self::lanes::{Lanes, Room, Waiting};
use crate::{
    clock::FleetClock,
    leader::role::RaftRole,
    raft::{Batch, Fate, NodeId, RaftHandle, SharedFleet, audit},
};

/// Requests on their way to the task that makes entries of them.
pub const MAX_WAITING: usize = 4_096;
/// Commands in one entry, about: a request is never split.
pub const MAX_BATCH_COMMANDS: usize = 2_048;
/// Bytes of commands in one entry, about. What is urgent waits for the entries before it.
pub const MAX_BATCH_BYTES: usize = MESSAGE_BUDGET_BYTES;
/// Bytes of commands in one request: more than any that is made here has, or another coordinator hands on.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;
/// Bytes a command counts for besides its own, so that their number is bounded, too.
const COMMAND_OVERHEAD: usize = 128;
/// Entries on their way at once. More would make each smaller.
pub const MAX_IN_FLIGHT: usize = 2;
/// Entries on their way beside those, with nothing but what keeps the fleet whole.
pub const MAX_URGENT_IN_FLIGHT: usize = 1;
/// How long a request waits to be taken before it is given up.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a batch may be with another coordinator: as long as its requests wait. A leader that is replaced meanwhile is given
/// up at once, and one that leads on a slow disk answers late.
const FORWARD_TIMEOUT: Duration = PROPOSE_TIMEOUT;
/// Pause before a batch is proposed again when leadership did not visibly change.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// How often it is looked for requests that waited for too long, or for which nobody waits.
const EXPIRE_EVERY: Duration = Duration::from_millis(100);

const ENTRY: Room = Room { bytes: MAX_BATCH_BYTES, commands: MAX_BATCH_COMMANDS };

/// A command that did not make it into the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader took it in time. Whether one will is not known.
    #[error("no coordinator led for {PROPOSE_TIMEOUT:?}; a majority of them must be up and reach each other")]
    NoLeader,
    /// It was not taken: others are before it.
    #[error(
        "the coordinators can't write all that is handed in: this was not taken within {PROPOSE_TIMEOUT:?}; submit it again later, \
         and less at once"
    )]
    Busy,
    /// It was on its way to the log, and nobody said that it is there.
    #[error(
        "the coordinators did not answer within {PROPOSE_TIMEOUT:?}; whether this was taken is not known: what has an id of its own \
         may be submitted again"
    )]
    Unanswered,
    /// This one does not lead, and was asked not to forward.
    #[error("this coordinator does not lead")]
    NotLeader,
    /// Too large.
    #[error("{bytes} bytes in one request, {MAX_REQUEST_BYTES} at most; split it")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// This node is stopping.
    #[error("this coordinator is stopping; ask another")]
    Stopping,
}

type Answer = Result<Vec<Reply>, ProposeError>;

struct Request {
    lane: Lane,
    sender: Sender,
    commands: Vec<Bytes>,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
    deadline: Instant,
    scope: Scope,
    /// How many entries were settled when it was handed in.
    settled: u64,
    /// It was on its way once, so that nobody knows whether it is in the log.
    tried: bool,
    /// What this coordinator refused of it as leader.
    refused: gate::Refused,
    /// Its room, until it is answered.
    _room: OwnedSemaphorePermit,
}

impl Request {
    /// What is to be proposed again of a request that was not written, as far as is known. What may be in the log of a term
    /// is not proposed again in that term: the term is over.
    fn once_more(self, was_refused: bool) -> Option<Self> {
        match (self.scope, was_refused) {
            (Scope::InTerm(_), false) => {
                drop(self.answer.send(Err(ProposeError::NotLeader)));
                None
            }
            (_, true) => Some(self),
            (_, false) => Some(Self { tried: true, ..self }),
        }
    }
}

impl Waiting for Request {
    fn sender(&self) -> Sender {
        self.sender
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn commands(&self) -> usize {
        self.commands.len()
    }
}

/// Commands on behalf of other coordinators' senders.
pub struct Forwarded {
    /// Where they wait.
    pub lane: Lane,
    /// The coordinator, and how many senders it stands for.
    pub sender: Sender,
    /// As they are encoded.
    pub commands: Vec<Bytes>,
}

/// Where a request may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Wherever a leader is.
    Anywhere,
    /// Here, while this coordinator leads.
    Here,
    /// Here, in this term. Unlike the others it is not proposed again when its fate is not known: the term is over.
    InTerm(u64),
}

impl Scope {
    /// Whether it may be written by a coordinator that leads in `term`, or does not lead.
    fn fits(self, term: Option<u64>) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Here => term.is_some(),
            Self::InTerm(of) => term == Some(of),
        }
    }
}

/// Where commands are handed in. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    requests: mpsc::Sender<Request>,
    rooms: [Arc<Semaphore>; Lane::ALL.len()],
    settled: Arc<AtomicU64>,
    senders: Arc<AtomicU64>,
    raft_role: watch::Receiver<RaftRole>,
    /// Says which features are in force.
    fleet: SharedFleet,
}

/// The coordinator itself, as a sender.
const OWN: Sender = Sender { id: 0, weight: 1 };

impl Proposer {
    /// A proposer and the task behind it, to be run until the node stops. `id` is this coordinator's.
    pub fn new(
        id: NodeId,
        raft: RaftHandle,
        fleet: SharedFleet,
        raft_role: watch::Receiver<RaftRole>,
        transport: Transport,
        clock: FleetClock,
    ) -> (Self, Driver) {
        let (requests, receiver) = mpsc::channel(MAX_WAITING);
        let settled = Arc::new(AtomicU64::new(0));
        let driver = Driver {
            id,
            raft,
            fleet: fleet.clone(),
            raft_role: raft_role.clone(),
            transport,
            clock,
            requests: receiver,
            lanes: Lanes::default(),
            in_flight: 0,
            urgent_in_flight: 0,
            settled: Arc::clone(&settled),
            checked: None,
            expired: Instant::now(),
            retry_at: None,
            leader: None,
        };
        let rooms = Lane::ALL.map(|lane| Arc::new(Semaphore::new(lane.room())));
        (Self { requests, rooms, settled, senders: Arc::new(AtomicU64::new(1)), raft_role, fleet }, driver)
    }

    /// Another sender, such as a stream: it takes turns with all others.
    pub fn sender(&self) -> Sender {
        Sender { id: self.senders.fetch_add(1, Ordering::Relaxed), weight: 1 }
    }

    /// Proposes commands, all of one lane, and waits until they are applied, here or on the leader: their replies, in order.
    /// More than one entry holds goes into several, one after the other.
    pub async fn propose(&self, sender: Sender, commands: impl IntoIterator<Item = &Command>) -> Answer {
        let mut lane = Lane::Users;
        let encode = |command: &Command| {
            lane = Lane::of(command);
            encoded(command)
        };
        let commands: Vec<Bytes> = commands.into_iter().map(encode).collect();
        self.propose_encoded(lane, sender, commands).await
    }

    /// As [`Proposer::propose`], with commands as they are encoded.
    pub async fn propose_encoded(&self, lane: Lane, sender: Sender, commands: Vec<Bytes>) -> Answer {
        let mut replies = Vec::with_capacity(commands.len());
        for commands in in_messages(commands, Bytes::len) {
            let new = gate::with_features(&commands);
            let mut more = self.request(lane, sender, commands, Scope::Anywhere).await?;
            if !new.is_empty() {
                gate::name_features(&new, &self.fleet.read(), &mut more);
            }
            if replies.is_empty() {
                replies = more;
            } else {
                replies.extend(more);
            }
        }
        Ok(replies)
    }

    /// Proposes one command of the coordinator itself.
    pub async fn propose_one(&self, command: Command) -> Result<Reply, ProposeError> {
        let mut replies = self.propose(OWN, [&command]).await?;
        replies.pop().ok_or(ProposeError::Stopping)
    }

    /// Proposes one command that rests on what this coordinator knows as leader of `term`: it is written in that term or never.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`] when the term is over. Whether the command was written is decided by the time a leader of
    /// another term is ready. After any other error it was not written and will not be.
    pub async fn propose_in(&self, term: u64, command: Command) -> Result<Reply, ProposeError> {
        let request = self.request(Lane::of(&command), OWN, vec![encoded(&command)], Scope::InTerm(term));
        request.await?.pop().ok_or(ProposeError::Stopping)
    }

    /// Proposes what another coordinator handed on, if this one leads. What can't be read here is refused, and nothing else.
    pub async fn propose_forwarded(&self, forwarded: Forwarded) -> Answer {
        let Forwarded { lane, sender, mut commands } = forwarded;
        let unreadable = gate::take_unreadable(&mut commands);
        if !unreadable.is_empty() && self.raft_role.borrow().term().is_none() {
            return Err(ProposeError::NotLeader);
        }
        if commands.is_empty() {
            return Ok(unreadable.among(Vec::new()));
        }
        Ok(unreadable.among(self.request(lane, sender, commands, Scope::Here).await?))
    }

    async fn request(&self, lane: Lane, sender: Sender, commands: Vec<Bytes>, scope: Scope) -> Answer {
        let bytes: usize = commands.iter().map(|command| command.len() + COMMAND_OVERHEAD).sum();
        if bytes > MAX_REQUEST_BYTES {
            return Err(ProposeError::TooLarge { bytes });
        }
        let settled = self.settled.load(Ordering::Relaxed);
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        let needed = u32::try_from(bytes.min(lane.room())).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.rooms[lane as usize]).acquire_many_owned(needed);
        let room = timeout_at(deadline, room).await.map_err(|_| given_up(settled, &self.settled, false))?;
        let (answer, answered) = oneshot::channel();
        let request = Request {
            lane,
            sender,
            commands,
            bytes,
            answer,
            deadline,
            scope,
            settled,
            tried: false,
            refused: gate::Refused::default(),
            _room: room.map_err(|_| ProposeError::Stopping)?,
        };
        self.requests.send(request).await.map_err(|_| ProposeError::Stopping)?;
        answered.await.map_err(|_| ProposeError::Stopping)?
    }
}

/// Why a request was not taken in time: others were meanwhile, or none was.
fn given_up(handed_in: u64, settled: &AtomicU64, tried: bool) -> ProposeError {
    if settled.load(Ordering::Relaxed) == handed_in {
        return ProposeError::NoLeader;
    }
    if tried { ProposeError::Unanswered } else { ProposeError::Busy }
}

/// A command as it is proposed.
pub fn encoded(command: &Command) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    encode_command(command, &mut bytes);
    bytes.into()
}

struct Outcome {
    requests: Vec<Request>,
    urgent: bool,
    fate: Fate,
}

/// The task behind a [`Proposer`].
pub struct Driver {
    id: NodeId,
    raft: RaftHandle,
    fleet: SharedFleet,
    raft_role: watch::Receiver<RaftRole>,
    transport: Transport,
    clock: FleetClock,
    requests: mpsc::Receiver<Request>,
    /// Bounded by the rooms that what is in them holds.
    lanes: Lanes<Request>,
    in_flight: usize,
    urgent_in_flight: usize,
    /// Entries, or batches at the leader, that were answered.
    settled: Arc<AtomicU64>,
    /// The term, if this coordinator led, for which it was last seen to that nothing waits in the wrong place.
    checked: Option<u64>,
    /// When it was last looked for requests that waited for too long.
    expired: Instant,
    retry_at: Option<Instant>,
    /// The channel to the leader that batches were last forwarded to.
    leader: Option<(String, Channel)>,
}

impl Driver {
    /// Runs until every [`Proposer`] is gone.
    pub async fn run(mut self) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
        let mut open = true;
        let mut taken = Vec::new();
        while open || !self.lanes.is_empty() || !in_flight.is_empty() {
            let expire_at = (!self.lanes.is_empty()).then(|| self.expired + EXPIRE_EVERY);
            let wake = [self.retry_at, expire_at].into_iter().flatten().min();
            tokio::select! {
                Some(outcome) = in_flight.next() => self.settle(outcome),
                n = self.requests.recv_many(&mut taken, MAX_WAITING), if open => {
                    open = n > 0;
                    for request in taken.drain(..) {
                        if let Some(request) = self.in_place(request) {
                            self.lanes.push(request.lane, request);
                        }
                    }
                }
                changed = self.raft_role.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.retry_at = None;
                }
                () = async { tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {
                    let now = Instant::now();
                    self.retry_at = self.retry_at.filter(|at| *at > now);
                }
            }
            self.expire();
            let term = self.raft_role.borrow().term();
            self.refuse_out_of_place(term);
            while let Some(batch) = self.launch() {
                in_flight.push(batch);
            }
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        let count = if outcome.urgent { &mut self.urgent_in_flight } else { &mut self.in_flight };
        *count -= 1;
        let replies = match outcome.fate {
            Fate::Written(replies) => replies,
            unwritten => {
                self.retry_at = Some(Instant::now() + RETRY_PAUSE);
                let was_refused = matches!(unwritten, Fate::Refused);
                for request in outcome.requests.into_iter().rev() {
                    let again = request.once_more(was_refused).and_then(|request| self.in_place(request));
                    if let Some(request) = again {
                        self.lanes.put_back(request.lane, request);
                    }
                }
                return;
            }
        };
        self.settled.fetch_add(1, Ordering::Relaxed);
        let mut replies = replies.into_iter();
        for request in outcome.requests {
            let own: Vec<Reply> = replies.by_ref().take(request.commands.len()).collect();
            // Nobody waits when the caller's connection broke; the command counts all the same.
            drop(request.answer.send(Ok(request.refused.among(own))));
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        if now < self.expired + EXPIRE_EVERY {
            return;
        }
        self.expired = now;
        let settled = &self.settled;
        self.lanes.drop_oldest(
            |request| request.deadline <= now || request.answer.is_closed(),
            |request| drop(request.answer.send(Err(given_up(request.settled, settled, request.tried)))),
        );
    }

    /// The request, unless it may not be written where the leader is now: then it is refused.
    fn in_place(&self, request: Request) -> Option<Request> {
        if request.scope.fits(self.raft_role.borrow().term()) {
            return Some(request);
        }
        drop(request.answer.send(Err(ProposeError::NotLeader)));
        None
    }

    /// Refuses what waits and may not be written where the leader is now; `term` is this coordinator's, if it leads.
    fn refuse_out_of_place(&mut self, term: Option<u64>) {
        if std::mem::replace(&mut self.checked, term) == term {
            return;
        }
        for request in self.lanes.extract(|request| !request.scope.fits(term)) {
            drop(request.answer.send(Err(ProposeError::NotLeader)));
        }
    }

    fn channel_to(&mut self, address: String) -> Option<Channel> {
        if self.leader.as_ref().is_none_or(|(known, _)| *known != address) {
            let channel = self.transport.channel(&address).ok()?;
            self.leader = Some((address, channel));
        }
        self.leader.as_ref().map(|(_, channel)| channel.clone())
    }

    /// Sends the next batch on its way, if there is one, room for it, and somebody to send it to.
    fn launch(&mut self) -> Option<BoxFuture<'static, Outcome>> {
        let urgent = self.in_flight >= MAX_IN_FLIGHT;
        if self.retry_at.is_some() || (urgent && self.urgent_in_flight >= MAX_URGENT_IN_FLIGHT) {
            return None;
        }
        let raft_role = self.raft_role.borrow_and_update().clone();
        self.refuse_out_of_place(raft_role.term());
        let nothing = if urgent { self.lanes.is_lane_empty(Lane::Fleet) } else { self.lanes.is_empty() };
        if nothing {
            return None;
        }
        let batch = match raft_role {
            // The clock runs only once it is ready.
            RaftRole::Leading { term, ready: true } => self.append(urgent, term),
            RaftRole::Following { leader, peer } => self.hand_on(urgent, leader, peer.address),
            RaftRole::Leading { ready: false, .. } | RaftRole::Leaderless => return None,
        };
        *(if urgent { &mut self.urgent_in_flight } else { &mut self.in_flight }) += 1;
        Some(batch)
    }

    fn append(&mut self, urgent: bool, term: u64) -> BoxFuture<'static, Outcome> {
        let batch = if urgent { self.lanes.next_urgent(ENTRY) } else { self.lanes.next_batch(ENTRY) };
        let mut requests = batch.requests;
        for request in &mut requests {
            let refused = gate::take_not_in_force(&mut request.commands, || self.fleet.read());
            request.refused.add(refused);
        }
        if requests.iter().all(|request| request.commands.is_empty()) {
            return async move { Outcome { fate: Fate::Written(Vec::new()), urgent, requests } }.boxed();
        }
        let commands = requests.iter().flat_map(|request| request.commands.iter().map(|c| &c[..]));
        let stamp = self.clock.stamp();
        audit::tell_stamp(stamp);
        let batch = Batch::new(stamp, commands);
        let raft = self.raft.clone();
        let id = self.id;
        async move { Outcome { fate: raft.write(batch, id, term).await, urgent, requests } }.boxed()
    }

    fn hand_on(&mut self, urgent: bool, leader: NodeId, address: String) -> BoxFuture<'static, Outcome> {
        let (lane, batch) =
            if urgent { (Lane::Fleet, self.lanes.next_urgent(ENTRY)) } else { self.lanes.next_of_one_lane(ENTRY) };
        let requests = batch.requests;
        let senders: BTreeSet<u64> = requests.iter().map(|request| request.sender.id).collect();
        let request = internal::ProposeRequest {
            commands: requests.iter().flat_map(|request| request.commands.iter().cloned()).collect(),
            lane: internal::Lane::from(lane).into(),
            from: self.id,
            senders: u32::try_from(senders.len()).unwrap_or(u32::MAX),
        };
        let channel = self.channel_to(address);
        let forwarded = while_following(self.raft_role.clone(), leader, forward(channel, request));
        async move {
            let fate = forwarded.await.flatten().map_or(Fate::Unknown, Fate::Written);
            Outcome { fate, urgent, requests }
        }
        .boxed()
    }
}

/// What a call to the leader gives, or `None` as soon as it is not the leader any more: one that is frozen or cut off answers
/// nothing, and its successor should not have to wait for that.
async fn while_following<T>(
    mut raft_role: watch::Receiver<RaftRole>,
    of: NodeId,
    call: impl Future<Output = T>,
) -> Option<T> {
    let follows = |raft_role: &RaftRole| matches!(raft_role, RaftRole::Following { leader, .. } if *leader == of);
    tokio::select! {
        answer = call => Some(answer),
        // An error is the end of this node, which ends this, too.
        _ = raft_role.wait_for(|raft_role| !follows(raft_role)) => None,
    }
}

async fn forward(channel: Option<Channel>, request: internal::ProposeRequest) -> Option<Vec<Reply>> {
    let count = request.commands.len();
    let mut client = limited!(RaftClient::new(channel?));
    let call = client.propose(request);
    let response = tokio::time::timeout(FORWARD_TIMEOUT, call).await.ok()?.ok()?.into_inner();
    if response.not_leader || response.replies.len() != count {
        return None;
    }
    // All commands are in the log, whatever is read of the replies.
    Some(response.replies.iter().map(|reply| reply_or_problem(reply)).collect())
}

fn reply_or_problem(bytes: &[u8]) -> Reply {
    decode_reply(bytes).unwrap_or_else(|error| Reply::Unreadable { problem: error.to_string() })
}

#[cfg(test)]
mod tests;
