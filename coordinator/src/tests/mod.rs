//! Tests of the coordinator's parts together.

#[cfg(debug_assertions)]
mod models;
