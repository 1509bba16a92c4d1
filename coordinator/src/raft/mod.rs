//! Consensus among coordinators: the only module that knows the consensus library (`openraft`, an alpha, pinned). It turns
//! commands into a replicated log and the log into the fleet's state.

pub mod audit;
mod divergence;
#[cfg(test)]
mod fixture;
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
/// Why the library stopped.
pub type Fatal = openraft::errors::Fatal<TypeConfig>;

/// Entries in one replication request.
const MAX_ENTRIES_PER_APPEND: u64 = 64;
/// Entries behind the leader at which a follower gets a snapshot instead of the log.
const SNAPSHOT_LAG: u64 = 20_000;

/// Timing of consensus.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Shortest time without a leader before an election.
    pub election_min: Duration,
    /// Longest.
    pub election_max: Duration,
}

impl Timing {
    /// Pause between the leader's heartbeats: three may be lost before anybody stands for election.
    pub fn heartbeat(&self) -> Duration {
        (self.election_min / 4).max(Duration::from_millis(1))
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

/// Starts this node's consensus. `entries_kept` stay in the log behind a snapshot, for followers that are a little behind.
/// `seed` is where its random numbers come from.
///
/// # Errors
/// The timing is contradictory, or storage failed; in words.
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
        // Snapshots are asked for by size of the log, not by count of entries; see the housekeeping of the coordinator.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: entries_kept,
        replication_lag_threshold: SNAPSHOT_LAG,
        install_snapshot_timeout: 60_000,
        enable_pre_vote: Some(true),
        // A leader replicates entries while it still writes them itself. One that lost power may come back without some that
        // the others have; were it to lead on in its old term, it would give their indexes to other entries.
        enable_leader_restore: Some(false),
        ..Config::default()
    };
    let config = Arc::new(config.validate().map_err(|e| format!("consensus can't be configured so: {e}"))?);
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
