//! The Fleet service, for users. Any coordinator serves it: changes go through the proposer, and reads wait until this
//! node has applied everything that was accepted before.

use std::{collections::BTreeMap, sync::Arc};

use futures::{StreamExt, future::join_all, stream::BoxStream};
use prost::Message;
use robeing_fleet::{Agent, AgentState, Bar, Candidates, Fleet, Task, Waiting};
use robeing_net::gate::Caller;
use robeing_proto::{budget::MessageBudget, v1};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status, Streaming};

use crate::{
    api::{
        cancels::Cancels,
        convert::{self, Figures, Parts},
        errors, listing,
        submissions::Submissions,
        subtasks,
        watches::{self, Watches},
    },
    clock::FleetClock,
    leader::{describe::Descriptions, role::RaftRole, standing::Standing},
    logs::{TaskLogs, task::Wanted},
    member::Member,
    members::Members,
    raft::RaftHandle,
    read::StateReader,
    unmet::unmet_needs,
    warnings,
};

/// Maximum number of tasks in one submission, and of ids in one cancellation or watch.
pub const MAX_ITEMS: usize = 1_000;
/// Bytes of submissions in unary calls in progress at once. A stream waits until there is room; a call can't.
pub const MAX_CALLED_BYTES: usize = 64 * 1024 * 1024;

/// Bytes that a part of a task counts for besides its input.
const PART_BYTES: usize = 512;

/// The Fleet service.
pub struct FleetService {
    pub member: Member,
    pub members: Members,
    pub standing: Standing,
    pub descriptions: Descriptions,
    pub state: StateReader,
    pub clock: FleetClock,
    pub raft: RaftHandle,
    pub submissions: Submissions,
    pub watches: Watches,
    pub cancels: Cancels,
    pub logs: TaskLogs,
    /// The room for submissions in unary calls.
    pub room: CallRoom,
}

/// The remaining room for submissions in unary calls, bytes.
pub struct CallRoom(Semaphore);

impl Default for CallRoom {
    fn default() -> Self {
        Self(Semaphore::new(MAX_CALLED_BYTES))
    }
}

impl FleetService {
    /// Returns what a task waits for, as text.
    async fn waiting_for(&self, task: &Task) -> Option<String> {
        let mut waiting = Waiting::of(task)?;
        self.state.look(|fleet| waiting.note_offers(fleet));
        let (now, mut after) = (self.clock.estimate().fleet, None);
        while waiting.needs_agents()
            && let Some(slice) = self.state.agents_after(after).await
        {
            after = slice.last().map(|agent| agent.id);
            self.state.look(|fleet| slice.iter().for_each(|agent| waiting.count(fleet, agent, now)));
        }
        Some(waiting.words(now))
    }

    /// Returns the agents that could take a task.
    async fn candidates<'a>(&self, task: &'a Task) -> Candidates<'a> {
        let (mut candidates, mut after) = (Candidates::of(task, self.clock.estimate().fleet), None);
        while let Some(slice) = self.state.agents_after(after).await {
            after = slice.last().map(|agent| agent.id);
            self.state.look(|fleet| slice.iter().for_each(|agent| candidates.look(fleet, agent)));
        }
        candidates
    }

    /// Returns the members, and the warnings of those that answer.
    async fn coordinators(&self) -> (Vec<v1::Coordinator>, Vec<v1::Warning>) {
        let members = self.members.all();
        let descriptions = members.iter().map(|(id, peer, _)| self.descriptions.ask(*id, &peer.address));
        let descriptions = join_all(descriptions).await;
        let leader = match self.standing.role() {
            RaftRole::Leading { .. } => Some(self.member.id()),
            RaftRole::Following { leader, .. } => Some(leader),
            RaftRole::Leaderless => None,
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

/// Number of agents read from the state at once.
const MAX_AGENTS_READ: usize = 256;

/// An agent, and what keeps it out of the fleet.
type Known = (Arc<Agent>, Option<Arc<Bar>>);

/// Looks up what keeps an agent out of the fleet.
fn known(fleet: &Fleet, agent: &Arc<Agent>) -> Known {
    (Arc::clone(agent), fleet.bar_of(&agent.name).cloned())
}

/// A page of agents, as many as fit in one message.
#[derive(Default)]
struct AgentPage {
    agents: Vec<v1::Agent>,
    next_page_token: String,
    budget: MessageBudget,
}

impl AgentPage {
    /// Adds the next agent, if it fits. The next page begins after the last one that did.
    fn take(&mut self, (agent, bar): &Known) -> bool {
        let told = convert::agent(agent, bar.as_deref());
        let fits = self.budget.take(told.encoded_len());
        if fits {
            self.agents.push(told);
        } else {
            self.next_page_token = self.agents.last().map(|last| last.name.clone()).unwrap_or_default();
        }
        fits
    }

    fn response(self, revision: u64) -> v1::ListAgentsResponse {
        v1::ListAgentsResponse { agents: self.agents, revision, next_page_token: self.next_page_token }
    }
}

/// Returns the response about one agent, with its recoveries.
fn named_agent(found: Option<&Known>, revision: u64) -> v1::ListAgentsResponse {
    let told = |(agent, bar): &Known| v1::Agent {
        recovery: agent.recovery.steps().iter().map(convert::recovery_step).collect(),
        ..convert::agent(agent, bar.as_deref())
    };
    v1::ListAgentsResponse { agents: found.map(told).into_iter().collect(), revision, next_page_token: String::new() }
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for FleetService {
    type SubmitStreamStream = BoxStream<'static, Result<v1::SubmitStreamResponse, Status>>;
    type WatchTasksStream = BoxStream<'static, Result<v1::WatchTasksResponse, Status>>;
    type WatchStatusStream = BoxStream<'static, Result<v1::WatchStatusResponse, Status>>;
    type TaskLogsStream = BoxStream<'static, Result<v1::TaskLogsResponse, Status>>;

    async fn submit(&self, request: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        let by = Caller::of(request.extensions());
        let request = request.into_inner();
        let inputs: usize = request.tasks.iter().map(|spec| spec.inputs.len().max(spec.agents as usize)).sum();
        let bytes = request.encoded_len() + inputs.min(convert::MAX_INPUTS) * PART_BYTES;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let tasks = request.tasks;
        if tasks.len() > MAX_ITEMS {
            return Err(errors::too_many("tasks", tasks.len(), MAX_ITEMS));
        }
        let _room = self.room.0.try_acquire_many(bytes).map_err(|_| errors::too_much_at_once(MAX_CALLED_BYTES))?;
        let results = self.submissions.submit(tasks, &by).await?;
        Ok(Response::new(v1::SubmitResponse { results }))
    }

    async fn submit_stream(
        &self,
        request: Request<Streaming<v1::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        let by = Caller::of(request.extensions());
        Ok(Response::new(self.submissions.stream(request.into_inner(), by).boxed()))
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Result<Response<v1::Task>, Status> {
        let request = request.into_inner();
        let id = convert::task_id(&request.id)?;
        self.state.ready_to_read(request.consistency).await?;
        let parts = Parts { input: request.include_input, output: true, attempts: true };
        let (found, now) = self.state.look(|fleet| {
            let kept = fleet.kept_task(id);
            // One that is archived has no runs.
            let shown = fleet.task(id).map(|task| fleet.with_runs(task));
            (kept.map(|kept| (kept, shown)), fleet.now())
        });
        let (kept, shown) = found.ok_or_else(|| errors::no_task(&request.id))?;
        // Nobody has submitted a member of a task with several runs, so nobody can cancel it, either.
        let found = self.state.read(kept).await?.filter(|task| task.member_of.is_none());
        let found = found.ok_or_else(|| errors::no_task(&request.id))?;
        let shown = shown.unwrap_or_else(|| Arc::clone(&found));
        let mut task = convert::task(&shown, parts, now);
        task.waiting_for = self.waiting_for(&found).await.unwrap_or_default();
        if request.include_candidates && !found.state.is_final() && subtasks::is_run_itself(&found) {
            convert::add_candidates(&mut task, self.candidates(&found).await);
        }
        Ok(Response::new(task))
    }

    async fn list_tasks(
        &self,
        request: Request<v1::ListTasksRequest>,
    ) -> Result<Response<v1::ListTasksResponse>, Status> {
        Ok(Response::new(listing::list(&self.state, request.into_inner()).await?))
    }

    async fn watch_tasks(
        &self,
        request: Request<v1::WatchTasksRequest>,
    ) -> Result<Response<Self::WatchTasksStream>, Status> {
        let request = request.into_inner();
        if request.ids.len() > MAX_ITEMS {
            return Err(errors::too_many("ids", request.ids.len(), MAX_ITEMS));
        }
        self.state.ready_to_read(0).await?;
        let with_progress = request.include_progress.then(|| (request.ids.clone(), request.from_revision));
        let changes = self.watches.tasks(request)?.boxed();
        Ok(Response::new(match with_progress {
            Some((ids, from)) => self.logs.with_progress(changes, &ids, from)?.boxed(),
            None => changes,
        }))
    }

    async fn list_subtasks(
        &self,
        request: Request<v1::ListSubtasksRequest>,
    ) -> Result<Response<v1::ListSubtasksResponse>, Status> {
        Ok(Response::new(subtasks::list(&self.state, request.into_inner()).await?))
    }

    async fn cancel_tasks(
        &self,
        request: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        Ok(Response::new(self.cancels.cancel(request.into_inner()).await?))
    }

    async fn task_logs(&self, request: Request<v1::TaskLogsRequest>) -> Result<Response<Self::TaskLogsStream>, Status> {
        let wanted = Wanted::of(request.into_inner())?;
        self.state.ready_to_read(0).await?;
        Ok(Response::new(self.logs.open(wanted)?.boxed()))
    }

    async fn list_agents(
        &self,
        request: Request<v1::ListAgentsRequest>,
    ) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let request = request.into_inner();
        self.state.ready_to_read(request.consistency).await?;
        let shown = |(agent, _): &&Known| request.include_lost || agent.state != AgentState::Lost;
        if !request.name.is_empty() {
            let find = |fleet: &Fleet| fleet.agent_by_name(&request.name).map(|agent| known(fleet, agent));
            let (found, revision) = self.state.look(|fleet| (find(fleet), fleet.revision()));
            return Ok(Response::new(named_agent(found.as_ref().filter(shown), revision)));
        }
        let revision = self.state.look(Fleet::revision);
        let mut page = AgentPage::default();
        let mut after = (!request.page_token.is_empty()).then(|| Arc::from(request.page_token.as_str()));
        loop {
            let read = |fleet: &Fleet| -> Vec<Known> {
                let agents = fleet.agents_by_name(after.as_deref()).take(MAX_AGENTS_READ);
                agents.map(|agent| known(fleet, agent)).collect()
            };
            let slice = self.state.look(read);
            let Some((last, _)) = slice.last() else { break };
            after = Some(Arc::clone(&last.name));
            if !slice.iter().filter(shown).all(|agent| page.take(agent)) {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(Response::new(page.response(revision)))
    }

    async fn watch_status(
        &self,
        request: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let apart = watches::status_apart(request.into_inner().at_most_every)?;
        Ok(Response::new(self.watches.status(apart).boxed()))
    }

    async fn get_status(&self, request: Request<v1::GetStatusRequest>) -> Result<Response<v1::FleetStatus>, Status> {
        self.state.ready_to_read(request.into_inner().consistency).await?;
        let (coordinators, warnings) = self.coordinators().await;
        let mut status = convert::status(self.state.look(Figures::of));
        let leads = |c: &&v1::Coordinator| c.state == i32::from(v1::CoordinatorState::Leader);
        if let Some(leader) = coordinators.iter().find(leads) {
            status.leader = leader.name.clone();
            status.leader_address = leader.address.clone();
        }
        status.cluster_id = self.member.cluster_id().to_owned();
        status.coordinators = coordinators;
        status.warnings = warnings;
        status.unmet_needs = unmet_needs(&self.state).await.into_iter().map(convert::unmet_need).collect();
        status.now = Some(convert::timestamp(self.clock.estimate().wall));
        let progress = self.raft.progress();
        status.term = self.raft.term();
        status.log_applied_index = progress.applied;
        status.log_snapshot_index = progress.snapshot;
        Ok(Response::new(status))
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{Command, FleetConfig};
    use robeing_proto::budget::MESSAGE_BUDGET_BYTES;

    use super::*;
    use crate::fixture::join;

    #[test]
    fn more_agents_than_a_message_takes_come_in_pages_by_name() {
        let mut fleet = Fleet::new(FleetConfig::default());
        for n in 0..3_000 {
            let long = |text: &str| format!("{text}-{n:04}-{}", "x".repeat(200));
            let specializations = (0..4).map(|k| format!("{k}{}", "y".repeat(100))).collect();
            let join = robeing_fleet::AgentJoin { specializations, ..join(&long("agent"), 1) };
            fleet.apply(
                robeing_fleet::Stamp::at(1),
                Command::Agent(robeing_fleet::AgentCommand::Joined(join)),
                &mut Vec::new(),
            );
        }
        let (mut after, mut names, mut pages): (Option<String>, Vec<String>, _) = (None, Vec::new(), 0);
        loop {
            let mut page = AgentPage::default();
            let _ = fleet.agents_by_name(after.as_deref()).all(|agent| page.take(&known(&fleet, agent)));
            let page = page.response(fleet.revision());
            assert!(page.encoded_len() <= MESSAGE_BUDGET_BYTES + 64 * 1024, "{} bytes", page.encoded_len());
            names.extend(page.agents.into_iter().map(|agent| agent.name));
            pages += 1;
            if page.next_page_token.is_empty() {
                break;
            }
            after = Some(page.next_page_token);
        }
        assert_eq!(names.len(), 3_000);
        assert!(names.is_sorted() && pages > 1, "{pages} pages");
    }
}
