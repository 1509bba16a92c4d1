//! A fleet in this process: coordinators on a network of names, data in a temporary directory, an agent, and wall
//! clocks that can be set.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use robeing_agent::{
    executor::{Attempt, Deadline, Executor, Failure, FailureKind, Outcome},
    runtime,
};
use robeing_coordinator as coordinator;
use robeing_net::Transport;
use robeing_platform::{Clock, Connection, Listener, Network, Platform, TcpNetwork, simulated::WrongClock, uuid_v7};
use robeing_proto::v1::{self, admin_client::AdminClient, fleet_client::FleetClient};
use robeing_settings::{
    AgentConfig, AgentRole, AuthorityConfig, BallotDefaults, Contribute, CoordinatorConfig, EnrolmentConfig,
    FleetLimits, OnAnomaly, TlsMode, Weights,
};
use robeing_telemetry::Metrics;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{Code, transport::Channel};

/// Milliseconds.
pub const HOUR: i64 = 3_600_000;
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// A network whose addresses are names; the ports are any free ones.
#[derive(Clone, Default)]
struct Names(Arc<Mutex<BTreeMap<String, SocketAddr>>>);

#[async_trait::async_trait]
impl Network for Names {
    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let known = self.0.lock().expect("no test panics here").get(address).copied();
        let known = known.ok_or_else(|| io::Error::new(io::ErrorKind::ConnectionRefused, "nobody listens"))?;
        TcpNetwork.connect(&known.to_string()).await
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        Ok(self.0.lock().expect("no test panics here").get(address).copied().into_iter().collect())
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let listener = TcpNetwork.listen("127.0.0.1:0").await?;
        self.0.lock().expect("no test panics here").insert(address.to_owned(), listener.local_addr()?);
        Ok(listener)
    }
}

/// The deadlines that attempts got, and how often each kind of task ran.
#[derive(Clone, Default)]
struct Script {
    deadlines: Arc<Mutex<Vec<Deadline>>>,
    runs: Arc<Mutex<BTreeMap<String, u32>>>,
}

#[async_trait::async_trait]
impl Executor for Script {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        self.deadlines.lock().expect("no test panics here").extend(attempt.deadline);
        *self.runs.lock().expect("no test panics here").entry(attempt.kind).or_default() += 1;
        let again = Failure {
            kind: FailureKind::Exit,
            message: "not yet".into(),
            code: Some(1),
            stderr_tail: String::new(),
            retryable: true,
            retry_after: None,
            name: String::new(),
        };
        match &attempt.input[..] {
            b"never" => {
                cancel.cancelled().await;
                Outcome::Cancelled
            }
            b"second" if attempt.attempt < 2 => Outcome::Failed(again),
            _ => Outcome::Succeeded { output: Bytes::from_static(b"done") },
        }
    }

    fn name(&self) -> &'static str {
        "echo"
    }
}

struct Process {
    stop: CancellationToken,
    task: JoinHandle<()>,
    metrics: Metrics,
}

impl Process {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("it ends well");
    }
}

pub struct Fleet {
    pub clocks: Vec<WrongClock>,
    pub agent_clock: WrongClock,
    names: Names,
    data: TempDir,
    script: Script,
    coordinators: Vec<Process>,
    agent: Option<Process>,
}

pub fn seconds(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

pub fn unix_seconds() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

/// Returns a task that ends `now`, with its `second` attempt, or `never`.
pub fn task(course: &'static str) -> v1::TaskSpec {
    v1::TaskSpec {
        kind: "any".into(),
        input: course.into(),
        priority: 5,
        submitter: "test".into(),
        ..Default::default()
    }
}

fn name(n: usize) -> String {
    format!("c-{n}")
}

fn address(n: usize) -> String {
    format!("c-{n}:1")
}

impl Fleet {
    pub async fn start(coordinators: usize) -> Self {
        let clock = || WrongClock::new(Platform::real().clock);
        let mut fleet = Self {
            clocks: (0..coordinators).map(|_| clock()).collect(),
            agent_clock: clock(),
            names: Names::default(),
            data: tempfile::tempdir().expect("a temporary directory"),
            script: Script::default(),
            coordinators: Vec::new(),
            agent: None,
        };
        fleet.begin().await;
        fleet
    }

    fn platform(&self, clock: &WrongClock) -> Platform {
        let clock: Arc<dyn Clock> = Arc::new(clock.clone());
        Platform { network: Arc::new(self.names.clone()), clock, ..Platform::real() }
    }

    async fn begin(&mut self) {
        self.coordinators = (0..self.clocks.len()).map(|n| self.coordinator(n)).collect();
        self.agent = Some(self.agent());
        self.status_until(|status| status.agents.is_some_and(|agents| agents.live == 1)).await;
    }

    fn coordinator(&self, n: usize) -> Process {
        let config = CoordinatorConfig {
            tls: TlsMode::Off,
            authority: AuthorityConfig::default(),
            name: name(n),
            cluster_id: "clocks".into(),
            listen: address(n),
            advertise: Some(address(n)),
            data: Path::new(self.data.path()).join(name(n)),
            initial_coordinators: (0..self.clocks.len()).map(|n| (name(n), address(n))).collect(),
            heartbeat_interval: Duration::from_millis(500),
            session_timeout: Duration::from_secs(10),
            health_check_interval: robeing_settings::settings::HEALTH_CHECK_INTERVAL.default,
            max_attempts: 5,
            weights: Weights::default(),
            election_timeout_min: Duration::from_millis(1_000),
            election_timeout_max: Duration::from_millis(2_000),
            disconnect_grace: Duration::from_millis(50),
            limits: FleetLimits::default(),
            snapshot_after: 30,
            ballots: BallotDefaults::default(),
            expected_agents: None,
            metrics_listen: None,
        };
        let (stop, metrics) = (CancellationToken::new(), Metrics::default());
        let run = coordinator::run(config, self.platform(&self.clocks[n]), metrics.clone(), stop.clone());
        let task = tokio::spawn(async { run.await.expect("a coordinator goes on until it is stopped") });
        Process { stop, task, metrics }
    }

    fn agent(&self) -> Process {
        let config = AgentConfig {
            tls: TlsMode::Off,
            enrolment: EnrolmentConfig::default(),
            name: "agent".into(),
            cluster_id: "clocks".into(),
            role: AgentRole::Worker,
            coordinators: (0..self.clocks.len()).map(address).collect(),
            listen: "agent:1".into(),
            advertise: Some("agent:1".into()),
            pool: String::new(),
            pool_replicas: 0,
            pool_standby: 0,
            specializations: Vec::new(),
            slots: 4,
            drain_timeout: Duration::ZERO,
            metrics_listen: None,
            advertises_host_name: false,
            worker_listen: robeing_settings::DEFAULT_WORKER_LISTEN.into(),
            messages: None,
            data: None,
            gateway_listen: None,
            object_store: None,
            webhooks: None,
            on_anomaly: OnAnomaly::default(),
            contribute: Contribute::default(),
            anomaly_warm_up: robeing_settings::settings::ANOMALY_WARM_UP.default,
        };
        let (stop, metrics) = (CancellationToken::new(), Metrics::default());
        let script = Arc::new(self.script.clone());
        let executor = async move { Ok(script as _) };
        let run = runtime::run(config, self.platform(&self.agent_clock), executor, metrics.clone(), stop.clone());
        let task = tokio::spawn(async { run.await.expect("the agent goes on until it is stopped") });
        Process { stop, task, metrics }
    }

    pub async fn stop(mut self) {
        self.end().await;
    }

    async fn end(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.stop().await;
        }
        for coordinator in std::mem::take(&mut self.coordinators) {
            coordinator.stop().await;
        }
    }

    /// Stops everything, and starts it again with what is on disk.
    pub async fn restart(&mut self) {
        self.end().await;
        self.begin().await;
    }

    fn channel(&self, n: usize) -> Channel {
        Transport::new(Arc::new(self.names.clone())).channel(&address(n)).expect("an address")
    }

    fn client(&self, n: usize) -> FleetClient<Channel> {
        FleetClient::new(self.channel(n))
    }

    /// Waits until `look` returns a value.
    async fn eventually<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let waiting = async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(PAUSE).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what} within {PATIENCE:?}"))
    }

    pub async fn submit(&self, spec: v1::TaskSpec) -> v1::SubmitResult {
        let platform = Platform::real();
        let id = uuid::Uuid::from_u128(uuid_v7(&*platform.clock, &*platform.random));
        let spec = v1::TaskSpec { id: id.to_string(), ..spec };
        let result = self
            .eventually("a task is accepted", async || {
                let request = v1::SubmitRequest { tasks: vec![spec.clone()] };
                self.client(0).submit(request).await.ok()?.into_inner().results.pop()
            })
            .await;
        assert_eq!(result.refusal, None);
        result
    }

    async fn look(&self, id: &str) -> Result<v1::Task, tonic::Status> {
        let request = v1::GetTaskRequest { id: id.to_owned(), ..Default::default() };
        self.client(0).get_task(request).await.map(tonic::Response::into_inner)
    }

    pub async fn task(&self, id: &str) -> v1::Task {
        self.until(id, |_| true).await
    }

    pub async fn until(&self, id: &str, wanted: impl Fn(&v1::Task) -> bool) -> v1::Task {
        self.eventually("a task is as it should be", async || self.look(id).await.ok().filter(&wanted)).await
    }

    pub async fn ended(&self, id: &str) -> v1::Task {
        self.until(id, |task| task.finished_at.is_some()).await
    }

    pub async fn forgotten(&self, id: &str) {
        let gone = async || (self.look(id).await.err()?.code() == Code::NotFound).then_some(());
        self.eventually("a task is forgotten", gone).await;
    }

    pub async fn status(&self) -> v1::FleetStatus {
        self.status_until(|_| true).await
    }

    pub async fn status_until(&self, wanted: impl Fn(&v1::FleetStatus) -> bool) -> v1::FleetStatus {
        let look = async || {
            let status = self.client(0).get_status(v1::GetStatusRequest::default()).await;
            status.ok().map(tonic::Response::into_inner).filter(&wanted)
        };
        self.eventually("the status is as it should be", look).await
    }

    /// Returns the number of the leading coordinator.
    pub async fn leader(&self) -> usize {
        let status = self.status_until(|status| !status.leader.is_empty()).await;
        (0..self.clocks.len()).find(|n| name(*n) == status.leader).expect("one of these")
    }

    /// Transfers leadership to another coordinator.
    pub async fn hand_over(&self) {
        let request = v1::TransferLeadershipRequest::default();
        let look = async || AdminClient::new(self.channel(0)).transfer_leadership(request.clone()).await.ok();
        self.eventually("another leads", look).await;
    }

    /// Returns how often tasks of this kind ran.
    pub fn ran(&self, kind: &str) -> u32 {
        self.script.runs.lock().expect("no test panics here").get(kind).copied().unwrap_or(0)
    }

    /// Returns the deadlines that attempts got.
    pub fn deadlines(&self) -> Vec<Deadline> {
        self.script.deadlines.lock().expect("no test panics here").clone()
    }

    /// Returns a coordinator's metric.
    pub fn metric(&self, coordinator: usize, name: &str) -> i64 {
        let text = self.coordinators[coordinator].metrics.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{name} in {text}"));
        line.trim().parse().unwrap_or_else(|_| panic!("{name} is {line}"))
    }
}
