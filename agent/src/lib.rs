//! The library of Robeing's agents: the session with the leader, the executors, messages between agents, the mailbox at
//! the coordinators, votes in ballots, paths within teams, and what agents of certain roles do
//! besides. The binary `robeing-agent` runs these, or a coordinator.

pub mod decisions;
pub mod executor;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod identity;
pub mod mailbox;
pub mod messaging;
pub mod roles;
pub mod runtime;
pub mod session;
pub mod teams;
pub mod upstream;

mod listener;
