//! What a process tells about itself: logs, traces, metrics and probes.

mod metrics;
mod monitor;

pub use metrics::{Metrics, PREFIX};
pub use monitor::*;
