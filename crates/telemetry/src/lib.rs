//! Observability of a process: logs, traces, metrics and probes.

mod lines;
mod logs;
mod metrics;
mod monitor;

pub use lines::{Lines, LinesGuard, MAX_PENDING_LINES, lines, say};
pub use logs::*;
pub use metrics::{Metrics, PREFIX};
pub use monitor::*;
