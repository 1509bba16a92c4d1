//! What this node's consensus holds at one moment, read inside its core: its metrics lag behind it, and a vote that was given
//! to another coordinator meanwhile must not be overlooked.

use std::collections::BTreeSet;

use openraft::{raft::TransferLeaderRequest, vote::RaftLeaderId};

use super::{NodeId, RaftHandle, Vote};

/// Whom a vote is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VotedFor {
    /// The term.
    pub term: u64,
    /// The candidate, or the leader it became.
    pub node_id: NodeId,
}

impl From<&Vote> for VotedFor {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term(), node_id: vote.leader_id.node_id }
    }
}

/// This node's part in the consensus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CoreState {
    /// Its vote.
    pub voted_for: VotedFor,
    /// The index of the newest entry that is committed here.
    pub committed: Option<u64>,
    /// The voters of each configuration in force: two of them while the membership changes.
    pub voters: Vec<BTreeSet<NodeId>>,
}

impl RaftHandle {
    /// Reads the state within the core, so that it holds at some moment between the call and its return. `None` once the core
    /// has stopped.
    pub async fn core_state(&self) -> Option<CoreState> {
        let read = self.raft().with_raft_state(|state| CoreState {
            voted_for: state.vote_ref().into(),
            committed: state.local_committed().map(|id| id.index()),
            voters: state.membership_state.effective().membership().get_joint_config().clone(),
        });
        read.await.ok()
    }

    /// Has this node vote, and stand for election, without waiting for the lease of a leader that it follows to end. It does
    /// what a leader asks of all followers when it hands over, with a successor that is not this node: nobody is elected by
    /// that.
    pub async fn end_lease(&self, leader: NodeId) {
        let vote: Result<Vote, _> = self.raft().with_raft_state(|state| *state.vote_ref()).await;
        // An error says that the core has stopped.
        if let Ok(vote) = vote
            && vote.is_committed()
            && vote.leader_id.node_id == leader
        {
            drop(self.raft().handle_transfer_leader(TransferLeaderRequest::new(vote, leader, None)).await);
        }
    }
}
