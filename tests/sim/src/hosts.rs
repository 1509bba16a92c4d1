//! The simulated machines, and how the shipped code is started on them.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use robeing_agent::runtime::{self, Extras};
use robeing_coordinator as coordinator;
use robeing_platform::{
    Platform,
    simulated::{SeededRandom, SimulatedDisk},
};
use robeing_settings::{
    AgentConfig, AgentRole, AuthorityConfig, BallotDefaults, Contribute, CoordinatorConfig, EnrolmentConfig,
    FleetLimits, OnAnomaly, TlsMode, Weights,
};
use robeing_telemetry::Metrics;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    checks::Check,
    clocks::{Times, WallClocks},
    executor::SimulatedExecutor,
    faults::{Host, Size},
    mail::{Chatter, SimulatedHandler, keeps},
    network::{SimulatedClock, SimulatedHost, SimulatedNetwork},
    profile::Profile,
    record::Record,
    sabotage::Sabotage,
    tasks::SPECIALIZATION,
    wire::Wire,
};

/// The numbers of machines of each kind.
pub const SIZE: Size = Size { coordinators: 3, agents: 5 };
/// A coordinator that is not a member at first.
pub const SPARE: Host = Host::Coordinator(SIZE.coordinators);
/// The number of workers, which form one pool; the other agents are specialists, except that the last one may have
/// another role.
pub const WORKERS: usize = 3;
/// The workers' pool.
pub const POOL: &str = "work";
/// The number of active workers; the others are standbys.
pub const POOL_REPLICAS: u32 = WORKERS as u32 - 1;
/// The data directory of a coordinator, or of an agent that has one.
pub const DATA: &str = "/data";
/// What each agent contributes: processor time in thousandths of a processor, and memory in bytes.
pub const CPU: u64 = 4_000;
pub const MEMORY: u64 = 1 << 30;
const PORT: u16 = 7000;
/// The session timeout.
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of entries between two snapshots: few, so that logs are truncated, and new and lagging coordinators get
/// snapshots.
const SNAPSHOT_AFTER: u32 = 30;

/// What the simulation and its hosts share.
#[derive(Clone)]
pub struct Shared {
    pub seed: u64,
    pub profile: Rc<Profile>,
    pub record: Record,
    pub wire: Wire,
    /// The tokens that ask each process to stop.
    pub stops: Rc<RefCell<BTreeMap<String, CancellationToken>>>,
    /// The number of starts of each process.
    pub starts: Rc<RefCell<BTreeMap<String, u64>>>,
    /// Coordinators whose data was damaged.
    pub damaged: Rc<RefCell<BTreeSet<Host>>>,
    pub sabotage: Option<Sabotage>,
    pub clocks: WallClocks,
    pub times: Times,
}

impl Shared {
    /// Returns the platform of a process; each start has its own random numbers.
    pub fn platform(&self, name: &str, disk: SimulatedDisk) -> Platform {
        let start = *self.starts.borrow_mut().entry(name.to_owned()).and_modify(|n| *n += 1).or_insert(1);
        let host = u64::from(crc32c::crc32c(name.as_bytes()));
        let random = SeededRandom::new(self.seed ^ (host << 32) ^ start);
        Platform {
            network: Arc::new(SimulatedNetwork::new(self.wire.clone(), name)),
            clock: self.clocks.of(name, Arc::new(SimulatedClock { ahead: host % 400 })),
            random: Arc::new(random),
            disk: Arc::new(disk),
            host: Arc::new(SimulatedHost),
        }
    }

    /// Returns a new token that asks the process to stop.
    fn started(&self, name: &str) -> CancellationToken {
        let stop = CancellationToken::new();
        self.stops.borrow_mut().insert(name.to_owned(), stop.clone());
        stop
    }
}

/// Returns the address on which a host listens.
pub fn address(host: Host) -> String {
    format!("{}:{PORT}", host.name())
}

/// Returns the names and addresses of the coordinators with which the fleet starts.
pub fn coordinators() -> Vec<(String, String)> {
    (0..SIZE.coordinators).map(Host::Coordinator).map(|host| (host.name(), address(host))).collect()
}

/// Returns the addresses that clients know.
pub fn addresses() -> Vec<String> {
    coordinators().into_iter().map(|(_, address)| address).collect()
}

/// Returns all hosts to which faults happen.
pub fn hosts() -> Vec<Host> {
    (0..=SIZE.coordinators).map(Host::Coordinator).chain((0..SIZE.agents).map(Host::Agent)).collect()
}

/// Returns how many results stay in memory: in most fleets so few that others are archived all the time.
fn recent_results(profile: &Profile) -> Option<u32> {
    [None, Some(1), Some(5), Some(20)][profile.tasks % 4]
}

fn coordinator_config(name: String, profile: &Profile) -> CoordinatorConfig {
    CoordinatorConfig {
        tls: TlsMode::Off,
        authority: AuthorityConfig::default(),
        listen: format!("{name}:{PORT}"),
        name,
        cluster_id: "simulated".to_owned(),
        advertise: None,
        data: PathBuf::from(DATA),
        initial_coordinators: coordinators(),
        heartbeat_interval: Duration::from_millis(500),
        session_timeout: SESSION_TIMEOUT,
        health_check_interval: profile.health_checks,
        max_attempts: 5,
        weights: Weights::default(),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        disconnect_grace: Duration::from_millis(50),
        limits: FleetLimits { recent_results: recent_results(profile), ..FleetLimits::default() },
        snapshot_after: SNAPSHOT_AFTER,
        ballots: BallotDefaults::default(),
        expected_agents: None,
        metrics_listen: None,
    }
}

fn agent_config(number: usize, name: String, profile: &Profile) -> AgentConfig {
    let works = number < WORKERS;
    let is_last = number + 1 == SIZE.agents;
    AgentConfig {
        tls: TlsMode::Off,
        enrolment: EnrolmentConfig::default(),
        advertises_host_name: false,
        worker_listen: robeing_settings::DEFAULT_WORKER_LISTEN.into(),
        messages: None,
        data: keeps(number).then(|| PathBuf::from(DATA)),
        gateway_listen: None,
        object_store: None,
        webhooks: None,
        on_anomaly: OnAnomaly::default(),
        anomaly_warm_up: robeing_settings::settings::ANOMALY_WARM_UP.default,
        contribute: Contribute { cpu: Some(CPU), memory: Some(MEMORY), ..Contribute::default() },
        listen: format!("{name}:{PORT}"),
        name,
        cluster_id: "simulated".to_owned(),
        role: match works {
            true => AgentRole::Worker,
            false if is_last => profile.odd_role,
            false => AgentRole::Specialist,
        },
        coordinators: addresses(),
        advertise: None,
        pool: if works { POOL.to_owned() } else { String::new() },
        pool_replicas: if works { POOL_REPLICAS } else { 0 },
        pool_standby: if works { WORKERS as u32 - POOL_REPLICAS } else { 0 },
        specializations: if works { Vec::new() } else { vec![SPECIALIZATION.to_owned()] },
        slots: profile.slots,
        drain_timeout: Duration::from_secs(1),
        metrics_listen: None,
    }
}

/// Runs a coordinator's process.
pub async fn run_coordinator(shared: Shared, host: Host, disk: SimulatedDisk) {
    let name = host.name();
    let failures = disk.failures();
    let platform = shared.platform(&name, disk.clone());
    let stop = shared.started(&name);
    let config = coordinator_config(name.clone(), &shared.profile);
    match coordinator::run(config, platform, Metrics::default(), stop).await {
        Ok(()) => {}
        // A failed disk must stop it; the next start recovers what the disk has.
        Err(error) if disk.failures() > failures => {
            tracing::warn!(target: "robeing_sim", name, %error, "stopped, as it must");
        }
        Err(error) if shared.damaged.borrow().contains(&host) => {
            tracing::warn!(target: "robeing_sim", name, %error, "refused what is damaged, as it must");
        }
        Err(error) => shared.record.violation(Check::Stopped, format!("{name} stopped: {error}")),
    }
}

/// Runs an agent's process, which sends messages until `letters_until`, and some later on.
pub async fn run_agent(shared: Shared, number: usize, disk: SimulatedDisk, letters_until: Duration) {
    let name = Host::Agent(number).name();
    let platform = shared.platform(&name, disk);
    let run = shared.starts.borrow().get(&name).copied().unwrap_or_default();
    let stop = shared.started(&name);
    let lies = shared.sabotage == Some(Sabotage::WrongOutput);
    let config = agent_config(number, name.clone(), &shared.profile);
    let executor = SimulatedExecutor {
        signs_as: if lies { "somebody else".to_owned() } else { name.clone() },
        agent: name.clone(),
        specializations: config.specializations.clone(),
        role: config.role,
        record: shared.record.clone(),
    };
    let handler = SimulatedHandler { agent: name.clone(), run, keeps: keeps(number), record: shared.record.clone() };
    let (post, posted) = oneshot::channel();
    let chatter = Chatter {
        agent: name.clone(),
        writer: format!("{name}#{run}"),
        platform: platform.clone(),
        post: posted,
        traffic: shared.profile.traffic,
        is_direct: shared.profile.odd_role != AgentRole::Messenger,
        letters_until,
        record: shared.record.clone(),
    };
    let extras = Extras { handler: Some(Arc::new(handler)), post: Some(post) };
    let executor = async { Ok(Arc::new(executor) as _) };
    let ended = tokio::select! {
        ended = runtime::run_with(config, platform, executor, Metrics::default(), stop, extras) => ended,
        never = chatter.run() => match never {},
    };
    // An agent that can't hand back its attempts ends with an error; the coordinators detect its loss on their own.
    if let Err(error) = ended {
        tracing::warn!(target: "robeing_sim", name, %error, "agent ended");
    }
}
