//! Who leads, as this node knows it.

use openraft::{ServerState, async_runtime::watch::WatchReceiver, vote::RaftLeaderId};
use tokio::sync::watch;
use tracing::info;

use super::{
    clock::FleetClock,
    consensus::{NodeId, Peer, Raft},
};

/// This node's place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
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

impl Standing {
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

/// Keeps `standing` up to date until the node stops. The fleet's clock runs exactly while it says that this node leads and is
/// ready.
pub async fn watch(id: NodeId, raft: Raft, standing: watch::Sender<Standing>, clock: FleetClock) {
    let mut metrics = raft.server_metrics();
    loop {
        let now = {
            let metrics = metrics.borrow_watched();
            let term = openraft::vote::RaftVote::leader_id(&metrics.vote).term();
            let leader = metrics.current_leader;
            match leader {
                Some(leader) if leader == id && metrics.state == ServerState::Leader => {
                    Standing::Leading { term, ready: false }
                }
                Some(leader) if leader != id => {
                    let peer = metrics.membership_config.membership().get_node(&leader).cloned();
                    peer.map_or(Standing::Leaderless, |peer| Standing::Following { leader, peer })
                }
                _ => Standing::Leaderless,
            }
        };
        let same = match (&*standing.borrow(), &now) {
            (Standing::Leading { term: was, .. }, Standing::Leading { term: is, .. }) => was == is,
            (was, is) => was == is,
        };
        if !same {
            info!(standing = ?now, "leadership changed");
            standing.send_replace(now.clone());
            clock.end();
        }
        if let Standing::Leading { term, .. } = now
            && *standing.borrow() == (Standing::Leading { term, ready: false })
        {
            tokio::select! {
                // Applied up to the entry that this leader's term began with.
                caught_up = raft.ensure_linearizable(openraft::ReadPolicy::ReadIndex) => {
                    if caught_up.is_ok() {
                        let voters = metrics.borrow_watched().membership_config.membership().voter_ids().collect();
                        clock.begin((term, id), voters);
                        standing.send_if_modified(|s| {
                            let unready = Standing::Leading { term, ready: false };
                            let becomes_ready = *s == unready;
                            if becomes_ready {
                                *s = Standing::Leading { term, ready: true };
                            }
                            becomes_ready
                        });
                    } else {
                        tokio::task::yield_now().await;
                    }
                    continue;
                }
                changed = metrics.changed() => if changed.is_err() { break },
            }
        } else if metrics.changed().await.is_err() {
            break;
        }
    }
    standing.send_replace(Standing::Leaderless);
    clock.end();
}

/// Waits for a standing that is wanted: what it is then; `None` if the node stops first. Cancellation-safe.
pub async fn until(
    standing: &mut watch::Receiver<Standing>,
    wanted: impl FnMut(&Standing) -> bool,
) -> Option<Standing> {
    standing.wait_for(wanted).await.ok().map(|standing| standing.clone())
}

/// Waits until this node leads and is ready: its term; `None` if the node stops first.
pub async fn until_leading(standing: &mut watch::Receiver<Standing>) -> Option<u64> {
    until(standing, |standing| standing.leading().is_some()).await?.leading()
}

/// Waits until this node does not lead in this term any more, or stops. Cancellation-safe.
pub async fn until_not_leading(standing: &mut watch::Receiver<Standing>, term: u64) {
    until(standing, |standing| standing.leading() != Some(term)).await;
}
