//! A client of a fleet: any coordinator may be asked, so a call that one does not answer is put to the next, within
//! a time that the user sets. Every call here may be repeated safely, because the caller draws the ids of tasks.

mod address;
pub mod coordinators;
mod error;
mod submit;
mod watch;
mod watch_pool;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

pub use address::Address;
pub use error::{ClientError, io_cause};
use futures::stream::{FuturesUnordered, StreamExt};
pub use robeing_net::client::{ByteStream, Dialer};
use robeing_net::{
    client::{KeepAlive, dialed_channel, takes_connections, tcp_channel},
    limited,
};
use robeing_proto::v1::{
    Agent, CancelTasksRequest, CancelTasksResponse, Consistency, FleetStatus, GetStatusRequest, GetTaskRequest,
    ListAgentsRequest, ListTasksRequest, ListTasksResponse, Task, TaskState, fleet_client::FleetClient as Rpc,
};
pub use submit::{DEFAULT_UNFINISHED, DEFAULT_WINDOW, SubmitEvent, SubmitOptions};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::{Code, Response, Status, transport::Channel};
use uuid::Uuid;
pub use watch::TaskWatch;

/// Time in which one of the endpoints must take a connection before the fleet counts as unreachable.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for which a call is tried, over all endpoints, unless [`Settings`] say otherwise.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Time one endpoint has for its answer while there are others to ask.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause after every endpoint was tried in vain; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// A connection that is silent for so long is asked for a sign of life, and given up after as long again.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { interval: Duration::from_secs(2), timeout: Duration::from_secs(2), while_idle: true };

/// How a [`FleetClient`] behaves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Time for the first connection, over all endpoints.
    pub connect_timeout: Duration,
    /// Time for which a call is tried, over all endpoints.
    pub request_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { connect_timeout: CONNECT_TIMEOUT, request_timeout: REQUEST_TIMEOUT }
    }
}

/// A fleet, reached through any of its coordinators. Cheap to clone; clones share the connections and the choice of
/// coordinator.
#[derive(Clone)]
pub struct FleetClient {
    inner: Arc<Inner>,
}

struct Inner {
    targets: Vec<Target>,
    /// Index of the endpoint that is asked first.
    current: AtomicUsize,
    /// An endpoint has taken a connection: from now on the fleet is known to exist, and calls are retried.
    contacted: AtomicBool,
    settings: Settings,
}

struct Target {
    /// What users call it.
    name: String,
    /// Where its socket is; `None` where a dialer opens its connections.
    address: Option<Address>,
    channel: Channel,
}

impl fmt::Debug for FleetClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FleetClient").field("endpoints", &self.endpoints()).finish_non_exhaustive()
    }
}

/// An id for a task: a UUID of version 7, which sorts by the time it was drawn.
pub fn new_task_id() -> String {
    Uuid::now_v7().to_string()
}

/// Whether a task in this state has ended, so that it never changes again.
pub fn is_finished(state: TaskState) -> bool {
    match state {
        TaskState::Unspecified | TaskState::Queued | TaskState::Assigned => false,
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::DeadLettered => true,
    }
}

impl FleetClient {
    /// A client of the fleet at these endpoints. It connects with the first call.
    ///
    /// # Errors
    /// [`ClientError::BadEndpoint`] for one that can't be read, or when there is none. Needs a tokio runtime.
    pub fn new<S: AsRef<str>>(endpoints: &[S], settings: Settings) -> Result<Self, ClientError> {
        let mut targets = Vec::new();
        for given in endpoints {
            let address: Address = given.as_ref().parse()?;
            let channel = tcp_channel(&address.to_string(), settings.connect_timeout, KEEP_ALIVE).map_err(|error| {
                ClientError::BadEndpoint { given: given.as_ref().into(), problem: error.to_string() }
            })?;
            targets.push(Target { name: address.to_string(), address: Some(address), channel });
        }
        if targets.is_empty() {
            return Err(ClientError::BadEndpoint { given: String::new(), problem: "there is none".into() });
        }
        let inner = Inner { targets, current: AtomicUsize::new(0), contacted: AtomicBool::new(false), settings };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// A client of a fleet that was found and whose connections `dialer` opens, for `slots` coordinators (at least 1),
    /// of which `first` is asked first. Users know the fleet by `name`. Needs a tokio runtime.
    pub fn over(name: &str, dialer: Arc<dyn Dialer>, slots: usize, first: usize, settings: Settings) -> Self {
        let targets = (0..slots.max(1)).map(|slot| Target {
            name: name.into(),
            address: None,
            channel: dialed_channel(Arc::clone(&dialer), slot, KEEP_ALIVE),
        });
        let inner = Inner {
            targets: targets.collect(),
            current: AtomicUsize::new(first % slots.max(1)),
            contacted: AtomicBool::new(true),
            settings,
        };
        Self { inner: Arc::new(inner) }
    }

    /// What the fleet is reached at: its endpoints as URLs, or its name.
    pub fn endpoints(&self) -> Vec<String> {
        let targets = &self.inner.targets;
        // All slots of a dialer have the fleet's own name.
        let distinct = if targets[0].address.is_some() { targets.len() } else { 1 };
        targets[..distinct].iter().map(|target| target.name.clone()).collect()
    }

    /// One task. `NotFound` when it does not exist, or its result expired.
    pub async fn get_task(&self, request: GetTaskRequest) -> Result<Task, ClientError> {
        self.call(|mut rpc| {
            let request = request.clone();
            async move { rpc.get_task(request).await }
        })
        .await
    }

    /// One page of the tasks.
    pub async fn list_tasks(&self, request: ListTasksRequest) -> Result<ListTasksResponse, ClientError> {
        self.call(|mut rpc| {
            let request = request.clone();
            async move { rpc.list_tasks(request).await }
        })
        .await
    }

    /// Cancels tasks, each answered on its own.
    pub async fn cancel_tasks(&self, request: CancelTasksRequest) -> Result<CancelTasksResponse, ClientError> {
        self.call(|mut rpc| {
            let request = request.clone();
            async move { rpc.cancel_tasks(request).await }
        })
        .await
    }

    /// The agents of the fleet by name; those that were lost only when asked for.
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
            // Pages follow each other by name, so there is an end.
            if page.next_page_token <= request.page_token {
                return Ok(agents);
            }
            request.page_token = page.next_page_token;
        }
    }

    /// The agent of this name, lost or not, with the steps of its recoveries.
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

    /// How the fleet is.
    pub async fn status(&self, consistency: Consistency) -> Result<FleetStatus, ClientError> {
        let request = GetStatusRequest { consistency: consistency.into() };
        self.call(|mut rpc| async move { rpc.get_status(request).await }).await
    }

    /// Makes a call, at another endpoint and again for as long as the settings allow when the fleet does not answer.
    /// The call must be one that may be repeated.
    pub async fn call<T, F, A>(&self, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(Rpc<Channel>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.contact().await?;
        let mut tries = Tries::new(self);
        loop {
            let target = self.current();
            let ends = tries.attempt_ends();
            let status = match timeout_at(ends, attempt(self.rpc(target))).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::unavailable(format!("{} did not answer in time", self.name(target))),
            };
            tries.failed(target, status).await?;
        }
    }

    /// Finds an endpoint that takes connections, asking all of them at once. Done only until one did.
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

    fn rpc(&self, target: usize) -> Rpc<Channel> {
        limited!(Rpc::new(self.inner.targets[target].channel.clone()))
    }

    /// Turns from `target` to the next endpoint, unless another call already has.
    fn fail_over(&self, target: usize) {
        let next = (target + 1) % self.inner.targets.len();
        let _ = self.inner.current.compare_exchange(target, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// The tries of one call: how long they may go on, and when to pause.
pub(crate) struct Tries {
    client: FleetClient,
    began: Instant,
    failures: usize,
    pause: Duration,
}

impl Tries {
    pub(crate) fn new(client: &FleetClient) -> Self {
        Self { client: client.clone(), began: Instant::now(), failures: 0, pause: FIRST_PAUSE }
    }

    fn ends(&self) -> Instant {
        self.began + self.client.inner.settings.request_timeout
    }

    /// When the attempt that begins now must have ended.
    pub(crate) fn attempt_ends(&self) -> Instant {
        match self.client.inner.targets.len() {
            1 => self.ends(),
            _ => self.ends().min(Instant::now() + ATTEMPT_TIMEOUT),
        }
    }

    /// There was an answer: the time begins anew.
    pub(crate) fn succeeded(&mut self) {
        self.began = Instant::now();
        self.failures = 0;
        self.pause = FIRST_PAUSE;
    }

    /// Notes the failure of an attempt at an endpoint and pauses where that is due.
    ///
    /// # Errors
    /// The failure as the user's, when another try is of no use or there is no time for one.
    pub(crate) async fn failed(&mut self, target: usize, status: Status) -> Result<(), ClientError> {
        if is_foreign(&status) {
            let endpoint = self.client.name(target).to_owned();
            return Err(ClientError::NotAFleet { endpoint, cause: error::cause(&status) });
        }
        if !may_retry(&status) {
            return Err(ClientError::refused(status));
        }
        self.client.fail_over(target);
        self.failures += 1;
        let round_is_over = self.failures.is_multiple_of(self.client.inner.targets.len());
        let pause = if round_is_over { self.pause } else { Duration::ZERO };
        if Instant::now() + pause >= self.ends() {
            return Err(ClientError::Unavailable {
                endpoints: self.client.endpoints().join(", "),
                waited: self.began.elapsed(),
                cause: error::cause(&status),
            });
        }
        if round_is_over {
            sleep(pause).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }
}

/// How the HTTP/2 library words that the other side does not speak HTTP/2.
const NO_HTTP2: [&str; 2] = ["frame with invalid size", "unspecific protocol error detected"];

/// Whether the answer is that of a server without this service, or of one that does not speak gRPC.
fn is_foreign(status: &Status) -> bool {
    let cause = error::cause(status);
    status.code() == Code::Unimplemented
        || cause.starts_with("grpc-status header missing")
        || NO_HTTP2.iter().any(|words| cause.contains(words))
}

/// Whether another coordinator, or the same one a little later, may well answer. A status with a source was made on
/// this side: the connection broke.
fn may_retry(status: &Status) -> bool {
    std::error::Error::source(status).is_some() || retryable(status.code())
}

/// Whether a fleet that answers with this code may answer otherwise a little later.
fn retryable(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted)
}

#[cfg(any(test, feature = "stub"))]
pub mod stub;
#[cfg(test)]
mod tests;
