//! The settings of a coordinator process.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{
    AuthorityConfig, BallotDefaults, TlsMode,
    settings::{
        DISCONNECT_GRACE, HEALTH_CHECK_INTERVAL, HEARTBEAT_INTERVAL, LOAD_TERM, MAX_ATTEMPTS, PERFORMANCE_TERM,
        SESSION_TIMEOUT, SNAPSHOT_AFTER, SPECIALIZATION_TERM,
    },
};

/// Default of [`CoordinatorConfig::data`].
pub const DEFAULT_DATA: &str = "/var/lib/robeing";
/// Default of [`CoordinatorConfig::election_timeout_min`].
pub const DEFAULT_ELECTION_TIMEOUT_MIN: Duration = Duration::from_millis(150);
/// Default of [`CoordinatorConfig::election_timeout_max`].
pub const DEFAULT_ELECTION_TIMEOUT_MAX: Duration = Duration::from_millis(300);

/// A coordinator's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorConfig {
    /// Name of the coordinator, the same after a restart.
    pub name: String,
    /// The cluster that the coordinator serves; agents of another cluster are refused.
    pub cluster_id: String,
    /// Listening address, `host:port`; port 0 picks a free port.
    pub listen: String,
    /// Address at which others reach the coordinator, `host:port`; see
    /// [`advertised_address`](super::advertised_address).
    pub advertise: Option<String>,
    /// Directory of the log, snapshots and node id.
    pub data: PathBuf,
    /// Name and address of each initial member of the fleet. Used only when the data directory is new. Empty: this
    /// coordinator alone.
    pub initial_coordinators: Vec<(String, String)>,
    /// How often agents renew their sessions.
    pub heartbeat_interval: Duration,
    /// Time without a heartbeat after which an agent is lost. At least twice `heartbeat_interval`.
    pub session_timeout: Duration,
    /// How often the leader checks the health of agents, and through them of what they run tasks with.
    pub health_check_interval: Duration,
    /// Maximum attempts of a task that does not set its own limit, at least 1.
    pub max_attempts: u32,
    /// Weights of the terms in an agent's score for a task.
    pub weights: Weights,
    /// The shortest time without contact from the leader after which an election starts.
    pub election_timeout_min: Duration,
    /// The longest such time.
    pub election_timeout_max: Duration,
    /// How long an agent has to reconnect after its connection broke, before the leader probes its process. The leader
    /// probes at once where a refused connection would prove that the process is gone.
    pub disconnect_grace: Duration,
    /// Limits of the replicated state; `None` takes the state machine's default.
    pub limits: FleetLimits,
    /// Number of log entries after which a snapshot is written. A hundredth of that number is kept behind a snapshot,
    /// for coordinators that lag slightly.
    pub snapshot_after: u32,
    /// The threshold and the deadline of ballots whose openers set none.
    pub ballots: BallotDefaults,
    /// Number of agents that the deployment is meant to have (`AGENT_COUNT`). For display only, never enforced.
    pub expected_agents: Option<u32>,
    /// Address for metrics and probes over HTTP, `host:port`.
    pub metrics_listen: Option<String>,
    /// Whether the coordinator's connections are encrypted.
    pub tls: TlsMode,
    /// How the coordinator certifies the members of its fleet, with TLS.
    pub authority: AuthorityConfig,
}

impl CoordinatorConfig {
    /// Creates the settings of a coordinator with the required values, and defaults for the rest.
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
            ballots: BallotDefaults::default(),
            expected_agents: None,
            metrics_listen: None,
            tls: TlsMode::default(),
            authority: AuthorityConfig::default(),
        }
    }
}

/// Weights of the terms in an agent's score, in points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Points for an agent that has the specialization named by the task's kind.
    pub specialization: i32,
    /// Points for a fully loaded agent; proportionally less for a partly loaded one.
    pub load: i32,
    /// Points for an agent with a perfect track record; proportionally less for a worse one.
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

/// Limits of the fleet's state; `None` takes the state machine's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FleetLimits {
    /// Maximum number of unfinished tasks: queued or assigned.
    pub max_queued: Option<u32>,
    /// Maximum number of tasks kept, including finished ones.
    pub max_tasks: Option<u32>,
    /// Maximum total size of inputs and outputs held, in bytes.
    pub max_bytes: Option<u64>,
    /// How long a finished task is kept.
    pub result_ttl: Option<Duration>,
    /// For how long an idempotency key stands for its first task at least.
    pub idempotency_window: Option<Duration>,
    /// How many results stay in memory; 0: all.
    pub recent_results: Option<u32>,
}

/// Returns the address at which others reach a process that listens at `bound`.
///
/// That is `advertise` if set, otherwise `listen` as configured. Port 0 is replaced by the port that was bound.
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
