//! What is read of Kubernetes' objects: a few fields, all of them optional, so that an operator or an API server of
//! another version is no obstacle.

use serde::Deserialize;

/// A list of objects.
#[derive(Debug, Deserialize)]
pub(super) struct List<T> {
    pub items: Vec<T>,
}

/// What every object has.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// The object's name.
    pub name: String,
    /// The object's namespace.
    pub namespace: String,
    /// Set while it is being deleted.
    pub deletion_timestamp: Option<String>,
}

/// An object of which only the name matters.
#[derive(Debug, Deserialize)]
pub(super) struct Named {
    pub metadata: Metadata,
}

/// A `RobeingCluster`.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Resource {
    /// Its name and namespace.
    pub metadata: Metadata,
    /// What the fleet shall be.
    pub spec: Spec,
    /// What the operator saw last.
    pub status: Status,
}

/// What the fleet shall be.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Spec {
    /// The coordinators.
    pub coordinators: CoordinatorsSpec,
}

/// The coordinators that shall be.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct CoordinatorsSpec {
    /// How many.
    pub replicas: usize,
}

/// What the operator saw last.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Status {
    /// What the fleet does, in a word.
    pub phase: Option<String>,
    /// The coordinator that leads: the name of its pod.
    pub leader: Option<String>,
    /// The same in full.
    pub conditions: Vec<Condition>,
}

/// A condition of an object.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct Pod {
    pub metadata: Metadata,
    pub status: PodStatus,
}

/// What a pod is at.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default)]
pub(super) struct PodStatus {
    pub phase: String,
    pub conditions: Vec<Condition>,
}

impl Pod {
    /// Its process runs, as far as the API server knows, and it is not being deleted.
    pub fn is_running(&self) -> bool {
        self.status.phase == "Running" && self.metadata.deletion_timestamp.is_none()
    }

    /// It runs and passes its readiness probe.
    pub fn is_ready(&self) -> bool {
        self.is_running()
            && self.status.conditions.iter().any(|condition| condition.kind == "Ready" && condition.status == "True")
    }
}

impl Resource {
    /// The condition of that type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.status.conditions.iter().find(|condition| condition.kind == kind)
    }

    /// The phase, or what stands for none.
    pub fn phase(&self) -> &str {
        self.status.phase.as_deref().unwrap_or("not yet seen by an operator")
    }
}
