//! Fuzz targets for all parsers of bytes from the network or from another party, and the seeds that they begin with.
//!
//! `make fuzz` runs the targets under libFuzzer. The test `seeds` runs every seed, and some changes of each, through its
//! target.

pub mod seeds;
pub mod targets;

pub use targets::{TARGETS, Target};
