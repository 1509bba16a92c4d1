//! What a session is made of.

use std::sync::Arc;

use bytes::Bytes;
use robeing_blobs::BlobStore;
use robeing_net::Transport;
use robeing_platform::Platform;
use robeing_settings::{AgentConfig, Contribute};
use robeing_telemetry::Readiness;

use super::metrics::SessionMetrics;
use crate::{executor::Executor, messaging::driver::SentCount};

/// The dependencies of a driver.
#[derive(Clone)]
pub struct Deps {
    /// The agent's settings.
    pub config: AgentConfig,
    /// Clock, disk, network and randomness.
    pub platform: Platform,
    /// Makes the connections to coordinators.
    pub transport: Transport,
    /// Runs attempts.
    pub executor: Arc<dyn Executor>,
    /// The fleet's object store, if the agent has it.
    pub store: Option<Arc<BlobStore>>,
    /// The session's metrics.
    pub metrics: SessionMetrics,
    /// Set while the agent accepts work.
    pub readiness: Readiness,
    /// The agent's advertised address, host:port.
    pub address: String,
    /// Public key for sealed payloads of messages, 32 bytes; empty: none.
    pub sealing_key: Bytes,
    /// How many messages the agent has sent, which heartbeats state.
    pub sent: SentCount,
}

impl Deps {
    /// Returns the dependencies of a member that can run no task now: no slots, no pool, not ready.
    pub fn idle(&self) -> Self {
        let config = AgentConfig {
            slots: 0,
            contribute: Contribute::NOTHING,
            pool: String::new(),
            pool_replicas: 0,
            pool_standby: 0,
            ..self.config.clone()
        };
        Self { config, readiness: Readiness::default(), ..self.clone() }
    }
}
