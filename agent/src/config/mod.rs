//! What a process of this crate is told at its start, by flags and environment. Knows names and forms; starts nothing.

mod agent;
mod coordinator;

pub use agent::*;
pub use coordinator::*;
