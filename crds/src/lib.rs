//! The `RobeingCluster` custom resource: its types, its schema and its validation.
//!
//! The Rust types here are the only source of the schema. [`crd`] turns them into a `CustomResourceDefinition`,
//! [`crd_yaml`] prints it, and a test keeps `crds/robeingclusters.yaml` up to date with that text. [`parse_manifest`]
//! reads a manifest the way the API server would: it applies the schema's defaults, then checks the schema and its CEL
//! rules, and reports every problem with its path and line.
//!
//! This crate uses Kubernetes types but no Kubernetes cluster: it does no I/O.

#[cfg(feature = "arbitrary")]
pub mod arbitrary;
mod consensus;
mod coordinators;
mod duration;
mod embedded;
mod gateway;
mod identity;
pub mod limits;
mod manifest;
mod messages;
mod pool;
mod protocol;
mod recovery;
mod reference;
mod role;
mod rules;
mod schedule;
mod scheduling;
mod schema;
mod spec;
mod status;
mod storage;
mod task_kind;
mod team;
mod threshold;

pub use consensus::Consensus;
pub use coordinators::{Coordinators, Storage};
pub use duration::{Duration, ParseDurationError};
pub use gateway::{Gateway, Webhook, WebhookState};
pub use identity::{AuthorityReference, Enrolment, Identity, Transport};
pub use manifest::{
    Ignored, Location, Manifest, ManifestError, Problem, check_update, find_cluster, parse_manifest, parse_manifests,
    sets_field,
};
pub use messages::{Messages, MessagesHttp};
pub use pool::{
    AgentPorts, CommandExecutor, Executor, HeaderSource, HttpExecutor, HttpHeader, PodOverrides, Pool, SecretKey,
};
pub use recovery::Recovery;
pub use reference::reference;
pub use role::Role;
pub use schedule::{ConcurrencyPolicy, MissedRuns, RunState, Schedule, ScheduleStatus, ScheduledTask};
pub use scheduling::{Scheduling, Weights};
pub use schema::{crd, crd_yaml};
pub use spec::{ImagePullPolicy, RobeingCluster, RobeingClusterSpec};
pub use status::{
    AgentCounts, CoordinatorCounts, Phase, PoolStatus, RobeingClusterStatus, TaskCounts, condition_types,
};
pub use storage::{ObjectStorage, StorageVariable};
pub use task_kind::{SplitBy, SplitJoin, Splitter, TaskKind, TaskKindResources, TaskKindRetry};
pub use team::{Team, TeamState, TeamStatus};
pub use threshold::{ParseThresholdError, Threshold};

/// The API group of every Robeing resource.
pub const GROUP: &str = "robeing.io";
/// The version of [`RobeingCluster`] that this crate describes.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of a [`RobeingCluster`], the group and the version together.
pub const API_VERSION: &str = "robeing.io/v1alpha1";
/// `kind` of a [`RobeingCluster`].
pub const KIND: &str = "RobeingCluster";
