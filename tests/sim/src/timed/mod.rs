//! Tasks with rules about their time and their retries, and those that become dead letters.

mod ledger;
mod planner;

pub use self::{
    ledger::{Plan, TimedLedger},
    planner::Planner,
};

/// The name of the failure after which a task is not tried again.
pub const DOOM: &str = "Doomed";
