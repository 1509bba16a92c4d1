//! The coordinators in a cluster's spec.

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{
    PodOverrides, embedded,
    limits::{MAX_COORDINATORS, MAX_OBJECT_NAME},
    rules,
};

/// The coordinators, which agree on the state of the fleet. Their leader assigns the tasks.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::storage_is_kept())]
pub struct Coordinators {
    /// Number of coordinators: 1, 3, 5 or 7. Three survive the loss of one, five of two, seven of three. One is for
    /// development only: the fleet stops while it is down.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = MAX_COORDINATORS))]
    #[x_kube(validation = rules::odd_coordinators())]
    pub replicas: u32,

    /// The persistent volume of each coordinator. If not set, the log is kept in an emptyDir volume and is lost with
    /// the pod; a condition of the cluster then warns about it. After creation only its size can be changed, and only
    /// increased.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,

    /// CPU and memory of each coordinator, as for a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::resources")]
    pub resources: Option<ResourceRequirements>,

    /// Overrides for the coordinators' pods: where they may run, their labels and annotations, their security settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<PodOverrides>,
}

impl Default for Coordinators {
    fn default() -> Self {
        Self { replicas: default_replicas(), storage: None, resources: None, template: None }
    }
}

fn default_replicas() -> u32 {
    3
}

/// The persistent volume of one coordinator, provisioned through a PersistentVolumeClaim.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Size of the volume, as a Kubernetes quantity such as `1Gi`. It can be increased later if the StorageClass allows
    /// volume expansion; it never shrinks.
    #[schemars(schema_with = "embedded::quantity")]
    #[x_kube(validation = rules::storage_size())]
    pub size: Quantity,

    /// The StorageClass of the volume. If not set, the default class of the Kubernetes cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME))]
    pub storage_class_name: Option<String>,
}
