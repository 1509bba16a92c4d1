//! Observability of a process: logs, traces, metrics and probes.

mod logs;
mod metrics;
mod monitor;

pub use logs::*;
pub use metrics::{Metrics, PREFIX};
pub use monitor::*;
pub use tracing_appender::non_blocking::{NonBlocking, WorkerGuard};
