//! The object store of a fleet in a cluster's spec.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::{
    SecretKey,
    limits::{MAX_STORAGE_NAME, MAX_STORAGE_VALUE, MAX_STORAGE_VARIABLES, MAX_URL},
    rules,
};

/// The object store in which inputs and outputs of tasks are that are larger than 1 MiB. A change restarts all agents.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStorage {
    /// Where the objects are: `s3://BUCKET/PREFIX`, also for what is like S3, or `gs://BUCKET/PREFIX`, with or without a
    /// prefix.
    #[schemars(length(min = 1, max = MAX_URL))]
    #[x_kube(validation = rules::bucket_url())]
    pub url: String,

    /// What the agents need to use the store, in addition to what their pods have by their ServiceAccount. Commands that tasks
    /// run do not inherit it, and containers beside the agents do not get it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_STORAGE_VARIABLES))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub env: Vec<StorageVariable>,
}

/// A setting of an object store. Set exactly one of value and secretKeyRef.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::one_storage_value(), validation = rules::storage_secret_is_in_a_secret())]
pub struct StorageVariable {
    /// Name of the setting, as an environment variable of the tools of such stores: `AWS_REGION`, `AWS_ENDPOINT_URL`,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `GOOGLE_SERVICE_ACCOUNT_KEY` and so on.
    #[schemars(length(min = 1, max = MAX_STORAGE_NAME))]
    #[x_kube(validation = rules::storage_variable_name())]
    pub name: String,

    /// Literal value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = MAX_STORAGE_VALUE))]
    #[x_kube(validation = rules::storage_value_form())]
    pub value: Option<String>,

    /// A key of a Secret in the cluster's namespace that has the value, so that this is neither in this resource nor in the
    /// pods' specs. A trailing newline is removed. A running pod keeps the value it started with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<SecretKey>,
}
