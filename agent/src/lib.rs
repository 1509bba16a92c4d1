//! The one agent binary of Robeing: coordinator, agent session and executors.

pub mod config;
pub mod coordinator;
pub mod executor;
mod incarnation;
pub mod platform;
pub mod session;
pub mod sync;
pub mod telemetry;
pub mod transport;
