//! The Kubernetes operator: reconciles `RobeingCluster` resources into running fleets.
//!
//! [`controller`] runs five steps for one cluster at a time: [`observe`] reads the watch caches and queries the
//! coordinators, [`mod@validate`] turns the resource into a fleet that can be built, [`mod@build`] generates the
//! desired objects, [`mod@apply`] applies them to the API server, [`report`] derives the status and the events. Which
//! pod may be replaced and when a voter is added or removed are pure decisions in [`rollout`] and [`scale`], based on
//! [`quorum`]. A cluster is reconciled when a watch reports a change, when its coordinators report one
//! ([`fleet_watch`]), and otherwise at long intervals.

pub mod apply;
mod backoff;
pub mod build;
pub mod controller;
mod execute;
pub mod fleet_watch;
pub mod health;
mod index;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod observe;
mod ports;
mod quantity;
pub mod quorum;
pub mod release_replicas;
mod repair;
pub mod report;
mod requeue;
pub mod retry;
pub mod rollout;
pub mod run;
pub mod scale;
pub mod settings;
mod status_writer;
pub mod stores;
pub mod telemetry;
pub mod timeout;
pub mod validate;
