//! A coordinator that answers as the tests say, and a gateway that calls it.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::Stream;
use robeing_net::{ConnectInfo, Transport, gate::ON_BEHALF_OF, limited};
use robeing_platform::{OsRandom, Platform};
use robeing_proto::v1::{
    self, MessageCode, MessageStatus, SubmitResult, Task, TaskState,
    fleet_server::{Fleet, FleetServer},
    messages_server::{Messages, MessagesServer},
};
use robeing_sealing::{About, Content, OpeningKey};
use robeing_telemetry::Metrics;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Request, Response, Status, Streaming, async_trait, service::Routes};
use uuid::Uuid;

use super::super::{Gateway, GatewayDeps, coordinators::has_ended, server::Limits};
use crate::upstream::Upstream;

/// The name of its agent.
const AGENT: &str = "w-0";
/// The name of whoever sends a message.
const SENDER: &str = "client:test";

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A call as the coordinator saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub method: &'static str,
    pub authorization: Option<String>,
    pub on_behalf_of: Option<String>,
    /// The name in the certificate of the connection.
    pub peer: Option<String>,
}

/// What the coordinator knows.
#[derive(Default)]
pub struct Stub {
    calls: Mutex<Vec<Call>>,
    tasks: Mutex<BTreeMap<String, Task>>,
    messages: Mutex<Vec<v1::SendMessageRequest>>,
    changes: watch::Sender<u64>,
    /// How many calls fail next, as those of a coordinator without a leader.
    pub failing: AtomicUsize,
    /// Whether callers must say who they are.
    pub is_closed: bool,
    /// The key of its agents. With one, messages must be sealed, and replies are.
    pub key: Option<OpeningKey>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stub {
    fn seen<T>(&self, method: &'static str, request: &Request<T>) -> Result<(), Status> {
        let text = |name| request.metadata().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let peer = request.extensions().get::<ConnectInfo>().and_then(|info| info.identity.clone());
        let call = Call {
            method,
            authorization: text("authorization"),
            on_behalf_of: text(ON_BEHALF_OF),
            peer: peer.map(|peer| peer.id.name().to_owned()),
        };
        let is_nobody = call.authorization.is_none() && call.on_behalf_of.is_none();
        lock(&self.calls).push(call);
        if self.failing.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(Status::unavailable("there is no leader"));
        }
        if self.is_closed && is_nobody { Err(Status::unauthenticated("who are you?")) } else { Ok(()) }
    }

    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    pub fn messages(&self) -> Vec<v1::SendMessageRequest> {
        lock(&self.messages).clone()
    }

    pub fn tasks(&self) -> Vec<Task> {
        lock(&self.tasks).values().cloned().collect()
    }

    /// Lets every task that there is succeed with its own input.
    pub fn finish(&self) {
        let revision = *self.changes.borrow() + 1;
        for task in lock(&self.tasks).values_mut().filter(|task| !has_ended(task.state())) {
            (task.output, task.state) = (task.input.clone(), TaskState::Succeeded.into());
            (task.revision, task.finished_at) = (revision, Some(std::time::SystemTime::now().into()));
        }
        self.changes.send_modify(|changes| *changes = revision);
    }

    /// Lets a new task of this id and kind succeed.
    pub fn succeed(&self, id: &str, kind: &str) {
        self.submitted(v1::TaskSpec { id: id.into(), kind: kind.into(), ..v1::TaskSpec::default() });
        self.finish();
    }

    /// Returns the reply to a message: its payload.
    fn reply(&self, message: &v1::SendMessageRequest) -> Bytes {
        let Some(key) = &self.key else { return message.payload.clone() };
        let [of] = &message.sealed_for[..] else { panic!("it is not sealed: {message:?}") };
        let id = Uuid::parse_str(&message.id).expect("an id").as_u128();
        let about = About { id, sender: SENDER, agent: AGENT, kind: &message.r#type };
        let payload = Content::payload(&of.wrap, &message.payload);
        let opened = key.open(&of.key_id, &about, &payload).expect("it is for this agent");
        let secret = key.reply_key(&payload).expect("it is one");
        secret.seal(&about, &opened, &OsRandom).expect("it is sealed")
    }

    fn submitted(&self, spec: v1::TaskSpec) -> SubmitResult {
        if spec.kind == "refused" {
            let refusal = v1::Refusal { code: "RESOURCE_EXHAUSTED".into(), message: "the queue is full".into() };
            return SubmitResult { refusal: Some(refusal), ..SubmitResult::default() };
        }
        let mut tasks = lock(&self.tasks);
        let existing = tasks.contains_key(&spec.id);
        let id = spec.id.clone();
        tasks.entry(spec.id.clone()).or_insert(Task {
            id: spec.id,
            kind: spec.kind,
            input: spec.input,
            state: TaskState::Queued.into(),
            idempotency_key: spec.idempotency_key,
            priority: spec.priority,
            ..Task::default()
        });
        SubmitResult { task_id: id, existing, ..SubmitResult::default() }
    }
}

/// The services of a stub.
struct Service(Arc<Stub>);

fn unserved<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the gateway does not call this"))
}

#[async_trait]
impl Fleet for Service {
    type SubmitStreamStream = Answers<v1::SubmitStreamResponse>;
    type WatchTasksStream = Answers<v1::WatchTasksResponse>;
    type WatchStatusStream = Answers<v1::WatchStatusResponse>;
    type TaskLogsStream = Answers<v1::TaskLogsResponse>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        self.0.seen("Submit", &request)?;
        let tasks = request.into_inner().tasks;
        let results = tasks.into_iter().map(|spec| self.0.submitted(spec)).collect();
        Ok(Response::new(v1::SubmitResponse { results }))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<Task>, Status> {
        self.0.seen("GetTask", &request)?;
        let task = lock(&self.0.tasks).get(&request.get_ref().id).cloned();
        task.map(Response::new).ok_or_else(|| Status::not_found("no such task"))
    }

    async fn cancel_tasks(
        &self,
        request: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        self.0.seen("CancelTasks", &request)?;
        let request = request.into_inner();
        let mut tasks = lock(&self.0.tasks);
        let mut cancelled = |id: String| match tasks.get_mut(&id) {
            Some(task) => {
                (task.state, task.cancel_reason) = (TaskState::Cancelled.into(), request.reason.clone());
                v1::CancelResult { task_id: id, state: task.state, ..Default::default() }
            }
            None => {
                let refusal = v1::Refusal { code: "NOT_FOUND".into(), message: format!("no task {id}") };
                v1::CancelResult { task_id: id, refusal: Some(refusal), ..Default::default() }
            }
        };
        let results = request.ids.iter().cloned().map(&mut cancelled).collect();
        Ok(Response::new(v1::CancelTasksResponse { results }))
    }

    async fn watch_tasks(
        &self,
        request: Request<v1::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        self.0.seen("WatchTasks", &request)?;
        let (stub, request) = (Arc::clone(&self.0), request.into_inner());
        let (ids, mut from) = (request.ids, request.from_revision);
        let mut changes = stub.changes.subscribe();
        Ok(Response::new(Box::pin(async_stream::stream! {
            loop {
                let revision = *changes.borrow_and_update();
                let mut tasks = stub.tasks();
                let gone_ids = ids.iter().filter(|id| tasks.iter().all(|task| task.id != **id)).cloned().collect();
                tasks.retain(|task| ids.contains(&task.id) || ids.is_empty() && task.revision > from);
                let have_ended = !ids.is_empty() && tasks.iter().all(|task| has_ended(task.state()));
                from = revision;
                yield Ok(v1::WatchTasksResponse { tasks, revision, gone_ids, ..Default::default() });
                if have_ended || changes.changed().await.is_err() {
                    return;
                }
            }
        })))
    }

    async fn submit_stream(
        &self,
        _: Request<Streaming<v1::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        unserved()
    }

    async fn list_tasks(&self, _: Request<v1::ListTasksRequest>) -> Result<Response<v1::ListTasksResponse>, Status> {
        unserved()
    }

    async fn list_subtasks(
        &self,
        _: Request<v1::ListSubtasksRequest>,
    ) -> Result<Response<v1::ListSubtasksResponse>, Status> {
        unserved()
    }

    async fn list_agents(&self, _: Request<v1::ListAgentsRequest>) -> Result<Response<v1::ListAgentsResponse>, Status> {
        unserved()
    }

    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Result<Response<v1::FleetStatus>, Status> {
        self.0.seen("GetStatus", &request)?;
        let revision = *self.0.changes.borrow();
        Ok(Response::new(v1::FleetStatus { revision, ..v1::FleetStatus::default() }))
    }

    async fn watch_status(
        &self,
        _: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        unserved()
    }

    async fn task_logs(&self, _: Request<v1::TaskLogsRequest>) -> Result<Response<Self::TaskLogsStream>, Status> {
        unserved()
    }
}

#[async_trait]
impl Messages for Service {
    async fn resolve_message(
        &self,
        request: Request<v1::ResolveMessageRequest>,
    ) -> Result<Response<v1::ResolveMessageResponse>, Status> {
        self.0.seen("ResolveMessage", &request)?;
        let v1::ResolveMessageRequest { id, .. } = request.into_inner();
        let key = self.0.key.as_ref().map(|key| key.public().to_bytes().to_vec());
        let sealing_key = key.unwrap_or_default().into();
        let receivers = vec![v1::MessageReceiver { id, agent: AGENT.into(), sealing_key }];
        let (sender, must_seal) = (SENDER.to_owned(), self.0.key.is_some());
        Ok(Response::new(v1::ResolveMessageResponse { sender, must_seal, receivers, nobody: Vec::new() }))
    }

    async fn send_message(
        &self,
        request: Request<v1::SendMessageRequest>,
    ) -> Result<Response<v1::SendMessageResponse>, Status> {
        self.0.seen("SendMessage", &request)?;
        let message = request.into_inner();
        let outcome = |code: MessageCode, reason: &str| MessageStatus {
            id: message.id.clone(),
            agent: AGENT.into(),
            code: code.into(),
            reason: reason.into(),
            reply: (code == MessageCode::Accepted).then(|| self.0.reply(&message)),
            ..MessageStatus::default()
        };
        let code = match &*message.to {
            "gone" => MessageCode::NoSuchAgent,
            "away" => MessageCode::Away,
            "refuses" => MessageCode::Refused,
            "slow" => MessageCode::DeadlinePassed,
            _ if message.durable => MessageCode::Kept,
            _ => MessageCode::Accepted,
        };
        let outcomes = match message.broadcast {
            true => vec![outcome(MessageCode::Accepted, ""), outcome(MessageCode::Refused, "no")],
            false => vec![outcome(code, if code == MessageCode::Accepted { "" } else { "so it is" })],
        };
        lock(&self.0.messages).push(message);
        Ok(Response::new(v1::SendMessageResponse { outcomes }))
    }

    async fn get_message(&self, request: Request<v1::GetMessageRequest>) -> Result<Response<MessageStatus>, Status> {
        self.0.seen("GetMessage", &request)?;
        let id = request.into_inner().id;
        Ok(Response::new(MessageStatus { id, code: MessageCode::Kept.into(), ..MessageStatus::default() }))
    }

    async fn read_inbox(&self, _: Request<v1::ReadInboxRequest>) -> Result<Response<v1::ReadInboxResponse>, Status> {
        unserved()
    }
}

/// A stub that serves.
pub struct Serving {
    pub stub: Arc<Stub>,
    pub address: String,
    _serving: AbortOnDropHandle<()>,
}

impl Serving {
    pub async fn start(stub: Stub, transport: &Transport) -> Self {
        let bound = transport.bind("127.0.0.1:0").await.expect("a port");
        let address = bound.local_addr().expect("an address").to_string();
        let stub = Arc::new(stub);
        let routes = Routes::new(limited!(FleetServer::new(Service(Arc::clone(&stub)))))
            .add_service(limited!(MessagesServer::new(Service(Arc::clone(&stub)))));
        let serving = tokio::spawn(async move {
            bound.serve(routes, CancellationToken::new()).await.expect("it serves");
        });
        Self { stub, address, _serving: AbortOnDropHandle::new(serving) }
    }
}

/// Starts a gateway that knows these coordinators.
pub async fn gateway(transport: &Transport, coordinators: Vec<String>, limits: Limits) -> Gateway {
    let platform = Platform::real();
    let deps = GatewayDeps {
        listen: "127.0.0.1:0".into(),
        transport: transport.clone(),
        upstream: Arc::new(Upstream::new(transport.clone(), coordinators.clone(), &*platform.random)),
        coordinators,
        platform,
        metrics: Metrics::default(),
    };
    Gateway::with_limits(deps, limits).await.expect("it listens")
}

/// A gateway and its coordinator, without TLS.
pub struct Plain {
    pub coordinator: Serving,
    pub gateway: Gateway,
}

impl Plain {
    pub async fn start() -> Self {
        Self::with(Stub::default(), Limits::default()).await
    }

    pub async fn with(stub: Stub, limits: Limits) -> Self {
        let transport = Transport::new(Platform::real().network);
        let coordinator = Serving::start(stub, &transport).await;
        let gateway = gateway(&transport, vec![coordinator.address.clone()], limits).await;
        Self { coordinator, gateway }
    }
}
