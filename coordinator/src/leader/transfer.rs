//! Leadership transfer to a voter that answers and is caught up, instead of an election.

use std::time::Duration;

use tokio::time::timeout;
use tracing::info;

use crate::{
    leader::{
        describe::{Descriptions, is_caught_up},
        membership_change::{self, ChangeError},
        role::{self, RaftRole},
        standing::Standing,
    },
    member::Member,
    members::Members,
    raft::{NodeId, RaftHandle},
};

/// How long a successor may take to take over. A slower one is overtaken by an election.
pub const TAKE_OVER_TIMEOUT: Duration = Duration::from_secs(5);

/// The leader, and the term in which it leads.
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

/// Transfers leadership to another coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Transfer {
    pub member: Member,
    pub members: Members,
    pub standing: Standing,
    pub descriptions: Descriptions,
    pub raft: RaftHandle,
}

impl Transfer {
    /// Transfers leadership to the voter `to`, or to the best of the others, and waits until another coordinator leads.
    pub async fn hand_over(&self, to: Option<NodeId>) -> Result<Leader, ChangeError> {
        membership_change::ensure_leader(&self.standing)?;
        let target =
            match to {
                Some(id) => id,
                None => self.descriptions.successor().await.ok_or_else(|| {
                    no_successor("no other voter answers and is caught up; leadership does not change")
                })?,
            };
        info!(target = format!("{target:016x}"), "handing leadership over");
        let triggered = self.raft.transfer_leader(target).await;
        triggered.map_err(|error| ChangeError::Failed(error.to_string()))?;
        let mut raft_role = self.standing.roles();
        let taken = role::until(&mut raft_role, |raft_role| matches!(raft_role, RaftRole::Following { .. }));
        match timeout(TAKE_OVER_TIMEOUT, taken).await {
            Ok(Some(RaftRole::Following { leader, peer })) if to.is_none_or(|wanted| wanted == leader) => {
                Ok(Leader { name: peer.name, term: self.raft.term() })
            }
            Ok(None) => Err(ChangeError::Stopping),
            _ => Err(ChangeError::NotTakenOver),
        }
    }

    /// Makes the coordinator with this name lead, unless it leads already; an empty name stands for any other
    /// coordinator.
    pub async fn transfer(&self, to: &str) -> Result<Leader, ChangeError> {
        membership_change::ensure_leader(&self.standing)?;
        if to.is_empty() {
            return self.hand_over(None).await;
        }
        let named = self.members.voters().find(|(_, peer)| peer.name == to);
        let Some((id, peer)) = named else {
            return Err(no_successor(format!("{to:?} is no voter, so it can't lead")));
        };
        if id == self.member.id() {
            return Ok(Leader { name: peer.name, term: self.raft.term() });
        }
        let said = self.descriptions.ask(id, &peer.address).await;
        let said = said.ok_or_else(|| no_successor(format!("{to:?} does not answer, so it can't lead")))?;
        if !is_caught_up(&said, self.descriptions.caught_up_from()) {
            return Err(no_successor(format!("{to:?} is not caught up, so it can't lead yet")));
        }
        self.hand_over(Some(id)).await
    }
}
