//! A coordinator and an executor that do exactly what a test scripts.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use robeing_net::Transport;
use robeing_platform::{Platform, simulated::MemoryNetwork};
use robeing_proto::internal::v1::{
    self as internal, AgentMessage, CoordinatorMessage, Hello, agent_message::Message as FromAgent,
    coordinator_message::Message as FromCoordinator, session_server,
};
use robeing_settings::{AgentConfig, AgentRole, Contribute, EnrolmentConfig, OnAnomaly, TlsMode};
use robeing_telemetry::Metrics;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
    time::{Instant, timeout},
};
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Request, Response, Status, Streaming, service::Routes};

use crate::{
    executor::{Attempt, Executor, Health, Outcome, SessionInfo},
    runtime::{AgentError, run},
};

pub const INTERVAL: Duration = Duration::from_millis(500);
pub const TIMEOUT: Duration = Duration::from_secs(2);
pub const LEASE: Duration = Duration::from_millis(1_500);
const CALLS: usize = 256;

/// Waits, but not forever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future).await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

/// A coordinator whose every call is answered by the test.
pub struct Coordinator {
    calls: mpsc::Receiver<Call>,
    _serving: AbortOnDropHandle<()>,
}

struct Service(mpsc::Sender<Call>);

#[async_trait]
impl session_server::Session for Service {
    type OpenStream = ReceiverStream<Result<CoordinatorMessage, Status>>;

    async fn open(&self, request: Request<Streaming<AgentMessage>>) -> Result<Response<Self::OpenStream>, Status> {
        let (outgoing, messages) = mpsc::channel(CALLS);
        let call = Call { incoming: request.into_inner(), outgoing, answers_heartbeats: true };
        self.0.send(call).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(messages)))
    }
}

impl Coordinator {
    pub async fn start(network: &MemoryNetwork, address: &str) -> Self {
        let (sender, calls) = mpsc::channel(CALLS);
        let bound = Transport::new(Arc::new(network.clone())).bind(address).await.expect("the address is free");
        let routes = Routes::new(session_server::SessionServer::new(Service(sender)));
        let serving = tokio::spawn(async move {
            bound.serve(routes, CancellationToken::new()).await.expect("it serves");
        });
        Self { calls, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Returns the next stream that an agent opens.
    pub async fn call(&mut self) -> Call {
        soon("a call", self.calls.recv()).await.expect("the service lives")
    }

    /// Returns the next stream, after answering its Hello with this session.
    pub async fn welcome(&mut self, session: u64, resumed: bool) -> (Call, Hello) {
        self.call().await.welcome(session, resumed).await
    }

    /// Returns how many calls have arrived and were not taken.
    pub fn untaken_calls(&self) -> usize {
        self.calls.len()
    }
}

/// One stream of an agent.
pub struct Call {
    incoming: Streaming<AgentMessage>,
    outgoing: mpsc::Sender<Result<CoordinatorMessage, Status>>,
    pub answers_heartbeats: bool,
}

impl Call {
    /// Answers the agent's Hello with this session.
    pub async fn welcome(mut self, session: u64, resumed: bool) -> (Self, Hello) {
        let hello = self.hello().await;
        self.say(FromCoordinator::Welcome(internal::Welcome {
            session,
            term: 1,
            heartbeat_interval_ms: INTERVAL.as_millis() as u32,
            session_timeout_ms: TIMEOUT.as_millis() as u32,
            coordinators: Vec::new(),
            resumed,
            waited_seq: 0,
            takes_refs: true,
        }))
        .await;
        (self, hello)
    }

    pub async fn say(&self, message: FromCoordinator) {
        // An agent that is gone does not receive it, which a test notices elsewhere.
        let _ = self.outgoing.send(Ok(CoordinatorMessage { message: Some(message) })).await;
    }

    pub async fn refuse(&self, status: Status) {
        let _ = self.outgoing.send(Err(status)).await;
    }

    /// Returns the next message of any kind; `None` when the stream ended.
    pub async fn any(&mut self) -> Option<FromAgent> {
        match soon("a message", self.incoming.next()).await {
            Some(Ok(message)) => message.message,
            Some(Err(_)) | None => None,
        }
    }

    /// Returns the next message that is not a heartbeat; acknowledges heartbeats meanwhile.
    pub async fn next(&mut self) -> Option<FromAgent> {
        loop {
            match self.any().await {
                Some(FromAgent::Heartbeat(beat)) if self.answers_heartbeats => {
                    self.say(FromCoordinator::HeartbeatAck(internal::HeartbeatAck { seq: beat.seq })).await;
                }
                Some(FromAgent::Heartbeat(_)) => {}
                other => return other,
            }
        }
    }

    pub async fn hello(&mut self) -> Hello {
        match self.next().await {
            Some(FromAgent::Hello(hello)) => hello,
            other => panic!("expected Hello, got {other:?}"),
        }
    }

    pub async fn completions(&mut self) -> Vec<internal::Completion> {
        match self.next().await {
            Some(FromAgent::Completions(completions)) => completions.completions,
            other => panic!("expected completions, got {other:?}"),
        }
    }

    /// Answers heartbeats for `duration`, and panics if any other message arrives.
    pub async fn quiet_for(&mut self, duration: Duration) {
        if let Ok(message) = timeout(duration, self.next()).await {
            panic!("expected nothing but heartbeats for {duration:?}, got {message:?}");
        }
    }

    pub async fn assign(&self, tasks: &[&str]) {
        let assignments = tasks.iter().map(|task| assignment(task)).collect();
        self.say(FromCoordinator::Assignments(internal::Assignments { assignments })).await;
    }

    pub async fn acknowledge(&self, completions: &[internal::Completion], accepted: bool) {
        let ack = |c: &internal::Completion| internal::CompletionAck {
            task_id: c.task_id.clone(),
            attempt: c.attempt,
            accepted,
            reason: String::new(),
        };
        let acks = completions.iter().map(ack).collect();
        self.say(FromCoordinator::CompletionAcks(internal::CompletionAcks { acks })).await;
    }
}

pub fn assignment(task: &str) -> internal::Assignment {
    internal::Assignment {
        task_id: task.to_owned(),
        attempt: 1,
        kind: "k".to_owned(),
        input: task.to_owned().into(),
        ..Default::default()
    }
}

pub fn reference(task: &str) -> internal::AttemptRef {
    internal::AttemptRef { task_id: task.to_owned(), attempt: 1 }
}

/// An executor whose attempts end when the test ends them. While it is absent it starts none.
pub struct Manual {
    started: mpsc::Sender<Started>,
    presence: Option<watch::Receiver<bool>>,
    is_member_when_absent: bool,
    health: watch::Receiver<Option<Health>>,
    guard: Arc<Guard>,
}

/// What the agent sent its guard, and what the guard does.
#[derive(Default)]
pub struct Guard {
    pub info: Mutex<Option<SessionInfo>>,
    /// The session that the guard has revoked.
    pub revoked: Mutex<Option<u64>>,
}

impl Guard {
    /// The session whose end the guard would report.
    pub fn session(&self) -> Option<u64> {
        self.info.lock().unwrap().as_ref().map(|info| info.session)
    }
}

/// A running attempt.
pub struct Started {
    pub attempt: Attempt,
    pub at: Instant,
    finish: Option<oneshot::Sender<Outcome>>,
    /// When it was dropped or ended.
    gone: oneshot::Receiver<Instant>,
}

struct TellWhenDropped(Option<oneshot::Sender<Instant>>);

impl Drop for TellWhenDropped {
    fn drop(&mut self) {
        let _ = self.0.take().map(|tell| tell.send(Instant::now()));
    }
}

impl Started {
    pub fn succeed(&mut self) {
        let output = self.attempt.input.clone();
        self.finish(Outcome::Succeeded { output });
    }

    pub fn finish(&mut self, outcome: Outcome) {
        let finish = self.finish.take().expect("it was not finished before");
        assert!(finish.send(outcome).is_ok(), "{} does not run any more", self.attempt.task_id);
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.gone.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }

    /// Returns when the attempt stopped running.
    pub async fn gone(self) -> Instant {
        soon("the end of an attempt", self.gone).await.expect("it tells")
    }
}

#[async_trait]
impl Executor for Manual {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        if self.presence.as_ref().is_some_and(|presence| !*presence.borrow()) {
            return Outcome::NotBegun;
        }
        let ((finish, finished), (tell, gone)) = (oneshot::channel(), oneshot::channel());
        let _tell = TellWhenDropped(Some(tell));
        let started = Started { attempt, at: Instant::now(), finish: Some(finish), gone };
        self.started.send(started).await.expect("the test listens");
        tokio::select! {
            biased;
            outcome = finished => outcome.unwrap_or(Outcome::Cancelled),
            () = cancel.cancelled() => Outcome::Cancelled,
        }
    }

    fn presence(&self) -> Option<watch::Receiver<bool>> {
        self.presence.clone()
    }

    fn is_member_when_absent(&self) -> bool {
        self.is_member_when_absent
    }

    async fn health(&self, _: Duration) -> Health {
        let health = self.health.borrow().clone();
        match health {
            Some(health) => health,
            None => std::future::pending().await,
        }
    }

    fn set_session(&self, info: Option<SessionInfo>) {
        *self.guard.info.lock().unwrap() = info;
    }

    fn is_guarded(&self) -> bool {
        true
    }

    fn is_revoked(&self) -> bool {
        self.guard.session().is_some() && *self.guard.revoked.lock().unwrap() == self.guard.session()
    }

    fn name(&self) -> &'static str {
        "manual"
    }
}

/// An agent under test.
pub struct Agent {
    pub task: JoinHandle<Result<(), AgentError>>,
    pub shutdown: CancellationToken,
    /// The health that the executor reports; `None`: it does not answer.
    pub health: watch::Sender<Option<Health>>,
    pub guard: Arc<Guard>,
    started: mpsc::Receiver<Started>,
}

pub const AGENT: &str = "10.0.0.9:7000";
pub const C0: &str = "10.0.0.1:8080";
pub const C1: &str = "10.0.0.2:8080";

pub fn config(slots: u32, coordinators: &[&str]) -> AgentConfig {
    AgentConfig {
        tls: TlsMode::Off,
        enrolment: EnrolmentConfig::default(),
        name: "data-0".into(),
        cluster_id: "fleet".into(),
        role: AgentRole::Specialist,
        coordinators: coordinators.iter().map(|c| (*c).to_owned()).collect(),
        listen: AGENT.into(),
        advertise: None,
        pool: "data".into(),
        pool_replicas: 3,
        pool_standby: 1,
        specializations: vec!["sums".into()],
        slots,
        drain_timeout: Duration::from_secs(30),
        metrics_listen: None,
        advertises_host_name: false,
        worker_listen: "127.0.0.1:0".into(),
        messages: None,
        data: None,
        gateway_listen: None,
        object_store: None,
        webhooks: None,
        on_anomaly: OnAnomaly::default(),
        anomaly_warm_up: robeing_settings::settings::ANOMALY_WARM_UP.default,
        contribute: Contribute::default(),
    }
}

pub fn platform(network: &MemoryNetwork) -> Platform {
    Platform { network: Arc::new(network.clone()), ..Platform::real() }
}

impl Agent {
    pub fn start(network: &MemoryNetwork, config: AgentConfig) -> Self {
        Self::with(network, config, None, false)
    }

    /// Starts an agent that leaves the fleet while its executor can start no attempts.
    pub fn with_presence(network: &MemoryNetwork, config: AgentConfig, presence: watch::Receiver<bool>) -> Self {
        Self::with(network, config, Some(presence), false)
    }

    /// Starts an agent that stays a member while no process is attached.
    pub fn for_attaching(network: &MemoryNetwork, config: AgentConfig, presence: watch::Receiver<bool>) -> Self {
        Self::with(network, config, Some(presence), true)
    }

    fn with(
        network: &MemoryNetwork,
        config: AgentConfig,
        presence: Option<watch::Receiver<bool>>,
        is_member_when_absent: bool,
    ) -> Self {
        let (sender, started) = mpsc::channel(CALLS);
        let shutdown = CancellationToken::new();
        let (health, healthy) = watch::channel(Some(Health::Healthy));
        let guard = Arc::new(Guard::default());
        let executor =
            Manual { started: sender, presence, is_member_when_absent, health: healthy, guard: Arc::clone(&guard) };
        let session = run(
            config,
            platform(network),
            async move { Ok(Arc::new(executor) as _) },
            Metrics::default(),
            shutdown.clone(),
        );
        Self { task: tokio::spawn(session), shutdown, health, guard, started }
    }

    /// Returns the next attempt that starts.
    pub async fn started(&mut self) -> Started {
        soon("the start of an attempt", self.started.recv()).await.expect("the agent lives")
    }

    pub fn has_started_another(&self) -> bool {
        !self.started.is_empty()
    }

    pub async fn end(self) -> Result<(), AgentError> {
        soon("the agent's end", self.task).await.expect("no panic")
    }
}

/// Starts an agent with `slots` slots, and opens `session` for it. Returns the agent, its stream, the leader at the
/// other end, and the network between them; all must be kept.
pub async fn in_session(slots: u32, session: u64) -> (Agent, Call, Coordinator, MemoryNetwork) {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let agent = Agent::start(&network, config(slots, &[C0]));
    let (call, _) = leader.welcome(session, false).await;
    (agent, call, leader, network)
}
