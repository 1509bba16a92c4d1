//! Writes commands to the log. Requests that arrive while earlier entries are being written go into one entry (group
//! commit). A follower forwards such batches to the leader. A batch that was refused, or whose outcome is unknown
//! because leadership changed meanwhile, is proposed again: every command is idempotent because of the ids it carries.
//!
//! Each lane (see [`lanes`]) limits the bytes that may wait: beyond the limit, a sender has to wait before it can
//! submit anything, and therefore stops reading from its client. Senders are admitted in the order of their requests.

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

/// Capacity of the channel to the task that turns requests into entries.
pub const MAX_WAITING: usize = 4_096;
/// Approximate maximum of commands in one entry. A request is never split.
pub const MAX_BATCH_COMMANDS: usize = 2_048;
/// Approximate maximum of bytes of commands in one entry. Urgent commands wait for the entries before them.
pub const MAX_BATCH_BYTES: usize = MESSAGE_BUDGET_BYTES;
/// Maximum bytes of commands in one request, including the overhead of each. No request that is created here or
/// forwarded by another coordinator is that large.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;
/// Bytes that a command counts for in addition to its own, so that the number of commands is bounded, too.
const COMMAND_OVERHEAD: usize = 128;
/// Maximum number of entries in flight. More would make each smaller.
pub const MAX_IN_FLIGHT: usize = 2;
/// Maximum number of additional entries in flight that contain only commands of [`Lane::Fleet`].
pub const MAX_URGENT_IN_FLIGHT: usize = 1;
/// How long a request may wait before it fails.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Reasons why a command was not confirmed to be in the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader accepted any command in time. It is unknown whether one still will.
    #[error("no coordinator led for {PROPOSE_TIMEOUT:?}; a majority of them must be up and reach each other")]
    NoLeader,
    /// It was not written in time because other commands were ahead of it.
    #[error(
        "the coordinators are overloaded: this was not written within {PROPOSE_TIMEOUT:?}; submit it again later, and \
         less at once"
    )]
    Busy,
    /// It was proposed or forwarded, but not confirmed to be in the log.
    #[error(
        "the coordinators did not answer within {PROPOSE_TIMEOUT:?}; it is unknown whether this was accepted; a \
         request with its own id can be submitted again"
    )]
    Unanswered,
    /// This coordinator does not lead, and the command must not be forwarded, or not be written in another term.
    #[error("this coordinator does not lead")]
    NotLeader,
    /// The request is too large.
    #[error("{bytes} bytes in one request, {MAX_REQUEST_BYTES} at most; split it")]
    TooLarge {
        /// Its size in bytes.
        bytes: usize,
    },
    /// This coordinator is stopping.
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
    /// How many entries were settled when it was submitted.
    settled: u64,
    /// Whether it was in flight before, so that it is unknown whether it is in the log.
    tried: bool,
    /// Its commands that this coordinator refused as leader.
    refused: gate::Refused,
    /// Its share of the lane's capacity, held until it is answered.
    _room: OwnedSemaphorePermit,
}

impl Request {
    /// Returns the request to propose again after an attempt that is not known to have written it. A request of
    /// [`Scope::InTerm`] that may be in the log is not proposed again, because the term is over; it fails instead.
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

/// Commands from senders on another coordinator.
pub struct Forwarded {
    /// The lane they wait in.
    pub lane: Lane,
    /// The forwarding coordinator, and the number of senders it stands for.
    pub sender: Sender,
    /// The encoded commands.
    pub commands: Vec<Bytes>,
}

/// Where a request may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// On whichever coordinator leads.
    Anywhere,
    /// Only on this coordinator, while it leads.
    Here,
    /// Only on this coordinator and in this term. Unlike the others it is not proposed again when its outcome is
    /// unknown: the term is over.
    InTerm(u64),
}

impl Scope {
    /// Whether it may be written on a coordinator that leads in `term` or, if `None`, does not lead.
    fn fits(self, term: Option<u64>) -> bool {
        match self {
            Self::Anywhere => true,
            Self::Here => term.is_some(),
            Self::InTerm(of) => term == Some(of),
        }
    }
}

/// The handle for submitting commands. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    requests: mpsc::Sender<Request>,
    rooms: [Arc<Semaphore>; Lane::ALL.len()],
    settled: Arc<AtomicU64>,
    senders: Arc<AtomicU64>,
    raft_role: watch::Receiver<RaftRole>,
    /// The fleet's state, which defines the features in force.
    fleet: SharedFleet,
}

/// The coordinator itself as a sender.
const OWN: Sender = Sender { id: 0, weight: 1 };

impl Proposer {
    /// Creates a proposer and its driver, which must run until the node stops. `id` is this coordinator's.
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

    /// Creates a sender, such as a stream, that takes turns with all others.
    pub fn sender(&self) -> Sender {
        Sender { id: self.senders.fetch_add(1, Ordering::Relaxed), weight: 1 }
    }

    /// Proposes commands, all of one lane, and waits until they are applied, here or on the leader. Returns their
    /// replies in order. Commands that don't fit into one message go into several requests, one after the other.
    ///
    /// # Errors
    /// Why they, or some of them, were not confirmed. [`ProposeError::Busy`] says that none of them was written.
    pub async fn propose(&self, sender: Sender, commands: impl IntoIterator<Item = &Command>) -> Answer {
        let mut lane = Lane::Users;
        let encode = |command: &Command| {
            lane = Lane::of(command);
            encoded(command)
        };
        let commands: Vec<Bytes> = commands.into_iter().map(encode).collect();
        self.propose_encoded(lane, sender, commands).await
    }

    /// Like [`Proposer::propose`], with encoded commands.
    pub async fn propose_encoded(&self, lane: Lane, sender: Sender, commands: Vec<Bytes>) -> Answer {
        let mut replies = Vec::with_capacity(commands.len());
        for commands in in_messages(commands, Bytes::len) {
            let new = gate::with_features(&commands);
            let mut more = match self.request(lane, sender, commands, Scope::Anywhere).await {
                // Those of the requests before this one were written.
                Err(ProposeError::Busy) if !replies.is_empty() => return Err(ProposeError::Unanswered),
                answer => answer?,
            };
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

    /// Proposes one command that depends on what this coordinator knows as leader of `term`: it is written in that term
    /// or never.
    ///
    /// # Errors
    /// [`ProposeError::NotLeader`] when the term is over. By the time a leader of another term is ready, it is decided
    /// whether the command was written. After any other error it was not written and will not be.
    pub async fn propose_in(&self, term: u64, command: Command) -> Result<Reply, ProposeError> {
        let request = self.request(Lane::of(&command), OWN, vec![encoded(&command)], Scope::InTerm(term));
        request.await?.pop().ok_or(ProposeError::Stopping)
    }

    /// Proposes commands that another coordinator forwarded, if this one leads. Refuses only the commands that it can't
    /// decode.
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

/// Returns the error for a request that timed out, which depends on whether other entries were settled meanwhile.
fn given_up(handed_in: u64, settled: &AtomicU64, tried: bool) -> ProposeError {
    if settled.load(Ordering::Relaxed) == handed_in {
        return ProposeError::NoLeader;
    }
    if tried { ProposeError::Unanswered } else { ProposeError::Busy }
}

/// Encodes a command as it is proposed.
pub fn encoded(command: &Command) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    encode_command(command, &mut bytes);
    bytes.into()
}

#[cfg(test)]
mod tests;
