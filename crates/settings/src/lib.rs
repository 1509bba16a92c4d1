//! The settings of coordinator and agent processes, read from flags and the environment. This crate knows names and
//! formats; it starts nothing.
//!
//! Each setting is defined once, in [`settings`]: its flag, its environment variables, its bounds and its default.
//! [`parse`] reads what [`Startup::to_env`] and [`Startup::to_args`] write; [`text`] formats single values.

mod agent;
mod ballots;
mod command;
mod contribute;
mod coordinator;
mod definition;
mod forms;
mod keeping;
pub mod quantities;
mod said;
mod security;
pub mod settings;
mod sources;
pub mod text;

#[cfg(test)]
mod tests;

use std::ffi::OsString;

pub use agent::*;
pub use ballots::BallotDefaults;
pub use command::command;
pub use contribute::Contribute;
pub use coordinator::*;
pub use definition::{Defined, For, Number, Setting, Span, Term};
pub use forms::{DEFAULT_PORT, MAX_COORDINATORS, MIN_INTERVAL, local_port};
use forms::{number, span};
pub use robeing_fleet::Fraction;
pub use said::{CommandLine, Said};
pub use security::{
    AuthorityConfig, DEFAULT_NAMESPACE, DEFAULT_TRUST_DOMAIN, Enrolment, EnrolmentConfig, JoinProof, TlsMode,
};
use settings::{HOSTNAME, POD_IP};
use sources::Sources;

/// Hosts that mean every address of a machine.
const EVERY_ADDRESS: [&str; 2] = ["0.0.0.0", "[::]"];

/// The reason a process can't be started with its settings.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The command line is wrong, or asks for help or the version.
    #[error(transparent)]
    CommandLine(#[from] clap::Error),
    /// A setting is missing, malformed, or contradicts another. The text is a whole sentence.
    #[error("{0}")]
    Wrong(String),
}

/// All settings of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Startup {
    /// The kind of process, with its settings.
    pub process: Process,
    /// The format of its logs.
    pub log_format: LogFormat,
    /// Whether it exits with its parent process.
    pub exit_with_parent: bool,
}

/// The kind of a process, with its settings.
#[derive(Clone, Debug, PartialEq)]
pub enum Process {
    /// A coordinator.
    Coordinator(CoordinatorConfig),
    /// An agent and its executor.
    Agent(AgentConfig, ExecutorSpec),
}

/// The role of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessRole {
    /// A coordinator.
    Coordinator,
    /// An agent.
    Agent(AgentRole),
}

impl ProcessRole {
    /// All roles.
    pub const ALL: [Self; 5] = [
        Self::Coordinator,
        Self::Agent(AgentRole::Worker),
        Self::Agent(AgentRole::Specialist),
        Self::Agent(AgentRole::Messenger),
        Self::Agent(AgentRole::Guardian),
    ];

    /// The role as written on a command line.
    pub fn as_flag(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent(AgentRole::Worker) => "worker",
            Self::Agent(AgentRole::Specialist) => "specialist",
            Self::Agent(AgentRole::Messenger) => "messenger",
            Self::Agent(AgentRole::Guardian) => "guardian",
        }
    }

    /// The role as written in an environment variable.
    pub fn as_variable(self) -> String {
        self.as_flag().to_ascii_uppercase()
    }
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Human-readable text.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

impl LogFormat {
    /// All formats.
    pub const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// The format as written in a setting.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// Reads the settings from a command line of [`command`] (program name first) and the environment.
///
/// # Errors
/// If a setting is missing, malformed, or contradicts another, or if help or the version is requested.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Startup, ConfigError> {
    parse_matches(command().try_get_matches_from(args)?, env)
}

/// Reads the settings from the matches of a command line of [`command`] and the environment.
///
/// # Errors
/// If a setting is missing, malformed, or contradicts another.
pub fn parse_matches(
    matches: clap::ArgMatches,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Startup, ConfigError> {
    let sources = Sources::read(matches, env)?;
    let role = sources.require(&settings::ROLE, "the role of this process")?;
    let process = match forms::role(&role)? {
        ProcessRole::Coordinator => {
            sources.refuse(For::Agents, "coordinator")?;
            Process::Coordinator(coordinator(&sources)?)
        }
        ProcessRole::Agent(kind) => {
            sources.refuse(For::Coordinators, role.text.trim())?;
            let executor = sources.get(&settings::EXECUTOR);
            let executor = executor.map_or(Ok(ExecutorSpec::Worker {}), |value| forms::executor(&value))?;
            let config = agent(&sources, kind)?;
            check_messages(&config, &executor)?;
            Process::Agent(config, executor)
        }
    };
    let log_format = sources.get(&settings::LOG_FORMAT).map(|value| forms::log_format(&value)).transpose()?;
    let log_format = log_format.unwrap_or_default();
    Ok(Startup { process, log_format, exit_with_parent: sources.exit_with_parent() })
}

fn coordinator(sources: &Sources<'_>) -> Result<CoordinatorConfig, ConfigError> {
    let common = Common::read(sources)?;
    let members = sources.get(&settings::INITIAL_COORDINATORS).map(|value| forms::members(&value)).transpose()?;
    let initial_coordinators = members.unwrap_or_default();
    let own = initial_coordinators.iter().find(|(name, _)| *name == common.name).map(|(_, at)| at.clone());
    let advertise = common.advertise(sources, own)?.map(Advertised::into_address);
    let mut config = CoordinatorConfig::new(common.name, common.cluster_id, common.listen);
    config.advertise = advertise;
    config.metrics_listen = common.metrics_listen;
    config.initial_coordinators = initial_coordinators;
    config.data = sources.path(&settings::DATA).unwrap_or(config.data);
    config.heartbeat_interval = span(sources, &settings::HEARTBEAT_INTERVAL)?.unwrap_or(config.heartbeat_interval);
    config.session_timeout = span(sources, &settings::SESSION_TIMEOUT)?.unwrap_or(config.session_timeout);
    check_session(&config)?;
    let health_checks = span(sources, &settings::HEALTH_CHECK_INTERVAL)?;
    config.health_check_interval = health_checks.unwrap_or(config.health_check_interval);
    config.max_attempts = number(sources, &settings::MAX_ATTEMPTS)?.unwrap_or(config.max_attempts);
    let weights = sources.get(&settings::WEIGHTS).map(|value| forms::weights(&value)).transpose()?;
    config.weights = weights.unwrap_or(config.weights);
    if let Some(value) = sources.get(&settings::ELECTION_TIMEOUT) {
        (config.election_timeout_min, config.election_timeout_max) = forms::duration_range(&value)?;
    }
    config.disconnect_grace = span(sources, &settings::DISCONNECT_GRACE)?.unwrap_or(config.disconnect_grace);
    config.limits = FleetLimits {
        max_queued: number(sources, &settings::MAX_QUEUED)?,
        max_tasks: number(sources, &settings::MAX_TASKS)?,
        max_bytes: number(sources, &settings::MAX_BYTES)?,
        result_ttl: span(sources, &settings::RESULT_TTL)?,
        idempotency_window: span(sources, &settings::IDEMPOTENCY_WINDOW)?,
        recent_results: number(sources, &settings::RECENT_RESULTS)?,
    };
    config.snapshot_after = number(sources, &settings::SNAPSHOT_AFTER)?.unwrap_or(config.snapshot_after);
    config.ballots = ballots::ballots(sources)?;
    config.expected_agents = number(sources, &settings::AGENT_COUNT)?;
    config.tls = common.tls;
    config.authority = authority(sources, common.tls)?;
    if common.tls != TlsMode::Off && config.authority.directory.is_none() && config.initial_coordinators.len() > 1 {
        return Err(ConfigError::Wrong(format!(
            "several coordinators need one certificate authority, and each would make its own: give --{} DIR, the same \
             to all of them",
            settings::CA.flag
        )));
    }
    Ok(config)
}

fn authority(sources: &Sources<'_>, tls: TlsMode) -> Result<AuthorityConfig, ConfigError> {
    if tls == TlsMode::Off && sources.path(&settings::RIGHTS).is_some() {
        return Err(ConfigError::Wrong(format!(
            "without TLS, nobody knows who a client is, and everyone may do everything: remove --{}, or leave --{} at \
             strict",
            settings::RIGHTS.flag,
            settings::TLS.flag
        )));
    }
    let mut config = AuthorityConfig {
        directory: sources.path(&settings::CA),
        rights: sources.path(&settings::RIGHTS),
        join: sources.path(&settings::JOIN),
        ..AuthorityConfig::default()
    };
    let enrolment = sources.get(&settings::ENROLMENT).filter(|value| !value.text.is_empty());
    config.enrolment = enrolment.map(|value| forms::enrolment(&value)).transpose()?;
    if let Some(value) = sources.get(&settings::TRUST_DOMAIN) {
        config.trust_domain = forms::trust_domain(&value)?;
    }
    if let Some(value) = sources.get(&settings::NAMESPACE) {
        config.namespace = forms::name(&value)?;
    }
    Ok(config)
}

fn enrolment(sources: &Sources<'_>) -> Result<EnrolmentConfig, ConfigError> {
    let token = sources.get(&settings::JOIN_TOKEN).map(|value| value.text.trim().to_owned());
    let proofs = [
        (&settings::JOIN_TOKEN, token.filter(|token| !token.is_empty()).map(JoinProof::Token)),
        (&settings::JOIN_SECRET, sources.path(&settings::JOIN_SECRET).map(JoinProof::Secret)),
        (
            &settings::SERVICE_ACCOUNT_TOKEN,
            sources.path(&settings::SERVICE_ACCOUNT_TOKEN).map(JoinProof::ServiceAccount),
        ),
    ];
    let mut given = proofs.into_iter().filter_map(|(setting, proof)| Some((setting, proof?)));
    let proof = match (given.next(), given.next()) {
        (Some((one, _)), Some((other, _))) => {
            return Err(ConfigError::Wrong(format!(
                "an agent enrols with one proof: give either --{} or --{}",
                one.flag, other.flag
            )));
        }
        (first, _) => first.map(|(_, proof)| proof).unwrap_or_default(),
    };
    Ok(EnrolmentConfig { trust: sources.path(&settings::TRUST), proof })
}

fn check_session(config: &CoordinatorConfig) -> Result<(), ConfigError> {
    let (interval, timeout) = (config.heartbeat_interval, config.session_timeout);
    if interval * settings::HEARTBEATS_PER_SESSION <= timeout {
        return Ok(());
    }
    Err(ConfigError::Wrong(format!(
        "the session timeout ({}) is shorter than {} heartbeat intervals ({} each): lengthen --{} or shorten --{}",
        text::duration(timeout),
        settings::HEARTBEATS_PER_SESSION,
        text::duration(interval),
        settings::SESSION_TIMEOUT.setting.flag,
        settings::HEARTBEAT_INTERVAL.setting.flag,
    )))
}

fn agent(sources: &Sources<'_>, role: AgentRole) -> Result<AgentConfig, ConfigError> {
    let common = Common::read(sources)?;
    let coordinators = match sources.get(&settings::COORDINATORS) {
        Some(value) => forms::coordinators(&value)?,
        // The Service of a RobeingCluster has the cluster's name.
        None => vec![format!("{}:{DEFAULT_PORT}", common.cluster_id)],
    };
    let advertise = common.advertise(sources, None)?;
    let mut config = AgentConfig::new(common.name, common.cluster_id, role, common.listen, coordinators);
    config.advertises_host_name = matches!(advertise, Some(Advertised::HostName(_)));
    config.advertise = advertise.map(Advertised::into_address);
    config.metrics_listen = common.metrics_listen;
    let skills = sources.get(&settings::SPECIALIZATIONS).map(|value| forms::specializations(&value)).transpose()?;
    config.specializations = skills.unwrap_or_default();
    if role == AgentRole::Specialist && config.specializations.is_empty() {
        return Err(ConfigError::Wrong(
            "a specialist without a specialization gets no tasks: give --specializations or set SPECIALIZATION, or \
             make it a worker"
                .into(),
        ));
    }
    // Has no effect on an agent, but is checked so that a typo does not go unnoticed.
    number(sources, &settings::AGENT_COUNT)?;
    let pool = sources.get(&settings::POOL).filter(|value| !value.text.is_empty());
    config.pool = pool.map(|value| forms::name(&value)).transpose()?.unwrap_or_default();
    config.pool_replicas = number(sources, &settings::POOL_REPLICAS)?.unwrap_or(config.pool_replicas);
    config.pool_standby = number(sources, &settings::POOL_STANDBY)?.unwrap_or(config.pool_standby);
    if config.pool.is_empty() && (config.pool_replicas > 0 || config.pool_standby > 0) {
        return Err(ConfigError::Wrong(
            "--pool-replicas and --pool-standby set the size of a pool, but no pool is named: give --pool too".into(),
        ));
    }
    config.slots = number(sources, &settings::SLOTS)?.unwrap_or(config.slots);
    let given = sources.get(&settings::CONTRIBUTE);
    config.contribute = given.map(|value| contribute::contribute(&value)).transpose()?.unwrap_or_default();
    config.drain_timeout = span(sources, &settings::DRAIN_TIMEOUT)?.unwrap_or(config.drain_timeout);
    if let Some(value) = sources.get(&settings::WORKER_LISTEN) {
        config.worker_listen = forms::local_address(&value)?;
    }
    config.messages = sources.get(&settings::MESSAGES).map(|value| forms::messages(&value)).transpose()?;
    if let Some(value) = sources.get(&settings::ON_ANOMALY).filter(|value| !value.text.trim().is_empty()) {
        config.on_anomaly = forms::on_anomaly(&value)?;
    }
    config.anomaly_warm_up = span(sources, &settings::ANOMALY_WARM_UP)?.unwrap_or(config.anomaly_warm_up);
    config.data = sources.path(&settings::DATA);
    let store = sources.get(&settings::OBJECT_STORE).filter(|value| !value.text.trim().is_empty());
    config.object_store = store.map(|value| forms::object_store(&value)).transpose()?;
    config.tls = common.tls;
    gateway(sources, &mut config)?;
    config.enrolment = enrolment(sources)?;
    Ok(config)
}

fn check_messages(config: &AgentConfig, executor: &ExecutorSpec) -> Result<(), ConfigError> {
    match (&config.messages, executor) {
        (Some(MessagesSpec::Worker {}), ExecutorSpec::Worker {}) => Ok(()),
        (Some(MessagesSpec::Worker {}), _) => Err(ConfigError::Wrong(format!(
            "--{} worker hands messages to attached processes, and processes attach with --{} {{\"worker\":{{}}}} alone: \
             change one of them",
            settings::MESSAGES.flag,
            settings::EXECUTOR.flag
        ))),
        _ => Ok(()),
    }
}

/// Reads the settings of a messenger's gateway. Other agents have none; they may share their environment with one.
fn gateway(sources: &Sources<'_>, config: &mut AgentConfig) -> Result<(), ConfigError> {
    if config.role != AgentRole::Messenger {
        let mut given = [&settings::GATEWAY_LISTEN, &settings::WEBHOOKS].into_iter();
        return match given.find(|setting| sources.is_flag(setting)) {
            None => Ok(()),
            Some(setting) => Err(ConfigError::Wrong(format!(
                "--{} is for messengers, but --role is another one: remove it, or make the agent a messenger",
                setting.flag
            ))),
        };
    }
    let listen = sources.get(&settings::GATEWAY_LISTEN).filter(|value| !value.text.trim().is_empty());
    config.gateway_listen = listen.map(|value| forms::address(&value)).transpose()?;
    config.webhooks = sources.path(&settings::WEBHOOKS);
    match &config.gateway_listen {
        Some(listen) if config.tls == TlsMode::Off && local_port(listen).is_none() => Err(ConfigError::Wrong(format!(
            "without TLS, anyone who reaches {listen} could use the fleet: give --{} a loopback address, such as \
             127.0.0.1:8082, or leave --{} at strict",
            settings::GATEWAY_LISTEN.flag,
            settings::TLS.flag
        ))),
        _ => Ok(()),
    }
}

/// The settings common to all processes.
struct Common {
    name: String,
    cluster_id: String,
    listen: String,
    metrics_listen: Option<String>,
    tls: TlsMode,
}

impl Common {
    fn read(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let common = Self::read_values(sources)?;
        if common.tls == TlsMode::Off && local_port(&common.listen).is_none() {
            return Err(ConfigError::Wrong(format!(
                "without TLS, anyone who reaches {} could take part in the fleet: listen on a loopback address, such as \
                 127.0.0.1:{DEFAULT_PORT}, or leave --{} at strict",
                common.listen,
                settings::TLS.flag
            )));
        }
        Ok(common)
    }

    fn read_values(sources: &Sources<'_>) -> Result<Self, ConfigError> {
        let address = |setting| sources.get(setting).map(|value| forms::address(&value)).transpose();
        let tls = sources.get(&settings::TLS).filter(|value| !value.text.is_empty());
        Ok(Self {
            name: forms::name(&sources.require(&settings::NAME, "the name of this process")?)?,
            cluster_id: sources
                .get(&settings::CLUSTER_ID)
                .map_or_else(|| Ok(DEFAULT_CLUSTER.to_owned()), |value| forms::name(&value))?,
            listen: address(&settings::LISTEN)?.unwrap_or_else(|| format!("0.0.0.0:{DEFAULT_PORT}")),
            metrics_listen: address(&settings::METRICS_LISTEN)?,
            tls: tls.map(|value| forms::tls(&value)).transpose()?.unwrap_or_default(),
        })
    }

    /// Determines the address at which others reach the process; `None` means its listening address.
    fn advertise(&self, sources: &Sources<'_>, known: Option<String>) -> Result<Option<Advertised>, ConfigError> {
        if let Some(value) = sources.get(&settings::ADVERTISE) {
            return forms::address(&value).map(Advertised::Said).map(Some);
        }
        let (host, port) = self.listen.rsplit_once(':').unwrap_or((&self.listen, ""));
        if known.is_some() || !EVERY_ADDRESS.contains(&host) {
            return Ok(known.map(Advertised::Said));
        }
        match (sources.env(POD_IP), sources.env(HOSTNAME)) {
            (Some(ip), _) if ip.contains(':') && !ip.starts_with('[') => {
                Ok(Some(Advertised::Said(format!("[{ip}]:{port}"))))
            }
            (Some(ip), _) => Ok(Some(Advertised::Said(format!("{ip}:{port}")))),
            (None, Some(name)) => Ok(Some(Advertised::HostName(format!("{name}:{port}")))),
            (None, None) => Err(ConfigError::Wrong(format!(
                "the process listens on every address ({}), so its advertised address is unknown: give --advertise \
                 HOST:PORT, or set {POD_IP} or {HOSTNAME} (shells have {HOSTNAME} and don't export it)",
                self.listen
            ))),
        }
    }
}

/// The advertised address, `host:port`.
enum Advertised {
    /// An address from the settings.
    Said(String),
    /// The machine's host name.
    HostName(String),
}

impl Advertised {
    fn into_address(self) -> String {
        match self {
            Self::Said(address) | Self::HostName(address) => address,
        }
    }
}
