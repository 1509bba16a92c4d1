//! Assembles an agent in dependency order: its identity, its executor, its listener and its session. Planned components
//! (messages, role duties, decisions) will be created between listener and session, because the listener serves them
//! and they must end after the session has drained.
//!
//! This module reads neither settings nor the environment, so the simulator runs the shipped code.

use std::{io, sync::Arc};

use robeing_platform::Platform;
use robeing_settings::AgentConfig;
use robeing_telemetry::Metrics;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    executor::{Executor, ExecutorError},
    identity::{Identity, Secured, SecurityError},
    listener,
    session::{self, SessionError},
};

/// Why an agent ended other than by a clean shutdown.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The agent can't listen.
    #[error("{0}; another process may listen there, or the address is not of this machine: change --listen")]
    Listen(#[source] io::Error),
    /// The executor can't be created or started.
    #[error(transparent)]
    Executor(#[from] ExecutorError),
    /// The agent can't begin to get a certificate.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The session failed.
    #[error(transparent)]
    Session(#[from] SessionError),
}

/// Runs an agent until `shutdown` is cancelled and it has drained. `executor` creates the executor.
///
/// # Errors
/// When the executor can't be started, the agent can't listen, the work it held could not be handed back, or it can
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
    let secured = Secured::begin(&config, &platform).await?;
    let transport = secured.transport.clone();
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
    tokio::select! {
        () = secured.ready() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    session::run(deps, shutdown).await?;
    Ok(())
}
