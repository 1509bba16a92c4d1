//! Observability of a process: logs, traces, metrics and probes.

mod logs;
mod metrics;
mod monitor;

pub use logs::*;
pub use metrics::{Metrics, PREFIX};
pub use monitor::*;
