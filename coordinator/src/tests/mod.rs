//! Tests of several parts of the coordinator together.

mod agent;
mod bootstrap;
mod failure_detector;
mod fleet;
mod membership_change;
#[cfg(debug_assertions)]
mod models;
mod submissions;
mod transfer;
mod watches;
