//! Coordinators within this process, on paused time, with a network and disks in memory. The test has access to their
//! handles.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use robeing_identity::Authority;
use robeing_platform::{
    AtomicFile, Clock, Disk, Platform,
    simulated::{HostNetwork, MemoryNetwork, SeededRandom, SimulatedDisk},
};
use robeing_proto::v1;
use robeing_settings::{AuthorityConfig, BallotDefaults, CoordinatorConfig, Enrolment, FleetLimits, TlsMode, Weights};
use robeing_telemetry::Metrics;
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    assembly::Tested,
    identity::{
        authority::Certifier,
        fixture::{JOIN_KEY, realm},
    },
    leader::role::RaftRole,
    raft::Peer,
    run_seen,
};

/// Number of coordinators that a fleet starts with.
pub const COORDINATORS: usize = 3;
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(2);
pub const CLUSTER: &str = "test";
/// After how many log entries a fleet that archives takes a snapshot.
const FEW_ENTRIES: u32 = 30;
/// How long a condition may take to become true, in the test's time.
const DEADLINE: Duration = Duration::from_secs(120);
/// Pause between two checks of a condition.
const LOOK_EVERY: Duration = Duration::from_millis(5);

pub fn address(n: usize) -> String {
    SocketAddr::from(([10, 0, 1, n as u8], 7000)).to_string()
}

pub fn name(n: usize) -> String {
    format!("c-{n}")
}

pub fn peer(n: usize) -> Peer {
    Peer { name: name(n), address: address(n) }
}

/// Returns a task with this id.
pub fn task(id: u128) -> v1::TaskSpec {
    v1::TaskSpec {
        id: robeing_fleet::TaskId(id).to_string(),
        kind: "kind".into(),
        input: Bytes::from_static(b"input"),
        ..v1::TaskSpec::default()
    }
}

/// A wall clock that goes with the test's time.
struct TestClock {
    /// What it shows at first, Unix milliseconds.
    from: u64,
    begun: Instant,
}

impl Clock for TestClock {
    fn unix_millis(&self) -> u64 {
        self.from + self.begun.elapsed().as_millis() as u64
    }
}

/// A coordinator's process.
struct Process {
    _running: AbortOnDropHandle<()>,
    gone: CancellationToken,
    tested: Arc<OnceLock<Tested>>,
}

/// Where coordinators find their authority, and where they keep what agents enrol with.
const CA: &str = "/ca";
pub const JOIN: &str = "/join";

/// The TLS of a fleet.
#[derive(Clone)]
pub struct FleetSecurity {
    pub certifier: Arc<Certifier>,
    pub enrolment: Enrolment,
}

impl FleetSecurity {
    /// Writes the authority to a coordinator's disk.
    async fn write(&self, disk: &Arc<dyn Disk>) {
        disk.create_dir_all(Path::new(CA)).await.expect("the disk works");
        let authority = &self.certifier.authority;
        let files = [("ca.crt", authority.certificate_pem()), ("ca.key", authority.key_pem()), ("join.key", JOIN_KEY)];
        for (name, content) in files {
            let file = AtomicFile::open(Arc::clone(disk), &Path::new(CA).join(name)).await;
            file.expect("the disk works").replace(content.to_owned().into()).await.expect("the disk works");
        }
    }
}

/// A fleet of coordinators.
pub struct TestFleet {
    /// Its TLS, if it has any.
    pub security: Option<FleetSecurity>,
    pub network: MemoryNetwork,
    pub disks: Vec<SimulatedDisk>,
    ballots: BallotDefaults,
    /// How many results stay in memory, if that is set: then a snapshot is taken after few entries, too.
    pub recent_results: Option<u32>,
    /// The clock of all machines.
    clock: Arc<dyn Clock>,
    running: Vec<Option<Process>>,
    starts: u64,
}

impl TestFleet {
    /// Starts three coordinators with empty disks.
    pub fn start() -> Self {
        Self::start_with(None, BallotDefaults::default(), Platform::real().clock)
    }

    /// Same as [`TestFleet::start`], on machines whose wall clocks go with the test's time, from this moment on.
    pub fn start_at(from: u64) -> Self {
        let clock = TestClock { from, begun: Instant::now() };
        Self::start_with(None, BallotDefaults::default(), Arc::new(clock))
    }

    /// Same as [`TestFleet::start`], with these defaults of ballots.
    pub fn start_with_ballots(ballots: BallotDefaults) -> Self {
        Self::start_with(None, ballots, Platform::real().clock)
    }

    /// Same as [`TestFleet::start`], with so many results in memory, and a snapshot after a few entries.
    pub fn start_archiving(recent_results: u32) -> Self {
        Self::start_by(None, BallotDefaults::default(), Platform::real().clock, Some(recent_results))
    }

    /// Starts three coordinators that speak TLS alone, and an authority for them.
    pub fn start_secured(enrolment: Enrolment) -> Self {
        let authority = Authority::create(&realm(), Platform::real().clock.unix_millis()).expect("it is made");
        let trust = authority.certificate_pem().to_owned();
        let certifier = Arc::new(Certifier::new(authority, &trust, JOIN_KEY).expect("it is trusted"));
        let security = FleetSecurity { certifier, enrolment };
        Self::start_with(Some(security), BallotDefaults::default(), Platform::real().clock)
    }

    fn start_with(security: Option<FleetSecurity>, ballots: BallotDefaults, clock: Arc<dyn Clock>) -> Self {
        Self::start_by(security, ballots, clock, None)
    }

    fn start_by(
        security: Option<FleetSecurity>,
        ballots: BallotDefaults,
        clock: Arc<dyn Clock>,
        recent_results: Option<u32>,
    ) -> Self {
        let (network, disks, running) = (MemoryNetwork::default(), Vec::new(), Vec::new());
        let mut fleet = Self { security, network, disks, ballots, recent_results, clock, running, starts: 0 };
        while fleet.disks.len() < COORDINATORS {
            fleet.run_another();
        }
        fleet
    }

    /// Starts another coordinator with an empty disk, and returns its number.
    pub fn run_another(&mut self) -> usize {
        let n = self.disks.len();
        self.disks.push(SimulatedDisk::new(n as u64));
        self.running.push(None);
        self.run(n);
        n
    }

    /// Starts a coordinator.
    pub fn run(&mut self, n: usize) {
        let security = self.security.clone();
        let config = CoordinatorConfig {
            tls: if security.is_some() { TlsMode::Strict } else { TlsMode::Off },
            authority: AuthorityConfig {
                directory: security.is_some().then(|| CA.into()),
                enrolment: security.as_ref().map(|security| security.enrolment),
                join: security.is_some().then(|| JOIN.into()),
                ..AuthorityConfig::default()
            },
            listen: address(n),
            name: name(n),
            cluster_id: CLUSTER.to_owned(),
            advertise: None,
            data: "/data".into(),
            initial_coordinators: (0..COORDINATORS).map(|n| (name(n), address(n))).collect(),
            heartbeat_interval: Duration::from_millis(500),
            session_timeout: SESSION_TIMEOUT,
            health_check_interval: robeing_settings::settings::HEALTH_CHECK_INTERVAL.default,
            max_attempts: 5,
            weights: Weights::default(),
            election_timeout_min: Duration::from_millis(150),
            election_timeout_max: Duration::from_millis(300),
            disconnect_grace: Duration::from_millis(50),
            limits: FleetLimits { recent_results: self.recent_results, ..FleetLimits::default() },
            snapshot_after: if self.recent_results.is_some() { FEW_ENTRIES } else { 10_000 },
            ballots: self.ballots,
            expected_agents: None,
            metrics_listen: None,
        };
        self.starts += 1;
        let (gone, tested) = (CancellationToken::new(), Arc::new(OnceLock::new()));
        let platform = Platform {
            network: Arc::new(HostNetwork::new(self.network.clone(), gone.clone())),
            random: Arc::new(SeededRandom::new(self.starts)),
            disk: Arc::new(self.disks[n].clone()),
            clock: Arc::clone(&self.clock),
            ..Platform::real()
        };
        let seen = Arc::clone(&tested);
        let running = tokio::spawn(async move {
            if let Some(security) = security {
                security.write(&platform.disk).await;
            }
            let shutdown = CancellationToken::new();
            let see = |assembled: &crate::Assembled| drop(seen.set(assembled.tested.clone()));
            run_seen(config, platform, Metrics::default(), shutdown, see).await.expect("the coordinator runs");
        });
        self.running[n] = Some(Process { _running: AbortOnDropHandle::new(running), gone, tested });
    }

    /// Gives a coordinator that is down an empty disk.
    pub fn empty_disk(&mut self, n: usize) {
        // A new disk, because tasks of the old process may still write to the old one.
        self.starts += 1;
        self.disks[n] = SimulatedDisk::new(self.starts);
    }

    /// Takes a coordinator down: its connections break and it is not reachable any more.
    pub fn take_away(&mut self, n: usize) {
        if let Some(process) = self.running[n].take() {
            process.gone.cancel();
        }
    }

    /// Returns the handles of a coordinator that is up.
    pub fn tested(&self, n: usize) -> Tested {
        self.up(n).expect("it is up")
    }

    /// Same as [`TestFleet::tested`], for one that may not be up yet.
    pub fn up(&self, n: usize) -> Option<Tested> {
        self.running[n].as_ref()?.tested.get().cloned()
    }

    /// Returns the coordinators that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.running.len()).filter(|n| self.running[*n].is_some()).collect()
    }

    /// Waits until a condition is true, and returns how long it took.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so(self) {
            assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        begun.elapsed()
    }

    /// Returns the coordinator that leads and is ready, once all that run and have a vote follow it.
    fn leader(&self) -> Option<usize> {
        let up: Option<Vec<(usize, Tested)>> = self.running().into_iter().map(|n| Some((n, self.up(n)?))).collect();
        let (leader, id) =
            up.as_ref()?.iter().find_map(|(n, tested)| tested.standing.leading().map(|_| (*n, tested.member.id())))?;
        let follows = |(n, tested): &(usize, Tested)| match tested.standing.role() {
            RaftRole::Following { leader, .. } => leader == id,
            _ => *n == leader || !tested.members.has_vote(tested.member.id()),
        };
        up?.iter().all(follows).then_some(leader)
    }

    /// Waits for a leader that all follow.
    pub async fn led(&self) -> usize {
        self.until("a leader that all follow", |fleet| fleet.leader().is_some()).await;
        self.leader().expect("there was one a moment ago")
    }

    /// Returns the coordinators that run and do not lead.
    pub fn followers(&self, leader: usize) -> Vec<usize> {
        self.running().into_iter().filter(|n| *n != leader).collect()
    }

    /// Returns the names of the voters, as one of the coordinators knows them.
    pub fn voters(&self, of: usize) -> Vec<String> {
        self.tested(of).members.voters().map(|(_, peer)| peer.name).collect()
    }
}
