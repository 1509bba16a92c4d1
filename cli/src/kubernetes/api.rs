//! The fields of Kubernetes objects that are read here. There are few, and nearly all are optional, so that other
//! versions of the operator and the API server work as well.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A list of objects.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    pub items: Vec<T>,
}

/// The metadata of an object.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The object's name.
    pub name: String,
    /// The object's namespace.
    pub namespace: String,
    /// Set while the object is being deleted.
    pub deletion_timestamp: Option<String>,
}

/// An object of which only the name is read.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub metadata: Metadata,
}

/// A ConfigMap.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ConfigMap {
    pub data: BTreeMap<String, String>,
}

/// The answer to a TokenRequest. It can't be printed, since it contains the token.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenAnswer {
    pub spec: TokenSpec,
    pub status: TokenStatus,
}

/// For how long the token is made.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenSpec {
    /// The lifetime, seconds.
    #[serde(rename = "expirationSeconds")]
    pub seconds: Option<u64>,
}

/// The token that was made.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct TokenStatus {
    pub token: String,
}

/// A `RobeingCluster`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Resource {
    /// The name and namespace.
    pub metadata: Metadata,
    /// The desired state of the fleet.
    pub spec: Spec,
    /// The state that the operator last observed.
    pub status: Status,
}

/// The desired state of the fleet.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Spec {
    /// The coordinators.
    pub coordinators: CoordinatorsSpec,
}

/// The desired coordinators.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct CoordinatorsSpec {
    /// The number of coordinators.
    pub replicas: usize,
}

/// The state that the operator last observed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Status {
    /// A one-word summary of the conditions.
    pub phase: Option<String>,
    /// The coordinator that leads: the name of its pod.
    pub leader: Option<String>,
    /// The conditions of the fleet.
    pub conditions: Vec<Condition>,
}

/// A condition of an object.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Condition {
    /// The type of the condition.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// The reason in CamelCase.
    pub reason: String,
    /// The human-readable message.
    pub message: String,
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Pod {
    pub metadata: Metadata,
    pub status: PodStatus,
}

/// The status of a pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct PodStatus {
    pub phase: String,
    pub conditions: Vec<Condition>,
}

impl Pod {
    /// Returns whether its process runs, as far as the API server knows, and it is not being deleted.
    pub fn is_running(&self) -> bool {
        self.status.phase == "Running" && self.metadata.deletion_timestamp.is_none()
    }

    /// Returns whether it runs and passes its readiness probe.
    pub fn is_ready(&self) -> bool {
        self.is_running()
            && self.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
}

impl Resource {
    /// Returns the condition of that type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// Returns the phase, or a placeholder if it is not set.
    pub fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or("not yet seen by an operator")
    }
}
