//! The process around the controller: its settings and lease, the caches and watches that it reads, its metrics and log.

mod backoff;
pub mod fleet_watch;
pub(crate) mod index;
pub mod lease;
pub mod metrics;
pub mod retry;
pub mod run;
pub mod settings;
pub mod stores;
pub mod telemetry;
pub mod timeout;
