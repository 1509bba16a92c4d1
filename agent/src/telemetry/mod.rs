//! What a process tells about itself: logs, traces, metrics and probes.

mod metrics;

pub use metrics::{Metrics, PREFIX};
