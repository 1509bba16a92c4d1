//! The `RobeingCluster` resource and its spec; the parts of the spec have modules of their own.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::{
    Consensus, Coordinators, Pool, Recovery, RobeingClusterStatus, Scheduling,
    limits::{MAX_IMAGE, MAX_POOLS},
    rules,
};

/// What the fleet should be.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "robeing.io",
    version = "v1alpha1",
    kind = "RobeingCluster",
    plural = "robeingclusters",
    shortname = "rbc",
    namespaced,
    status = "RobeingClusterStatus",
    derive = "PartialEq",
    doc = "A fleet of cooperating agents: coordinators that elect a leader and share out tasks, and pools of agents that run them.",
    validation = rules::cluster_name_form(),
    validation = rules::cluster_name_length(),
    validation = rules::derived_names(),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "What the fleet is doing"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "The leading coordinator"),
    printcolumn(
        name = "Coordinators",
        type_ = "string",
        json_path = ".status.coordinators.summary",
        description = "Coordinators that are ready, of those there should be"
    ),
    printcolumn(
        name = "Agents",
        type_ = "string",
        json_path = ".status.agents.summary",
        description = "Agents that are ready, of those there should be"
    ),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.tasks.running", description = "Tasks that run"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.tasks.queued", description = "Tasks that wait"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RobeingClusterSpec {
    /// The image of the agents and coordinators. When it is not set, the image the operator was installed with. A pool
    /// brings its own with `container.image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_IMAGE))]
    #[x_kube(validation = rules::image())]
    pub image: Option<String>,

    /// The coordinators, which agree on the state of the fleet.
    #[serde(default)]
    pub coordinators: Coordinators,

    /// The pools of agents, each with a name of its own.
    #[serde(default)]
    #[schemars(length(max = MAX_POOLS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<Pool>,

    /// How the leader chooses the agent for a task.
    #[serde(default)]
    pub scheduling: Scheduling,

    /// How ballots among agents are decided.
    #[serde(default)]
    pub consensus: Consensus,

    /// How the loss of an agent is noticed, and how often its tasks are tried again.
    #[serde(default)]
    pub recovery: Recovery,

    /// Stop giving out tasks and scale the pools to nothing. The coordinators and everything they know stay.
    #[serde(default)]
    pub suspend: bool,
}
