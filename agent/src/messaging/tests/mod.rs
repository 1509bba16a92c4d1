//! Tests of several parts together.

mod broadcasts;
mod exchange;
mod fleet;
mod liars;
mod simulation;
