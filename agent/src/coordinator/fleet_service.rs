//! What users call. Any coordinator serves it: what changes something goes through the proposer, what reads waits until this
//! node has seen everything accepted before.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, future::join_all, stream::BoxStream};
use robeing_fleet::{Command, Reply, TaskFilter, limits::MAX_PAGE};
use robeing_proto::v1;
use tokio_util::task::TaskTracker;
use tonic::{Request, Response, Status, Streaming};

use super::{
    errors,
    leadership::Standing,
    node::Node,
    preference, submissions,
    view::{self, Parts},
    warnings, watches,
};

/// Tasks in one submission, and ids in one cancellation or watch.
pub const MAX_ITEMS: usize = 1_000;
/// Tasks of a page when the request does not say.
const DEFAULT_PAGE: usize = 100;

/// The service.
pub struct FleetService {
    node: Arc<Node>,
    tasks: TaskTracker,
}

impl FleetService {
    /// Of this node; its tasks end when the node stops.
    pub fn new(node: Arc<Node>, tasks: TaskTracker) -> Self {
        Self { node, tasks }
    }

    /// The members, and what is wrong with those that answer.
    async fn coordinators(&self) -> (Vec<v1::Coordinator>, Vec<v1::Warning>) {
        let members = self.node.members();
        let descriptions = members.iter().map(|(id, peer, _)| preference::ask(&self.node, *id, &peer.address));
        let descriptions = join_all(descriptions).await;
        let leader = match &*self.node.standing.borrow() {
            Standing::Leading { .. } => Some(self.node.identity.node_id),
            Standing::Following { leader, .. } => Some(*leader),
            Standing::Leaderless => None,
        };
        let scores: BTreeMap<_, _> = descriptions
            .iter()
            .flatten()
            .filter(|said| Some(said.node_id) == leader)
            .flat_map(|said| &said.scores)
            .filter_map(|of| Some((of.node_id, of.score?)))
            .collect();
        let warnings = warnings::merge(descriptions.iter().flatten());
        let told = members.into_iter().zip(descriptions).map(|((id, peer, voter), said)| {
            let state = match &said {
                _ if leader == Some(id) && said.is_some() => v1::CoordinatorState::Leader,
                None => v1::CoordinatorState::Unreachable,
                Some(_) if !voter => v1::CoordinatorState::Learner,
                Some(_) if leader.is_none() => v1::CoordinatorState::Candidate,
                Some(_) => v1::CoordinatorState::Follower,
            };
            let said = said.unwrap_or_default();
            v1::Coordinator {
                name: peer.name,
                node_id: format!("{id:016x}"),
                address: peer.address,
                state: state.into(),
                voter,
                matched_index: said.applied_index,
                pid: said.pid,
                leader_score: scores.get(&id).copied(),
                version: said.version,
            }
        });
        (told.collect(), warnings)
    }
}

fn filter(request: &v1::ListTasksRequest) -> Result<TaskFilter, Status> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(TaskFilter {
        states: view::task_states(&request.states)?,
        kind: some(&request.kind),
        submitter: some(&request.submitter),
        agent: some(&request.agent),
    })
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for FleetService {
    type SubmitStreamStream = BoxStream<'static, Result<v1::SubmitStreamResponse, Status>>;
    type WatchTasksStream = BoxStream<'static, Result<v1::WatchTasksResponse, Status>>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let tasks = request.into_inner().tasks;
        if tasks.len() > MAX_ITEMS {
            return Err(errors::too_many("tasks", tasks.len(), MAX_ITEMS));
        }
        let results = submissions::submit(&self.node, tasks).await?;
        Ok(Response::new(v1::SubmitResponse { results }))
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<v1::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let stream = submissions::stream(Arc::clone(&self.node), &self.tasks, request.into_inner());
        Ok(Response::new(stream.boxed()))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::Task>, Status> {
        let request = request.into_inner();
        let id = view::task_id(&request.id)?;
        self.node.ready_to_read(request.consistency).await?;
        let parts = Parts { input: request.include_input, output: true, attempts: true };
        let now = self.node.clock.estimate().fleet;
        let found = self.node.look(|fleet| {
            let mut task = view::task(fleet.task(id)?, parts, fleet.now());
            task.waiting_for = fleet.waiting_for(id, now).unwrap_or_default();
            Some(task)
        });
        found.map(Response::new).ok_or_else(|| errors::no_task(&request.id))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        let request = request.into_inner();
        let filter = filter(&request)?;
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| {
                Status::invalid_argument(format!(
                    "page_token {token:?} is not one that a listing gave; leave it empty to start"
                ))
            })?),
        };
        let size = match request.page_size as usize {
            0 => DEFAULT_PAGE,
            size => size.min(MAX_PAGE),
        };
        self.node.ready_to_read(request.consistency).await?;
        let parts = Parts { attempts: true, ..Parts::default() };
        Ok(Response::new(self.node.look(|fleet| {
            let page = fleet.tasks(&filter, after, size);
            v1::ListTasksResponse {
                tasks: page.tasks.into_iter().map(|task| view::task(task, parts, fleet.now())).collect(),
                next_page_token: page.next.map(|cursor| cursor.to_string()).unwrap_or_default(),
                revision: fleet.revision(),
            }
        })))
    }

    async fn watch_tasks(
        &self,
        request: Request<v1::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        let request = request.into_inner();
        if request.ids.len() > MAX_ITEMS {
            return Err(errors::too_many("ids", request.ids.len(), MAX_ITEMS));
        }
        self.node.ready_to_read(0).await?;
        Ok(Response::new(watches::watch(Arc::clone(&self.node), request)?.boxed()))
    }

    async fn cancel_tasks(
        &self,
        request: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        let request = request.into_inner();
        if request.ids.len() > MAX_ITEMS {
            return Err(errors::too_many("ids", request.ids.len(), MAX_ITEMS));
        }
        let tasks = request.ids.iter().map(|id| view::task_id(id)).collect::<Result<Vec<_>, _>>()?;
        let commands: Vec<Command> =
            tasks.iter().map(|task| Command::Cancel { task: *task, reason: request.reason.clone() }).collect();
        let replies = self.node.proposer.propose(&commands).await?;
        let results = tasks.into_iter().zip(replies).map(|(task, reply)| {
            let task_id = task.to_string();
            match reply {
                Reply::Cancelled(state) => {
                    v1::CancelResult { task_id, state: view::task_state(state).into(), refusal: None }
                }
                Reply::Refused(refusal) => {
                    v1::CancelResult { task_id, state: 0, refusal: Some(view::refusal(&refusal)) }
                }
                _ => v1::CancelResult { task_id, ..Default::default() },
            }
        });
        Ok(Response::new(v1::CancelTasksResponse { results: results.collect() }))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        self.node.ready_to_read(request.consistency).await?;
        Ok(Response::new(self.node.look(|fleet| {
            let shown =
                |agent: &&robeing_fleet::Agent| request.include_lost || agent.state != robeing_fleet::AgentState::Lost;
            let mut agents: Vec<_> = fleet.agents().filter(shown).map(view::agent).collect();
            agents.sort_by(|a, b| a.name.cmp(&b.name));
            v1::ListAgentsResponse { agents, revision: fleet.revision() }
        })))
    }

    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Result<Response<v1::FleetStatus>, Status> {
        self.node.ready_to_read(request.into_inner().consistency).await?;
        let (coordinators, warnings) = self.coordinators().await;
        let mut status = self.node.look(view::status);
        let leads = |c: &&v1::Coordinator| c.state == i32::from(v1::CoordinatorState::Leader);
        if let Some(leader) = coordinators.iter().find(leads) {
            status.leader = leader.name.clone();
            status.leader_address = leader.address.clone();
        }
        status.cluster_id = self.node.identity.cluster_id.clone();
        status.coordinators = coordinators;
        status.warnings = warnings;
        status.now = Some(view::timestamp(self.node.clock.estimate().wall));
        self.node.consensus_status(&mut status);
        Ok(Response::new(status))
    }
}
