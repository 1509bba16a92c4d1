//! The one agent binary of Robeing: coordinator, agent session and executors.

pub mod platform;
pub mod transport;
