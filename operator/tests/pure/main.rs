//! Tests of what the operator decides and builds, without a cluster.

mod decisions;
mod objects;
mod settings;
