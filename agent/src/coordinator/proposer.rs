//! Gets commands into the log. What arrives while the entries before are being written goes into one entry (group commit). On
//! a follower the same batches go to the leader. A batch whose fate is unknown, because leadership changed meanwhile, is
//! proposed again: every command is idempotent, by the ids it carries.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use openraft::impls::ProgressResponder;
use robeing_fleet::{Command, Reply, decode_reply, encode_command};
use robeing_proto::v1::{self, raft_client::RaftClient};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tonic::transport::Channel;

use super::{
    clock::FleetClock,
    consensus::{Batch, NodeId, Raft, audit},
    leadership::Standing,
};
use crate::{limited, transport::Transport};

/// Requests waiting to be taken up.
pub const MAX_WAITING: usize = 4_096;
/// Requests taken up and not yet in an entry; beyond it nothing more is taken up.
pub const MAX_BACKLOG: usize = 8_192;
/// Commands in one entry, about: a request is never split.
pub const MAX_BATCH_COMMANDS: usize = 2_048;
/// Bytes of commands in one entry, about.
pub const MAX_BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of commands in one request.
pub const MAX_REQUEST_BYTES: usize = 8 * 1024 * 1024;
/// Entries on their way at once. More would make each smaller.
pub const MAX_IN_FLIGHT: usize = 2;
/// How long a request waits for a leader before it is given up.
pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a batch may be with another coordinator: as long as its requests wait. A leader that is replaced meanwhile is given
/// up at once, and one that leads on a slow disk answers late.
const FORWARD_TIMEOUT: Duration = PROPOSE_TIMEOUT;
/// Pause before a batch is proposed again when leadership did not visibly change.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// A command that did not make it into the log. Whether it will is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader took it in time.
    #[error("no coordinator led for {PROPOSE_TIMEOUT:?}; a majority of them must be up and reach each other")]
    NoLeader,
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
    commands: Vec<Bytes>,
    bytes: usize,
    answer: oneshot::Sender<Answer>,
    deadline: Instant,
    forward: bool,
}

/// Where commands are handed in. Cheap to clone.
#[derive(Clone)]
pub struct Proposer {
    requests: mpsc::Sender<Request>,
}

impl Proposer {
    /// A proposer and the task behind it, to be run until the node stops.
    pub fn new(
        raft: Raft,
        standing: watch::Receiver<Standing>,
        transport: Transport,
        clock: FleetClock,
    ) -> (Self, Driver) {
        let (requests, receiver) = mpsc::channel(MAX_WAITING);
        let driver = Driver {
            raft,
            standing,
            transport,
            clock,
            requests: receiver,
            backlog: VecDeque::new(),
            retry_at: None,
            leader: None,
        };
        (Self { requests }, driver)
    }

    /// Proposes commands and waits until they are applied, here or on the leader: their replies, in order.
    pub async fn propose(&self, commands: &[Command]) -> Answer {
        self.propose_encoded(commands.iter().map(encoded).collect(), true).await
    }

    /// Proposes one command.
    pub async fn propose_one(&self, command: Command) -> Result<Reply, ProposeError> {
        let mut replies = self.propose(&[command]).await?;
        replies.pop().ok_or(ProposeError::Stopping)
    }

    /// Proposes one command that makes sense only where it is proposed: refused where this coordinator does not lead.
    pub async fn propose_here(&self, command: Command) -> Result<Reply, ProposeError> {
        let mut replies = self.propose_encoded(vec![encoded(&command)], false).await?;
        replies.pop().ok_or(ProposeError::Stopping)
    }

    /// Proposes commands as they are encoded; without `forward` only as leader.
    pub async fn propose_encoded(&self, commands: Vec<Bytes>, forward: bool) -> Answer {
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        let bytes = commands.iter().map(Bytes::len).sum();
        if bytes > MAX_REQUEST_BYTES {
            return Err(ProposeError::TooLarge { bytes });
        }
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + PROPOSE_TIMEOUT;
        let request = Request { commands, bytes, answer, deadline, forward };
        self.requests.send(request).await.map_err(|_| ProposeError::Stopping)?;
        answered.await.map_err(|_| ProposeError::Stopping)?
    }
}

fn encoded(command: &Command) -> Bytes {
    let mut bytes = Vec::with_capacity(128);
    encode_command(command, &mut bytes);
    bytes.into()
}

/// How a batch fared.
struct Outcome {
    requests: Vec<Request>,
    /// `None`: unknown, to be tried again.
    replies: Option<Vec<Reply>>,
}

/// The task behind a [`Proposer`].
pub struct Driver {
    raft: Raft,
    standing: watch::Receiver<Standing>,
    transport: Transport,
    clock: FleetClock,
    requests: mpsc::Receiver<Request>,
    backlog: VecDeque<Request>,
    retry_at: Option<Instant>,
    /// The channel to the leader that batches were last forwarded to.
    leader: Option<(String, Channel)>,
}

impl Driver {
    /// Runs until every [`Proposer`] is gone.
    pub async fn run(mut self) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
        let mut open = true;
        while open || !self.backlog.is_empty() || !in_flight.is_empty() {
            let wake = self.retry_at.or_else(|| self.backlog.front().map(|request| request.deadline));
            let room = MAX_BACKLOG.saturating_sub(self.backlog.len());
            let mut taken = Vec::new();
            tokio::select! {
                Some(outcome) = in_flight.next() => self.settle(outcome),
                n = self.requests.recv_many(&mut taken, room.max(1)), if open && room > 0 => {
                    open = n > 0;
                    self.backlog.extend(taken);
                }
                changed = self.standing.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.retry_at = None;
                }
                () = async { tokio::time::sleep_until(wake.unwrap_or_else(Instant::now)).await }, if wake.is_some() => {
                    self.retry_at = None;
                }
            }
            self.expire();
            while in_flight.len() < MAX_IN_FLIGHT && self.retry_at.is_none() && !self.backlog.is_empty() {
                match self.launch() {
                    Some(batch) => in_flight.push(batch),
                    None => break,
                }
            }
        }
    }

    fn settle(&mut self, outcome: Outcome) {
        let Some(replies) = outcome.replies else {
            self.retry_at = Some(Instant::now() + RETRY_PAUSE);
            for request in outcome.requests.into_iter().rev() {
                self.backlog.push_front(request);
            }
            return;
        };
        let mut replies = replies.into_iter();
        for request in outcome.requests {
            let own: Vec<Reply> = replies.by_ref().take(request.commands.len()).collect();
            // Nobody waits when the caller's connection broke; the command counts all the same.
            drop(request.answer.send(Ok(own)));
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        while self.backlog.front().is_some_and(|request| request.deadline <= now || request.answer.is_closed()) {
            if let Some(request) = self.backlog.pop_front() {
                drop(request.answer.send(Err(ProposeError::NoLeader)));
            }
        }
    }

    fn refuse_forwarded(&mut self) {
        let (keep, refuse): (VecDeque<_>, VecDeque<_>) = self.backlog.drain(..).partition(|request| request.forward);
        self.backlog = keep;
        for request in refuse {
            drop(request.answer.send(Err(ProposeError::NotLeader)));
        }
    }

    fn take_batch(&mut self) -> Vec<Request> {
        let (mut batch, mut commands, mut bytes) = (Vec::new(), 0, 0);
        while let Some(request) = self.backlog.front() {
            let full =
                commands + request.commands.len() > MAX_BATCH_COMMANDS || bytes + request.bytes > MAX_BATCH_BYTES;
            if full && !batch.is_empty() {
                break;
            }
            commands += request.commands.len();
            bytes += request.bytes;
            batch.extend(self.backlog.pop_front());
        }
        batch
    }

    fn channel_to(&mut self, address: String) -> Option<Channel> {
        if self.leader.as_ref().is_none_or(|(known, _)| *known != address) {
            let channel = self.transport.channel(&address).ok()?;
            self.leader = Some((address, channel));
        }
        self.leader.as_ref().map(|(_, channel)| channel.clone())
    }

    /// Sends the next batch on its way, if there is somebody to send it to.
    fn launch(&mut self) -> Option<BoxFuture<'static, Outcome>> {
        let standing = self.standing.borrow_and_update().clone();
        if !matches!(standing, Standing::Leading { .. }) {
            self.refuse_forwarded();
        }
        match standing {
            // The clock runs only once it is ready.
            Standing::Leading { ready: true, .. } => {
                let requests = self.take_batch();
                let commands = requests.iter().flat_map(|request| request.commands.iter().map(|c| &c[..]));
                let stamp = self.clock.stamp();
                audit::tell_stamp(stamp);
                let batch = Batch::new(stamp, commands);
                let raft = self.raft.clone();
                Some(async move { Outcome { replies: write(raft, batch).await, requests } }.boxed())
            }
            Standing::Following { leader, peer } => {
                let requests = self.take_batch();
                if requests.is_empty() {
                    return None;
                }
                let commands: Vec<Bytes> =
                    requests.iter().flat_map(|request| request.commands.iter().cloned()).collect();
                let channel = self.channel_to(peer.address);
                let standing = self.standing.clone();
                let forwarded = while_following(standing, leader, forward(channel, commands));
                Some(async move { Outcome { replies: forwarded.await.flatten(), requests } }.boxed())
            }
            Standing::Leading { ready: false, .. } | Standing::Leaderless => None,
        }
    }
}

async fn write(raft: Raft, batch: Batch) -> Option<Vec<Reply>> {
    let (responder, answer) = ProgressResponder::complete_only();
    raft.client_write_ff(batch, Some(responder)).await.ok()?;
    let written = answer.await.ok()?.ok()?;
    Some(Arc::try_unwrap(written.data.0).unwrap_or_else(|shared| (*shared).clone()))
}

/// What a call to the leader gives, or `None` as soon as it is not the leader any more: one that is frozen or cut off answers
/// nothing, and its successor should not have to wait for that.
async fn while_following<T>(
    mut standing: watch::Receiver<Standing>,
    of: NodeId,
    call: impl Future<Output = T>,
) -> Option<T> {
    let follows = |standing: &Standing| matches!(standing, Standing::Following { leader, .. } if *leader == of);
    tokio::select! {
        answer = call => Some(answer),
        // An error is the end of this node, which ends this, too.
        _ = standing.wait_for(|standing| !follows(standing)) => None,
    }
}

async fn forward(channel: Option<Channel>, commands: Vec<Bytes>) -> Option<Vec<Reply>> {
    let count = commands.len();
    let mut client = limited!(RaftClient::new(channel?));
    let call = client.propose(v1::ProposeRequest { commands });
    let response = tokio::time::timeout(FORWARD_TIMEOUT, call).await.ok()?.ok()?.into_inner();
    if response.not_leader || response.replies.len() != count {
        return None;
    }
    response.replies.iter().map(|reply| decode_reply(reply).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::consensus::Peer;

    fn following(leader: NodeId) -> Standing {
        Standing::Following { leader, peer: Peer { name: "leader".into(), address: "127.0.0.1:1".into() } }
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_answers_nothing_is_waited_for_only_while_it_leads() {
        let (standing, receiver) = watch::channel(following(1));
        let mut call = tokio::spawn(while_following(receiver, 1, futures::future::pending::<()>()));
        let waited = tokio::time::timeout(FORWARD_TIMEOUT * 2, &mut call).await;
        assert!(waited.is_err(), "given up though the leader is the same");
        standing.send_replace(following(2));
        assert_eq!(call.await.unwrap(), None, "there is another leader to ask");
    }

    #[tokio::test]
    async fn an_answer_of_the_leader_counts() {
        let (_standing, receiver) = watch::channel(following(1));
        assert_eq!(while_following(receiver, 1, async { 7 }).await, Some(7));
    }
}
