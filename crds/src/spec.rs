//! The `RobeingCluster` resource and its spec; the parts of the spec have modules of their own.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Consensus, Coordinators, Pool, Recovery, RobeingClusterStatus, Scheduling, embedded,
    limits::{MAX_IMAGE, MAX_POD_LIST, MAX_POOL_NAME, MAX_POOL_REPLICAS, MAX_POOLS},
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
    validation = rules::replicas_of_a_pool(),
    validation = rules::scaled_pool_has_a_size(),
    validation = rules::scaled_pool_is_a_pool(),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
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

    /// When the nodes pull that image: Always, IfNotPresent or Never. When it is not set, Always for an image without a tag or
    /// with the tag `latest`, and IfNotPresent for any other. A pool's own container has `container.imagePullPolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Secrets to pull the images with, for all pods of the fleet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::list_of::<LocalObjectReference>", length(max = MAX_POD_LIST))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// The coordinators, which agree on the state of the fleet.
    #[serde(default)]
    pub coordinators: Coordinators,

    /// The pools of agents, each with a name of its own.
    #[serde(default)]
    #[schemars(length(max = MAX_POOLS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<Pool>,

    /// The pool that `replicas` sizes, and with it `kubectl scale` and autoscalers that target the RobeingCluster. That pool has
    /// no `replicas` of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_POOL_NAME))]
    pub scaled_pool: Option<String>,

    /// How many agents the pool that `scaledPool` names has, besides its standby ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_POOL_REPLICAS))]
    pub replicas: Option<u32>,

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

impl RobeingClusterSpec {
    /// The same, with the size of the scaled pool in that pool.
    #[must_use]
    pub fn with_sizes(&self) -> Self {
        let mut spec = self.clone();
        for pool in &mut spec.pools {
            pool.replicas = self.replicas_of(pool);
        }
        spec
    }

    /// How many agents a pool of this spec should have, besides its standby ones; `None`: an autoscaler decides.
    pub fn replicas_of(&self, pool: &Pool) -> Option<u32> {
        if self.scaled_pool.as_ref() == Some(&pool.name) { self.replicas } else { pool.replicas }
    }
}

/// When the nodes pull an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum ImagePullPolicy {
    /// At each start of a container.
    Always,
    /// When they do not have it.
    IfNotPresent,
    /// They have it already.
    Never,
}

impl ImagePullPolicy {
    /// As a container's `imagePullPolicy` says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}
