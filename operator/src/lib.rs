//! The Kubernetes operator: keeps the fleets that `RobeingCluster`s describe.
//!
//! [`controller`] drives five steps for one cluster at a time: [`observe`] reads the watch caches and asks the coordinators,
//! [`mod@validate`] turns the resource into what can be built, [`mod@build`] makes the desired objects, [`mod@apply`] brings
//! the API server to them, [`report`] derives the status and the events. What a pod may be replaced for and when a voter comes
//! or goes is decided purely, in [`rollout`] and [`scale`], on what [`quorum`] knows. A cluster is looked at when a watch tells of
//! a change, when its coordinators do ([`news`]), and else seldom.

pub mod answer;
pub mod apply;
pub mod build;
pub mod controller;
pub mod handover;
pub mod health;
mod index;
pub mod lease;
pub mod metrics;
pub mod names;
pub mod news;
pub mod observe;
mod patience;
mod ports;
mod publish;
mod quantity;
pub mod quorum;
pub mod refusals;
mod repair;
pub mod report;
pub mod rollout;
pub mod run;
pub mod scale;
mod schedule;
pub mod scope;
pub mod serve;
pub mod settings;
mod steps;
pub mod telemetry;
pub mod validate;
