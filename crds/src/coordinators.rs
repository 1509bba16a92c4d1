//! The coordinators' part of a cluster's spec.

use k8s_openapi::{api::core::v1::ResourceRequirements, apimachinery::pkg::api::resource::Quantity};
use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{
    PodOverrides, embedded,
    limits::{MAX_COORDINATORS, MAX_OBJECT_NAME},
    rules,
};

/// The coordinators: they agree on the state of the fleet, and their leader gives out the tasks.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::storage_is_kept())]
pub struct Coordinators {
    /// How many coordinators: 1, 3, 5 or 7. Three survive the loss of one, five of two, seven of three. One is for
    /// development, because its loss stops the fleet until it is back.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 1, max = MAX_COORDINATORS))]
    #[x_kube(validation = rules::odd_coordinators())]
    pub replicas: u32,

    /// The disk of each coordinator. When it is not set, the log is kept in the pod's own directory and is lost with
    /// the pod; a condition of the cluster then warns of it. Later only its size can be changed, to a larger one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,

    /// CPU and memory of each coordinator, as in a pod's container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::resources")]
    pub resources: Option<ResourceRequirements>,

    /// What is different about the coordinators' pods: where they may run, their labels and annotations, their security.
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

/// The disk of one coordinator, made from a PersistentVolumeClaim.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// How large the disk is, as a Kubernetes quantity such as `1Gi`. It can grow later, where its StorageClass allows that; disks that are there never shrink.
    #[schemars(schema_with = "embedded::quantity")]
    #[x_kube(validation = rules::storage_size())]
    pub size: Quantity,

    /// The StorageClass to take the disk from. When it is not set, the Kubernetes cluster's default class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME))]
    pub storage_class_name: Option<String>,
}
