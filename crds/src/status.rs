//! The status that the operator reports for a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    ScheduleStatus, TeamStatus, embedded,
    limits::{MAX_POOLS, MAX_SCHEDULE_STATUSES, MAX_TEAM_STATUSES},
};

/// The `type`s of a cluster's conditions.
pub mod condition_types {
    /// The fleet has a leader and all the agents that it should have.
    pub const READY: &str = "Ready";
    /// The fleet is being changed to match the spec.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is wrong, whether or not the fleet still works; the reason states what.
    pub const DEGRADED: &str = "Degraded";
    /// A leader is elected and a majority of the voters is up and caught up, so the fleet accepts tasks.
    pub const QUORUM_HEALTHY: &str = "QuorumHealthy";
    /// The spec suspends the fleet.
    pub const SUSPENDED: &str = "Suspended";
    /// Members prove who they are, and connections are encrypted; the reason states what weakens that.
    pub const IDENTITY: &str = "Identity";
    /// For each task that waits there is an agent that could run it; the message states what tasks wait for in vain.
    pub const TASKS_SCHEDULABLE: &str = "TasksSchedulable";
}

/// The observed state of the fleet.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RobeingClusterStatus {
    /// The `metadata.generation` that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Summary of the fleet's condition in one word. See the conditions for details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// Name of the leading coordinator. Not set while there is no leader.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,

    /// Raft term of the leader; every new leader has a higher one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,

    /// Numbers of agents.
    #[serde(default)]
    pub agents: AgentCounts,

    /// Numbers of coordinators.
    #[serde(default)]
    pub coordinators: CoordinatorCounts,

    /// Numbers of tasks.
    #[serde(default)]
    pub tasks: TaskCounts,

    /// The pools, with their numbers of agents.
    #[serde(default)]
    #[schemars(length(max = MAX_POOLS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<PoolStatus>,

    /// The teams that the operator keeps, and those that it is about to disband.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_TEAM_STATUSES))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub teams: Vec<TeamStatus>,

    /// The schedules that the operator keeps, and those that it is about to remove.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_SCHEDULE_STATUSES))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub schedules: Vec<ScheduleStatus>,

    /// Number of agents in the pool that `spec.scaledPool` names, without standby agents; autoscalers that target the
    /// RobeingCluster read it.
    #[serde(default)]
    pub replicas: u32,

    /// Label selector, as text, of that pool's pods; if `spec.scaledPool` names no pool, of all pods of agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// The operator's default image that the fleet uses because its spec names none. The fleet keeps it when that
    /// default changes. Not set if the spec names an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// The conditions Ready, Progressing, Degraded, QuorumHealthy, Suspended, Identity and TasksSchedulable.
    #[serde(default)]
    #[schemars(schema_with = "embedded::list_of::<Condition>")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// A summary of a fleet's condition in one word.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[schemars(inline)]
pub enum Phase {
    /// The fleet has had no leader yet.
    Pending,
    /// The fleet is being changed to match the spec.
    Progressing,
    /// The fleet matches the spec.
    Running,
    /// Something is wrong, or the fleet has lost its quorum; the conditions state what.
    Degraded,
    /// The spec suspends the fleet.
    Suspended,
}

/// Numbers of agents.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentCounts {
    /// Agents that have a session with the leader.
    #[serde(default)]
    pub ready: u32,
    /// Agents that the spec asks for, including standby agents.
    #[serde(default)]
    pub desired: u32,
    /// Standby agents, which are kept warm.
    #[serde(default)]
    pub standby: u32,
    /// Agents with a session that belong to no pool of the spec, for example from a Deployment that you manage
    /// yourself.
    #[serde(default)]
    pub other: u32,
    /// Ready out of desired agents, such as `5/5`, plus other agents, such as `5/5+2`: a column of `kubectl get`.
    #[serde(default)]
    pub summary: String,
}

/// Numbers of coordinators.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorCounts {
    /// Coordinators that are up and caught up with the log.
    #[serde(default)]
    pub ready: u32,
    /// Coordinators that the spec asks for.
    #[serde(default)]
    pub desired: u32,
    /// Coordinators that have a vote.
    #[serde(default)]
    pub voters: u32,
    /// Ready out of desired coordinators, such as `3/3`: a column of `kubectl get`.
    #[serde(default)]
    pub summary: String,
}

/// Numbers of tasks.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TaskCounts {
    /// Tasks that wait for an agent.
    #[serde(default)]
    pub queued: u64,
    /// Tasks that are running.
    #[serde(default)]
    pub running: u64,
    /// Tasks that succeeded since the fleet was created.
    #[serde(default)]
    pub succeeded: u64,
    /// Tasks that finally failed since the fleet was created.
    #[serde(default)]
    pub failed: u64,
}

/// Numbers of agents in a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// Name of the pool.
    pub name: String,
    /// Agents of the pool that have a session with the leader.
    #[serde(default)]
    pub ready: u32,
    /// Agents that the spec asks for, including standby agents.
    #[serde(default)]
    pub desired: u32,
}
