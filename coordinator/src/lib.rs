//! The coordinator: agrees with the others on a log of commands, applies them to the fleet, and serves users, agents and the
//! other coordinators.
//!
//! ```text
//! api ───┐                    ┌─► raft::log (disk)            apply::observer ─► api: watches, submissions
//!        ├─► propose ─► raft ─┤                                      ▲
//! leader ┘                    └─► raft::store ─► fleet::apply ───────┴──► leader::sessions ─► api::session
//! ```

mod advice;
mod api;
mod apply;
mod assembly;
pub mod clock;
mod data_dir;
mod disk_space;
#[cfg(test)]
mod fixture;
mod leader;
mod lifetime;
mod member;
mod members;
mod metrics;
mod outside;
mod peers;
mod propose;
pub mod raft;
mod read;
mod upkeep;
mod warnings;

use std::{io, sync::Arc, time::Duration};

use robeing_fleet::{FleetConfig, Refusal};
use robeing_net::{Bound, Transport};
use robeing_platform::Platform;
use robeing_settings::{CoordinatorConfig, advertised_address};
use robeing_telemetry::Metrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    assembly::{Assembled, assemble},
    data_dir::DataError,
    leader::transfer::Transfer,
    lifetime::Lifetime,
    outside::Outside,
    raft::{
        SnapshotError,
        log::{Log, RecoveryError},
    },
};

/// How long tasks may take to end once the coordinator stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// How long a successor may take to take over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a coordinator could not start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The limits of the fleet's state contradict each other.
    #[error("the fleet can't be configured so: {0}")]
    Settings(Refusal),
    /// The data directory can't be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The log can't be used.
    #[error(transparent)]
    Log(#[from] RecoveryError),
    /// The snapshot can't be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The address can't be listened on.
    #[error(transparent)]
    Listen(#[from] io::Error),
    /// Consensus could not be started.
    #[error("{0}")]
    Consensus(String),
    /// Consensus stopped: the disk failed, or a command could not be applied.
    #[error("consensus stopped: {0}")]
    Stopped(String),
    /// The server failed.
    #[error("the server stopped: {0}")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs a coordinator until `shutdown` is cancelled, or it can't go on.
///
/// # Errors
/// Everything that keeps it from starting, and everything after which it must not go on, such as a failed disk.
pub async fn run(
    config: CoordinatorConfig,
    platform: Platform,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), CoordinatorError> {
    run_seen(config, platform, metrics, shutdown, |_| ()).await
}

/// As [`run`]; shows what was assembled before it serves.
async fn run_seen(
    config: CoordinatorConfig,
    platform: Platform,
    metrics: Metrics,
    shutdown: CancellationToken,
    see: impl FnOnce(&Assembled),
) -> Result<(), CoordinatorError> {
    // Once it leads it would propose them, and be refused.
    fleet_config(&config).check().map_err(CoordinatorError::Settings)?;
    let transport = Transport::new(Arc::clone(&platform.network));
    let opening = async {
        let bound = transport.bind(&config.listen).await?;
        let data = data_dir::open(&platform, &config.data, &config.cluster_id, &config.name).await?;
        let opened = Log::open(Arc::clone(&platform.disk), &config.data, data.identity.log_salt).await?;
        if opened.blank && data.identity.log_begun {
            return Err(DataError::LogLost { dir: config.data.clone() }.into());
        }
        Ok::<_, CoordinatorError>((bound, data, opened))
    };
    let (bound, data, opened) = tokio::select! {
        opened = opening => opened?,
        () = shutdown.cancelled() => {
            info!("asked to stop before it was up");
            return Ok(());
        }
    };
    if opened.torn_bytes > 0 {
        warn!(bytes = opened.torn_bytes, "the end of the log was torn by a crash and was cut at the last whole record");
    }
    let address = advertised_address(config.advertise.as_deref(), &config.listen, bound.local_addr()?);
    let outside = Outside::new(platform, transport);
    // It ends before those who write for it.
    let lifetime = Lifetime::default();
    let assembled = assemble(&config, outside, &data.identity, address, opened.log, &metrics, &lifetime).await?;
    see(&assembled);
    let raft = assembled.raft.clone();
    let stopped = serve(assembled, bound, &lifetime, shutdown).await;
    lifetime.end(STOP_GRACE).await;
    if let Err(error) = raft.shutdown().await {
        warn!(%error, "consensus did not end well");
    }
    drop(raft);
    if tokio::time::timeout(STOP_GRACE, opened.writer).await.is_err() {
        warn!("the log's writer did not end in time");
    }
    drop(data.lock);
    stopped
}

fn fleet_config(config: &CoordinatorConfig) -> FleetConfig {
    let mut fleet = FleetConfig::default();
    fleet.weights.specialization = config.weights.specialization;
    fleet.weights.load = config.weights.load;
    fleet.weights.performance = config.weights.performance;
    fleet.retry.max_attempts = config.max_attempts;
    fleet.max_queued = config.limits.max_queued.unwrap_or(fleet.max_queued);
    fleet.max_tasks = config.limits.max_tasks.unwrap_or(fleet.max_tasks);
    fleet.max_bytes = config.limits.max_bytes.unwrap_or(fleet.max_bytes);
    fleet.result_ttl = config.limits.result_ttl.map_or(fleet.result_ttl, |ttl| ttl.as_millis() as u64);
    fleet
}

/// Serves until it is asked to stop, or can't go on.
async fn serve(
    assembled: Assembled,
    bound: Bound,
    lifetime: &Lifetime,
    shutdown: CancellationToken,
) -> Result<(), CoordinatorError> {
    let Assembled { routes, raft, transfer, contradicted, .. } = assembled;
    let mut server = std::pin::pin!(bound.serve(routes, lifetime.stop().child_token()));
    tokio::select! {
        served = &mut server => served.map_err(Into::into),
        reason = raft.until_fatal() => {
            error!(reason, "this coordinator must stop");
            Err(CoordinatorError::Stopped(reason))
        }
        reason = until_contradicted(&contradicted) => {
            error!(reason, "this coordinator must stop");
            Err(CoordinatorError::Stopped(reason))
        }
        () = shutdown.cancelled() => {
            info!("stopping");
            hand_over(&transfer).await;
            lifetime.stop().cancel();
            server.await.map_err(Into::into)
        }
    }
}

/// Returns when a leader has contradicted what was applied here, with how.
async fn until_contradicted(contradicted: &watch::Sender<Option<String>>) -> String {
    let mut told = contradicted.subscribe();
    // The sender is there, so it can't be closed.
    let reason = told.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    reason.unwrap_or_default()
}

/// A leader that stops names a successor first, so that nobody has to wait for an election.
async fn hand_over(transfer: &Transfer) {
    if transfer.standing.leading().is_none() {
        return;
    }
    // Without it, the others elect a leader by themselves.
    let _ = tokio::time::timeout(HAND_OVER_TIMEOUT, transfer.hand_over(None)).await;
}

#[cfg(test)]
mod tests;
