//! The coordinator: replicates a log of commands with its peers through Raft, applies the commands to the fleet's
//! state, and serves users, agents and the other coordinators.
//!
//! ```text
//! api ───┐                    ┌─► raft::log (disk)            apply::observer ─► api: watches, submissions
//!        ├─► propose ─► raft ─┤                                      ▲
//! leader ┘                    └─► raft::store ─► fleet::apply ───────┴──► leader::sessions ─► api::session
//! ```

mod advice;
mod api;
mod apply;
mod archive;
mod assembly;
mod ballots;
pub mod clock;
mod data_dir;
mod directory;
mod disk_space;
mod dividing;
#[cfg(test)]
mod fixture;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod identity;
mod leader;
mod lifetime;
mod logs;
mod mail;
mod member;
mod members;
mod metrics;
mod outside;
mod peers;
mod policies;
mod propose;
pub mod raft;
mod read;
mod resources;
mod schedules;
mod teams;
mod unmet;
mod upkeep;
mod verify;
mod warnings;

use std::{io, sync::Arc, time::Duration};

use robeing_fleet::{FleetConfig, Refusal, limits::DEFAULT_RECENT_RESULTS};
use robeing_net::{Bound, Transport};
use robeing_platform::Platform;
use robeing_settings::{CoordinatorConfig, advertised_address};
use robeing_telemetry::Metrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    assembly::{Assembled, Local, assemble},
    data_dir::DataError,
    identity::security::{Security, SecurityError},
    leader::transfer::Transfer,
    lifetime::Lifetime,
    outside::Outside,
    raft::{
        SnapshotError,
        log::{Log, RecoveryError},
    },
};

/// How long the coordinator's tasks, and then the log's writer, may take to end at shutdown.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// How long a leadership transfer may take at shutdown.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(1);

/// Reasons why a coordinator can't start or must stop.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// The fleet's configuration is out of bounds.
    #[error("invalid fleet configuration: {0}")]
    Settings(Refusal),
    /// The data directory can't be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// TLS can't be set up.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// The log can't be used.
    #[error(transparent)]
    Log(#[from] RecoveryError),
    /// The snapshot can't be used.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The server can't listen on the configured address.
    #[error(transparent)]
    Listen(#[from] io::Error),
    /// Consensus could not be started.
    #[error("{0}")]
    Consensus(String),
    /// Consensus stopped or must stop: the disk failed, a command could not be applied, or a leader contradicted
    /// applied entries.
    #[error("consensus stopped: {0}")]
    Stopped(String),
    /// The server failed.
    #[error("the server stopped: {0}")]
    Serve(#[from] tonic::transport::Error),
}

impl CoordinatorError {
    /// Returns whether a setting, or a file that a setting names, is wrong: then starting it again does not help.
    pub fn is_misconfiguration(&self) -> bool {
        match self {
            Self::Settings(_) => true,
            Self::Security(error) => matches!(error, SecurityError::Name(_) | SecurityError::Rights(_)),
            _ => false,
        }
    }
}

/// Runs a coordinator until `shutdown` is cancelled or it can't continue.
///
/// # Errors
/// Anything that prevents the start, and any failure after which the coordinator must not continue, such as a failed
/// disk.
pub async fn run(
    config: CoordinatorConfig,
    platform: Platform,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), CoordinatorError> {
    run_seen(config, platform, metrics, shutdown, |_| ()).await
}

/// Like [`run`], but passes the assembled coordinator to `see` before it serves.
async fn run_seen(
    config: CoordinatorConfig,
    platform: Platform,
    metrics: Metrics,
    shutdown: CancellationToken,
    see: impl FnOnce(&Assembled),
) -> Result<(), CoordinatorError> {
    // This coordinator proposes its configuration once it leads; the state machine would refuse an invalid one only
    // then.
    fleet_config(&config).check().map_err(CoordinatorError::Settings)?;
    let transport = Transport::new(Arc::clone(&platform.network));
    let opening = async {
        let bound = transport.bind(&config.listen).await?;
        let data = data_dir::open(&platform, &config.data, &config.cluster_id, &config.name).await?;
        let opened = Log::open(Arc::clone(&platform.disk), &config.data, data.identity.log_salt).await?;
        if opened.blank && data.identity.log_begun {
            return Err(DataError::LogLost { dir: config.data.clone() }.into());
        }
        let address = advertised_address(config.advertise.as_deref(), &config.listen, bound.local_addr()?);
        let security = Security::open(&config, &platform, &address).await?;
        Ok::<_, CoordinatorError>((bound, data, opened, address, security))
    };
    let (bound, data, opened, address, security) = tokio::select! {
        opened = opening => opened?,
        () = shutdown.cancelled() => {
            info!("stopped before startup finished");
            return Ok(());
        }
    };
    if opened.torn_bytes > 0 {
        warn!(bytes = opened.torn_bytes, "the end of the log was torn by a crash and was cut at the last whole record");
    }
    let (transport, bound) = match &security {
        Some(security) => (transport.with_tls(&security.tls), bound.with_tls(&security.tls)),
        None => {
            warn!("this coordinator runs without TLS and trusts everyone who can connect to {address}");
            (transport, bound)
        }
    };
    let outside = Outside::new(platform, transport);
    // The tasks of this lifetime must end before consensus and the log's writer, which carry out the tasks' writes.
    let lifetime = Lifetime::default();
    let local = Local { identity: &data.identity, address, log: opened.log };
    let assembled = assemble(&config, outside, security, local, &metrics, &lifetime).await?;
    see(&assembled);
    let raft = assembled.raft.clone();
    let stopped = serve(assembled, bound, &lifetime, shutdown).await;
    lifetime.end(STOP_GRACE).await;
    if let Err(error) = raft.shutdown().await {
        warn!(%error, "consensus did not shut down cleanly");
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
    let window = config.limits.idempotency_window.map(|window| window.as_millis() as u64);
    // The default is said by 0, which every version reads.
    fleet.idempotency_window = window.filter(|window| *window != fleet.key_window()).unwrap_or(0);
    fleet.recent_results = config.limits.recent_results.unwrap_or(DEFAULT_RECENT_RESULTS);
    fleet
}

/// Serves until `shutdown` is cancelled or the coordinator can't continue.
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

/// Waits until a leader contradicts an entry that is applied here, and returns the reason.
async fn until_contradicted(contradicted: &watch::Sender<Option<String>>) -> String {
    let mut told = contradicted.subscribe();
    // The sender is still alive, so the channel can't be closed.
    let reason = told.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    reason.unwrap_or_default()
}

/// Transfers leadership before a leader stops, so that the fleet doesn't have to wait for an election timeout.
async fn hand_over(transfer: &Transfer) {
    if transfer.standing.leading().is_none() {
        return;
    }
    // If the transfer fails, the other coordinators elect a leader after the election timeout.
    let _ = tokio::time::timeout(HAND_OVER_TIMEOUT, transfer.hand_over(None)).await;
}

#[cfg(test)]
mod tests;
