//! Gets commands into the log. What arrives while the entries before are being written goes into one entry (group commit). On
//! a follower the same batches go to the leader. A batch that was refused, or whose fate is unknown, because leadership changed
//! meanwhile, is proposed again: every command is idempotent, by the ids it carries.
//!
//! What waits is bounded by bytes, for each lane (see [`lanes`]): a sender beyond that waits before it hands anything in, and
//! so does not read on from its client. Senders get room in the order in which they asked for it.

mod driver;
mod gate;
mod lanes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use robeing_fleet::{Command, Reply, encode_command};
use robeing_net::Transport;
use robeing_proto::budget::{MESSAGE_BUDGET_BYTES, in_messages};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::{Instant, timeout_at},
};

pub use self::lanes::{Lane, Sender};
use self::{
    driver::Driver,
    lanes::{Lanes, Waiting},
};
use crate::{
    clock::FleetClock,
    leader::role::RaftRole,
    raft::{NodeId, RaftHandle, SharedFleet},
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

#[cfg(test)]
mod tests;
