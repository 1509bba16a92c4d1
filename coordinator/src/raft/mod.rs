//! Consensus among coordinators: the only module that uses the consensus library (`openraft`, an alpha version,
//! pinned). It turns commands into a replicated log and the log into the fleet's state.

pub mod audit;
mod divergence;
#[cfg(test)]
mod fixture;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod handle;
mod leadership;
pub mod log;
#[cfg(all(test, debug_assertions))]
pub mod modelled;
mod network;
mod restraint;
mod server;
mod snapshot;
mod store;
mod types;
pub mod wire;

use std::{sync::Arc, time::Duration};

use openraft::{Config, SnapshotPolicy};

use self::log::Log;
pub use self::{
    divergence::Applied,
    handle::{Fate, KnownLeader, LeaderWatch, Progress, RaftError, RaftHandle},
    leadership::{CoreState, VotedFor},
    network::PeerNetwork,
    restraint::Restraint,
    server::{AppendStream, ConsensusServer},
    snapshot::{SnapshotError, SnapshotStats},
    store::{Observer, SharedFleet, StateMachine, Told},
    types::{
        Batch, CommittedLeaderId, Entry, LogId, NodeId, Peer, Replies, Runtime, SnapshotMeta, StoredMembership,
        TypeConfig, Vote,
    },
};

/// The library's handle of this node.
pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
/// The library's reason for stopping.
pub type Fatal = openraft::errors::Fatal<TypeConfig>;

/// Maximum entries in one replication request.
const MAX_ENTRIES_PER_APPEND: u64 = 64;
/// Number of entries a follower must be behind the leader to get a snapshot instead of the log.
const SNAPSHOT_LAG: u64 = 20_000;

/// Election timing.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
}

impl Timing {
    /// Returns the interval between the leader's heartbeats. A follower may miss three before its election timeout
    /// expires.
    pub fn heartbeat(&self) -> Duration {
        (self.election_min / 4).max(Duration::from_millis(1))
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Starts this node's consensus. The last `entries_kept` entries that a snapshot covers stay in the log, for followers
/// that are slightly behind. `seed` seeds the library's random numbers.
///
/// # Errors
/// A description of the problem: the timing is contradictory, or storage failed.
pub async fn start(
    id: NodeId,
    timing: Timing,
    entries_kept: u64,
    network: PeerNetwork,
    log: Log,
    state_machine: StateMachine,
    seed: u64,
) -> Result<RaftHandle, String> {
    let config = Config {
        cluster_name: "robeing".to_owned(),
        election_timeout_min: millis(timing.election_min),
        election_timeout_max: millis(timing.election_max),
        heartbeat_interval: millis(timing.heartbeat()),
        max_payload_entries: MAX_ENTRIES_PER_APPEND,
        // Snapshots are triggered by the size of the log, not by the number of entries; see `upkeep::SnapshotKeeper`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: entries_kept,
        replication_lag_threshold: SNAPSHOT_LAG,
        install_snapshot_timeout: 60_000,
        enable_pre_vote: Some(true),
        // A leader replicates entries while it is still writing them itself. After a power failure it may lack some
        // that the others have; if it resumed leading in its old term, it would assign their indexes to other entries.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    let config = Arc::new(config.validate().map_err(|e| format!("invalid consensus configuration: {e}"))?);
    Runtime::scope(seed, openraft::Raft::new(id, config, network, log, state_machine))
        .await
        .map(RaftHandle::new)
        .map_err(|e| format!("consensus can't be started: {e}"))
}

#[cfg(test)]
mod tests {
    use robeing_settings::{DEFAULT_ELECTION_TIMEOUT_MAX, DEFAULT_ELECTION_TIMEOUT_MIN};

    use super::*;

    #[test]
    fn a_leader_is_heard_every_37_ms_with_the_default_election_timeout() {
        let timing = Timing { election_min: DEFAULT_ELECTION_TIMEOUT_MIN, election_max: DEFAULT_ELECTION_TIMEOUT_MAX };
        assert_eq!(millis(timing.heartbeat()), 37);
    }
}
