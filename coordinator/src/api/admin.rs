//! The Admin service, for administrators. Any coordinator accepts a call. It carries the call out if it leads, or
//! forwards it to the leader; a mark in the metadata prevents a call from being forwarded twice. If leadership moves
//! meanwhile, the call is tried at the new leader.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use robeing_fleet::{
    Command, KindCommand, PolicyCommand, PoolCommand, PoolShape, Reply, StoredPolicy, TaskKind, limits::MAX_NAME_BYTES,
};
use robeing_net::{Transport, gate::Caller, limited};
use robeing_proto::v1::{self, admin_client::AdminClient};
use robeing_telemetry::Metrics;
use tokio::time::{Instant, timeout};
use tonic::{Request, Response, Status, metadata::MetadataValue, transport::Channel};

use crate::{
    api::{activity::Leading, convert, errors, trust::TrustAdmin},
    leader::{
        membership_change::{CATCH_UP_TIMEOUT, COMMIT_TIMEOUT, ChangeError},
        role::RaftRole,
        standing::Standing,
    },
    policies,
    propose::{ProposeError, Proposer},
    raft::Peer,
};

/// The metadata key that marks a call forwarded by another coordinator.
const FORWARDED: &str = "robeing-forwarded";
/// How long a call waits for a leader, each time there is none.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the leader may take for a forwarded call: the longest time to catch up, and the time for four commits.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(CATCH_UP_TIMEOUT.as_secs() + 4 * COMMIT_TIMEOUT.as_secs());
/// Maximum number of times that a call is tried at a leader.
const MAX_LEADERS: u32 = 8;
/// Pause before a call is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The Admin service.
pub struct AdminService {
    standing: Standing,
    proposer: Proposer,
    transport: Transport,
    leading: Leading,
    trust: TrustAdmin,
    changes: Counter,
    refused: Counter,
}

/// A call that the leader carries out.
trait Operation: Clone + Send + Sync + 'static {
    type Answer: Send + 'static;

    fn carry_out(self, leading: &Leading) -> impl Future<Output = Result<Self::Answer, ChangeError>> + Send;

    fn call(
        client: AdminClient<Channel>,
        request: Request<Self>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

impl Operation for v1::AddCoordinatorRequest {
    type Answer = v1::AddCoordinatorResponse;

    async fn carry_out(self, Leading { change, .. }: &Leading) -> Result<Self::Answer, ChangeError> {
        let peer = Peer { name: self.name, address: self.address };
        let id = change.exclusively(change.clone().add(peer)).await?;
        Ok(v1::AddCoordinatorResponse { node_id: format!("{id:016x}") })
    }

    async fn call(mut client: AdminClient<Channel>, request: Request<Self>) -> Result<Response<Self::Answer>, Status> {
        client.add_coordinator(request).await
    }
}

impl Operation for v1::RemoveCoordinatorRequest {
    type Answer = v1::RemoveCoordinatorResponse;

    async fn carry_out(self, Leading { change, .. }: &Leading) -> Result<Self::Answer, ChangeError> {
        let removed = change.exclusively(change.clone().remove(self.name)).await?;
        Ok(v1::RemoveCoordinatorResponse { removed })
    }

    async fn call(mut client: AdminClient<Channel>, request: Request<Self>) -> Result<Response<Self::Answer>, Status> {
        client.remove_coordinator(request).await
    }
}

impl Operation for v1::TransferLeadershipRequest {
    type Answer = v1::TransferLeadershipResponse;

    async fn carry_out(self, Leading { change, .. }: &Leading) -> Result<Self::Answer, ChangeError> {
        let transfer = change.transfer.clone();
        let leader = change.exclusively(async move { transfer.transfer(&self.to).await }).await?;
        Ok(v1::TransferLeadershipResponse { leader: leader.name, term: leader.term })
    }

    async fn call(mut client: AdminClient<Channel>, request: Request<Self>) -> Result<Response<Self::Answer>, Status> {
        client.transfer_leadership(request).await
    }
}

impl Operation for v1::ListActivityRequest {
    type Answer = v1::ListActivityResponse;

    async fn carry_out(self, leading: &Leading) -> Result<Self::Answer, ChangeError> {
        leading.activity(&self.page_token)
    }

    async fn call(mut client: AdminClient<Channel>, request: Request<Self>) -> Result<Response<Self::Answer>, Status> {
        client.list_activity(request).await
    }
}

/// The result of one try.
enum Tried<T> {
    Done(Result<Response<T>, Status>),
    /// There is no leader, or it has changed meanwhile.
    NotThere(Status),
}

impl AdminService {
    /// Creates the service. Changes are made by `leading`, or by the leader, which `standing` knows.
    pub fn new(
        standing: Standing,
        proposer: Proposer,
        transport: Transport,
        leading: Leading,
        trust: TrustAdmin,
        metrics: &Metrics,
    ) -> Self {
        let changes = metrics.counter("admin_calls", "Calls of the Admin service that were carried out here");
        let refused = metrics.counter("admin_calls_refused", "Calls of the Admin service that ended in an error here");
        Self { standing, proposer, transport, leading, trust, changes, refused }
    }

    async fn lead<O: Operation>(&self, request: Request<O>) -> Result<Response<O::Answer>, Status> {
        let forwarded = request.metadata().contains_key(FORWARDED);
        let operation = request.into_inner();
        let mut problem = Status::unavailable(format!(
            "no coordinator led for {LEADER_TIMEOUT:?}; a majority of them must be up and reach each other"
        ));
        for _ in 0..MAX_LEADERS {
            let mut raft_role = self.standing.roles();
            let led = raft_role.wait_for(|s| {
                matches!(s, RaftRole::Leading { ready: true, .. } | RaftRole::Following { .. }) || forwarded
            });
            let at = match timeout(LEADER_TIMEOUT, led).await {
                Ok(Ok(raft_role)) => raft_role.clone(),
                Ok(Err(_)) => return Err(ChangeError::Stopping.into()),
                Err(_) => return Err(problem),
            };
            let tried = match at {
                RaftRole::Leading { ready: true, .. } => self.here(operation.clone()).await,
                RaftRole::Following { peer, .. } if !forwarded => self.there(operation.clone(), &peer).await,
                _ => Tried::NotThere(ChangeError::NotLeader.into()),
            };
            match tried {
                Tried::Done(done) => return done,
                Tried::NotThere(status) if forwarded => return Err(status),
                Tried::NotThere(status) => problem = status,
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        Err(problem)
    }

    async fn here<O: Operation>(&self, operation: O) -> Tried<O::Answer> {
        match operation.carry_out(&self.leading).await {
            Err(ChangeError::NotLeader) => Tried::NotThere(ChangeError::NotLeader.into()),
            Ok(answer) => {
                self.changes.inc();
                Tried::Done(Ok(Response::new(answer)))
            }
            Err(error) => {
                self.refused.inc();
                Tried::Done(Err(error.into()))
            }
        }
    }

    async fn there<O: Operation>(&self, operation: O, peer: &Peer) -> Tried<O::Answer> {
        let channel = match self.transport.channel(&peer.address) {
            Ok(channel) => channel,
            Err(bad) => return Tried::Done(Err(Status::internal(bad.to_string()))),
        };
        let mut request = Request::new(operation);
        request.metadata_mut().insert(FORWARDED, MetadataValue::from_static("1"));
        let began = Instant::now();
        match timeout(FORWARD_TIMEOUT, O::call(limited!(AdminClient::new(channel)), request)).await {
            Ok(Err(status)) if errors::is_not_there(&status) => Tried::NotThere(status),
            Ok(answer) => Tried::Done(answer.map(|answer| Response::new(answer.into_inner()))),
            Err(_) => Tried::Done(Err(Status::deadline_exceeded(format!(
                "the leader, {}, did not answer within {:?}",
                peer.name,
                began.elapsed()
            )))),
        }
    }
}

fn check_name(field: &str, name: &str) -> Result<(), Status> {
    match name.len() {
        1..=MAX_NAME_BYTES => Ok(()),
        bytes => {
            Err(Status::invalid_argument(format!("{field} has {bytes} bytes, it must have 1 to {MAX_NAME_BYTES}")))
        }
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn set_pools(&self, request: Request<v1::SetPoolsRequest>) -> Result<Response<v1::SetPoolsResponse>, Status> {
        let shape = |pool: v1::PoolSize| PoolShape { name: pool.name, replicas: pool.replicas, standby: pool.standby };
        let shapes: Vec<PoolShape> = request.into_inner().pools.into_iter().map(shape).collect();
        PoolShape::check_all(&shapes).map_err(|refusal| errors::refused(&refusal))?;
        // The proposer finds the leader.
        match self.proposer.propose_one(Command::Pool(PoolCommand::Set(shapes))).await? {
            Reply::PoolsSet { revision } => Ok(Response::new(v1::SetPoolsResponse { revision })),
            Reply::Refused(refusal) => Err(errors::refused(&refusal)),
            _ => Err(ProposeError::NoLeader.into()),
        }
    }

    async fn add_coordinator(
        &self,
        request: Request<v1::AddCoordinatorRequest>,
    ) -> Result<Response<v1::AddCoordinatorResponse>, Status> {
        check_name("name", &request.get_ref().name)?;
        check_name("address", &request.get_ref().address)?;
        self.lead(request).await
    }

    async fn remove_coordinator(
        &self,
        request: Request<v1::RemoveCoordinatorRequest>,
    ) -> Result<Response<v1::RemoveCoordinatorResponse>, Status> {
        check_name("name", &request.get_ref().name)?;
        self.lead(request).await
    }

    async fn transfer_leadership(
        &self,
        request: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        self.lead(request).await
    }

    async fn set_trust(&self, request: Request<v1::SetTrustRequest>) -> Result<Response<v1::SetTrustResponse>, Status> {
        self.trust.set_trust(request.into_inner()).await.map(Response::new)
    }

    async fn create_join_token(
        &self,
        request: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        let by = Caller::of(request.extensions());
        self.trust.create_join_token(request.get_ref(), &by).await.map(Response::new)
    }

    async fn certify_client(
        &self,
        request: Request<v1::CertifyClientRequest>,
    ) -> Result<Response<v1::CertifyClientResponse>, Status> {
        let by = Caller::of(request.extensions());
        self.trust.certify_client(request.get_ref(), &by).await.map(Response::new)
    }

    async fn bar_agent(&self, request: Request<v1::BarAgentRequest>) -> Result<Response<v1::BarAgentResponse>, Status> {
        check_name("agent", &request.get_ref().agent)?;
        let by = Caller::of(request.extensions());
        self.trust.bar(request.into_inner(), &by).await.map(Response::new)
    }

    async fn release_agent(
        &self,
        request: Request<v1::ReleaseAgentRequest>,
    ) -> Result<Response<v1::ReleaseAgentResponse>, Status> {
        check_name("agent", &request.get_ref().agent)?;
        let by = Caller::of(request.extensions());
        self.trust.release(request.into_inner().agent, &by).await.map(Response::new)
    }

    async fn set_policies(
        &self,
        request: Request<v1::SetPoliciesRequest>,
    ) -> Result<Response<v1::SetPoliciesResponse>, Status> {
        let by = Caller::of(request.extensions()).name();
        let texts = request.into_inner().policies;
        let policies = policies::stored(&texts).map_err(Status::invalid_argument)?;
        StoredPolicy::check_all(&policies).map_err(|refusal| errors::refused(&refusal))?;
        let in_force = self.trust.state.look(|fleet| policies::check_in_force(fleet, &policies));
        in_force.map_err(|refusal| errors::refused(&refusal))?;
        match self.proposer.propose_one(Command::Policy(PolicyCommand::Set { policies, by })).await? {
            Reply::PoliciesSet { revision } => Ok(Response::new(v1::SetPoliciesResponse { revision })),
            Reply::Refused(refusal) => Err(errors::refused(&refusal)),
            other => Err(Status::internal(format!("unexpected reply {other:?}"))),
        }
    }

    async fn get_policies(&self, _request: Request<v1::GetPoliciesRequest>) -> Result<Response<v1::Policies>, Status> {
        self.trust.state.ready_to_read(0).await?;
        let list = self.trust.state.look(|fleet| fleet.policies().cloned());
        Ok(Response::new(policies::all(list.as_deref())))
    }

    async fn set_task_kinds(
        &self,
        request: Request<v1::SetTaskKindsRequest>,
    ) -> Result<Response<v1::SetTaskKindsResponse>, Status> {
        let by = Caller::of(request.extensions()).name();
        let kinds = request.into_inner().kinds.into_iter().map(convert::task_kind);
        let kinds: Vec<TaskKind> = kinds.collect::<Result<_, _>>()?;
        TaskKind::check_all(&kinds).map_err(|refusal| errors::refused(&refusal))?;
        match self.proposer.propose_one(Command::Kind(KindCommand::Set { kinds, by })).await? {
            Reply::KindsSet { revision } => Ok(Response::new(v1::SetTaskKindsResponse { revision })),
            Reply::Refused(refusal) => Err(errors::refused(&refusal)),
            other => Err(Status::internal(format!("unexpected reply {other:?}"))),
        }
    }

    async fn get_task_kinds(
        &self,
        _request: Request<v1::GetTaskKindsRequest>,
    ) -> Result<Response<v1::TaskKinds>, Status> {
        self.trust.state.ready_to_read(0).await?;
        let list = self.trust.state.look(|fleet| fleet.task_kinds().cloned());
        Ok(Response::new(convert::told_kinds(list.as_deref())))
    }

    async fn flag_agent(
        &self,
        request: Request<v1::FlagAgentRequest>,
    ) -> Result<Response<v1::FlagAgentResponse>, Status> {
        check_name("agent", &request.get_ref().agent)?;
        let by = Caller::of(request.extensions());
        self.trust.flag(request.into_inner(), &by).await.map(Response::new)
    }

    async fn list_activity(
        &self,
        request: Request<v1::ListActivityRequest>,
    ) -> Result<Response<v1::ListActivityResponse>, Status> {
        self.lead(request).await
    }

    async fn list_audit_records(
        &self,
        request: Request<v1::ListAuditRecordsRequest>,
    ) -> Result<Response<v1::ListAuditRecordsResponse>, Status> {
        self.trust.audit_records(request.into_inner()).await.map(Response::new)
    }
}
