//! The Raft role of this node: who leads, as far as this node knows.

use std::collections::BTreeSet;

use tokio::sync::watch;
use tracing::info;

use crate::{
    clock::FleetClock,
    raft::{KnownLeader, NodeId, Peer, RaftHandle},
};

/// This node's Raft role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RaftRole {
    /// This node leads.
    Leading {
        /// The term in which it leads.
        term: u64,
        /// Whether everything accepted before this term is applied here, so that this node may serve sessions.
        ready: bool,
    },
    /// Another node leads.
    Following {
        /// The leader's node id.
        leader: NodeId,
        /// The leader's name and address.
        peer: Peer,
    },
    /// No node leads, or the leader is not known.
    Leaderless,
}

impl RaftRole {
    /// Returns the term if this node leads and is ready.
    pub fn leading(&self) -> Option<u64> {
        match self {
            Self::Leading { term, ready: true } => Some(*term),
            _ => None,
        }
    }

    /// Returns the term if this node leads, ready or not.
    pub fn term(&self) -> Option<u64> {
        match self {
            Self::Leading { term, .. } => Some(*term),
            Self::Following { .. } | Self::Leaderless => None,
        }
    }
}

/// Keeps `raft_role` up to date until the node stops. The fleet's clock runs exactly while this node leads and is ready
/// according to `raft_role`.
pub async fn watch(id: NodeId, raft: RaftHandle, raft_role: watch::Sender<RaftRole>, clock: FleetClock) {
    let mut leaders = raft.watch_leader(id);
    loop {
        let now = match leaders.now() {
            (KnownLeader::Itself, term) => RaftRole::Leading { term, ready: false },
            (KnownLeader::Other(leader, peer), _) => RaftRole::Following { leader, peer },
            (KnownLeader::Nobody, _) => RaftRole::Leaderless,
        };
        let same = match (&*raft_role.borrow(), &now) {
            (RaftRole::Leading { term: was, .. }, RaftRole::Leading { term: is, .. }) => was == is,
            (was, is) => was == is,
        };
        if !same {
            info!(raft_role = ?now, "leadership changed");
            raft_role.send_replace(now.clone());
            clock.end();
        }
        if let RaftRole::Leading { term, .. } = now
            && *raft_role.borrow() == (RaftRole::Leading { term, ready: false })
        {
            tokio::select! {
                // Resolves once the first entry of this leader's term is applied.
                caught_up = raft.catch_up() => {
                    if caught_up {
                        let voters = raft.configurations().into_iter().flatten().collect::<BTreeSet<_>>();
                        clock.begin((term, id), voters.into_iter().collect());
                        raft_role.send_if_modified(|s| {
                            let unready = RaftRole::Leading { term, ready: false };
                            let becomes_ready = *s == unready;
                            if becomes_ready {
                                *s = RaftRole::Leading { term, ready: true };
                            }
                            becomes_ready
                        });
                    } else {
                        tokio::task::yield_now().await;
                    }
                    continue;
                }
                changed = leaders.changed() => if !changed { break },
            }
        } else if !leaders.changed().await {
            break;
        }
    }
    raft_role.send_replace(RaftRole::Leaderless);
    clock.end();
}

/// Waits for a role that matches `wanted` and returns it; `None` if the node stops first. Cancellation-safe.
pub async fn until(
    raft_role: &mut watch::Receiver<RaftRole>,
    wanted: impl FnMut(&RaftRole) -> bool,
) -> Option<RaftRole> {
    raft_role.wait_for(wanted).await.ok().map(|raft_role| raft_role.clone())
}

/// Waits until this node leads and is ready, and returns the term; `None` if the node stops first.
pub async fn until_leading(raft_role: &mut watch::Receiver<RaftRole>) -> Option<u64> {
    until(raft_role, |raft_role| raft_role.leading().is_some()).await?.leading()
}

/// Waits until this node no longer leads in this term, or stops. Cancellation-safe.
pub async fn until_not_leading(raft_role: &mut watch::Receiver<RaftRole>, term: u64) {
    until(raft_role, |raft_role| raft_role.leading() != Some(term)).await;
}
