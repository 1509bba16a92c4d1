//! The one agent binary of Robeing: coordinator, agent session and executors.

pub mod executor;
pub mod session;
