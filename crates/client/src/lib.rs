//! A client of a fleet. Any coordinator can serve a call, so a call that one coordinator doesn't answer is made at the
//! next one, within a time limit that the user sets. Every call can be repeated safely, because the caller generates the
//! task ids.

mod address;
mod admin;
mod ballots;
mod calls;
pub mod coordinators;
mod dead_letters;
mod distrust;
mod error;
mod groups;
mod logs;
mod messages;
mod queues;
mod resources;
mod schedules;
mod security;
mod submit;
mod teams;
mod voting;
mod watch;
mod watch_pool;

use std::{
    convert::Infallible,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use address::Address;
pub use ballots::{new_ballot_id, threshold};
pub use error::{ClientError, io_cause};
use futures::stream::{FuturesUnordered, StreamExt};
pub use groups::new_proposal_id;
pub use logs::TaskLogs;
pub use messages::new_message_id;
pub use resources::new_allocation_id;
pub use robeing_net::client::{ByteStream, Dialer};
pub use robeing_net::security::CredentialsError;
use robeing_net::{
    client::{KeepAlive, dialed_channel, takes_connections, tcp_channel},
    limited,
    security::Tls,
};
use robeing_proto::v1::{
    Agent, CancelTasksRequest, CancelTasksResponse, Consistency, FleetStatus, GetStatusRequest, GetTaskRequest,
    ListAgentsRequest, ListSubtasksRequest, ListSubtasksResponse, ListTasksRequest, ListTasksResponse, Task, TaskState,
    admin_client::AdminClient, fleet_client::FleetClient as Rpc,
};
use security::Channels;
pub use security::{Bearer, ClientIdentity, Security};
pub use submit::{DEFAULT_UNFINISHED, DEFAULT_WINDOW, SubmitEvent, SubmitOptions};
pub use teams::new_team_id;
use tokio::time::timeout;
use tonic::{service::interceptor::InterceptedService, transport::Channel};
use uuid::Uuid;
pub use voting::Voting;
pub use watch::TaskWatch;

/// How long the client waits for an endpoint to accept a connection before it reports the fleet as unreachable.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a call is tried, over all endpoints, unless [`Settings`] override it.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that is silent for `interval` is sent a keep-alive ping, and is closed when the ping isn't answered
/// within `timeout`.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { interval: Duration::from_secs(2), timeout: Duration::from_secs(2), while_idle: true };

/// The connection to one coordinator.
pub type Wire = InterceptedService<Channel, Bearer>;

/// Time limits and credentials of a [`FleetClient`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time limit for the first connection, over all endpoints.
    pub connect_timeout: Duration,
    /// Time limit for a call, over all endpoints and retries.
    pub request_timeout: Duration,
    /// How to connect: without TLS, unless set.
    pub security: Security,
}

impl Default for Settings {
    fn default() -> Self {
        Self { connect_timeout: CONNECT_TIMEOUT, request_timeout: REQUEST_TIMEOUT, security: Security::default() }
    }
}

/// A client of a fleet, connected through any of its coordinators. Cheap to clone; clones share the connections and the
/// current coordinator.
#[derive(Clone)]
pub struct FleetClient {
    inner: Arc<Inner>,
}

struct Inner {
    targets: Vec<Target>,
    /// Index of the endpoint that is tried first.
    current: AtomicUsize,
    /// Whether an endpoint has accepted a connection. From then on the fleet is known to exist, and failed calls are
    /// retried.
    contacted: AtomicBool,
    settings: Settings,
}

struct Target {
    /// The name that users know it by.
    name: String,
    /// The address to connect to; `None` if a dialer opens the connections.
    address: Option<Address>,
    channels: Channels,
}

impl fmt::Debug for FleetClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetClient").field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}

/// Generates a task id: a version 7 UUID, which sorts by creation time.
pub fn new_task_id() -> String {
    Uuid::now_v7().to_string()
}

/// Returns whether a task in this state has ended and therefore never changes again.
pub fn is_finished(state: TaskState) -> bool {
    match state {
        TaskState::Unspecified | TaskState::Queued | TaskState::Assigned => false,
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::DeadLettered => true,
    }
}

impl FleetClient {
    /// Creates a client of the fleet at these endpoints. It connects on the first call. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`ClientError::BadEndpoint`] if an endpoint can't be parsed, or if there is none.
    pub fn new<S: AsRef<str>>(endpoints: &[S], settings: Settings) -> Result<Self, ClientError> {
        let mut targets = Vec::new();
        for given in endpoints {
            let address: Address = given.as_ref().parse()?;
            let connect = |tls: Option<&Tls>| tcp_channel(&address.dial(), settings.connect_timeout, KEEP_ALIVE, tls);
            let channels = Channels::open(&settings.security, connect).map_err(|error| ClientError::BadEndpoint {
                given: given.as_ref().into(),
                problem: error.to_string(),
            })?;
            targets.push(Target { name: address.to_string(), address: Some(address), channels });
        }
        if targets.is_empty() {
            return Err(ClientError::BadEndpoint { given: String::new(), problem: "none was given".into() });
        }
        let inner = Inner { targets, current: AtomicUsize::new(0), contacted: AtomicBool::new(false), settings };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Creates a client of a fleet that was discovered by other means. `dialer` opens its connections, one per slot;
    /// there are `slots` slots (one per coordinator, at least 1), and slot `first` is tried first. Users know the fleet
    /// by `name`. Needs a tokio runtime.
    pub fn over(name: &str, dialer: Arc<dyn Dialer>, slots: usize, first: usize, settings: Settings) -> Self {
        let targets = (0..slots.max(1)).map(|slot| {
            let connect = |tls: Option<&Tls>| Ok(dialed_channel(Arc::clone(&dialer), slot, KEEP_ALIVE, tls));
            let Ok(channels) = Channels::open::<Infallible>(&settings.security, connect);
            Target { name: name.into(), address: None, channels }
        });
        let inner = Inner {
            targets: targets.collect(),
            current: AtomicUsize::new(first % slots.max(1)),
            contacted: AtomicBool::new(true),
            settings,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the endpoints of the fleet as URLs, or its name if a dialer connects to it.
    pub fn endpoints(&self) -> Vec<String> {
        let targets = &self.inner.targets;
        // All slots of a dialer have the fleet's name.
        let distinct = if targets[0].address.is_some() { targets.len() } else { 1 };
        targets[..distinct].iter().map(|target| target.name.clone()).collect()
    }

    /// Returns one task. [`ClientError::NotFound`] if it does not exist or its result has expired.
    pub async fn get_task(&self, request: GetTaskRequest) -> Result<Task, ClientError> {
        self.call(|mut rpc| {
            let request = request.clone();
            async move { rpc.get_task(request).await }
        })
        .await
    }

    /// Returns one page of the tasks.
    pub async fn list_tasks(&self, request: ListTasksRequest) -> Result<ListTasksResponse, ClientError> {
        self.call(|mut rpc| {
            let request = request.clone();
            async move { rpc.list_tasks(request).await }
        })
        .await
    }

    /// Returns one page of the parts or subtasks of a task. [`ClientError::NotFound`] if there is no such task.
    pub async fn list_subtasks(&self, request: ListSubtasksRequest) -> Result<ListSubtasksResponse, ClientError> {
        self.call(|mut rpc| {
            let request = request.clone();
            async move {
                let listed = rpc.list_subtasks(request).await;
                listed.map_err(|status| calls::too_old(status, "knows no parts and subtasks"))
            }
        })
        .await
    }

    /// Cancels tasks. The response has a result for each, and comes when nothing of them runs any more, or the request's
    /// `wait` is over.
    pub async fn cancel_tasks(&self, request: CancelTasksRequest) -> Result<CancelTasksResponse, ClientError> {
        let wait = request.wait.and_then(|wait| Duration::try_from(wait).ok()).unwrap_or_default();
        let attempt = |target| {
            let (mut rpc, request) = (self.rpc(target), request.clone());
            async move { rpc.cancel_tasks(request).await }
        };
        self.call_for(calls::Repeat::AtOnce, wait, attempt).await
    }

    /// Returns the agents of the fleet, sorted by name; lost agents are included only if `include_lost` is set.
    pub async fn list_agents(&self, include_lost: bool, consistency: Consistency) -> Result<Vec<Agent>, ClientError> {
        let consistency = consistency.into();
        let mut request = ListAgentsRequest { include_lost, consistency, ..ListAgentsRequest::default() };
        let mut agents = Vec::new();
        loop {
            let page = self.call(|mut rpc| {
                let request = request.clone();
                async move { rpc.list_agents(request).await }
            });
            let page = page.await?;
            agents.extend(page.agents);
            // The pages are in order of the names, so the token only grows and the loop ends.
            if page.next_page_token <= request.page_token {
                return Ok(agents);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Returns the agent with this name, lost or not, with its recovery steps.
    pub async fn agent(&self, name: &str, consistency: Consistency) -> Result<Option<Agent>, ClientError> {
        let request = ListAgentsRequest {
            include_lost: true,
            consistency: consistency.into(),
            name: name.into(),
            ..ListAgentsRequest::default()
        };
        let answer = self.call(|mut rpc| {
            let request = request.clone();
            async move { rpc.list_agents(request).await }
        });
        Ok(answer.await?.agents.into_iter().find(|agent| agent.name == name))
    }

    /// Returns the status of the fleet.
    pub async fn status(&self, consistency: Consistency) -> Result<FleetStatus, ClientError> {
        let request = GetStatusRequest { consistency: consistency.into() };
        self.call(|mut rpc| async move { rpc.get_status(request).await }).await
    }

    /// Connects to all endpoints at once to find one that accepts connections. Does nothing once one has.
    async fn contact(&self) -> Result<(), ClientError> {
        let inner = &*self.inner;
        if inner.contacted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut dials: FuturesUnordered<_> = inner
            .targets
            .iter()
            .enumerate()
            .map(async |(index, target)| {
                let Some(address) = &target.address else { return Ok(index) };
                let dialled = timeout(inner.settings.connect_timeout, takes_connections(&address.dial())).await;
                match dialled {
                    Ok(Ok(())) => Ok(index),
                    Ok(Err(error)) => Err(error::io_cause(&error)),
                    Err(_) => Err(format!("no connection within {:?}", inner.settings.connect_timeout)),
                }
            })
            .collect();
        let mut causes: Vec<String> = Vec::new();
        while let Some(dialled) = dials.next().await {
            match dialled {
                Ok(index) => {
                    inner.current.store(index, Ordering::Relaxed);
                    inner.contacted.store(true, Ordering::Relaxed);
                    return Ok(());
                }
                Err(cause) if causes.contains(&cause) => {}
                Err(cause) => causes.push(cause),
            }
        }
        Err(ClientError::Unreachable { endpoints: self.endpoints().join(", "), cause: causes.join("; ") })
    }

    fn current(&self) -> usize {
        self.inner.current.load(Ordering::Relaxed)
    }

    fn name(&self, target: usize) -> &str {
        &self.inner.targets[target].name
    }

    fn rpc(&self, target: usize) -> Rpc<Wire> {
        limited!(Rpc::new(self.wire(target)))
    }

    fn admin(&self, target: usize) -> AdminClient<Wire> {
        limited!(AdminClient::new(self.wire(target)))
    }

    fn wire(&self, target: usize) -> Wire {
        self.inner.targets[target].channels.wire()
    }
}

#[cfg(test)]
mod fixture;
#[cfg(any(test, feature = "stub"))]
pub mod stub;
#[cfg(test)]
mod tests;
