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
pub mod clock;
mod data_dir;
#[cfg(test)]
mod fixture;
mod leader;
mod metrics;
mod node;
mod peers;
mod propose;
pub mod raft;
mod room;
mod upkeep;
mod warnings;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use robeing_fleet::{Fleet, FleetConfig, Refusal};
use robeing_net::{Bound, Transport, limited};
use robeing_platform::Platform;
use robeing_proto::{
    FILE_DESCRIPTOR_SET,
    internal::v1::{guards_server::GuardsServer, raft_server::RaftServer, session_server::SessionServer},
    v1::{admin_server::AdminServer, fleet_server::FleetServer},
};
use robeing_settings::{CoordinatorConfig, advertised_address};
use robeing_telemetry::Metrics;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use tracing::{error, info, warn};

use crate::{
    api::{admin::AdminService, fleet::FleetService, guards::GuardReports, raft::RaftService, session::SessionService},
    apply::observer::ApplyObserver,
    clock::FleetClock,
    data_dir::{DataDir, DataError},
    leader::{
        bootstrap, contact, failure_detector, loss, recoveries,
        role::{self, RaftRole},
        score,
        sessions::{SessionTable, SessionTiming},
        stalls, transfer, version,
    },
    node::{LeaderContact, Node},
    propose::Proposer,
    raft::{
        ConsensusServer, PeerNetwork, Restraint, SharedFleet, SnapshotError, StateMachine, Timing,
        audit::{self, VOTE_FOUND},
        log::{Log, RecoveryError},
    },
};

/// How long tasks may take to end once the node stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Pause before it is tried again to note that the log has begun.
const NOTE_RETRY: Duration = Duration::from_secs(5);

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
    // The node stops before those who write for it.
    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let node = start_node(&config, &platform, &transport, &bound, &data, opened.log, &stop, &tasks).await?;
    let stopped = serve(&config, Arc::clone(&node), bound, metrics, &tasks, shutdown).await;
    stop.cancel();
    tasks.close();
    if tokio::time::timeout(STOP_GRACE, tasks.wait()).await.is_err() {
        warn!("some tasks did not end in time");
    }
    if let Err(error) = node.raft.shutdown().await {
        warn!(%error, "consensus did not end well");
    }
    drop(node);
    if tokio::time::timeout(STOP_GRACE, opened.writer).await.is_err() {
        warn!("the log's writer did not end in time");
    }
    drop(data.lock);
    stopped
}

fn election_timing(config: &CoordinatorConfig) -> Timing {
    Timing { election_min: config.election_timeout_min, election_max: config.election_timeout_max }
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

/// Of the entries between two snapshots, this part stays behind each.
const ENTRIES_KEPT_SHARE: u32 = 100;

#[expect(clippy::too_many_arguments, reason = "the one place where all parts of a node meet")]
async fn start_node(
    config: &CoordinatorConfig,
    platform: &Platform,
    transport: &Transport,
    bound: &Bound,
    data: &DataDir,
    log: Log,
    stop: &CancellationToken,
    tasks: &TaskTracker,
) -> Result<Arc<Node>, CoordinatorError> {
    let address = advertised_address(config.advertise.as_deref(), &config.listen, bound.local_addr()?);
    let timing = SessionTiming {
        heartbeat_interval: config.heartbeat_interval,
        timeout: config.session_timeout,
        health_check_interval: config.health_check_interval,
        grace: config.disconnect_grace,
    };
    log.step_past_promise(data.identity.node_id);
    audit::tell_vote(VOTE_FOUND, data.identity.node_id, log.vote());
    let observer = Arc::new(ApplyObserver::new(SessionTable::new(timing)));
    let fleet = SharedFleet::new(Fleet::new(FleetConfig::default()));
    let disk = Arc::clone(&platform.disk);
    let id = data.identity.node_id;
    let clock = FleetClock::new(id, Arc::clone(&platform.clock));
    let state_machine =
        StateMachine::open(disk, &config.data, fleet.clone(), Arc::clone(&observer) as _, &log, clock.clone()).await?;
    let snapshots = state_machine.stats();
    let network = PeerNetwork::new(transport.clone(), clock.clone());
    let seed = platform.random.next_u64();
    let kept = u64::from(config.snapshot_after / ENTRIES_KEPT_SHARE);
    let raft = raft::start(id, election_timing(config), kept, network, log.clone(), state_machine, seed)
        .await
        .map_err(CoordinatorError::Consensus)?;
    let (raft_role, raft_role_receiver) = watch::channel(RaftRole::Leaderless);
    tasks.spawn(until(stop, role::watch(id, raft.clone(), raft_role, clock.clone())));
    let (proposer, driver) =
        Proposer::new(id, raft.clone(), fleet.clone(), raft_role_receiver.clone(), transport.clone(), clock.clone());
    tasks.spawn(until(stop, driver.run()));
    info!(name = config.name, node_id = format!("{id:016x}"), address, "coordinator started");
    Ok(Arc::new(Node {
        identity: data.identity.clone(),
        address,
        pid: platform.host.pid(),
        raft,
        fleet,
        observer,
        proposer,
        clock,
        raft_role: raft_role_receiver,
        transport: transport.clone(),
        peers: peers::Peers::new(transport.clone()),
        platform: platform.clone(),
        log,
        scores: score::Scores::default(),
        warnings: warnings::Warnings::default(),
        rooms: room::Rooms::default(),
        snapshots,
        started: Instant::now(),
        heard: LeaderContact::default(),
        contact: contact::Contact::default(),
        leader_connections: loss::LeaderConnections::default(),
        removed: watch::Sender::new(false),
        contradicted: watch::Sender::new(None),
        changing: Arc::default(),
        tasks: tasks.clone(),
        stop: stop.clone(),
    }))
}

/// Runs a task until the node stops.
fn until<T: Future + Send + 'static>(stop: &CancellationToken, task: T) -> impl Future<Output = ()> + Send + use<T> {
    let stop = stop.clone();
    async move {
        tokio::select! {
            () = stop.cancelled() => {}
            _ = task => {}
        }
    }
}

async fn serve(
    config: &CoordinatorConfig,
    node: Arc<Node>,
    bound: Bound,
    metrics: Metrics,
    tasks: &TaskTracker,
    shutdown: CancellationToken,
) -> Result<(), CoordinatorError> {
    let stop = node.stop.clone();
    let mut configured = config.initial_coordinators.clone();
    if configured.is_empty() {
        configured.push((config.name.clone(), node.address.clone()));
    }
    tasks.spawn(until(&stop, bootstrap::settle(Arc::clone(&node), configured)));
    tasks.spawn(until(&stop, bootstrap::notice_removal(Arc::clone(&node))));
    if !node.identity.log_begun {
        tasks.spawn(until(&stop, note_log_begun(Arc::clone(&node), config.data.clone())));
    }
    let timing = election_timing(config);
    let restraint = Restraint::new(&node.raft, timing, tasks.clone(), stop.clone());
    tasks.spawn(until(&stop, loss::run(Arc::clone(&node), timing, restraint.clone())));
    tasks.spawn(until(&stop, contact::run(Arc::clone(&node))));
    tasks.spawn(until(&stop, stalls::run(Arc::clone(&node))));
    tasks.spawn(until(&stop, failure_detector::run(Arc::clone(&node))));
    node.observer.recoveries.register(&metrics);
    tasks.spawn(until(&stop, recoveries::run(Arc::clone(&node))));
    tasks.spawn(until(&stop, score::run(Arc::clone(&node))));
    tasks.spawn(until(&stop, version::run(Arc::clone(&node))));
    tasks.spawn(until(&stop, clock::run(Arc::clone(&node))));
    tasks.spawn(until(&stop, clock::compare(Arc::clone(&node), metrics.clone())));
    tasks.spawn(until(&stop, upkeep::timers(Arc::clone(&node))));
    tasks.spawn(until(&stop, room::watch(Arc::clone(&node), config.data.clone())));
    tasks.spawn(until(&stop, upkeep::snapshots(Arc::clone(&node), config.snapshot_after)));
    tasks.spawn(until(&stop, upkeep::configuration(Arc::clone(&node), fleet_config(config))));
    tasks.spawn(until(&stop, metrics::run(Arc::clone(&node), metrics.clone())));
    let routes = routes(config, &node, tasks, restraint, &metrics).await;
    let serve_until = stop.child_token();
    let mut server = std::pin::pin!(bound.serve(routes, serve_until.clone()));
    tokio::select! {
        served = &mut server => served.map_err(Into::into),
        reason = node.raft.until_fatal() => {
            error!(reason, "this coordinator must stop");
            Err(CoordinatorError::Stopped(reason))
        }
        reason = contradicted(&node) => {
            error!(reason, "this coordinator must stop");
            Err(CoordinatorError::Stopped(reason))
        }
        () = shutdown.cancelled() => {
            info!("stopping");
            hand_over(&node).await;
            stop.cancel();
            server.await.map_err(Into::into)
        }
    }
}

/// Notes, once the first entry is applied and so is on disk, that this coordinator has a log to lose.
async fn note_log_begun(node: Arc<Node>, dir: PathBuf) {
    let mut applied = node.observer.applied_indexes();
    if applied.wait_for(|applied| *applied > 1).await.is_err() {
        return;
    }
    // A disk may be full for a while. Until this is on it, a log that is lost would be taken for one that never was.
    while let Err(error) = node.identity.note_log_begun(&node.platform, &dir).await {
        warn!(%error, "it could not be noted that the log has begun; it is tried again");
        tokio::time::sleep(NOTE_RETRY).await;
    }
}

async fn routes(
    config: &CoordinatorConfig,
    node: &Arc<Node>,
    tasks: &TaskTracker,
    restraint: Restraint,
    metrics: &Metrics,
) -> Routes {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<FleetServer<FleetService>>().await;
    health.set_serving::<AdminServer<AdminService>>().await;
    let consensus = ConsensusServer {
        id: node.identity.node_id,
        raft: node.raft.clone(),
        log: node.log.clone(),
        contradicted: node.contradicted.clone(),
        disk: Arc::clone(&node.platform.disk),
        dir: config.data.clone(),
        clock: node.clock.clone(),
        seed: node.platform.random.next_u64(),
        restraint,
    };
    let mut routes = Routes::builder();
    routes
        .add_service(limited!(FleetServer::new(FleetService::new(Arc::clone(node), tasks.clone()))))
        .add_service(limited!(SessionServer::new(SessionService::new(Arc::clone(node), tasks.clone()))))
        .add_service(limited!(GuardsServer::new(GuardReports::new(Arc::clone(node)))))
        .add_service(limited!(AdminServer::new(AdminService::new(Arc::clone(node), metrics))))
        .add_service(limited!(RaftServer::new(RaftService::new(Arc::clone(node), consensus))))
        .add_service(health_service);
    match robeing_net::reflection(&[FILE_DESCRIPTOR_SET]) {
        Ok(reflection) => {
            routes.add_service(reflection);
        }
        Err(error) => warn!(%error, "no gRPC reflection"),
    }
    routes.routes()
}

/// Returns when a leader has contradicted what was applied here, with how.
async fn contradicted(node: &Node) -> String {
    let mut told = node.contradicted.subscribe();
    // The node has a sender, so it can't be closed before.
    let reason = told.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
    reason.unwrap_or_default()
}

/// A leader that stops names a successor first, so that nobody has to wait for an election.
async fn hand_over(node: &Node) {
    if node.raft_role.borrow().leading().is_none() {
        return;
    }
    // Without it, the others elect a leader by themselves.
    let _ = tokio::time::timeout(HAND_OVER_TIMEOUT, transfer::hand_over(node, None)).await;
}

#[cfg(test)]
mod tests;
