//! This node's consensus state at one moment, read inside the library's core. The library's metrics lag behind the
//! core, and a vote that was granted to another coordinator meanwhile must not be missed.

use std::collections::BTreeSet;

use openraft::{raft::TransferLeaderRequest, vote::RaftLeaderId};

use super::{NodeId, RaftHandle, Vote};

/// The candidate that a vote is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VotedFor {
    /// The term.
    pub term: u64,
    /// The candidate, or the leader that it became.
    pub node_id: NodeId,
}

impl From<&Vote> for VotedFor {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term(), node_id: vote.leader_id.node_id }
    }
}

/// This node's state in the consensus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreState {
    /// Its vote.
    pub voted_for: VotedFor,
    /// The index of the newest entry that is known here to be committed.
    pub committed: Option<u64>,
    /// The voters of each configuration in force: two while the membership changes.
    pub voters: Vec<BTreeSet<NodeId>>,
}

impl RaftHandle {
    /// Reads the state within the core, so that it was true at some moment between the call and its return. Returns
    /// `None` once the core has stopped.
    pub async fn core_state(&self) -> Option<CoreState> {
        let read = self.raft().with_raft_state(|state| CoreState {
            voted_for: state.vote_ref().into(),
            committed: state.local_committed().map(|id| id.index()),
            voters: state.membership_state.effective().membership().get_joint_config().clone(),
        });
        read.await.ok()
    }

    /// Lets this node vote, and start elections, before the lease of the leader that it follows expires. To do so, it
    /// handles the request that a leader sends to all followers when it transfers leadership. The successor in the
    /// request is not this node, so the request itself starts no election.
    pub async fn end_lease(&self, leader: NodeId) {
        let vote: Result<Vote, _> = self.raft().with_raft_state(|state| *state.vote_ref()).await;
        // An error means that the core has stopped.
        if let Ok(vote) = vote
            && vote.is_committed()
            && vote.leader_id.node_id == leader
        {
            drop(self.raft().handle_transfer_leader(TransferLeaderRequest::new(vote, leader, None)).await);
        }
    }
}
