//! The coordinator.

pub mod consensus;
pub mod log;
