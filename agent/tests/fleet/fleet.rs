//! A fleet in one process, on paused time: real coordinators and agents, with a network and disks in memory.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use robeing_agent::{
    executor::{Attempt, Executor, Outcome},
    runtime,
};
use robeing_coordinator::{self as coordinator, CoordinatorError};
use robeing_net::{Transport, limited};
use robeing_platform::{
    Platform,
    simulated::{HostNetwork, Latency, MemoryNetwork, SeededRandom, SimulatedDisk},
};
use robeing_proto::v1::{self, fleet_client::FleetClient};
use robeing_settings::{
    AgentConfig, AgentRole, AuthorityConfig, BallotDefaults, Contribute, CoordinatorConfig, EnrolmentConfig,
    FleetLimits, OnAnomaly, TlsMode, Weights,
};
use robeing_telemetry::Metrics;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::transport::Channel;

pub const COORDINATORS: usize = 3;
pub const SESSION_TIMEOUT: Duration = Duration::from_secs(2);
/// How long anything may take, in the time of the test.
const DEADLINE: Duration = Duration::from_secs(120);

/// A disk whose every sync takes this long.
pub fn sync_takes(time: Duration) -> Option<Latency> {
    Some(Latency { min: time, max: time })
}

fn socket(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, n as u8], 7000))
}

fn address(n: usize) -> String {
    socket(n).to_string()
}

fn name(n: usize) -> String {
    format!("c-{n}")
}

/// Runs each attempt for the number of milliseconds in its input, and returns the input.
struct Sleeper;

#[async_trait]
impl Executor for Sleeper {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        let millis = std::str::from_utf8(&attempt.input).ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(millis)) => Outcome::Succeeded { output: attempt.input },
            () = cancel.cancelled() => Outcome::Cancelled,
        }
    }

    fn name(&self) -> &'static str {
        "sleeper"
    }
}

type Ended = Result<(), CoordinatorError>;

/// A coordinator's process.
struct Process {
    running: JoinHandle<Ended>,
    gone: CancellationToken,
}

/// Three coordinators.
pub struct TestFleet {
    network: MemoryNetwork,
    pub disks: Vec<SimulatedDisk>,
    running: Vec<Option<Process>>,
    starts: u64,
    agents: Vec<AbortOnDropHandle<()>>,
}

impl TestFleet {
    /// Starts a fleet whose disks have this latency.
    pub fn start(latency: Option<Latency>) -> Self {
        let disks = (0..COORDINATORS).map(|n| SimulatedDisk::new(n as u64)).collect();
        let mut fleet = Self {
            network: MemoryNetwork::default(),
            disks,
            running: (0..COORDINATORS).map(|_| None).collect(),
            starts: 0,
            agents: Vec::new(),
        };
        fleet.set_latency(0..COORDINATORS, latency);
        (0..COORDINATORS).for_each(|n| fleet.run(n));
        fleet
    }

    pub fn set_latency(&self, of: impl IntoIterator<Item = usize>, latency: Option<Latency>) {
        of.into_iter().for_each(|n| self.disks[n].set_latency(latency));
    }

    /// Sets whether new connections to a coordinator get an answer. Existing connections are not affected.
    pub fn set_reachable(&self, n: usize, reachable: bool) {
        match reachable {
            true => self.network.fill_black_hole(socket(n)),
            false => self.network.black_hole(socket(n)),
        }
    }

    fn platform(&mut self, disk: SimulatedDisk, gone: CancellationToken) -> Platform {
        self.starts += 1;
        Platform {
            network: Arc::new(HostNetwork::new(self.network.clone(), gone)),
            random: Arc::new(SeededRandom::new(self.starts)),
            disk: Arc::new(disk),
            ..Platform::real()
        }
    }

    /// Starts a coordinator.
    pub fn run(&mut self, n: usize) {
        let config = CoordinatorConfig {
            tls: TlsMode::Off,
            authority: AuthorityConfig::default(),
            listen: address(n),
            name: name(n),
            cluster_id: "test".to_owned(),
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
            limits: FleetLimits::default(),
            snapshot_after: 30,
            ballots: BallotDefaults::default(),
            expected_agents: None,
            metrics_listen: None,
        };
        let gone = CancellationToken::new();
        let platform = self.platform(self.disks[n].clone(), gone.clone());
        let coordinator = coordinator::run(config, platform, Metrics::default(), CancellationToken::new());
        self.running[n] = Some(Process { running: tokio::spawn(coordinator), gone });
    }

    /// Removes a coordinator: its connections break and it sends nothing more, though its tasks may still run.
    pub fn take_away(&mut self, n: usize) {
        if let Some(process) = self.running[n].take() {
            process.gone.cancel();
            process.running.abort();
        }
    }

    /// Starts an agent.
    pub fn agent(&mut self, name: &str) {
        let config = AgentConfig {
            tls: TlsMode::Off,
            enrolment: EnrolmentConfig::default(),
            name: name.to_owned(),
            cluster_id: "test".to_owned(),
            role: AgentRole::Worker,
            coordinators: (0..COORDINATORS).map(address).collect(),
            listen: SocketAddr::from(([10, 0, 2, self.agents.len() as u8], 7000)).to_string(),
            advertise: None,
            pool: String::new(),
            pool_replicas: 0,
            pool_standby: 0,
            specializations: Vec::new(),
            slots: 4,
            drain_timeout: Duration::from_secs(1),
            metrics_listen: None,
            advertises_host_name: false,
            worker_listen: "127.0.0.1:0".into(),
            messages: None,
            data: None,
            gateway_listen: None,
            object_store: None,
            webhooks: None,
            on_anomaly: OnAnomaly::default(),
            contribute: Contribute::default(),
            anomaly_warm_up: robeing_settings::settings::ANOMALY_WARM_UP.default,
        };
        let platform = self.platform(SimulatedDisk::new(0), CancellationToken::new());
        let agent = tokio::spawn(async move {
            let stop = CancellationToken::new();
            let executor = async { Ok(Arc::new(Sleeper) as _) };
            runtime::run(config, platform, executor, Metrics::default(), stop).await.expect("the agent runs");
        });
        self.agents.push(AbortOnDropHandle::new(agent));
    }

    pub fn client(&self, n: usize) -> FleetClient<Channel> {
        let transport = Transport::new(Arc::new(self.network.clone()));
        limited!(FleetClient::new(transport.channel(&address(n)).expect("it is an address")))
    }

    /// Returns the fleet status as this coordinator reports it.
    pub async fn status(&self, n: usize) -> Option<v1::FleetStatus> {
        let request = v1::GetStatusRequest { consistency: v1::Consistency::Local.into() };
        let mut client = self.client(n);
        let asked = tokio::time::timeout(Duration::from_secs(5), client.get_status(request)).await;
        asked.ok()?.ok().map(tonic::Response::into_inner)
    }

    /// Waits until a condition holds, and returns how long that took.
    pub async fn until(&self, what: &str, is_so: impl AsyncFn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !is_so(self).await {
            assert!(begun.elapsed() < DEADLINE, "{what}: not within {DEADLINE:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        begun.elapsed()
    }

    /// Returns the coordinator that a majority of them considers the leader. One whose disk hangs may not know that it
    /// was deposed.
    pub async fn leader(&self) -> Option<usize> {
        let running = (0..COORDINATORS).filter(|n| self.running[*n].is_some());
        let answers = futures::future::join_all(running.map(|n| self.status(n))).await;
        let named: Vec<String> = answers.into_iter().flatten().map(|status| status.leader).collect();
        let majority = |n: &usize| named.iter().filter(|leader| **leader == name(*n)).count() > COORDINATORS / 2;
        (0..COORDINATORS).find(majority).filter(|n| self.running[*n].is_some())
    }

    /// Returns how many coordinators name the leader of the majority, including the leader.
    pub async fn following(&self) -> usize {
        let Some(leader) = self.leader().await else { return 0 };
        let answers = futures::future::join_all((0..COORDINATORS).map(|n| self.status(n))).await;
        answers.into_iter().flatten().filter(|status| status.leader == name(leader)).count()
    }

    /// Returns which of these coordinators considers itself the leader.
    pub async fn leading(&self, among: &[usize]) -> Option<usize> {
        for n in among {
            if self.status(*n).await.is_some_and(|status| status.leader == name(*n)) {
                return Some(*n);
            }
        }
        None
    }

    /// Waits for a leader.
    pub async fn led(&self) -> usize {
        self.until("a leader", async |fleet| fleet.leader().await.is_some()).await;
        self.leader().await.expect("there was one a moment ago")
    }

    /// Waits until this many agents are live.
    pub async fn live(&self, agents: u32) -> Duration {
        let live = async |fleet: &Self| match fleet.leader().await {
            Some(leader) => {
                let status = fleet.status(leader).await;
                status.and_then(|status| status.agents).is_some_and(|counts| counts.live == agents)
            }
            None => false,
        };
        self.until(&format!("{agents} live agents"), live).await
    }

    /// Submits a task that takes this long, retrying until it is accepted; returns its id.
    pub async fn submit(&self, takes: Duration) -> String {
        let id = uuid::Uuid::from_u128(rand::random()).to_string();
        let spec = v1::TaskSpec {
            id: id.clone(),
            kind: "sleep".to_owned(),
            input: takes.as_millis().to_string().into(),
            ..Default::default()
        };
        let accepted = async |fleet: &Self| {
            let Some(leader) = fleet.leader().await else { return false };
            let submit = v1::SubmitRequest { tasks: vec![spec.clone()] };
            fleet
                .client(leader)
                .submit(submit)
                .await
                .is_ok_and(|answer| answer.into_inner().results[0].refusal.is_none())
        };
        self.until("the acceptance of a task", accepted).await;
        id
    }

    /// Submits a task to one coordinator, without waiting for the answer.
    pub fn submit_to(&self, n: usize, takes: Duration) -> AbortOnDropHandle<()> {
        let mut client = self.client(n);
        let input = takes.as_millis().to_string().into();
        AbortOnDropHandle::new(tokio::spawn(async move {
            let tasks = vec![v1::TaskSpec { kind: "sleep".to_owned(), input, ..Default::default() }];
            // The outcome does not matter.
            drop(client.submit(v1::SubmitRequest { tasks }).await);
        }))
    }

    /// Waits until a task is finished.
    pub async fn finished(&self, id: &str) -> v1::Task {
        let mut client = None;
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < DEADLINE, "task {id} is not finished within {DEADLINE:?}");
            if client.is_none() {
                client = self.leader().await.map(|leader| self.client(leader));
            }
            if let Some(asked) = &mut client {
                let request = v1::GetTaskRequest { id: id.to_owned(), ..Default::default() };
                match asked.get_task(request).await.map(tonic::Response::into_inner) {
                    Ok(task) if task.finished_at.is_some() => return task,
                    Ok(_) => {}
                    Err(_) => client = None,
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
