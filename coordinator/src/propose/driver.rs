//! The task that turns requests into log entries, or forwards batches to the leader.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use robeing_fleet::{Reply, decode_reply};
use robeing_net::{Transport, limited};
use robeing_proto::internal::v1::{self as internal, raft_client::RaftClient};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tonic::transport::Channel;

use super::{
    MAX_BATCH_BYTES, MAX_BATCH_COMMANDS, MAX_IN_FLIGHT, MAX_URGENT_IN_FLIGHT, MAX_WAITING, PROPOSE_TIMEOUT,
    ProposeError, Request, gate, given_up,
    lanes::{Lane, Lanes, Room},
};
use crate::{
    clock::FleetClock,
    leader::role::RaftRole,
    raft::{Batch, Fate, NodeId, RaftHandle, SharedFleet, audit},
};

/// How long a forwarded batch may take: as long as its requests may wait, because a leader with a slow disk answers
/// late. If the leader is replaced meanwhile, its answer is no longer awaited.
pub(super) const FORWARD_TIMEOUT: Duration = PROPOSE_TIMEOUT;
/// Pause before a batch is proposed again when no change of leadership was observed.
const RETRY_PAUSE: Duration = Duration::from_millis(10);
/// Interval between searches for requests that have timed out or whose caller is gone.
const EXPIRE_EVERY: Duration = Duration::from_millis(100);
const ENTRY: Room = Room { bytes: MAX_BATCH_BYTES, commands: MAX_BATCH_COMMANDS };

struct Outcome {
    requests: Vec<Request>,
    urgent: bool,
    fate: Fate,
}

/// The task behind a [`Proposer`].
pub struct Driver {
    pub(super) id: NodeId,
    pub(super) raft: RaftHandle,
    pub(super) fleet: SharedFleet,
    pub(super) raft_role: watch::Receiver<RaftRole>,
    pub(super) transport: Transport,
    pub(super) clock: FleetClock,
    pub(super) requests: mpsc::Receiver<Request>,
    /// Bounded by the capacity that the requests in them hold.
    pub(super) lanes: Lanes<Request>,
    pub(super) in_flight: usize,
    pub(super) urgent_in_flight: usize,
    /// Number of entries, or of batches forwarded to the leader, that were answered.
    pub(super) settled: Arc<AtomicU64>,
    /// This coordinator's term, or `None` if it did not lead, when the waiting requests' scopes were last checked.
    pub(super) checked: Option<u64>,
    /// When the requests were last searched for timed-out ones.
    pub(super) expired: Instant,
    pub(super) retry_at: Option<Instant>,
    /// The address of the leader that batches were last forwarded to, and the channel to it.
    pub(super) leader: Option<(String, Channel)>,
}

impl Driver {
    /// Runs until every [`Proposer`] is dropped and all requests are answered.
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
            // The receiver is gone if the caller's connection broke; the command is applied nevertheless.
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

    /// Returns the request, or refuses it if it may not be written on the current leader.
    fn in_place(&self, request: Request) -> Option<Request> {
        if request.scope.fits(self.raft_role.borrow().term()) {
            return Some(request);
        }
        drop(request.answer.send(Err(ProposeError::NotLeader)));
        None
    }

    /// Refuses waiting requests that may not be written on the current leader; `term` is this coordinator's, if it
    /// leads.
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

    /// Starts the next batch, if there is one, a free slot for it, and a leader to send it to.
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
            // The clock runs only once the leader is ready.
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

/// Returns the result of a call to the leader, or `None` as soon as that coordinator no longer leads: if it is frozen
/// or partitioned, it does not respond, and requests to its successor should not wait for it.
pub(super) async fn while_following<T>(
    mut raft_role: watch::Receiver<RaftRole>,
    of: NodeId,
    call: impl Future<Output = T>,
) -> Option<T> {
    let follows = |raft_role: &RaftRole| matches!(raft_role, RaftRole::Following { leader, .. } if *leader == of);
    tokio::select! {
        answer = call => Some(answer),
        // An error means that this node is stopping, which ends the call too.
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
    // All commands are in the log, whether or not their replies can be decoded.
    Some(response.replies.iter().map(|reply| reply_or_problem(reply)).collect())
}

fn reply_or_problem(bytes: &[u8]) -> Reply {
    decode_reply(bytes).unwrap_or_else(|error| Reply::Unreadable { problem: error.to_string() })
}
