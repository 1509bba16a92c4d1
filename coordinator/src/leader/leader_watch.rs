//! Immediate replacement of a leader whose process has ended, without waiting for an election timeout.
//!
//! Each coordinator holds connections from the leader. When one ends, the coordinator probes the leader's address: if
//! nothing listens there, it assumes that the leader's process is gone. It then ignores the leader's lease and stands
//! for election after a short pause, which differs between coordinators so that the candidates stand one after the
//! other. Pre-vote stays on: while a majority has not made the same observation, or still follows the leader, no vote
//! and no term changes.
//!
//! All of this affects latency only, never safety. The evidence may be wrong (a firewall that begins to reject
//! connections looks the same, and a name may resolve to another machine by now). A majority that is misled then elects
//! another leader, as after any election timeout, and two leaders in one term remain impossible. No guarantee to an
//! agent depends on a minimum duration of an election: a leader renews a lease only while it knows that a majority
//! followed it a moment ago, and its successor gives every agent a full session timeout.

use std::{sync::Arc, time::Duration};

use robeing_net::ConnectInfo;
use robeing_platform::jittered;
use tokio::sync::Notify;
use tracing::{debug, info};

use crate::{
    leader::{
        role::{RaftRole, until},
        standing::Standing,
    },
    lifetime::Lifetime,
    members::Members,
    outside::Outside,
    raft::{NodeId, RaftHandle, Restraint, Timing},
};

/// How long a process may take to accept or refuse a connection.
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);
/// How many times a coordinator stands for election after the loss of one leader. Afterwards the election timeout
/// decides.
const ROUNDS: u32 = 5;

/// Signals when connections from a leader end. Cheap to clone.
#[derive(Clone, Default)]
pub struct LeaderConnections {
    ended: Arc<Notify>,
}

impl LeaderConnections {
    /// Watches the connection over which a leader's request arrived. Each connection is watched only once.
    pub fn watch(&self, lifetime: &Lifetime, connection: &ConnectInfo) {
        if !connection.ending.claim() {
            return;
        }
        let (ending, ended, stop) = (connection.ending.clone(), Arc::clone(&self.ended), lifetime.stop().clone());
        lifetime.tasks().spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = ending.over() => ended.notify_one(),
            }
        });
    }
}

/// Replaces a leader whose process has ended.
pub struct LeaderLoss {
    pub own: NodeId,
    pub connections: LeaderConnections,
    pub standing: Standing,
    pub members: Members,
    pub outside: Outside,
    pub raft: RaftHandle,
    pub timing: Timing,
    pub restraint: Restraint,
}

impl LeaderLoss {
    /// Probes the leader whenever a connection from a leader has ended. Runs until the coordinator stops.
    pub async fn run(self) {
        loop {
            self.connections.ended.notified().await;
            if let Some(leader) = followed(&self.standing.role()) {
                self.replace_if_gone(leader).await;
            }
        }
    }

    async fn replace_if_gone(&self, leader: NodeId) {
        let members = self.members.all();
        let Some((_, peer, _)) = members.iter().find(|(id, ..)| *id == leader) else { return };
        let mut others: Vec<NodeId> =
            members.iter().filter(|(id, _, voter)| *voter && *id != leader).map(|(id, ..)| *id).collect();
        others.sort_unstable();
        let Some(place) = others.iter().position(|id| *id == self.own) else { return };
        let mut raft_role = self.standing.roles();
        for round in 0..ROUNDS {
            if self.outside.transport.probe(&peer.address, PROBE_TIMEOUT).await != Some(false) {
                return;
            }
            if round == 0 {
                info!(leader = peer.name, "the leader's process is gone");
                self.raft.end_lease(leader).await;
            }
            let random = &*self.outside.platform.random;
            let pause = pause(self.timing, place, others.len(), round) + jittered(random, step(self.timing) / 3);
            tokio::select! {
                _ = until(&mut raft_role, |raft_role| followed(raft_role) != Some(leader)) => return,
                () = tokio::time::sleep(pause) => {}
            }
            if self.restraint.is_held() {
                continue;
            }
            // An error means that consensus has stopped, which is handled elsewhere.
            if let Err(error) = self.raft.stand_for_election().await {
                debug!(%error, "could not start an election");
            }
        }
    }
}

fn followed(raft_role: &RaftRole) -> Option<NodeId> {
    match raft_role {
        RaftRole::Following { leader, .. } => Some(*leader),
        RaftRole::Leading { .. } | RaftRole::Leaderless => None,
    }
}

/// Returns the time that a candidate has before the next one stands for election.
fn step(timing: Timing) -> Duration {
    timing.election_min / 5
}

/// Returns how long the voter at `place` among the remaining `voters` waits before it stands for election. In round 0
/// this is long enough for the others to make the same observation and for the candidates before it to stand; in later
/// rounds, for every candidate to stand once.
fn pause(timing: Timing, place: usize, voters: usize, round: u32) -> Duration {
    let steps = if round == 0 { place } else { voters };
    step(timing) / 6 + step(timing) * u32::try_from(steps).unwrap_or(u32::MAX).min(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_stand_one_after_the_other_and_all_before_the_election_timeout_of_a_usual_fleet() {
        let timing = Timing { election_min: Duration::from_millis(150), election_max: Duration::from_millis(300) };
        let most = |place| pause(timing, place, 2, 0) + step(timing) / 3;
        assert!(most(0) < Duration::from_millis(20), "the first stands at once: {:?}", most(0));
        assert!(most(0) + Duration::from_millis(10) < pause(timing, 1, 2, 0), "it has time to be elected");
        assert!(most(1) < timing.election_min);
        assert_eq!(pause(timing, 0, 2, 1), pause(timing, 1, 2, 1), "later they keep their distance");
    }
}
