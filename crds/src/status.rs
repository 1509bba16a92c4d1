//! What the operator reports about a cluster.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{embedded, limits::MAX_POOLS};

/// The `type`s of a cluster's conditions.
pub mod condition_types {
    /// The fleet has a leader and all the agents it should have.
    pub const READY: &str = "Ready";
    /// The fleet is being brought to what the spec says.
    pub const PROGRESSING: &str = "Progressing";
    /// Something is wrong that does not stop the fleet; the reason says what.
    pub const DEGRADED: &str = "Degraded";
    /// A majority of the voters is up, so the fleet accepts tasks.
    pub const QUORUM_HEALTHY: &str = "QuorumHealthy";
    /// The fleet is suspended by its spec.
    pub const SUSPENDED: &str = "Suspended";
}

/// What the fleet is, as the operator last saw it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RobeingClusterStatus {
    /// The `metadata.generation` that this status describes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// What the fleet is doing, in a word. The conditions say it in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,

    /// The coordinator that leads. Not set while there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,

    /// The term of the leader; every new leader has a higher one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,

    /// How many agents there are.
    #[serde(default)]
    pub agents: AgentCounts,

    /// How many coordinators there are.
    #[serde(default)]
    pub coordinators: CoordinatorCounts,

    /// How many tasks there are.
    #[serde(default)]
    pub tasks: TaskCounts,

    /// The pools, each with its counts.
    #[serde(default)]
    #[schemars(length(max = MAX_POOLS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<PoolStatus>,

    /// Agents of the pool that `spec.scaledPool` names, the standby ones left out: what autoscalers of the RobeingCluster count.
    #[serde(default)]
    pub replicas: u32,

    /// The label selector of the pods of that pool, in text form; of all the fleet's agents where there is no such pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// The image that the fleet was made with and keeps, where its spec names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,

    /// The conditions Ready, Progressing, Degraded, QuorumHealthy and Suspended.
    #[serde(default)]
    #[schemars(schema_with = "embedded::list_of::<Condition>")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}

/// What a fleet is doing, in a word.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[schemars(inline)]
pub enum Phase {
    /// Nothing runs yet.
    Pending,
    /// The fleet is being brought to what the spec says.
    Progressing,
    /// The fleet is what the spec says.
    Running,
    /// The fleet runs, but less well than the spec says.
    Degraded,
    /// The fleet is suspended by its spec.
    Suspended,
}

/// How many agents there are.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AgentCounts {
    /// Agents in a session with the leader.
    #[serde(default)]
    pub ready: u32,
    /// Agents the spec asks for, standby ones included.
    #[serde(default)]
    pub desired: u32,
    /// Agents that are kept warm.
    #[serde(default)]
    pub standby: u32,
    /// Agents in a session that are of none of the spec's pools, such as those of a Deployment of one's own.
    #[serde(default)]
    pub other: u32,
    /// Ready of desired, such as `5/5`, and agents of no pool, such as `5/5+2`: for people, in `kubectl get`.
    #[serde(default)]
    pub summary: String,
}

/// How many coordinators there are.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CoordinatorCounts {
    /// Coordinators that are up and caught up.
    #[serde(default)]
    pub ready: u32,
    /// Coordinators the spec asks for.
    #[serde(default)]
    pub desired: u32,
    /// Coordinators that have a vote.
    #[serde(default)]
    pub voters: u32,
    /// Ready of desired, such as `3/3`: for people, in `kubectl get`.
    #[serde(default)]
    pub summary: String,
}

/// How many tasks there are.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TaskCounts {
    /// Tasks that wait for an agent.
    #[serde(default)]
    pub queued: u64,
    /// Tasks that run.
    #[serde(default)]
    pub running: u64,
    /// Tasks that succeeded since the fleet was made.
    #[serde(default)]
    pub succeeded: u64,
    /// Tasks that failed for good since the fleet was made.
    #[serde(default)]
    pub failed: u64,
}

/// How many agents a pool has.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct PoolStatus {
    /// The name of the pool.
    pub name: String,
    /// Agents of the pool in a session with the leader.
    #[serde(default)]
    pub ready: u32,
    /// Agents the spec asks for, standby ones included.
    #[serde(default)]
    pub desired: u32,
}
