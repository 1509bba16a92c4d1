//! The Kubernetes operator: keeps the fleets that `RobeingCluster`s describe.
//!
//! [`controller`] drives five steps for one cluster at a time: [`observe`] reads the watch caches and asks the coordinators,
//! [`mod@validate`] turns the resource into what can be built, [`mod@build`] makes the desired objects, [`mod@apply`] brings
//! the API server to them, [`report`] derives the status and the events. What a pod may be replaced for and when a voter comes
//! or goes is decided purely, in [`rollout`] and [`scale`], on what [`quorum`] knows. A cluster is looked at when a watch tells of
//! a change, when its coordinators do ([`news`]), and else seldom.

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
pub mod serve;
pub mod settings;
mod status_writer;
pub mod stores;
pub mod telemetry;
pub mod timeout;
pub mod validate;
