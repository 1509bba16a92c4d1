//! What this node's consensus holds at one moment, read inside its core: its metrics lag behind it, and a vote that was given
//! to another coordinator meanwhile must not be overlooked.

use std::collections::BTreeSet;

use openraft::vote::RaftLeaderId;

use super::{NodeId, Raft, Vote};

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

/// Reads the state within the core, so that it holds at some moment between the call and its return. `None` once the core has
/// stopped.
pub async fn core_state(raft: &Raft) -> Option<CoreState> {
    let read = raft.with_raft_state(|state| CoreState {
        voted_for: state.vote_ref().into(),
        committed: state.local_committed().map(|id| id.index()),
        voters: state.membership_state.effective().membership().get_joint_config().clone(),
    });
    read.await.ok()
}
