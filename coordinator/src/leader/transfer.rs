//! Leadership in good order: handed over to a voter that answers and is caught up, instead of left to an election.

use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use crate::{
    leader::{
        membership_change::{self, ChangeError},
        role::{self, RaftRole},
        score,
    },
    node::Node,
    raft::NodeId,
};

/// How long a successor may take to take over. One that does not is outrun by an election.
pub const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// Who leads, and since which term.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its name.
    pub name: String,
    /// The term.
    pub term: u64,
}

fn no_successor(problem: impl Into<String>) -> ChangeError {
    ChangeError::NoSuccessor(problem.into())
}

/// Hands leadership to a voter, or to the best of the others, and waits until another leads.
pub async fn hand_over(node: &Node, to: Option<NodeId>) -> Result<Leader, ChangeError> {
    membership_change::ensure_leader(node)?;
    let target = match to {
        Some(id) => id,
        None => score::successor(node)
            .await
            .ok_or_else(|| no_successor("no other voter answers and is caught up; leadership stays"))?,
    };
    info!(target = format!("{target:016x}"), "handing leadership over");
    let triggered = node.raft.transfer_leader(target).await;
    triggered.map_err(|error| ChangeError::Failed(error.to_string()))?;
    let mut raft_role = node.raft_role.clone();
    let taken = role::until(&mut raft_role, |raft_role| matches!(raft_role, RaftRole::Following { .. }));
    match timeout(TAKE_OVER_TIMEOUT, taken).await {
        Ok(Some(RaftRole::Following { leader, peer })) if to.is_none_or(|wanted| wanted == leader) => {
            Ok(Leader { name: peer.name, term: node.raft.term() })
        }
        Ok(None) => Err(ChangeError::Stopping),
        _ => Err(ChangeError::NotTakenOver),
    }
}

/// Sees to it that the coordinator of this name leads; without a name, another than now.
pub async fn transfer(node: &Node, to: &str) -> Result<Leader, ChangeError> {
    membership_change::ensure_leader(node)?;
    if to.is_empty() {
        return hand_over(node, None).await;
    }
    let named = node.members().into_iter().find(|(_, peer, voter)| peer.name == to && *voter);
    let Some((id, peer, _)) = named else {
        return Err(no_successor(format!("{to:?} is no voter, so it can't lead")));
    };
    if id == node.identity.node_id {
        return Ok(Leader { name: peer.name, term: node.raft.term() });
    }
    let said = score::ask(node, id, &peer.address).await;
    let said = said.ok_or_else(|| no_successor(format!("{to:?} does not answer, so it can't lead")))?;
    if !score::is_caught_up(&said, score::caught_up_from(node)) {
        return Err(no_successor(format!("{to:?} is not caught up, so it can't lead yet")));
    }
    hand_over(node, Some(id)).await
}
