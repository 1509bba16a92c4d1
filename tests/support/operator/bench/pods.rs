//! Stand-ins for what a control plane without nodes lacks: the controllers and kubelets, which create each fleet's pods
//! and report them as running; and each fleet's coordinator, which reports a healthy fleet.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams},
};
use robeing_proto::v1::{self, admin_server::AdminServer, fleet_server::FleetServer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_stream::wrappers::{TcpListenerStream, WatchStream};
use tonic::{Request, Response, Status, transport::Server};

use super::{AT_ONCE, name};
use crate::operator::ControlPlane;

/// The port of the coordinators.
const PORT: u16 = 8080;
/// The number of pods in the pool of each fleet.
const AGENTS: u32 = 2;
const REVISION: &str = "one";
/// The ServiceAccount that exists in every namespace where all controllers run.
const ACCOUNT: &str = "default";
const ALREADY_EXISTS: u16 = 409;

/// The stand-ins of all fleets. They end when this is dropped.
#[derive(Debug)]
pub struct StandIns {
    queues: Vec<watch::Sender<u64>>,
    _serving: JoinSet<Result<(), tonic::transport::Error>>,
}

/// Returns the address of a fleet's coordinator: one of the loopback network, different for each fleet.
fn address(number: usize) -> Ipv4Addr {
    let [high, low] = u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes();
    Ipv4Addr::new(127, 77, high, low)
}

impl StandIns {
    /// Simulates the pods of all fleets.
    pub async fn start(client: &Client, namespace: &str, fleets: usize) -> Result<Self> {
        let (mut queues, mut serving) = (Vec::new(), JoinSet::new());
        for number in 0..fleets {
            let queue = watch::Sender::new(0);
            let at = SocketAddr::from((address(number), PORT));
            let listener =
                TcpListener::bind(at).await.with_context(|| format!("can't simulate a coordinator at {at}"))?;
            let coordinator = Coordinator { fleet: name(number), queue: queue.subscribe(), asked: Arc::default() };
            let server = Server::builder()
                .add_service(FleetServer::new(coordinator.clone()))
                .add_service(AdminServer::new(coordinator))
                .serve_with_incoming(TcpListenerStream::new(listener));
            serving.spawn(server);
            queues.push(queue);
        }
        account(client, namespace).await?;
        let run = stream::iter(0..fleets).map(|number| run(client, namespace, number));
        run.buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        Ok(Self { queues, _serving: serving })
    }

    /// Sets the number of queued tasks of a fleet.
    pub fn queue(&self, number: usize, queued: u64) {
        self.queues[number].send_replace(queued);
    }
}

/// Creates the pods' ServiceAccount, because no controller does so here.
async fn account(client: &Client, namespace: &str) -> Result<()> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "ServiceAccount"));
    let account = DynamicObject::new(ACCOUNT, &kind);
    match ControlPlane::api(client, namespace, "serviceaccounts").create(&PostParams::default(), &account).await {
        Err(kube::Error::Api(status)) if status.code == ALREADY_EXISTS => Ok(()),
        made => Ok(made.map(drop)?),
    }
}

/// Does for one fleet what the controllers and kubelets would do.
async fn run(client: &Client, namespace: &str, number: usize) -> Result<()> {
    let fleet = name(number);
    let (set_name, deployment_name) = (format!("{fleet}-coordinators"), format!("{fleet}-data"));
    let sets = ControlPlane::api(client, namespace, "statefulsets");
    let set = sets.get(&set_name).await?;
    let template = &set.data["spec"]["template"];
    let owner = json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": set_name, "uid": set.uid(), "controller": true,
    }]);
    let mut labels = template["metadata"]["labels"].clone();
    labels["controller-revision-hash"] = json!(REVISION);
    pod(client, namespace, (&format!("{set_name}-0"), labels, owner), &template["spec"], address(number)).await?;
    let deployments = ControlPlane::api(client, namespace, "deployments");
    let deployment = deployments.get(&deployment_name).await?;
    let template = &deployment.data["spec"]["template"];
    for agent in 0..AGENTS {
        let owner = json!([{
            "apiVersion": "apps/v1", "kind": "Deployment", "name": deployment_name, "uid": deployment.uid(), "controller": true,
        }]);
        let name = agent_name(&fleet, agent);
        let nowhere = Ipv4Addr::new(127, 78, 0, 1);
        pod(client, namespace, (&name, template["metadata"]["labels"].clone(), owner), &template["spec"], nowhere)
            .await?;
    }
    let counts = |live: &DynamicObject, count: u32| {
        json!({
            "observedGeneration": live.metadata.generation, "replicas": count, "readyReplicas": count,
            "updatedReplicas": count, "availableReplicas": count,
        })
    };
    let mut status = counts(&set, 1);
    status["updateRevision"] = json!(REVISION);
    status["currentRevision"] = json!(REVISION);
    patch_status(&sets, &set_name, status).await?;
    patch_status(&deployments, &deployment_name, counts(&deployment, AGENTS)).await
}

fn agent_name(fleet: &str, agent: u32) -> String {
    format!("{fleet}-data-{agent}")
}

async fn patch_status(api: &Api<DynamicObject>, name: &str, status: Value) -> Result<()> {
    api.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await?;
    Ok(())
}

/// Creates a pod that is reported as running at an address.
async fn pod(
    client: &Client,
    namespace: &str,
    (name, labels, owner): (&str, Value, Value),
    spec: &Value,
    ip: Ipv4Addr,
) -> Result<()> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Pod"));
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let mut spec = spec.clone();
    spec["serviceAccountName"] = json!(ACCOUNT);
    spec["automountServiceAccountToken"] = json!(false);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "spec": spec,
        "metadata": {"name": name, "labels": labels, "ownerReferences": owner},
    });
    let pod: DynamicObject = serde_json::from_value(pod)?;
    api.create(&PostParams::default(), &pod).await.with_context(|| format!("pod {name}"))?;
    let since = "2026-01-01T00:00:00Z";
    let condition = |of: &str| json!({"type": of, "status": "True", "lastTransitionTime": since});
    let container = json!({
        "name": pod.data["spec"]["containers"][0]["name"], "image": "robeing:one", "imageID": "robeing@sha256:one",
        "containerID": "containerd://one", "ready": true, "started": true, "restartCount": 0,
        "state": {"running": {"startedAt": since}}, "lastState": {},
    });
    let conditions = ["Initialized", "PodScheduled", "ContainersReady", "Ready"].map(condition);
    let status = json!({
        "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "startTime": since,
        "conditions": conditions, "containerStatuses": [container],
    });
    patch_status(&api, name, status).await
}

/// Responds like the coordinator of a healthy fleet.
#[derive(Clone, Debug)]
struct Coordinator {
    fleet: String,
    queue: watch::Receiver<u64>,
    asked: Arc<AtomicU64>,
}

type Stream<T> = stream::BoxStream<'static, Result<T, Status>>;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("this is a simulated coordinator"))
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for Coordinator {
    type SubmitStreamStream = Stream<v1::SubmitStreamResponse>;
    type WatchTasksStream = Stream<v1::WatchTasksResponse>;
    type WatchStatusStream = Stream<v1::WatchStatusResponse>;
    type TaskLogsStream = Stream<v1::TaskLogsResponse>;

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Result<Response<v1::FleetStatus>, Status> {
        let applied = self.asked.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-coordinators-0", self.fleet);
        let coordinator = v1::Coordinator {
            name: name.clone(),
            state: v1::CoordinatorState::Leader.into(),
            voter: true,
            matched_index: applied,
            ..v1::Coordinator::default()
        };
        let pool = v1::PoolStatus { name: "data".into(), live: AGENTS, standby: 0, desired: AGENTS };
        Ok(Response::new(v1::FleetStatus {
            cluster_id: self.fleet.clone(),
            leader: name,
            term: 1,
            coordinators: vec![coordinator],
            tasks: Some(v1::TaskCounts { queued: *self.queue.borrow(), ..v1::TaskCounts::default() }),
            finished_total: Some(v1::TaskCounts::default()),
            pools: vec![pool],
            log_applied_index: applied,
            ..v1::FleetStatus::default()
        }))
    }

    async fn watch_status(
        &self,
        _: Request<v1::WatchStatusRequest>,
    ) -> Result<Response<Self::WatchStatusStream>, Status> {
        let changes = WatchStream::new(self.queue.clone());
        Ok(Response::new(changes.map(|revision| Ok(v1::WatchStatusResponse { revision })).boxed()))
    }

    async fn list_agents(&self, _: Request<v1::ListAgentsRequest>) -> Result<Response<v1::ListAgentsResponse>, Status> {
        let agent = |number| v1::Agent {
            name: agent_name(&self.fleet, number),
            pool: "data".into(),
            state: v1::AgentState::Live.into(),
            slots: 1,
            ..v1::Agent::default()
        };
        Ok(Response::new(v1::ListAgentsResponse { agents: (0..AGENTS).map(agent).collect(), ..Default::default() }))
    }

    async fn submit(&self, _: Request<v1::SubmitRequest>) -> Result<Response<v1::SubmitResponse>, Status> {
        not_here()
    }

    async fn submit_stream(
        &self,
        _: Request<tonic::Streaming<v1::SubmitStreamRequest>>,
    ) -> Result<Response<Self::SubmitStreamStream>, Status> {
        not_here()
    }

    async fn get_task(&self, _: Request<v1::GetTaskRequest>) -> Result<Response<v1::Task>, Status> {
        not_here()
    }

    async fn list_tasks(&self, _: Request<v1::ListTasksRequest>) -> Result<Response<v1::ListTasksResponse>, Status> {
        not_here()
    }

    async fn watch_tasks(&self, _: Request<v1::WatchTasksRequest>) -> Result<Response<Self::WatchTasksStream>, Status> {
        not_here()
    }

    async fn list_subtasks(
        &self,
        _: Request<v1::ListSubtasksRequest>,
    ) -> Result<Response<v1::ListSubtasksResponse>, Status> {
        not_here()
    }

    async fn cancel_tasks(
        &self,
        _: Request<v1::CancelTasksRequest>,
    ) -> Result<Response<v1::CancelTasksResponse>, Status> {
        not_here()
    }

    async fn task_logs(&self, _: Request<v1::TaskLogsRequest>) -> Result<Response<Self::TaskLogsStream>, Status> {
        not_here()
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for Coordinator {
    async fn set_pools(&self, _: Request<v1::SetPoolsRequest>) -> Result<Response<v1::SetPoolsResponse>, Status> {
        Ok(Response::new(v1::SetPoolsResponse::default()))
    }

    async fn add_coordinator(
        &self,
        _: Request<v1::AddCoordinatorRequest>,
    ) -> Result<Response<v1::AddCoordinatorResponse>, Status> {
        not_here()
    }

    async fn remove_coordinator(
        &self,
        _: Request<v1::RemoveCoordinatorRequest>,
    ) -> Result<Response<v1::RemoveCoordinatorResponse>, Status> {
        not_here()
    }

    async fn transfer_leadership(
        &self,
        _: Request<v1::TransferLeadershipRequest>,
    ) -> Result<Response<v1::TransferLeadershipResponse>, Status> {
        not_here()
    }

    async fn set_trust(&self, _: Request<v1::SetTrustRequest>) -> Result<Response<v1::SetTrustResponse>, Status> {
        Ok(Response::new(v1::SetTrustResponse::default()))
    }

    async fn set_policies(
        &self,
        _: Request<v1::SetPoliciesRequest>,
    ) -> Result<Response<v1::SetPoliciesResponse>, Status> {
        not_here()
    }

    async fn get_policies(&self, _: Request<v1::GetPoliciesRequest>) -> Result<Response<v1::Policies>, Status> {
        not_here()
    }

    async fn set_task_kinds(
        &self,
        _: Request<v1::SetTaskKindsRequest>,
    ) -> Result<Response<v1::SetTaskKindsResponse>, Status> {
        Ok(Response::new(v1::SetTaskKindsResponse::default()))
    }

    async fn get_task_kinds(&self, _: Request<v1::GetTaskKindsRequest>) -> Result<Response<v1::TaskKinds>, Status> {
        not_here()
    }

    async fn create_join_token(
        &self,
        _: Request<v1::CreateJoinTokenRequest>,
    ) -> Result<Response<v1::CreateJoinTokenResponse>, Status> {
        not_here()
    }

    async fn certify_client(
        &self,
        _: Request<v1::CertifyClientRequest>,
    ) -> Result<Response<v1::CertifyClientResponse>, Status> {
        not_here()
    }

    async fn bar_agent(&self, _: Request<v1::BarAgentRequest>) -> Result<Response<v1::BarAgentResponse>, Status> {
        not_here()
    }

    async fn release_agent(
        &self,
        _: Request<v1::ReleaseAgentRequest>,
    ) -> Result<Response<v1::ReleaseAgentResponse>, Status> {
        not_here()
    }

    async fn flag_agent(&self, _: Request<v1::FlagAgentRequest>) -> Result<Response<v1::FlagAgentResponse>, Status> {
        not_here()
    }

    async fn list_activity(
        &self,
        _: Request<v1::ListActivityRequest>,
    ) -> Result<Response<v1::ListActivityResponse>, Status> {
        not_here()
    }

    async fn list_audit_records(
        &self,
        _: Request<v1::ListAuditRecordsRequest>,
    ) -> Result<Response<v1::ListAuditRecordsResponse>, Status> {
        not_here()
    }
}
