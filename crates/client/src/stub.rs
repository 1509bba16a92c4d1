//! A stub of a fleet for tests: several endpoints that share the accepted tasks and can each be made to misbehave.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::Stream;
use robeing_proto::v1::{
    self, ListAgentsResponse, LogLine, Refusal, StreamedAnswer, SubmitRequest, SubmitResponse, SubmitResult,
    SubmitStreamRequest, SubmitStreamResponse, TaskLogsRequest, TaskLogsResponse, TaskSpec, WatchStatusRequest,
    WatchStatusResponse, WatchTasksRequest, WatchTasksResponse,
    admin_server::{Admin, AdminServer},
    fleet_server::{Fleet, FleetServer},
    streamed_answer::Answer,
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};

use super::*;

/// State shared by all endpoints of a stub, as in a fleet.
#[derive(Default)]
pub struct Shared {
    /// The authorization of each query of the status, if it had one.
    pub authorizations: Vec<Option<String>>,
    /// How often each id was accepted as new.
    pub accepted: HashMap<String, usize>,
    /// Maximum number of tasks that were unanswered at the same time.
    pub most_unanswered: usize,
    /// The watch requests received.
    pub watches: Vec<WatchTasksRequest>,
    /// The requests to follow tasks.
    pub logs: Vec<TaskLogsRequest>,
    /// Number of calls received.
    pub calls: usize,
    /// The agents that are barred.
    pub barred: HashSet<String>,
}

/// How one endpoint behaves.
#[derive(Clone, Default)]
pub struct Manners {
    /// Number of initial calls answered with UNAVAILABLE.
    pub unavailable: usize,
    /// Break a submission stream after this many answers, once.
    pub break_after: Option<usize>,
    /// Number of initial tasks refused with UNAVAILABLE.
    pub refuse: usize,
    /// Answer submissions only in batches of this size.
    pub hold: usize,
    /// End every watch after its first answer.
    pub end_watches: bool,
    /// Refuse submissions, because the caller has no right to submit.
    pub forbids: bool,
    /// Never answer anything.
    pub silent: bool,
}

/// The service behind one endpoint.
#[derive(Clone)]
pub struct Stub {
    shared: Arc<Mutex<Shared>>,
    manners: Arc<Mutex<Manners>>,
}

type Told<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Stub {
    /// Returns the state shared by all endpoints.
    pub fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no test panics while it holds this")
    }

    /// Returns this endpoint's behaviour, which can be changed.
    pub fn manners(&self) -> MutexGuard<'_, Manners> {
        self.manners.lock().expect("no test panics while it holds this")
    }

    async fn begin(&self) -> Result<(), Status> {
        self.shared().calls += 1;
        if self.manners().silent {
            std::future::pending::<()>().await;
        }
        let mut manners = self.manners();
        if manners.unavailable > 0 {
            manners.unavailable -= 1;
            return Err(Status::unavailable("no leader is known now"));
        }
        Ok(())
    }

    fn accept(&self, tag: u64, spec: &TaskSpec) -> StreamedAnswer {
        let mut manners = self.manners();
        let mut result = SubmitResult { task_id: spec.id.clone(), ..Default::default() };
        if manners.refuse > 0 {
            manners.refuse -= 1;
            result.refusal = Some(Refusal { code: "UNAVAILABLE".into(), message: "no leader".into() });
        } else {
            let mut shared = self.shared();
            let times = shared.accepted.entry(spec.id.clone()).or_default();
            result.existing = *times > 0;
            *times += usize::from(*times == 0);
        }
        StreamedAnswer { tag, answer: Some(Answer::Submitted(result)) }
    }

    /// Returns whether the stream should break now.
    fn breaks(&self, answered: usize) -> bool {
        let mut manners = self.manners();
        let breaks = manners.break_after.is_some_and(|limit| answered >= limit);
        if breaks {
            manners.break_after = None;
        }
        breaks
    }

    /// Answers one submission stream. Tasks with `wait` finish at once, except on a stream that is going to break.
    async fn serve_submissions(
        self,
        mut inbound: Streaming<SubmitStreamRequest>,
        told: mpsc::Sender<Result<SubmitStreamResponse, Status>>,
    ) {
        let finishes = self.manners().break_after.is_none();
        let hold = self.manners().hold;
        let mut held = Vec::new();
        let mut answered = 0;
        while let Ok(Some(batch)) = inbound.message().await {
            held.extend(batch.tasks);
            {
                let mut shared = self.shared();
                shared.most_unanswered = shared.most_unanswered.max(held.len());
            }
            if held.len() < hold {
                continue;
            }
            for task in held.drain(..) {
                if self.breaks(answered) {
                    let _ = told.send(Err(Status::unavailable("shutting down"))).await;
                    return;
                }
                answered += 1;
                let spec = task.task.unwrap_or_default();
                let accepted = self.accept(task.tag, &spec);
                let is_refused =
                    matches!(&accepted.answer, Some(Answer::Submitted(SubmitResult { refusal: Some(_), .. })));
                let mut answers = vec![accepted];
                if task.wait && finishes && !is_refused {
                    answers.push(StreamedAnswer { tag: task.tag, answer: Some(Answer::Finished(finished(&spec.id))) });
                }
                if told.send(Ok(SubmitStreamResponse { answers })).await.is_err() {
                    return;
                }
            }
        }
    }
}

pub(super) fn finished(id: &str) -> Task {
    Task { id: id.into(), state: TaskState::Succeeded.into(), ..Default::default() }
}

#[tonic::async_trait]
impl Fleet for Stub {
    type SubmitStreamStream = Told<SubmitStreamResponse>;
    type WatchTasksStream = Told<WatchTasksResponse>;
    type WatchStatusStream = Told<WatchStatusResponse>;
    type TaskLogsStream = Told<TaskLogsResponse>;

    async fn submit(&self, _: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        Err(Status::unimplemented("the client submits on streams"))
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        self.begin().await?;
        if self.manners().forbids {
            return Err(Status::permission_denied("client/ada may not call this"));
        }
        let (told, answers) = mpsc::channel(8);
        tokio::spawn(self.clone().serve_submissions(request.into_inner(), told));
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Result<Response<Task>, Status> {
        self.begin().await?;
        Err(Status::not_found(format!("there is no task {}", request.into_inner().id)))
    }

    async fn list_tasks(&self, _: Request<ListTasksRequest>) -> Result<Response<ListTasksResponse>, Status> {
        self.begin().await?;
        Err(Status::invalid_argument("page_size is over 1,000"))
    }

    async fn watch_tasks(
        &self,
        request: Request<WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        self.begin().await?;
        let request = request.into_inner();
        let tasks = request.ids.iter().filter(|id| *id != "gone").map(|id| finished(id)).collect();
        let gone_ids = request.ids.iter().filter(|id| *id == "gone").cloned().collect();
        let revision = request.from_revision + 7;
        let changes = WatchTasksResponse { tasks, revision, gone_ids, ..WatchTasksResponse::default() };
        self.shared().watches.push(request);
        let first = futures::stream::iter([Ok(changes)]);
        if self.manners().end_watches {
            return Ok(Response::new(Box::pin(first)));
        }
        Ok(Response::new(Box::pin(first.chain(futures::stream::pending()))))
    }

    async fn list_subtasks(
        &self,
        _: Request<v1::ListSubtasksRequest>,
    ) -> Result<Response<v1::ListSubtasksResponse>, Status> {
        self.begin().await?;
        Ok(Response::new(v1::ListSubtasksResponse::default()))
    }

    async fn cancel_tasks(&self, _: Request<CancelTasksRequest>) -> Result<Response<CancelTasksResponse>, Status> {
        self.begin().await?;
        Ok(Response::new(CancelTasksResponse::default()))
    }

    async fn task_logs(&self, request: Request<TaskLogsRequest>) -> Result<Response<Self::TaskLogsStream>, Status> {
        self.begin().await?;
        let request = request.into_inner();
        let (first, follow) = (request.after.first().map_or(0, |of| of.next), request.follow);
        let lines = vec![LogLine { text: first.to_string(), ..LogLine::default() }];
        let said = TaskLogsResponse { attempt: 1, agent: "a".into(), first, lines, ..TaskLogsResponse::default() };
        self.shared().logs.push(request);
        let end = match self.manners().end_watches {
            true => Some(Err(Status::unavailable("shutting down"))),
            false if follow => Some(Ok(TaskLogsResponse { finished: true, ..TaskLogsResponse::default() })),
            false => None,
        };
        Ok(Response::new(Box::pin(futures::stream::iter([Ok(said)]).chain(futures::stream::iter(end)))))
    }

    async fn list_agents(&self, _: Request<ListAgentsRequest>) -> Result<Response<ListAgentsResponse>, Status> {
        self.begin().await?;
        Ok(Response::new(ListAgentsResponse::default()))
    }

    async fn get_status(&self, request: Request<GetStatusRequest>) -> Result<Response<FleetStatus>, Status> {
        self.begin().await?;
        let authorization = request.metadata().get("authorization");
        let authorization = authorization.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        self.shared().authorizations.push(authorization);
        Ok(Response::new(FleetStatus { cluster_id: "stub".into(), ..Default::default() }))
    }

    async fn watch_status(&self, _: Request<WatchStatusRequest>) -> Result<Response<Self::WatchStatusStream>, Status> {
        Err(Status::unimplemented("the client asks for the status"))
    }
}

/// The number of records in the audit log of a stub.
pub const AUDIT_RECORDS: u64 = 2_500;

/// Returns the failure of a call that no test makes.
fn unserved<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the stub does not serve this"))
}

#[tonic::async_trait]
impl Admin for Stub {
    async fn set_pools(&self, _: Request<v1::SetPoolsRequest>) -> Result<Response<v1::SetPoolsResponse>, Status> {
        unserved()
    }

    async fn add_coordinator(
        &self,
        _: Request<v1::AddCoordinatorRequest>,
    ) -> Result<Response<v1::AddCoordinatorResponse>, Status> {
        unserved()
    }

    async fn remove_coordinator(
        &self,
        _: Request<v1::RemoveCoordinatorRequest>,
    ) -> Result<Response<v1::RemoveCoordinatorResponse>, Status> {
        unserved()
    }

    async fn transfer_leadership(
        &self,
        _: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        unserved()
    }

    async fn set_trust(&self, _: Request<v1::SetTrustRequest>) -> Result<Response<v1::SetTrustResponse>, Status> {
        unserved()
    }

    async fn set_policies(
        &self,
        _: Request<v1::SetPoliciesRequest>,
    ) -> Result<Response<v1::SetPoliciesResponse>, Status> {
        unserved()
    }

    async fn get_policies(&self, _: Request<v1::GetPoliciesRequest>) -> Result<Response<v1::Policies>, Status> {
        unserved()
    }

    async fn set_task_kinds(
        &self,
        _: Request<v1::SetTaskKindsRequest>,
    ) -> Result<Response<v1::SetTaskKindsResponse>, Status> {
        unserved()
    }

    async fn get_task_kinds(&self, _: Request<v1::GetTaskKindsRequest>) -> Result<Response<v1::TaskKinds>, Status> {
        unserved()
    }

    async fn create_join_token(
        &self,
        _: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        Err(Status::permission_denied("client/ada may not call this"))
    }

    async fn certify_client(
        &self,
        _: Request<v1::CertifyClientRequest>,
    ) -> Result<Response<v1::CertifyClientResponse>, Status> {
        unserved()
    }

    async fn bar_agent(&self, request: Request<v1::BarAgentRequest>) -> Result<Response<v1::BarAgentResponse>, Status> {
        self.begin().await?;
        let mut shared = self.shared();
        shared.barred.insert(request.into_inner().agent);
        Ok(Response::new(v1::BarAgentResponse { revision: shared.barred.len() as u64, known: true }))
    }

    async fn release_agent(
        &self,
        request: Request<v1::ReleaseAgentRequest>,
    ) -> Result<Response<v1::ReleaseAgentResponse>, Status> {
        self.begin().await?;
        let released = self.shared().barred.remove(&request.into_inner().agent);
        Ok(Response::new(v1::ReleaseAgentResponse { released }))
    }

    async fn flag_agent(&self, _: Request<v1::FlagAgentRequest>) -> Result<Response<v1::FlagAgentResponse>, Status> {
        unserved()
    }

    async fn list_activity(
        &self,
        _: Request<v1::ListActivityRequest>,
    ) -> Result<Response<v1::ListActivityResponse>, Status> {
        unserved()
    }

    async fn list_audit_records(
        &self,
        request: Request<v1::ListAuditRecordsRequest>,
    ) -> Result<Response<v1::ListAuditRecordsResponse>, Status> {
        self.begin().await?;
        let v1::ListAuditRecordsRequest { after_seq, page_size } = request.into_inner();
        let last = AUDIT_RECORDS.min(after_seq.saturating_add(u64::from(page_size)));
        let records = (after_seq + 1..=last).map(|seq| v1::AuditRecord { seq, ..Default::default() });
        Ok(Response::new(v1::ListAuditRecordsResponse { records: records.collect(), first_seq: 1 }))
    }
}

/// A running stub; its servers stop when it is dropped.
pub struct Running {
    /// The first endpoint.
    pub stub: Stub,
    /// The host:port of each endpoint.
    pub endpoints: Vec<String>,
    /// The servers, one per endpoint.
    pub servers: Vec<JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

impl Running {
    /// Returns a client of all its endpoints.
    pub fn client(&self) -> FleetClient {
        let settings = Settings { request_timeout: Duration::from_secs(20), ..Settings::default() };
        FleetClient::new(&self.endpoints, settings).expect("the endpoints are good")
    }
}

/// Starts a stub with one endpoint for each of these behaviours.
pub async fn stub(all: &[Manners]) -> Running {
    let shared = Arc::new(Mutex::new(Shared::default()));
    let (mut endpoints, mut servers, mut first) = (Vec::new(), Vec::new(), None);
    for manners in all {
        let stub = Stub { shared: shared.clone(), manners: Arc::new(Mutex::new(manners.clone())) };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        endpoints.push(listener.local_addr().expect("it is bound").to_string());
        let served = Server::builder()
            .add_service(FleetServer::new(stub.clone()))
            .add_service(AdminServer::new(stub.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        servers.push(tokio::spawn(async move {
            let _ = served.await;
        }));
        first.get_or_insert(stub);
    }
    Running { stub: first.expect("there is a first endpoint"), endpoints, servers }
}
