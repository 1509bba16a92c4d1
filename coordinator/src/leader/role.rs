//! Who leads, as this node knows it.

use std::collections::BTreeSet;

use tokio::sync::watch;
use tracing::info;

use crate::{
    clock::FleetClock,
    raft::{KnownLeader, NodeId, Peer, RaftHandle},
};

/// This node's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RaftRole {
    /// It leads.
    Leading {
        /// Its term.
        term: u64,
        /// Everything accepted before its term is applied here: it may serve sessions.
        ready: bool,
    },
    /// Another leads.
    Following {
        /// Who.
        leader: NodeId,
        /// Where.
        peer: Peer,
    },
    /// Nobody leads, or it is not known who.
    Leaderless,
}

impl RaftRole {
    /// The term of a leader that is ready.
    pub fn leading(&self) -> Option<u64> {
        match self {
            Self::Leading { term, ready: true } => Some(*term),
            _ => None,
        }
    }

    /// The term of a leader, also of one that is not ready.
    pub fn term(&self) -> Option<u64> {
        match self {
            Self::Leading { term, .. } => Some(*term),
            Self::Following { .. } | Self::Leaderless => None,
        }
    }
}

/// Keeps `raft_role` up to date until the node stops. The fleet's clock runs exactly while it says that this node leads and is
/// ready.
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
                // Applied up to the entry that this leader's term began with.
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

/// Waits for a role that is wanted: what it is then; `None` if the node stops first. Cancellation-safe.
pub async fn until(
    raft_role: &mut watch::Receiver<RaftRole>,
    wanted: impl FnMut(&RaftRole) -> bool,
) -> Option<RaftRole> {
    raft_role.wait_for(wanted).await.ok().map(|raft_role| raft_role.clone())
}

/// Waits until this node leads and is ready: its term; `None` if the node stops first.
pub async fn until_leading(raft_role: &mut watch::Receiver<RaftRole>) -> Option<u64> {
    until(raft_role, |raft_role| raft_role.leading().is_some()).await?.leading()
}

/// Waits until this node does not lead in this term any more, or stops. Cancellation-safe.
pub async fn until_not_leading(raft_role: &mut watch::Receiver<RaftRole>, term: u64) {
    until(raft_role, |raft_role| raft_role.leading() != Some(term)).await;
}
