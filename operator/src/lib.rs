//! The Kubernetes operator: reconciles `RobeingCluster` resources into running fleets.
//!
//! [`controller`] runs five steps for one cluster at a time: [`controller::observe`] reads the watch caches and queries the
//! coordinators, [`mod@controller::validate`] turns the resource into a fleet that can be built, [`mod@controller::build`] generates the
//! desired objects, [`mod@controller::apply`] applies them to the API server, [`controller::report`] derives the status and the events. Which
//! pod may be replaced and when a voter is added or removed are pure decisions in [`quorum::rollout`] and [`quorum::scale`], based on
//! [`quorum`]. A cluster is reconciled when a watch reports a change, when its coordinators report one
//! ([`runtime::fleet_watch`]), and otherwise at long intervals.

pub mod controller;
pub mod names;
pub mod quorum;
pub mod runtime;
