//! Starts the parts of a coordinator that replicate the log and apply it.

use std::sync::Arc;

use robeing_fleet::{Fleet, FleetConfig};
use robeing_settings::CoordinatorConfig;
use tokio::sync::watch;

use crate::{
    CoordinatorError,
    apply::observer::ApplyObserver,
    archive::Archive,
    clock::FleetClock,
    leader::{
        role::{self, RaftRole},
        sessions::{SessionTable, SessionTiming},
    },
    lifetime::Lifetime,
    outside::Outside,
    propose::Proposer,
    raft::{
        self, PeerNetwork, RaftHandle, SharedFleet, SnapshotStats, StateMachine, Timing,
        audit::{self, VOTE_FOUND},
        log::Log,
    },
};

/// Of the entries that a new snapshot covers, the log keeps the newest: as many as `1 / ENTRIES_KEPT_SHARE` of the
/// entries between two snapshots.
const ENTRIES_KEPT_SHARE: u32 = 100;

/// Returns the timing of elections.
pub(super) fn election_timing(config: &CoordinatorConfig) -> Timing {
    Timing { election_min: config.election_timeout_min, election_max: config.election_timeout_max }
}

/// Returns the timing of agents' sessions.
fn session_timing(config: &CoordinatorConfig) -> SessionTiming {
    SessionTiming {
        heartbeat_interval: config.heartbeat_interval,
        timeout: config.session_timeout,
        health_check_interval: config.health_check_interval,
        grace: config.disconnect_grace,
    }
}

/// The handles of the parts that replicate the log and apply it.
pub(super) struct Consensus {
    pub raft: RaftHandle,
    pub log: Log,
    pub fleet: SharedFleet,
    pub observer: Arc<ApplyObserver>,
    pub role: watch::Receiver<RaftRole>,
    pub proposer: Proposer,
    pub clock: FleetClock,
    pub snapshots: Arc<SnapshotStats>,
    pub archive: Archive,
}

impl Consensus {
    /// Starts consensus with this node id. `address` is where others reach this coordinator.
    ///
    /// # Errors
    /// The state can't be read, or consensus can't be started.
    pub async fn start(
        config: &CoordinatorConfig,
        outside: &Outside,
        id: raft::NodeId,
        address: &str,
        log: Log,
        lifetime: &Lifetime,
    ) -> Result<Self, CoordinatorError> {
        let (platform, transport) = (&outside.platform, &outside.transport);
        log.step_past_promise(id);
        audit::tell_vote(VOTE_FOUND, id, log.vote());
        let observer = Arc::new(ApplyObserver::new(SessionTable::new(session_timing(config))));
        let fleet = SharedFleet::new(Fleet::new(FleetConfig::default()));
        let disk = Arc::clone(&platform.disk);
        let clock = FleetClock::new(id, Arc::clone(&platform.clock));
        let state_machine =
            StateMachine::open(disk, &config.data, fleet.clone(), Arc::clone(&observer) as _, &log, clock.clone())
                .await?;
        let (snapshots, archive) = (state_machine.stats(), state_machine.archive());
        let network = PeerNetwork::new(transport.clone(), clock.clone(), address.into());
        let seed = platform.random.next_u64();
        let kept = u64::from(config.snapshot_after / ENTRIES_KEPT_SHARE);
        let raft = raft::start(id, election_timing(config), kept, network, log.clone(), state_machine, seed)
            .await
            .map_err(CoordinatorError::Consensus)?;
        let (sender, role) = watch::channel(RaftRole::Leaderless);
        lifetime.spawn(role::watch(id, raft.clone(), sender, clock.clone()));
        let (proposer, driver) =
            Proposer::new(id, raft.clone(), fleet.clone(), role.clone(), transport.clone(), clock.clone());
        lifetime.spawn(driver.run());
        Ok(Self { raft, log, fleet, observer, role, proposer, clock, snapshots, archive })
    }
}
