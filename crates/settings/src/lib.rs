//! What a process of this crate is told at its start, by flags and environment. Knows names and forms; starts nothing.

mod agent;
mod coordinator;
mod forms;
mod settings;

#[cfg(test)]
mod tests;

use std::{ffi::OsString, path::PathBuf};

pub use agent::*;
pub use coordinator::*;
use forms::{AnyRole, duration, number, optional_number};
pub use forms::{DEFAULT_PORT, MAX_COORDINATORS, MIN_INTERVAL};
use robeing_fleet::limits::{MAX_ATTEMPTS, MAX_SLOTS};
pub use settings::command;
use settings::{For, Sources};

/// Where a coordinator keeps its data unless told otherwise.
pub const DEFAULT_DATA: &str = "/var/lib/robeing";
/// Agents a pool or a fleet may be said to have.
pub const MAX_AGENTS: u32 = robeing_fleet::limits::MAX_AGENTS;

/// Why a process cannot be started as it was told.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line is wrong, or asks for help or the version.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// A setting is missing, malformed, or contradicts another. A whole sentence.
    #[error("{0}")]
    Wrong(String),
}

/// Everything a process is told.
#[derive(Clone, Debug, PartialEq)]
pub struct Startup {
    /// What it is.
    pub process: Process,
    /// How it logs.
    pub log_format: LogFormat,
    /// Whether it ends with the process that started it.
    pub exit_with_parent: bool,
}

/// What a process is.
#[derive(Clone, Debug, PartialEq)]
pub enum Process {
    /// A coordinator.
    Coordinator(CoordinatorConfig),
    /// An agent, and what running a task means to it.
    Agent(AgentConfig, ExecutorSpec),
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// Reads the command line of [`command`], the program's name first, and the environment.
///
/// # Errors
/// When a setting is missing, malformed, or contradicts another, and when help or the version is asked for.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Startup, ConfigError> {
    parse_matches(command().try_get_matches_from(args)?, env)
}

/// Reads what was found on the command line of [`command`], and the environment.
///
/// # Errors
/// When a setting is missing, malformed, or contradicts another.
pub fn parse_matches(
    matches: clap::ArgMatches,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Startup, ConfigError> {
    let sources = Sources::read(matches, env)?;
    let role = sources.require("role", "whether this is a coordinator or an agent")?;
    let process = match forms::role(&role)? {
        AnyRole::Coordinator => {
            sources.refuse(For::Agents, "coordinator")?;
            Process::Coordinator(coordinator(&sources)?)
        }
        AnyRole::Agent(kind) => {
            sources.refuse(For::Coordinators, role.text.trim())?;
            let executor =
                sources.get("executor").map_or(Ok(ExecutorSpec::Worker {}), |value| forms::executor(&value))?;
            Process::Agent(agent(&sources, kind)?, executor)
        }
    };
    Ok(Startup { process, log_format: log_format(&sources)?, exit_with_parent: sources.exit_with_parent() })
}

fn coordinator(sources: &Sources<'_>) -> Result<CoordinatorConfig, ConfigError> {
    let common = Common::read(sources)?;
    let members = sources.get("initial-coordinators").map(|value| forms::members(&value)).transpose()?;
    let initial_coordinators = members.unwrap_or_default();
    let own = initial_coordinators.iter().find(|(name, _)| *name == common.name).map(|(_, at)| at.clone());
    let (election_timeout_min, election_timeout_max) = match sources.get("election-timeout") {
        Some(value) => forms::duration_range(&value)?,
        None => (DEFAULT_ELECTION_TIMEOUT_MIN, DEFAULT_ELECTION_TIMEOUT_MAX),
    };
    let interval = duration(sources, "heartbeat-interval", MIN_INTERVAL)?.unwrap_or(DEFAULT_HEARTBEAT_INTERVAL);
    let timeout = duration(sources, "session-timeout", MIN_INTERVAL)?.unwrap_or(DEFAULT_SESSION_TIMEOUT);
    if interval >= timeout {
        return Err(ConfigError::Wrong(format!(
            "the heartbeat interval ({}) is not shorter than the session timeout ({}): change --heartbeat-interval or \
             --session-timeout",
            humantime::format_duration(interval),
            humantime::format_duration(timeout),
        )));
    }
    Ok(CoordinatorConfig {
        advertise: common.advertise(sources, own)?.map(Advertised::into_address),
        data: sources.data().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA)),
        heartbeat_interval: interval,
        session_timeout: timeout,
        health_check_interval: duration(sources, "health-check-interval", MIN_INTERVAL)?
            .unwrap_or(DEFAULT_HEALTH_CHECK_INTERVAL),
        max_attempts: number(sources, "max-attempts", 1, MAX_ATTEMPTS, DEFAULT_MAX_ATTEMPTS)?,
        weights: sources.get("weights").map(|value| forms::weights(&value)).transpose()?.unwrap_or_default(),
        election_timeout_min,
        election_timeout_max,
        disconnect_grace: duration(sources, "disconnect-grace", std::time::Duration::ZERO)?
            .unwrap_or(DEFAULT_DISCONNECT_GRACE),
        limits: FleetLimits {
            max_queued: optional_number(sources, "max-queued", 1, u32::MAX)?,
            max_tasks: optional_number(sources, "max-tasks", 1, u32::MAX)?,
            max_bytes: optional_number(sources, "max-bytes", 1, u64::MAX)?,
            result_ttl: duration(sources, "result-ttl", std::time::Duration::ZERO)?,
        },
        snapshot_after: number(sources, "snapshot-after", MIN_SNAPSHOT_AFTER, u32::MAX, DEFAULT_SNAPSHOT_AFTER)?,
        expected_agents: optional_number(sources, "agent-count", 0, MAX_AGENTS)?,
        initial_coordinators,
        name: common.name,
        cluster_id: common.cluster_id,
        listen: common.listen,
        metrics_listen: common.metrics_listen,
    })
}

fn agent(sources: &Sources<'_>, role: AgentRole) -> Result<AgentConfig, ConfigError> {
    let common = Common::read(sources)?;
    let coordinators = match sources.get("coordinators") {
        Some(value) => forms::coordinators(&value)?,
        // The Service of a RobeingCluster is called like it.
        None => vec![format!("{}:{DEFAULT_PORT}", common.cluster_id)],
    };
    let advertise = common.advertise(sources, None)?;
    let skills = sources.get("specializations").map(|value| forms::specializations(&value)).transpose()?;
    let specializations = skills.unwrap_or_default();
    if role == AgentRole::Specialist && specializations.is_empty() {
        return Err(ConfigError::Wrong(
            "a specialist without a specialization gets no tasks: give --specializations or set SPECIALIZATION, or make \
             it a worker"
                .into(),
        ));
    }
    // Checked though it changes nothing here, so that a typing error does not go unnoticed.
    optional_number(sources, "agent-count", 0, MAX_AGENTS)?;
    let pool = sources.get("pool").filter(|value| !value.text.is_empty());
    let pool = pool.map(|value| forms::name(&value)).transpose()?.unwrap_or_default();
    let pool_replicas = number(sources, "pool-replicas", 0, MAX_AGENTS, 0)?;
    let pool_standby = number(sources, "pool-standby", 0, MAX_AGENTS, 0)?;
    if pool.is_empty() && (pool_replicas > 0 || pool_standby > 0) {
        return Err(ConfigError::Wrong(
            "--pool-replicas and --pool-standby say how large a pool is, but there is none: give --pool too".into(),
        ));
    }
    Ok(AgentConfig {
        advertises_host_name: matches!(advertise, Some(Advertised::HostName(_))),
        advertise: advertise.map(Advertised::into_address),
        role,
        coordinators,
        pool,
        pool_replicas,
        pool_standby,
        specializations,
        slots: number(sources, "slots", 1, MAX_SLOTS, 1)?,
        worker_listen: sources
            .get("worker-listen")
            .map_or_else(|| Ok(DEFAULT_WORKER_LISTEN.to_owned()), |value| forms::local_address(&value))?,
        drain_timeout: duration(sources, "drain-timeout", std::time::Duration::ZERO)?.unwrap_or(DEFAULT_DRAIN_TIMEOUT),
        name: common.name,
        cluster_id: common.cluster_id,
        listen: common.listen,
        metrics_listen: common.metrics_listen,
    })
}

/// What every process is told.
struct Common {
    name: String,
    cluster_id: String,
    listen: String,
    metrics_listen: Option<String>,
}

impl Common {
    fn read(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let listen = sources.get("listen").map(|value| forms::address(&value)).transpose()?;
        Ok(Self {
            name: forms::name(&sources.require("name", "what the process is called")?)?,
            cluster_id: sources
                .get("cluster-id")
                .map_or_else(|| Ok(DEFAULT_CLUSTER.to_owned()), |value| forms::name(&value))?,
            listen: listen.unwrap_or_else(|| format!("0.0.0.0:{DEFAULT_PORT}")),
            metrics_listen: sources.get("metrics-listen").map(|value| forms::address(&value)).transpose()?,
        })
    }

    /// Where others reach it; `None`: where it listens.
    fn advertise(&self, sources: &Sources<'_>, known: Option<String>) -> Result<Option<Advertised>, ConfigError> {
        if let Some(value) = sources.get("advertise") {
            return forms::address(&value).map(Advertised::Said).map(Some);
        }
        let (host, port) = self.listen.rsplit_once(':').unwrap_or((&self.listen, ""));
        if known.is_some() || !matches!(host, "0.0.0.0" | "[::]") {
            return Ok(known.map(Advertised::Said));
        }
        match (sources.env("POD_IP"), sources.env("HOSTNAME")) {
            (Some(ip), _) if ip.contains(':') && !ip.starts_with('[') => {
                Ok(Some(Advertised::Said(format!("[{ip}]:{port}"))))
            }
            (Some(ip), _) => Ok(Some(Advertised::Said(format!("{ip}:{port}")))),
            (None, Some(name)) => Ok(Some(Advertised::HostName(format!("{name}:{port}")))),
            (None, None) => Err(ConfigError::Wrong(format!(
                "it listens on every address ({}), of which others can't reach any: give --advertise HOST:PORT or set \
                 POD_IP",
                self.listen
            ))),
        }
    }
}

/// Where a process says that others reach it, host:port.
enum Advertised {
    /// As it is told.
    Said(String),
    /// Its machine's name.
    HostName(String),
}

impl Advertised {
    fn into_address(self) -> String {
        match self {
            Self::Said(address) | Self::HostName(address) => address,
        }
    }
}

fn log_format(sources: &Sources<'_>) -> Result<LogFormat, ConfigError> {
    let Some(value) = sources.get("log-format") else { return Ok(LogFormat::default()) };
    match value.text.trim().to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(value.wrong("text or json")),
    }
}
