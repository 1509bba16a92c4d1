//! What the services of one coordinator share, and the reads that must see everything accepted before.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use robeing_fleet::{Agent, AgentId, Fleet};
use robeing_net::Transport;
use robeing_platform::Platform;
use robeing_proto::{
    internal::v1::{self as internal, raft_client::RaftClient},
    v1,
};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use crate::{
    apply::observer::ApplyObserver,
    clock::FleetClock,
    data_dir::Identity,
    leader::{
        contact::Contact,
        loss::LeaderConnections,
        role::RaftRole,
        score::{CAUGHT_UP, Scores},
    },
    peers::Peers,
    propose::Proposer,
    raft::{NodeId, Peer, RaftHandle, SharedFleet, SnapshotStats, VotedFor, log::Log},
    room::Rooms,
    warnings::Warnings,
};

/// How long a read waits for a leader and for what it must have seen.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Without word from a leader, or from a majority, for so long, a coordinator is out of touch.
pub const SILENCE: Duration = Duration::from_secs(3);
/// How long a leader waits for a majority's confirmation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before a read asks again for a leader.
const READ_RETRY: Duration = Duration::from_millis(10);

/// Agents read from the state in one go.
const MAX_AGENTS_READ: usize = 256;

/// One coordinator.
pub struct Node {
    /// Who it is.
    pub identity: Identity,
    /// Where others reach it, host:port.
    pub address: String,
    /// Its process.
    pub pid: u32,
    /// Its consensus.
    pub raft: RaftHandle,
    /// The state.
    pub fleet: SharedFleet,
    /// Who waits for what.
    pub observer: Arc<ApplyObserver>,
    /// Where commands go.
    pub proposer: Proposer,
    /// The fleet's clock.
    pub clock: FleetClock,
    /// Its place among the coordinators.
    pub raft_role: watch::Receiver<RaftRole>,
    /// Connections.
    pub transport: Transport,
    /// Short questions to the others.
    pub peers: Peers,
    /// The world.
    pub platform: Platform,
    /// The log.
    pub log: Log,
    /// Why this coordinator must stop, when a leader has contradicted what it has applied.
    pub contradicted: watch::Sender<Option<String>>,
    /// What is known of the members while this one leads.
    pub scores: Scores,
    /// What is wrong with it.
    pub warnings: Warnings,
    /// What is known of the room on the coordinators' disks.
    pub rooms: Rooms,
    /// What became of this coordinator's own snapshots.
    pub snapshots: Arc<SnapshotStats>,
    /// When it started.
    pub started: Instant,
    /// When a leader was last heard of.
    pub heard: LeaderContact,
    /// As leader, its contact with a majority.
    pub contact: Contact,
    /// Connections from leaders.
    pub leader_connections: LeaderConnections,
    /// Whether it was removed from the fleet, as far as it knows.
    pub removed: watch::Sender<bool>,
    /// Held while the membership or the leader is changed on purpose.
    pub changing: Arc<Mutex<()>>,
    /// Tasks that end before the node does.
    pub tasks: TaskTracker,
    /// Cancelled when it stops.
    pub stop: CancellationToken,
}

/// When a leader was last heard of. What consensus itself says does not tell: a coordinator that is cut off or was removed
/// asks for votes in vain and keeps the leader it knew.
pub struct LeaderContact {
    start: Instant,
    millis: AtomicU64,
}

impl Default for LeaderContact {
    fn default() -> Self {
        Self { start: Instant::now(), millis: AtomicU64::new(0) }
    }
}

impl LeaderContact {
    /// Now.
    pub fn note(&self) {
        self.millis.store(self.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long ago; since this coordinator started, if never.
    pub fn ago(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.millis.load(Ordering::Relaxed)))
    }
}

impl Node {
    /// The members as this node knows them: id, whereabouts, voter or not.
    pub fn members(&self) -> Vec<(NodeId, Peer, bool)> {
        self.raft.members()
    }

    /// The addresses of all members.
    pub fn addresses(&self) -> Vec<String> {
        self.members().into_iter().map(|(_, peer, _)| peer.address).collect()
    }

    /// How long ago this leader was last known to be followed by a majority; `None` for one that was not yet. What its voters
    /// say of their votes counts as well as what they say of its entries, which waits for their disks.
    pub fn quorum_age(&self) -> Option<Duration> {
        let term = self.raft_role.borrow().term()?;
        if self.raft.voters() <= 1 {
            return Some(Duration::ZERO);
        }
        let replicated = self.raft.majority_heard_ago();
        let confirmed = self.contact.at(term).map(|at| at.elapsed());
        replicated.into_iter().chain(confirmed).min()
    }

    /// Whether the leader of `term` is known to have been followed by a majority lately enough for answering heartbeats. Asks
    /// the voters when what is known is about to be too old.
    pub fn has_contact(&self, term: u64) -> bool {
        let margin = self.observer.sessions.timing.lease_margin();
        let age = self.quorum_age().filter(|_| self.raft_role.borrow().term() == Some(term));
        if age.is_none_or(|age| age > margin / 2) {
            self.contact.want();
        }
        age.is_some_and(|age| age <= margin)
    }

    /// Waits until the leader of `term` is known to have been followed by a majority within the last `age`. False when that
    /// cannot be had within [`CONFIRM_TIMEOUT`].
    pub async fn contact_within(&self, term: u64, age: Duration) -> bool {
        let fresh = self.raft_role.borrow().term() == Some(term) && self.quorum_age().is_some_and(|known| known <= age);
        fresh || timeout(CONFIRM_TIMEOUT, self.contact.since(term, Instant::now())).await.is_ok()
    }

    /// Waits until this coordinator can't serve streams any more, because it stops, or was removed and learns nothing new.
    /// Cancellation-safe.
    pub async fn leaves(&self) {
        let mut removed = self.removed.subscribe();
        tokio::select! {
            () = self.stop.cancelled() => {}
            // The sender is this node's.
            _ = removed.wait_for(|removed| *removed) => {}
        }
    }

    /// Whether it can do its work: it has a vote, leads with a majority or hears from a leader, and has applied about all
    /// that it knows to be committed.
    pub fn is_ready(&self) -> bool {
        let in_touch = match &*self.raft_role.borrow() {
            RaftRole::Leading { ready, .. } => *ready && self.quorum_age().is_some_and(|age| age < SILENCE),
            RaftRole::Following { .. } => self.heard.ago() < SILENCE,
            RaftRole::Leaderless => false,
        };
        let progress = self.raft.progress();
        let is_current = progress.applied + CAUGHT_UP >= progress.committed;
        in_touch && is_current && self.members().iter().any(|(id, _, voter)| *id == self.identity.node_id && *voter)
    }

    /// Consensus' own part of the status.
    pub fn consensus_status(&self, status: &mut v1::FleetStatus) {
        let progress = self.raft.progress();
        status.term = self.raft.term();
        status.log_applied_index = progress.applied;
        status.log_snapshot_index = progress.snapshot;
    }

    /// The log index up to which a linearizable read must have applied, from this node as leader (Raft, section 6.4): what was
    /// committed when the read began, once a majority has confirmed that nobody else led then. It waits for no disk. `None` from
    /// a node that does not lead, or that no majority confirms within [`CONFIRM_TIMEOUT`].
    pub async fn read_index(&self) -> Option<Option<u64>> {
        // A leader that has not applied the first entry of its term does not know yet what its predecessors committed.
        let term = self.raft_role.borrow().leading()?;
        let asked_at = Instant::now();
        let core = self.raft.core_state().await?;
        if core.voted_for != (VotedFor { term, node_id: self.identity.node_id }) {
            return None;
        }
        timeout(CONFIRM_TIMEOUT, self.contact.since(term, asked_at)).await.ok()?;
        Some(core.committed)
    }

    async fn leaders_read_index(&self) -> Option<Option<u64>> {
        let raft_role = self.raft_role.borrow().clone();
        match raft_role {
            RaftRole::Leading { .. } => self.read_index().await,
            RaftRole::Following { peer, .. } => {
                let ask = |mut peer: RaftClient<_>| async move { peer.read_index(internal::ReadIndexRequest {}).await };
                let response = self.peers.ask(&peer.address, ask).await?;
                Some(response.has_index.then_some(response.index))
            }
            RaftRole::Leaderless => None,
        }
    }

    async fn barrier(&self) {
        let index = loop {
            if let Some(index) = self.leaders_read_index().await {
                break index;
            }
            tokio::time::sleep(READ_RETRY).await;
        };
        let Some(index) = index else { return };
        let mut applied = self.observer.applied_indexes();
        // The sender lives in the observer, which this node holds.
        let _ = applied.wait_for(|applied| *applied > index).await;
    }

    /// Waits until this node has applied everything that was accepted before the call, unless `local` is asked for.
    pub async fn ready_to_read(&self, consistency: i32) -> Result<(), Status> {
        if v1::Consistency::try_from(consistency) == Ok(v1::Consistency::Local) {
            return Ok(());
        }
        timeout(READ_TIMEOUT, self.barrier()).await.map_err(|_| {
            Status::unavailable(format!(
                "no coordinator led for {READ_TIMEOUT:?}; a majority of them must be up and reach each other (a read with \
                 consistency LOCAL does without)"
            ))
        })
    }

    /// The next agents by number, a slice of a bounded length, after others had their turn; `None` after the last.
    pub async fn agents_after(&self, after: Option<AgentId>) -> Option<Vec<Arc<Agent>>> {
        tokio::task::yield_now().await;
        let agents: Vec<_> = self.look(|fleet| fleet.agents_after(after).take(MAX_AGENTS_READ).cloned().collect());
        (!agents.is_empty()).then_some(agents)
    }

    /// Looks at the state. Short, and of a bounded size: applying waits.
    pub fn look<T>(&self, look: impl FnOnce(&Fleet) -> T) -> T {
        look(&self.fleet.read())
    }
}
