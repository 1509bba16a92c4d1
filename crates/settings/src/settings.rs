//! The definitions of all settings. The command line, the environment, the operator, `robeing dev` and the resource's
//! schema take names, bounds and defaults from here. The limits of the state machine are [`robeing_fleet::limits`].

use std::time::Duration;

use robeing_fleet::limits;

pub use super::ballots::{BALLOT_DEADLINE, BALLOT_THRESHOLD};
pub use super::contribute::CONTRIBUTE;
pub use super::keeping::{IDEMPOTENCY_WINDOW, MAX_BYTES, MAX_QUEUED, MAX_TASKS, RECENT_RESULTS, RESULT_TTL};
pub use super::security::{
    CA, ENROLMENT, JOIN, JOIN_SECRET, JOIN_TOKEN, NAMESPACE, RIGHTS, SERVICE_ACCOUNT_TOKEN, TLS, TRUST, TRUST_DOMAIN,
};
use super::{
    DEFAULT_CLUSTER, DEFAULT_DATA, DEFAULT_WORKER_LISTEN, MIN_INTERVAL,
    definition::{Defined, For, Number, Setting, Span, Term},
};

/// The maximum of any duration setting: 366 days.
pub const MAX_DURATION: Duration = Duration::from_millis(limits::MAX_DURATION_MS);
/// The maximum number of agents in a pool or fleet.
pub const MAX_AGENTS: u32 = limits::MAX_AGENTS;
/// Maximum length of the name of a process, cluster, pool or specialization, in bytes.
pub const MAX_NAME_BYTES: usize = limits::MAX_NAME_BYTES;
/// The maximum number of specializations of one agent.
pub const MAX_SPECIALIZATIONS: usize = limits::MAX_SPECIALIZATIONS;
/// Minimum number of heartbeat intervals in a session timeout, so that one late heartbeat does not lose an agent.
pub const HEARTBEATS_PER_SESSION: u32 = 2;

/// The environment variable with the address of a pod.
pub const POD_IP: &str = "POD_IP";
/// The environment variable with the name of a machine.
pub const HOSTNAME: &str = "HOSTNAME";
/// The environment variable that tells a user's worker process where to attach; not a setting of Robeing itself.
pub const WORKER_ADDRESS: &str = "ROBEING_WORKER_ADDRESS";

/// The role of the process; see [`ProcessRole`](super::ProcessRole).
pub const ROLE: Setting = Setting::new(
    For::Both,
    "role",
    &["AGENT_ROLE", "ROLE"],
    "ROLE",
    "Role of the process: coordinator, worker, specialist, messenger or guardian",
);

/// The name of the process.
pub const NAME: Setting = Setting::new(
    For::Both,
    "name",
    &["ROBEING_NAME", "AGENT_ID", HOSTNAME],
    "NAME",
    "Name of the process; keep it the same across restarts",
);

/// The cluster that the process belongs to.
pub const CLUSTER_ID: Setting =
    Setting::new(For::Both, "cluster-id", &["CLUSTER_ID"], "NAME", "Cluster of the process").unset(DEFAULT_CLUSTER);

/// The listening address, `host:port`.
pub const LISTEN: Setting =
    Setting::new(For::Both, "listen", &["ROBEING_LISTEN"], "HOST:PORT", "Listening address; port 0 picks a free port")
        .unset("0.0.0.0:8080");

/// The address at which others reach the process, `host:port`.
pub const ADVERTISE: Setting = Setting::new(
    For::Both,
    "advertise",
    &["ROBEING_ADVERTISE"],
    "HOST:PORT",
    "Address at which others reach the process",
)
.unset("the listening address; for 0.0.0.0 the host in POD_IP or HOSTNAME, which an agent resolves to an address");

/// The address for metrics and probes, `host:port`.
pub const METRICS_LISTEN: Setting = Setting::new(
    For::Both,
    "metrics-listen",
    &["ROBEING_METRICS_LISTEN"],
    "HOST:PORT",
    "Address for /metrics, /healthz and /readyz over HTTP",
)
.unset("not served");

/// The log format; see [`LogFormat`](super::LogFormat).
pub const LOG_FORMAT: Setting = Setting::new(
    For::Both,
    "log-format",
    &["ROBEING_LOG_FORMAT"],
    "FORMAT",
    "Log format, text or json; RUST_LOG sets the log level",
)
.unset("text");

/// The data directory of a coordinator or agent.
pub const DATA: Setting = Setting::new(
    For::Both,
    "data",
    &["ROBEING_DATA"],
    "DIR",
    "Directory of a coordinator's log and snapshots; what an agent remembers of messages and webhooks is in memory unless \
     it is set",
)
.unset(DEFAULT_DATA)
.path();

/// Maximum size of all that an agent writes into its [`DATA`] directory, in bytes: 320 MiB.
pub const MAX_AGENT_DATA: u64 = 320 << 20;

/// The initial members of the fleet.
pub const INITIAL_COORDINATORS: Setting = Setting::new(
    For::Coordinators,
    "initial-coordinators",
    &["ROBEING_INITIAL_COORDINATORS"],
    "NAME=HOST:PORT,...",
    "All initial members of the fleet; used only when the data directory is new",
)
.unset("this coordinator alone");

/// How often agents renew their sessions.
pub const HEARTBEAT_INTERVAL: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "heartbeat-interval",
        &["ROBEING_HEARTBEAT_INTERVAL"],
        "DURATION",
        "How often agents renew their sessions",
    ),
    least: MIN_INTERVAL,
    most: Duration::from_secs(60),
    default: Duration::from_millis(500),
};

/// Time without a heartbeat after which an agent is lost: at least [`HEARTBEATS_PER_SESSION`] heartbeat intervals.
pub const SESSION_TIMEOUT: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "session-timeout",
        &["ROBEING_SESSION_TIMEOUT"],
        "DURATION",
        "Time without a heartbeat after which an agent is lost; at least twice the heartbeat interval",
    ),
    least: Duration::from_millis(50),
    most: Duration::from_secs(600),
    default: Duration::from_secs(2),
};

/// How often the leader checks the health of agents.
pub const HEALTH_CHECK_INTERVAL: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "health-check-interval",
        &["ROBEING_HEALTH_CHECK_INTERVAL"],
        "DURATION",
        "How often the leader checks the health of agents and of what they run tasks with",
    ),
    least: Duration::from_millis(100),
    most: Duration::from_secs(3600),
    default: Duration::from_secs(10),
};

/// How long an agent has to reconnect after its connection broke, before its process is probed.
pub const DISCONNECT_GRACE: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "disconnect-grace",
        &["ROBEING_DISCONNECT_GRACE"],
        "DURATION",
        "How long an agent has to reconnect after its connection broke",
    ),
    least: Duration::ZERO,
    most: MAX_DURATION,
    default: Duration::from_millis(50),
};

/// Time without contact from the leader after which an election starts.
pub const ELECTION_TIMEOUT: Setting = Setting::new(
    For::Coordinators,
    "election-timeout",
    &["ROBEING_ELECTION_TIMEOUT"],
    "MIN..MAX",
    "Time without contact from the leader after which an election starts",
)
.unset("150ms..300ms");

/// Maximum attempts of a task that does not set its own limit.
pub const MAX_ATTEMPTS: Number<u32> = Number {
    setting: Setting::new(
        For::Coordinators,
        "max-attempts",
        &["ROBEING_MAX_ATTEMPTS"],
        "N",
        "Maximum attempts of a task that does not set its own limit",
    ),
    least: 1,
    most: limits::MAX_ATTEMPTS,
    default: limits::DEFAULT_MAX_ATTEMPTS,
};

/// The weight of each [`Term`] of an agent's score.
pub const WEIGHTS: Setting = Setting::new(
    For::Coordinators,
    "weights",
    &["ROBEING_WEIGHTS"],
    "TERM=POINTS,...",
    "Weights of the terms in an agent's score for a task",
)
.unset("specialization=50,load=-10,performance=20");

/// The term for having the specialization named by the task's kind. Its weight must not be negative, because the
/// scheduler could not search for the best agent otherwise.
pub const SPECIALIZATION_TERM: Term =
    Term { name: "specialization", least: 0, most: limits::MAX_WEIGHT, default: limits::DEFAULT_SPECIALIZATION_WEIGHT };
/// The term for load: its weight is zero or less, because load lowers the score.
pub const LOAD_TERM: Term =
    Term { name: "load", least: -limits::MAX_WEIGHT, most: 0, default: limits::DEFAULT_LOAD_WEIGHT };
/// The term for the track record: its weight is zero or more, because success raises the score.
pub const PERFORMANCE_TERM: Term =
    Term { name: "performance", least: 0, most: limits::MAX_WEIGHT, default: limits::DEFAULT_PERFORMANCE_WEIGHT };

/// Number of log entries after which a snapshot is written. Few are refused: a snapshot costs far more than an entry.
pub const SNAPSHOT_AFTER: Number<u32> = Number {
    setting: Setting::new(
        For::Coordinators,
        "snapshot-after",
        &["ROBEING_SNAPSHOT_AFTER"],
        "ENTRIES",
        "Number of log entries after which a snapshot is written",
    ),
    least: 100,
    most: u32::MAX,
    default: 50_000,
};

/// The coordinators that an agent asks for the leader.
pub const COORDINATORS: Setting = Setting::new(
    For::Agents,
    "coordinators",
    &["ROBEING_COORDINATORS", "COORDINATOR_URL"],
    "HOST:PORT,...",
    "Coordinators to ask for the leader; http://HOST:PORT works too, and port 8080 may be left out",
)
.unset("port 8080 of the Service named after the cluster");

/// The agent's pool.
pub const POOL: Setting =
    Setting::new(For::Agents, "pool", &["ROBEING_POOL"], "NAME", "Pool of the agent").unset("none");

/// Number of active agents in the pool; 0: not fixed.
pub const POOL_REPLICAS: Number<u32> = Number {
    setting: Setting::new(
        For::Agents,
        "pool-replicas",
        &["ROBEING_POOL_REPLICAS"],
        "N",
        "Number of active agents in the pool; further agents are standbys",
    )
    .unset("not fixed"),
    least: 0,
    most: MAX_AGENTS,
    default: 0,
};

/// Number of standby agents in the pool.
pub const POOL_STANDBY: Number<u32> = Number {
    setting: Setting::new(
        For::Agents,
        "pool-standby",
        &["ROBEING_POOL_STANDBY"],
        "N",
        "Number of standby agents in the pool",
    ),
    least: 0,
    most: MAX_AGENTS,
    default: 0,
};

/// The specializations of an agent.
pub const SPECIALIZATIONS: Setting = Setting::new(
    For::Agents,
    "specializations",
    &["ROBEING_SPECIALIZATIONS", "SPECIALIZATION"],
    "NAME,...",
    "Specializations of the agent; a specialist needs at least one",
);

/// Number of tasks an agent runs at once.
pub const SLOTS: Number<u32> = Number {
    setting: Setting::new(For::Agents, "slots", &["ROBEING_SLOTS"], "N", "Number of tasks to run at once"),
    least: 1,
    most: limits::MAX_SLOTS,
    default: 1,
};

/// How an agent runs a task; see [`ExecutorSpec`](super::ExecutorSpec).
pub const EXECUTOR: Setting = Setting::new(
    For::Agents,
    "executor",
    &["ROBEING_EXECUTOR"],
    "JSON",
    r#"How to run a task, as in a manifest: {"command":{"argv":["wc","-w"]}}, {"http":{"url":"http://...","healthPath":"/healthz"}}, {"worker":{}} or {"echo":{}}"#,
)
.unset(r#"{"worker":{}}"#);

/// What an agent does with the messages that it receives; see [`MessagesSpec`](super::MessagesSpec).
pub const MESSAGES: Setting = Setting::new(
    For::Agents,
    "messages",
    &["ROBEING_MESSAGES"],
    "JSON",
    r#"What to do with received messages, as in a manifest: {"inbox":{}}, {"command":{"argv":["handle"]}}, {"http":{"url":"http://..."}} or {"worker":{}}"#,
)
.unset("attached processes that handle messages; without any, the inbox");

/// What a guardian does about anomalies; see [`OnAnomaly`](super::OnAnomaly).
pub const ON_ANOMALY: Setting = Setting::new(
    For::Agents,
    "on-anomaly",
    &["ROBEING_ON_ANOMALY"],
    "ACTION",
    "What a guardian does about an agent that behaves severely and repeatedly unlike itself: report, quarantine, or \
     quarantine-all, also for the number of its messages",
)
.unset("quarantine");

/// How long an agent has to be active before a guardian judges it.
pub const ANOMALY_WARM_UP: Span = Span {
    setting: Setting::new(
        For::Agents,
        "anomaly-warm-up",
        &["ROBEING_ANOMALY_WARM_UP"],
        "DURATION",
        "How many seconds an agent has to be active, counted apart, before a guardian compares it with itself",
    ),
    least: Duration::from_secs(10),
    most: Duration::from_secs(24 * 60 * 60),
    default: Duration::from_secs(60),
};

/// The address that a user's worker processes attach to, `host:port`.
pub const WORKER_LISTEN: Setting = Setting::new(
    For::Agents,
    "worker-listen",
    &["ROBEING_WORKER_LISTEN"],
    "HOST:PORT",
    "Address that worker processes attach to, with the executor worker; must be a loopback address",
)
.unset(DEFAULT_WORKER_LISTEN);

/// The address of a messenger's gateway, `host:port`.
pub const GATEWAY_LISTEN: Setting = Setting::new(
    For::Agents,
    "gateway-listen",
    &["ROBEING_GATEWAY_LISTEN"],
    "HOST:PORT",
    "Address at which a messenger serves its gateway for HTTP clients; port 0 picks a free port",
)
.unset("not served");

/// The file with the webhooks that messengers call.
pub const WEBHOOKS: Setting = Setting::new(
    For::Agents,
    "webhooks",
    &["ROBEING_WEBHOOKS"],
    "FILE",
    "List of webhooks, JSON, that messengers call when tasks end",
)
.unset("none")
.path();

/// The object store, from which agents fetch inputs that are too large for the log, and in which they put such outputs.
pub const OBJECT_STORE: Setting = Setting::new(
    For::Agents,
    "object-store",
    &["ROBEING_OBJECT_STORE"],
    "URL",
    "Where inputs and outputs of more than 1 MiB are: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or file:///DIRECTORY",
)
.unset("none, and such outputs are failures");

/// How long running tasks may continue after an agent is asked to stop.
pub const DRAIN_TIMEOUT: Span = Span {
    setting: Setting::new(
        For::Agents,
        "drain-timeout",
        &["ROBEING_DRAIN_TIMEOUT"],
        "DURATION",
        "How long running tasks may continue after SIGTERM before they are handed back",
    ),
    least: Duration::ZERO,
    most: MAX_DURATION,
    default: Duration::from_secs(30),
};

/// Number of agents that the whole fleet is meant to have. For display only.
pub const AGENT_COUNT: Number<u32> = Number {
    setting: Setting::new(
        For::Both,
        "agent-count",
        &["AGENT_COUNT"],
        "N",
        "Intended number of agents in the whole fleet; for display only, each process is one agent",
    )
    .unset("unknown"),
    least: 0,
    most: MAX_AGENTS,
    default: 0,
};

/// All settings with a value, in the order of the help text.
pub const SETTINGS: &[&dyn Defined] = &[
    &ROLE,
    &NAME,
    &CLUSTER_ID,
    &LISTEN,
    &ADVERTISE,
    &METRICS_LISTEN,
    &LOG_FORMAT,
    &TLS,
    &DATA,
    &INITIAL_COORDINATORS,
    &HEARTBEAT_INTERVAL,
    &SESSION_TIMEOUT,
    &HEALTH_CHECK_INTERVAL,
    &DISCONNECT_GRACE,
    &ELECTION_TIMEOUT,
    &MAX_ATTEMPTS,
    &WEIGHTS,
    &MAX_QUEUED,
    &MAX_TASKS,
    &MAX_BYTES,
    &RESULT_TTL,
    &IDEMPOTENCY_WINDOW,
    &RECENT_RESULTS,
    &SNAPSHOT_AFTER,
    &BALLOT_THRESHOLD,
    &BALLOT_DEADLINE,
    &CA,
    &ENROLMENT,
    &TRUST_DOMAIN,
    &NAMESPACE,
    &RIGHTS,
    &JOIN,
    &COORDINATORS,
    &POOL,
    &POOL_REPLICAS,
    &POOL_STANDBY,
    &SPECIALIZATIONS,
    &SLOTS,
    &CONTRIBUTE,
    &EXECUTOR,
    &MESSAGES,
    &ON_ANOMALY,
    &ANOMALY_WARM_UP,
    &WORKER_LISTEN,
    &GATEWAY_LISTEN,
    &WEBHOOKS,
    &OBJECT_STORE,
    &DRAIN_TIMEOUT,
    &TRUST,
    &JOIN_TOKEN,
    &JOIN_SECRET,
    &SERVICE_ACCOUNT_TOKEN,
    &AGENT_COUNT,
];
