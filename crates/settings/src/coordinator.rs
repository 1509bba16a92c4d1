//! What a coordinator process is told at its start.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::settings::{
    DISCONNECT_GRACE, HEALTH_CHECK_INTERVAL, HEARTBEAT_INTERVAL, LOAD_TERM, MAX_ATTEMPTS, PERFORMANCE_TERM,
    SESSION_TIMEOUT, SNAPSHOT_AFTER, SPECIALIZATION_TERM,
};

/// Where a coordinator keeps its data unless told otherwise.
pub const DEFAULT_DATA: &str = "/var/lib/robeing";
/// Default of [`CoordinatorConfig::election_timeout_min`].
pub const DEFAULT_ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(150);
/// Default of [`CoordinatorConfig::election_timeout_max`].
pub const DEFAULT_ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(300);

/// A coordinator's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorConfig {
    /// Its name, the same after a restart.
    pub name: String,
    /// The cluster it serves; agents of another are refused.
    pub cluster_id: String,
    /// Where to listen, host:port; port 0 takes a free one.
    pub listen: String,
    /// Where others reach it, host:port; see [`advertised_address`](super::advertised_address).
    pub advertise: Option<String>,
    /// The directory of its log, snapshots and node id.
    pub data: PathBuf,
    /// Name and address of each member of the fleet's first membership. Used only when the data directory is new. Empty:
    /// this coordinator alone.
    pub initial_coordinators: Vec<(String, String)>,
    /// How often agents renew their sessions.
    pub heartbeat_interval: Duration,
    /// After how long without a heartbeat an agent is lost. At least twice `heartbeat_interval`.
    pub session_timeout: Duration,
    /// How often agents, and through them what they run tasks with, are asked how they are.
    pub health_check_interval: Duration,
    /// Attempts of a task that does not say how many, at least 1.
    pub max_attempts: u32,
    /// Weights of the terms of an agent's score for a task.
    pub weights: Weights,
    /// The shortest time without word from the leader after which an election begins.
    pub election_timeout_min: Duration,
    /// The longest.
    pub election_timeout_max: Duration,
    /// How long an agent whose connection broke has for coming back before it is lost.
    pub disconnect_grace: Duration,
    /// Bounds of the state; `None` takes the state machine's default.
    pub limits: FleetLimits,
    /// Entries of the log after which a snapshot is written. A hundredth of them stay behind one, for coordinators that are a
    /// little behind.
    pub snapshot_after: u32,
    /// Agents the deployment says it has (`AGENT_COUNT`). Shown, never enforced.
    pub expected_agents: Option<u32>,
    /// Where to serve metrics and probes over HTTP, host:port.
    pub metrics_listen: Option<String>,
}

impl CoordinatorConfig {
    /// A coordinator of which nothing is said but what has no default.
    pub fn new(name: String, cluster_id: String, listen: String) -> Self {
        Self {
            name,
            cluster_id,
            listen,
            advertise: None,
            data: PathBuf::from(DEFAULT_DATA),
            initial_coordinators: Vec::new(),
            heartbeat_interval: HEARTBEAT_INTERVAL.default,
            session_timeout: SESSION_TIMEOUT.default,
            health_check_interval: HEALTH_CHECK_INTERVAL.default,
            max_attempts: MAX_ATTEMPTS.default,
            weights: Weights::default(),
            election_timeout_min: DEFAULT_ELECTION_TIMEOUT_MIN,
            election_timeout_max: DEFAULT_ELECTION_TIMEOUT_MAX,
            disconnect_grace: DISCONNECT_GRACE.default,
            limits: FleetLimits::default(),
            snapshot_after: SNAPSHOT_AFTER.default,
            expected_agents: None,
            metrics_listen: None,
        }
    }
}

/// Weights of the terms of a score, in points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// For an agent with the specialization that the task's kind names.
    pub specialization: i32,
    /// For a fully loaded agent.
    pub load: i32,
    /// For an agent with a perfect track record.
    pub performance: i32,
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            specialization: SPECIALIZATION_TERM.default,
            load: LOAD_TERM.default,
            performance: PERFORMANCE_TERM.default,
        }
    }
}

/// Bounds of the fleet's state; `None` takes the state machine's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetLimits {
    /// Tasks waiting at once.
    pub max_queued: Option<u32>,
    /// Tasks remembered at once, the finished ones included.
    pub max_tasks: Option<u32>,
    /// Bytes of inputs and outputs held at once.
    pub max_bytes: Option<u64>,
    /// How long a finished task is kept.
    pub result_ttl: Option<Duration>,
}

/// The address by which others reach a process that listens at `bound`.
///
/// `advertise` wins; otherwise it is `listen` as it was configured. A port of 0 becomes the one that was bound.
pub fn advertised_address(advertise: Option<&str>, listen: &str, bound: SocketAddr) -> String {
    let address = advertise.unwrap_or(listen);
    match address.rsplit_once(':') {
        Some((host, "0")) => format!("{host}:{}", bound.port()),
        _ => address.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 4711))
    }

    #[test]
    fn a_port_that_was_picked_is_the_one_advertised() {
        assert_eq!(advertised_address(None, "localhost:0", bound()), "localhost:4711");
        assert_eq!(advertised_address(Some("10.0.0.7:0"), "0.0.0.0:0", bound()), "10.0.0.7:4711");
        assert_eq!(advertised_address(None, "[::1]:0", bound()), "[::1]:4711");
    }

    #[test]
    fn an_advertised_port_is_kept() {
        assert_eq!(advertised_address(Some("agent-0:80"), "0.0.0.0:8080", bound()), "agent-0:80");
        assert_eq!(advertised_address(None, "127.0.0.1:4711", bound()), "127.0.0.1:4711");
    }
}
