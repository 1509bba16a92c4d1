//! The interface to consensus for the rest of the coordinator. The consensus library's types don't appear outside this
//! module.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{
    ChangeMembers, Instant as _, ReadPolicy, ServerState,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, RaftError as LibraryError},
    impls::ProgressResponder,
    metrics::RaftServerMetrics,
    type_config::alias::WatchReceiverOf,
    vote::{RaftLeaderId as _, leader_id_adv::LeaderId},
};
use robeing_fleet::Reply;

use super::{Batch, LogId, NodeId, Peer, Raft, TypeConfig};

/// A handle to this node's consensus. Cheap to clone.
#[derive(Clone)]
pub struct RaftHandle(Raft);

/// The leader, as this node knows it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KnownLeader {
    /// This node.
    Itself,
    /// Another member.
    Other(NodeId, Peer),
    /// No coordinator leads, or the leader is unknown.
    Nobody,
}

/// Indexes of log entries; zero for none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// The newest entry in the log here.
    pub last: u64,
    /// The newest entry that is committed, as far as this node knows.
    pub committed: u64,
    /// The newest entry that is applied here.
    pub applied: u64,
    /// The newest entry that a snapshot here covers.
    pub snapshot: u64,
    /// The newest entry that was purged from the log here. A member that lacks it receives the snapshot.
    pub purged: u64,
}

impl Progress {
    /// Returns the lowest index that another member must have reached to be caught up with `newest` here: at most `lag`
    /// entries behind, and far enough to need no snapshot, which may take long.
    pub fn caught_up_from(&self, newest: u64, lag: u64) -> u64 {
        newest.saturating_sub(lag).max(self.purged)
    }
}

/// The outcome of a proposed batch.
#[derive(Debug)]
pub enum Fate {
    /// It is in the log and applied, with these replies.
    Written(Vec<Reply>),
    /// It was refused before it was in any log, for example by a leader whose contact with a majority is too old while
    /// disks are slow. The leader's term may continue.
    Refused,
    /// It may be in the log of a leader whose term is over.
    Unknown,
}

/// Reasons why consensus did not do what was requested.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RaftError {
    /// This node does not lead, or no longer leads.
    #[error("this coordinator does not lead")]
    NotLeader,
    /// Consensus has stopped.
    #[error("this coordinator is stopping")]
    Stopped,
    /// Any other error, with the library's message.
    #[error("{0}")]
    Failed(String),
}

type WriteError = LibraryError<TypeConfig, ClientWriteError<TypeConfig>>;

impl From<WriteError> for RaftError {
    fn from(error: WriteError) -> Self {
        use ClientWriteError::{ForwardToLeader, LogEntryDiscarded};
        match error {
            LibraryError::APIError(ForwardToLeader(_) | LogEntryDiscarded(_)) => Self::NotLeader,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// Watches the leader and the members.
pub struct LeaderWatch {
    id: NodeId,
    metrics: WatchReceiverOf<TypeConfig, RaftServerMetrics<TypeConfig>>,
}

impl LeaderWatch {
    /// Returns the leader, and the newest term that this node knows.
    pub fn now(&self) -> (KnownLeader, u64) {
        let metrics = self.metrics.borrow_watched();
        let leader = match metrics.current_leader {
            Some(leader) if leader == self.id && metrics.state == ServerState::Leader => KnownLeader::Itself,
            Some(leader) if leader != self.id => {
                let peer = metrics.membership_config.membership().get_node(&leader).cloned();
                peer.map_or(KnownLeader::Nobody, |peer| KnownLeader::Other(leader, peer))
            }
            _ => KnownLeader::Nobody,
        };
        (leader, metrics.vote.leader_id().term())
    }

    /// Waits for a change; returns false once consensus has stopped. Cancellation-safe.
    pub async fn changed(&mut self) -> bool {
        self.metrics.changed().await.is_ok()
    }
}

fn index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index())
}

impl RaftHandle {
    pub(super) fn new(raft: Raft) -> Self {
        Self(raft)
    }

    pub(super) fn raft(&self) -> &Raft {
        &self.0
    }

    /// Returns a watch of the leader, for the node `id`.
    pub fn watch_leader(&self, id: NodeId) -> LeaderWatch {
        LeaderWatch { id, metrics: self.0.server_metrics() }
    }

    /// Returns the newest term that this node knows.
    pub fn term(&self) -> u64 {
        self.0.server_metrics().borrow_watched().vote.leader_id().term()
    }

    /// Returns the members that this node knows, sorted by name: id, name and address, and whether it is a voter.
    pub fn members(&self) -> Vec<(NodeId, Peer, bool)> {
        let metrics = self.0.server_metrics();
        let metrics = metrics.borrow_watched();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<NodeId> = membership.voter_ids().collect();
        let mut members: Vec<_> =
            membership.nodes().map(|(id, peer)| (*id, peer.clone(), voters.contains(id))).collect();
        members.sort_by(|a, b| a.1.name.cmp(&b.1.name));
        members
    }

    /// Returns the voters of each configuration in force: two while the membership changes.
    pub fn configurations(&self) -> Vec<BTreeSet<NodeId>> {
        self.0.server_metrics().borrow_watched().membership_config.membership().get_joint_config().clone()
    }

    /// Returns the number of voters; while the membership changes, of those in either configuration.
    pub fn voters(&self) -> usize {
        self.0.server_metrics().borrow_watched().membership_config.membership().voter_ids().count()
    }

    /// Returns the progress of the log.
    pub fn progress(&self) -> Progress {
        let metrics = self.0.data_metrics();
        let metrics = metrics.borrow_watched();
        Progress {
            last: index(metrics.last_log),
            committed: index(metrics.cluster_committed),
            applied: index(metrics.last_applied),
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
        }
    }

    /// As leader: returns how long ago this node sent the newest message that a majority has acknowledged.
    pub fn majority_heard_ago(&self) -> Option<Duration> {
        self.0.data_metrics().borrow_watched().last_quorum_acked.map(|at| at.elapsed())
    }

    /// As leader: returns how long ago this member last answered.
    pub fn heard_ago(&self, id: NodeId) -> Option<Duration> {
        let metrics = self.0.metrics();
        let metrics = metrics.borrow_watched();
        let answered = metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(&id).cloned().flatten());
        answered.map(|at| at.elapsed())
    }

    /// As leader: waits until everything that was committed before the call is applied here. Returns whether it is.
    pub async fn catch_up(&self) -> bool {
        self.0.ensure_linearizable(ReadPolicy::ReadIndex).await.is_ok()
    }

    /// Writes a batch as the leader of this term, or not at all.
    pub async fn write(&self, batch: Batch, id: NodeId, term: u64) -> Fate {
        let (responder, answer) = ProgressResponder::complete_only();
        let leader = LeaderId::new(term, id).to_committed();
        if self.0.write(batch).with_leader(leader).responder(responder).await.is_err() {
            return Fate::Unknown;
        }
        match answer.await {
            Ok(Ok(written)) => {
                let replies = written.data.all;
                Fate::Written(Arc::try_unwrap(replies).unwrap_or_else(|shared| (*shared).clone()))
            }
            // The library returns this only for entries that it did not append.
            Ok(Err(ClientWriteError::ForwardToLeader(_))) => Fate::Refused,
            Ok(Err(_)) | Err(_) => Fate::Unknown,
        }
    }

    /// Starts an election at once, even while another node leads.
    ///
    /// # Errors
    /// Consensus has stopped.
    pub async fn stand_for_election(&self) -> Result<(), RaftError> {
        self.0.trigger().elect(true).await.map_err(|_| RaftError::Stopped)
    }

    /// Returns whether this node's log has begun: this node wrote the first members, or a leader has replicated to it.
    pub async fn has_begun(&self) -> bool {
        self.0.is_initialized().await.unwrap_or(true)
    }

    /// Begins a log with its first members.
    ///
    /// # Errors
    /// The library's message: the log has begun already, or consensus has stopped.
    pub async fn begin(&self, members: BTreeMap<NodeId, Peer>) -> Result<(), RaftError> {
        self.0.initialize(members).await.map_err(|error| RaftError::Failed(error.to_string()))
    }

    /// As leader: asks a voter to take over. Does not wait for it.
    ///
    /// # Errors
    /// Consensus has stopped.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), RaftError> {
        self.0.trigger().transfer_leader(to).await.map_err(|_| RaftError::Stopped)
    }

    /// Requests a snapshot. Does not wait for it.
    ///
    /// # Errors
    /// Consensus has stopped.
    pub async fn snapshot(&self) -> Result<(), RaftError> {
        self.0.trigger().snapshot().await.map_err(|_| RaftError::Stopped)
    }

    /// Purges the entries up to this one, which a snapshot must cover.
    ///
    /// # Errors
    /// Consensus has stopped.
    pub async fn purge(&self, up_to: u64) -> Result<(), RaftError> {
        self.0.trigger().purge_log(up_to).await.map_err(|_| RaftError::Stopped)
    }

    /// As leader: adds a node as a learner. Does not wait until it has caught up.
    ///
    /// # Errors
    /// The change was not committed.
    pub async fn add_learner(&self, id: NodeId, peer: Peer) -> Result<(), RaftError> {
        Ok(self.0.add_learner(id, peer, false).await.map(drop)?)
    }

    /// As leader: makes these nodes the voters. Voters that are not among them are no longer members.
    ///
    /// # Errors
    /// The change was not committed.
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), RaftError> {
        Ok(self.0.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await.map(drop)?)
    }

    /// As leader: removes learners.
    ///
    /// # Errors
    /// The change was not committed.
    pub async fn remove_learners(&self, learners: BTreeSet<NodeId>) -> Result<(), RaftError> {
        Ok(self.0.change_membership(ChangeMembers::RemoveNodes(learners), false).await.map(drop)?)
    }

    /// As leader: waits until a member lacks at most `lag` of the entries that are here, and needs no snapshot for
    /// them.
    ///
    /// # Errors
    /// This node no longer leads, or consensus has stopped.
    pub async fn until_replicated(&self, id: NodeId, lag: u64) -> Result<(), RaftError> {
        let mut metrics = self.0.metrics();
        loop {
            {
                let now = metrics.borrow_watched();
                if now.state != ServerState::Leader {
                    return Err(RaftError::NotLeader);
                }
                let matched = now.replication.as_ref().and_then(|all| all.get(&id).cloned().flatten());
                let progress = self.progress();
                let least = progress.caught_up_from(progress.last, lag);
                if matched.is_some_and(|log_id| log_id.index() >= least) {
                    return Ok(());
                }
            }
            if metrics.changed().await.is_err() {
                return Err(RaftError::Stopped);
            }
        }
    }

    /// Waits until consensus has failed, and returns the reason. Cancellation-safe.
    pub async fn until_fatal(&self) -> String {
        let mut metrics = self.0.metrics();
        loop {
            if let Err(fatal) = &metrics.borrow_watched().running_state {
                return fatal.to_string();
            }
            if metrics.changed().await.is_err() {
                return "its task has ended".to_owned();
            }
        }
    }

    /// Stops consensus on this node.
    ///
    /// # Errors
    /// The message of the error that its task ended with.
    pub async fn shutdown(&self) -> Result<(), String> {
        self.0.shutdown().await.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_needs_a_snapshot_is_not_caught_up_however_close_it_is() {
        for (newest, purged, least) in [(1_000, 0, 900), (1_000, 900, 900), (1_000, 950, 950), (50, 0, 0)] {
            let progress = Progress { last: newest, committed: newest, applied: newest, snapshot: purged, purged };
            assert_eq!(progress.caught_up_from(newest, 100), least);
        }
    }
}
