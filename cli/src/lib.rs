//! The `robeing` command line as a library: a fleet of local processes ([`dev`]), access to a fleet on Kubernetes
//! ([`kubernetes`]), and the commands. It depends on the client of a fleet and on the `RobeingCluster` types, and knows
//! nothing of the internals of coordinators and agents.

pub mod args;
pub mod commands;
pub mod dev;
mod encoding;
pub mod error;
pub mod exit;
pub mod inputs;
pub mod kubernetes;
pub mod render;
