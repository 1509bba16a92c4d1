//! Tests of several parts together.

mod broadcasts;
mod exchange;
pub(crate) mod fixture;
pub(crate) mod fleet;
mod letters;
mod liars;
mod replies;
mod simulation;
