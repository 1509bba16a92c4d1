//! The `robeing` command line, as a library: a fleet of local processes ([`dev`]), the way to a fleet on Kubernetes
//! ([`kubernetes`]), and the commands themselves. It knows the client of a fleet and the `RobeingCluster` types, and nothing
//! of how coordinators and agents work inside.

pub mod args;
pub mod commands;
pub mod dev;
mod encoding;
pub mod error;
pub mod exit;
pub mod inputs;
pub mod kubernetes;
pub mod render;
