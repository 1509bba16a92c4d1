//! The one agent binary of Robeing: coordinator, agent session and executors.

pub mod executor;
pub mod identity;
pub mod runtime;
pub mod session;

mod listener;
