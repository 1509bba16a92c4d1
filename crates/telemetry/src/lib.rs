//! Observability of a process: logs, traces, metrics and probes.

mod connections;
mod lines;
mod logs;
mod metrics;
mod monitor;

pub use connections::ConnectionMetrics;
pub use lines::{Lines, LinesGuard, MAX_PENDING_LINES, lines, say};
pub use logs::*;
pub use metrics::{Metrics, PREFIX};
pub use monitor::*;
