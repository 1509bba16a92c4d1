//! The `RobeingCluster` resource and its spec. Parts of the spec have their own modules.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::{CustomResource, KubeSchema};
use robeing_policy::PolicySpec;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Consensus, Coordinators, Gateway, Identity, ObjectStorage, Pool, Recovery, RobeingClusterStatus, Schedule,
    Scheduling, TaskKind, Team, embedded,
    limits::{
        MAX_IMAGE, MAX_POD_LIST, MAX_POLICIES, MAX_POOL_NAME, MAX_POOL_REPLICAS, MAX_POOLS, MAX_SCHEDULES,
        MAX_TASK_KINDS, MAX_TEAMS,
    },
    rules,
};

/// The desired state of the fleet.
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
    doc = "A fleet of agents: coordinators, whose elected leader assigns tasks, and pools of agents that run them.",
    validation = rules::cluster_name_form(),
    validation = rules::cluster_name_length(),
    validation = rules::derived_names(),
    validation = rules::replicas_of_a_pool(),
    validation = rules::scaled_pool_has_a_size(),
    validation = rules::scaled_pool_is_a_pool(),
    validation = rules::authority_is_not_the_operators(),
    validation = rules::webhooks_have_a_messenger(),
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase", description = "The phase of the fleet"),
    printcolumn(name = "Leader", type_ = "string", json_path = ".status.leader", description = "The leading coordinator"),
    printcolumn(
        name = "Coordinators",
        type_ = "string",
        json_path = ".status.coordinators.summary",
        description = "Ready coordinators out of the desired number"
    ),
    printcolumn(
        name = "Agents",
        type_ = "string",
        json_path = ".status.agents.summary",
        description = "Ready agents out of the desired number"
    ),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.tasks.running", description = "Running tasks"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.tasks.queued", description = "Queued tasks"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct RobeingClusterSpec {
    /// Image of the coordinators and agents. If not set, the image that the operator was installed with. A pool can set
    /// its own image with `container.image`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_IMAGE))]
    #[x_kube(validation = rules::image())]
    pub image: Option<String>,

    /// Pull policy for that image: Always, IfNotPresent or Never. If not set, Always for an image without a tag or with
    /// the tag `latest`, and IfNotPresent for any other. For a pool's own container, set `container.imagePullPolicy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_pull_policy: Option<ImagePullPolicy>,

    /// Secrets for pulling the images, for all pods of the fleet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "embedded::list_of::<LocalObjectReference>", length(max = MAX_POD_LIST))]
    pub image_pull_secrets: Vec<LocalObjectReference>,

    /// The coordinators, which agree on the state of the fleet.
    #[serde(default)]
    pub coordinators: Coordinators,

    /// The pools of agents. Their names are unique.
    #[serde(default)]
    #[schemars(length(max = MAX_POOLS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub pools: Vec<Pool>,

    /// Name of the pool whose size is set by `spec.replicas`, and so by `kubectl scale` and autoscalers that target the
    /// RobeingCluster. That pool must not set `replicas` itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_POOL_NAME))]
    pub scaled_pool: Option<String>,

    /// Number of active agents in the pool that `scaledPool` names, not counting standby agents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MAX_POOL_REPLICAS))]
    pub replicas: Option<u32>,

    /// How the leader chooses an agent for a task.
    #[serde(default)]
    pub scheduling: Scheduling,

    /// The threshold and the deadline of ballots whose openers set none.
    #[serde(default)]
    pub consensus: Consensus,

    /// How the loss of an agent is detected, and how often its tasks are retried.
    #[serde(default)]
    pub recovery: Recovery,

    /// How the members of the fleet prove who they are, and whether their connections are encrypted.
    #[serde(default)]
    pub identity: Identity,

    /// What messengers call outside the fleet.
    #[serde(default, skip_serializing_if = "Gateway::is_empty")]
    pub gateway: Gateway,

    /// The object store for inputs and outputs of tasks that are larger than 1 MiB. If not set, there is none: such an output
    /// is a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<ObjectStorage>,

    /// Policies on submissions, results and messages, evaluated in this order. Their names are unique. If one of them is
    /// wrong, none of them is set, and a condition of the cluster tells what is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_POLICIES))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub policies: Vec<PolicySpec>,

    /// What tasks need by their kind, unless they say it themselves. The names of the kinds are unique; kinds that are not
    /// here need nothing special. If one of them is refused by the fleet, none of them is set, and a condition of the
    /// cluster tells what is wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_TASK_KINDS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub task_kinds: Vec<TaskKind>,

    /// Teams of agents that the operator keeps. Their names are unique. Agents must be in the fleet before a team of them
    /// is formed; `status.teams` has the ids.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_TEAMS))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub teams: Vec<Team>,

    /// Schedules that the operator keeps: tasks that are submitted again and again. Their names are unique in the fleet.
    /// `status.schedules` tells when each runs next, and what became of its last run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_SCHEDULES))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub schedules: Vec<Schedule>,

    /// Stop assigning tasks and scale the pools to zero. The coordinators keep running and keep their state.
    #[serde(default)]
    pub suspend: bool,
}

impl RobeingClusterSpec {
    /// Returns the spec with `spec.replicas` copied into the scaled pool.
    #[must_use]
    pub fn with_sizes(&self) -> Self {
        let mut spec = self.clone();
        for pool in &mut spec.pools {
            pool.replicas = self.replicas_of(pool);
        }
        spec
    }

    /// Returns the schedules that the fleet should have. Those of a suspended cluster are suspended.
    pub fn wanted_schedules(&self) -> Vec<Schedule> {
        let wanted = |schedule: &Schedule| Schedule { suspend: schedule.suspend || self.suspend, ..schedule.clone() };
        self.schedules.iter().map(wanted).collect()
    }

    /// Returns the desired number of active agents of a pool of this spec; `None` if an autoscaler decides.
    pub fn replicas_of(&self, pool: &Pool) -> Option<u32> {
        if self.scaled_pool.as_ref() == Some(&pool.name) { self.replicas } else { pool.replicas }
    }
}

/// When the nodes pull an image.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum ImagePullPolicy {
    /// Pull at each start of a container.
    Always,
    /// Pull if the node does not have the image.
    IfNotPresent,
    /// Never pull; the node must have the image already.
    Never,
}

impl ImagePullPolicy {
    /// Returns the value for a container's `imagePullPolicy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}
