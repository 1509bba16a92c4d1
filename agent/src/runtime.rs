//! What an agent is made of, put together in the order in which one part needs another: who it is, what runs its tasks, where
//! others reach it, and its session. Messages, the duties of its role, and decisions get their places here, between listener
//! and session: they are served by the listener, and end after the session has drained.
//!
//! Nothing here reads settings or the environment, so that the simulator runs what is shipped.

use std::{io, sync::Arc};

use robeing_net::Transport;
use robeing_platform::Platform;
use robeing_settings::AgentConfig;
use robeing_telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    executor::{Executor, ExecutorError},
    identity::Identity,
    listener,
    session::{self, SessionError},
};

/// Why an agent ended otherwise than asked.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It cannot listen.
    #[error("{0}; another process may listen there, or the address is not of this machine: change --listen")]
    Listen(#[source] io::Error),
    /// What is to run its tasks can't be started.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// Its session ended otherwise.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Runs an agent until `shutdown` is cancelled and it has drained. What runs its tasks is started by `executor`.
///
/// # Errors
/// When the executor can't be started, when the agent cannot listen, when what it held could not be handed back, and when it can
/// never run tasks again.
pub async fn run(
    config: AgentConfig,
    platform: Platform,
    executor: impl Future<Output = Result<Arc<dyn Executor>, ExecutorError>>,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), AgentError> {
    let identity = Identity::claimed(&config);
    info!(
        name = identity.name,
        cluster = identity.cluster_id,
        version = env!("CARGO_PKG_VERSION"),
        role = ?identity.role,
        slots = config.slots,
        "starting an agent"
    );
    let executor = executor.await?;
    let transport = Transport::new(Arc::clone(&platform.network));
    let listening = listener::listen(&config, &transport).await.map_err(AgentError::Listen)?;
    let deps = session::Deps {
        metrics: session::SessionMetrics::new(&metrics, config.slots),
        readiness: metrics.readiness().clone(),
        address: listening.advertised.clone(),
        config,
        platform,
        transport,
        executor,
    };
    session::run(deps, shutdown).await?;
    Ok(())
}
