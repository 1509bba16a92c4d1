//! The library of Robeing's agents: the session with the leader, and the executors. The binary `robeing-agent` runs
//! these, or a coordinator.

pub mod executor;
pub mod identity;
pub mod runtime;
pub mod session;

mod listener;
