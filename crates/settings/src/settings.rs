//! The definitions of all settings. The command line, the environment, the operator, `robeing dev` and the schema of the
//! resource take names, bounds and defaults from here; the bounds of the state machine are its own
//! ([`robeing_fleet::limits`]), and stand here as they are there.

use std::time::Duration;

use robeing_fleet::limits;

use super::{
    DEFAULT_CLUSTER, DEFAULT_DATA, DEFAULT_WORKER_LISTEN, MIN_INTERVAL,
    definition::{Defined, For, Number, Setting, Span, Term},
};

/// The longest duration that any setting may have: 366 days.
pub const MAX_DURATION: Duration = Duration::from_millis(limits::MAX_DURATION_MS);
/// Agents a pool or a fleet may be said to have.
pub const MAX_AGENTS: u32 = limits::MAX_AGENTS;
/// Longest name of a process, cluster, pool or specialization, bytes.
pub const MAX_NAME_BYTES: usize = limits::MAX_NAME_BYTES;
/// Specializations of one agent.
pub const MAX_SPECIALIZATIONS: usize = limits::MAX_SPECIALIZATIONS;
/// Heartbeats that fit into a session timeout at least, so that one late heartbeat does not lose an agent.
pub const HEARTBEATS_PER_SESSION: u32 = 2;

/// The variable with the address of a pod.
pub const POD_IP: &str = "POD_IP";
/// The variable with the name of a machine.
pub const HOSTNAME: &str = "HOSTNAME";
/// The variable that tells a process of the user's where to attach to its agent. No setting of Robeing's own.
pub const WORKER_ADDRESS: &str = "ROBEING_WORKER_ADDRESS";

/// What the process is; see [`ProcessRole`](super::ProcessRole).
pub const ROLE: Setting = Setting::new(
    For::Both,
    "role",
    &["AGENT_ROLE", "ROLE"],
    "ROLE",
    "What the process is: coordinator, worker, specialist, messenger or guardian",
);

/// Its name.
pub const NAME: Setting = Setting::new(
    For::Both,
    "name",
    &["ROBEING_NAME", "AGENT_ID", HOSTNAME],
    "NAME",
    "Its name, the same after a restart",
);

/// The cluster it belongs to.
pub const CLUSTER_ID: Setting =
    Setting::new(For::Both, "cluster-id", &["CLUSTER_ID"], "NAME", "The cluster it belongs to").unset(DEFAULT_CLUSTER);

/// Where it listens, host:port.
pub const LISTEN: Setting =
    Setting::new(For::Both, "listen", &["ROBEING_LISTEN"], "HOST:PORT", "Where to listen; port 0 takes a free one")
        .unset("0.0.0.0:8080");

/// Where others reach it, host:port.
pub const ADVERTISE: Setting =
    Setting::new(For::Both, "advertise", &["ROBEING_ADVERTISE"], "HOST:PORT", "Where others reach it")
        .unset("the listening address; for 0.0.0.0 the host in POD_IP or HOSTNAME, of which an agent says the address");

/// Where it serves metrics and probes, host:port.
pub const METRICS_LISTEN: Setting = Setting::new(
    For::Both,
    "metrics-listen",
    &["ROBEING_METRICS_LISTEN"],
    "HOST:PORT",
    "Where to serve /metrics, /healthz and /readyz over HTTP",
)
.unset("nowhere");

/// How it logs; see [`LogFormat`](super::LogFormat).
pub const LOG_FORMAT: Setting = Setting::new(
    For::Both,
    "log-format",
    &["ROBEING_LOG_FORMAT"],
    "FORMAT",
    "text or json; RUST_LOG says how much is logged",
)
.unset("text");

/// The directory of a coordinator. The one setting whose value need not be text.
pub const DATA: Setting =
    Setting::new(For::Coordinators, "data", &["ROBEING_DATA"], "DIR", "Directory of the log and snapshots")
        .unset(DEFAULT_DATA);

/// The members of the first membership.
pub const INITIAL_COORDINATORS: Setting = Setting::new(
    For::Coordinators,
    "initial-coordinators",
    &["ROBEING_INITIAL_COORDINATORS"],
    "NAME=HOST:PORT,...",
    "All members of the fleet's first membership, used when the data directory is new",
)
.unset("itself alone");

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

/// After how long without a heartbeat an agent is lost: [`HEARTBEATS_PER_SESSION`] intervals at least.
pub const SESSION_TIMEOUT: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "session-timeout",
        &["ROBEING_SESSION_TIMEOUT"],
        "DURATION",
        "After how long without a heartbeat an agent is lost; at least twice the interval",
    ),
    least: Duration::from_millis(50),
    most: Duration::from_secs(600),
    default: Duration::from_secs(2),
};

/// How often agents are asked how they are.
pub const HEALTH_CHECK_INTERVAL: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "health-check-interval",
        &["ROBEING_HEALTH_CHECK_INTERVAL"],
        "DURATION",
        "How often agents, and through them what they run tasks with, are asked how they are",
    ),
    least: Duration::from_millis(100),
    most: Duration::from_secs(3600),
    default: Duration::from_secs(10),
};

/// How long an agent whose connection broke has for coming back.
pub const DISCONNECT_GRACE: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "disconnect-grace",
        &["ROBEING_DISCONNECT_GRACE"],
        "DURATION",
        "How long an agent whose connection broke has for coming back",
    ),
    least: Duration::ZERO,
    most: MAX_DURATION,
    default: Duration::from_millis(50),
};

/// Time without word from the leader after which an election begins.
pub const ELECTION_TIMEOUT: Setting = Setting::new(
    For::Coordinators,
    "election-timeout",
    &["ROBEING_ELECTION_TIMEOUT"],
    "MIN..MAX",
    "Time without word from the leader after which an election begins",
)
.unset("150ms..300ms");

/// Attempts of a task that does not say how many.
pub const MAX_ATTEMPTS: Number<u32> = Number {
    setting: Setting::new(
        For::Coordinators,
        "max-attempts",
        &["ROBEING_MAX_ATTEMPTS"],
        "N",
        "Attempts of a task that does not say how many",
    ),
    least: 1,
    most: limits::MAX_ATTEMPTS,
    default: limits::DEFAULT_MAX_ATTEMPTS,
};

/// The points of each [`Term`] of an agent's score.
pub const WEIGHTS: Setting = Setting::new(
    For::Coordinators,
    "weights",
    &["ROBEING_WEIGHTS"],
    "TERM=POINTS,...",
    "Weights of an agent's score for a task",
)
.unset("specialization=50,load=-10,performance=20");

/// For an agent with the specialization that the task's kind names. Below zero the scheduler could not look for the best.
pub const SPECIALIZATION_TERM: Term =
    Term { name: "specialization", least: 0, most: limits::MAX_WEIGHT, default: limits::DEFAULT_SPECIALIZATION_WEIGHT };
/// For a fully loaded agent: zero or less, because load lowers the score.
pub const LOAD_TERM: Term =
    Term { name: "load", least: -limits::MAX_WEIGHT, most: 0, default: limits::DEFAULT_LOAD_WEIGHT };
/// For an agent with a perfect track record: zero or more, because success raises the score.
pub const PERFORMANCE_TERM: Term =
    Term { name: "performance", least: 0, most: limits::MAX_WEIGHT, default: limits::DEFAULT_PERFORMANCE_WEIGHT };

/// Unfinished tasks at most.
pub const MAX_QUEUED: Number<u32> = Number {
    setting: Setting::new(For::Coordinators, "max-queued", &["ROBEING_MAX_QUEUED"], "N", "Unfinished tasks at most"),
    least: 1,
    most: u32::MAX,
    default: limits::DEFAULT_MAX_QUEUED,
};

/// Tasks kept at most.
pub const MAX_TASKS: Number<u32> = Number {
    setting: Setting::new(
        For::Coordinators,
        "max-tasks",
        &["ROBEING_MAX_TASKS"],
        "N",
        "Tasks kept at most, finished ones included",
    ),
    least: 1,
    most: u32::MAX,
    default: limits::DEFAULT_MAX_TASKS,
};

/// Bytes of inputs and outputs held at most.
pub const MAX_BYTES: Number<u64> = Number {
    setting: Setting::new(
        For::Coordinators,
        "max-bytes",
        &["ROBEING_MAX_BYTES"],
        "BYTES",
        "Bytes of inputs and outputs held at most",
    ),
    least: 1,
    most: u64::MAX,
    default: limits::DEFAULT_MAX_BYTES,
};

/// How long a finished task is kept.
pub const RESULT_TTL: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "result-ttl",
        &["ROBEING_RESULT_TTL"],
        "DURATION",
        "How long a finished task is kept",
    ),
    least: Duration::ZERO,
    most: MAX_DURATION,
    default: Duration::from_millis(limits::DEFAULT_RESULT_TTL_MS),
};

/// Entries of the log after which a snapshot is written. Few are refused, because a snapshot costs far more than an entry.
pub const SNAPSHOT_AFTER: Number<u32> = Number {
    setting: Setting::new(
        For::Coordinators,
        "snapshot-after",
        &["ROBEING_SNAPSHOT_AFTER"],
        "ENTRIES",
        "Entries of the log after which a snapshot is written",
    ),
    least: 100,
    most: u32::MAX,
    default: 50_000,
};

/// Coordinators to ask for the leader.
pub const COORDINATORS: Setting = Setting::new(
    For::Agents,
    "coordinators",
    &["ROBEING_COORDINATORS", "COORDINATOR_URL"],
    "HOST:PORT,...",
    "Coordinators, any of which leads to the leader; http://HOST:PORT will do, port 8080 may be left out",
)
.unset("port 8080 of the Service called like the cluster");

/// The pool an agent is of.
pub const POOL: Setting =
    Setting::new(For::Agents, "pool", &["ROBEING_POOL"], "NAME", "The pool it is of").unset("none");

/// Agents of the pool that work; 0: not fixed.
pub const POOL_REPLICAS: Number<u32> = Number {
    setting: Setting::new(
        For::Agents,
        "pool-replicas",
        &["ROBEING_POOL_REPLICAS"],
        "N",
        "Agents of the pool that work; further ones wait as standby",
    )
    .unset("not fixed"),
    least: 0,
    most: MAX_AGENTS,
    default: 0,
};

/// Agents of the pool that wait as standby.
pub const POOL_STANDBY: Number<u32> = Number {
    setting: Setting::new(
        For::Agents,
        "pool-standby",
        &["ROBEING_POOL_STANDBY"],
        "N",
        "Agents of the pool that wait as standby",
    ),
    least: 0,
    most: MAX_AGENTS,
    default: 0,
};

/// The skills of an agent.
pub const SPECIALIZATIONS: Setting = Setting::new(
    For::Agents,
    "specializations",
    &["ROBEING_SPECIALIZATIONS", "SPECIALIZATION"],
    "NAME,...",
    "Its skills; a specialist has at least one",
);

/// Tasks an agent runs at once.
pub const SLOTS: Number<u32> = Number {
    setting: Setting::new(For::Agents, "slots", &["ROBEING_SLOTS"], "N", "Tasks it runs at once"),
    least: 1,
    most: limits::MAX_SLOTS,
    default: 1,
};

/// What running a task means; see [`ExecutorSpec`](super::ExecutorSpec).
pub const EXECUTOR: Setting = Setting::new(
    For::Agents,
    "executor",
    &["ROBEING_EXECUTOR"],
    "JSON",
    r#"What running a task means, as in a manifest: {"command":{"argv":["wc","-w"]}}, {"http":{"url":"http://...","healthPath":"/healthz"}}, {"worker":{}} or {"echo":{}}"#,
)
.unset(r#"{"worker":{}}"#);

/// Where processes of the user's attach to an agent, host:port.
pub const WORKER_LISTEN: Setting = Setting::new(
    For::Agents,
    "worker-listen",
    &["ROBEING_WORKER_LISTEN"],
    "HOST:PORT",
    "Where processes attach that run tasks, with the executor worker: an address of this machine alone",
)
.unset(DEFAULT_WORKER_LISTEN);

/// How long running tasks may go on after an agent was asked to stop.
pub const DRAIN_TIMEOUT: Span = Span {
    setting: Setting::new(
        For::Agents,
        "drain-timeout",
        &["ROBEING_DRAIN_TIMEOUT"],
        "DURATION",
        "How long running tasks may go on after SIGTERM before they are handed back",
    ),
    least: Duration::ZERO,
    most: MAX_DURATION,
    default: Duration::from_secs(30),
};

/// Agents the whole fleet is said to have.
pub const AGENT_COUNT: Number<u32> = Number {
    setting: Setting::new(
        For::Both,
        "agent-count",
        &["AGENT_COUNT"],
        "N",
        "How many agents the whole fleet is meant to have; for showing only, every process is one agent",
    )
    .unset("unknown"),
    least: 0,
    most: MAX_AGENTS,
    default: 0,
};

/// All settings that have a value, in the order of the help.
pub const SETTINGS: &[&dyn Defined] = &[
    &ROLE,
    &NAME,
    &CLUSTER_ID,
    &LISTEN,
    &ADVERTISE,
    &METRICS_LISTEN,
    &LOG_FORMAT,
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
    &SNAPSHOT_AFTER,
    &COORDINATORS,
    &POOL,
    &POOL_REPLICAS,
    &POOL_STANDBY,
    &SPECIALIZATIONS,
    &SLOTS,
    &EXECUTOR,
    &WORKER_LISTEN,
    &DRAIN_TIMEOUT,
    &AGENT_COUNT,
];
