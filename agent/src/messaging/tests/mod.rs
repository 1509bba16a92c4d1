//! Tests of several parts together.

mod broadcasts;
mod exchange;
pub(super) mod fixture;
mod fleet;
mod liars;
mod simulation;
