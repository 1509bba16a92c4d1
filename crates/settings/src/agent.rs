//! The settings of an agent process.

use std::{path::PathBuf, time::Duration};

use robeing_fleet::{Role, RoleTraits};
use serde::{Deserialize, Serialize};

use super::{
    Contribute, EnrolmentConfig, TlsMode,
    settings::{ANOMALY_WARM_UP, DRAIN_TIMEOUT, POOL_REPLICAS, POOL_STANDBY, SLOTS},
};

/// Default of [`AgentConfig::worker_listen`].
pub const DEFAULT_WORKER_LISTEN: &str = "127.0.0.1:8081";

/// The beginning of the names of the environment variables in which messengers get the secrets of webhooks. The commands
/// that an agent runs inherit none of these variables.
pub const WEBHOOK_SECRET_VARIABLES: &str = "ROBEING_WEBHOOK_SECRET_";

/// The beginning of the names of the environment variables in which agents get settings and credentials of their object
/// store; the rest is the name that the tools of such stores know, such as `AWS_REGION`. The commands that an agent runs
/// inherit none of these variables.
pub const OBJECT_STORE_VARIABLES: &str = "ROBEING_STORE_";

/// The default cluster id.
pub const DEFAULT_CLUSTER: &str = "default";

/// An agent's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    /// Name of the agent, the same after a restart.
    pub name: String,
    /// The cluster that the agent belongs to.
    pub cluster_id: String,
    /// The agent's role.
    pub role: AgentRole,
    /// Addresses of coordinators, `host:port`, at least one. Any coordinator can direct the agent to the leader.
    pub coordinators: Vec<String>,
    /// Listening address, `host:port`; port 0 picks a free port.
    pub listen: String,
    /// Address at which others reach the agent, `host:port`; see [`advertised_address`](super::advertised_address).
    pub advertise: Option<String>,
    /// Whether `advertise` holds this machine's own name, which other machines may not be able to resolve. The agent
    /// then advertises the address that the name resolves to, if there is one.
    pub advertises_host_name: bool,
    /// The agent's pool; empty if it is in no pool.
    pub pool: String,
    /// Number of active agents in the pool; 0: not fixed.
    pub pool_replicas: u32,
    /// Number of standby agents in the pool.
    pub pool_standby: u32,
    /// The agent's specializations.
    pub specializations: Vec<String>,
    /// Number of tasks the agent runs at once, at least 1.
    pub slots: u32,
    /// What the agent contributes to the fleet's resource pool.
    pub contribute: Contribute,
    /// How long running tasks may continue after the agent is asked to stop; after that they are handed back.
    pub drain_timeout: Duration,
    /// Address for metrics and probes over HTTP, `host:port`.
    pub metrics_listen: Option<String>,
    /// Address that worker processes attach to, with [`ExecutorSpec::Worker`]: `host:port` of the loopback interface.
    pub worker_listen: String,
    /// What the agent does with the messages that it receives. `None`: with [`ExecutorSpec::Worker`], attached processes
    /// that handle messages get them; otherwise they go to the built-in inbox.
    pub messages: Option<MessagesSpec>,
    /// Directory of what the agent remembers across restarts, such as the messages that it has handled. `None`: it
    /// remembers them in memory.
    pub data: Option<PathBuf>,
    /// Address of a messenger's gateway for HTTP clients, `host:port`; port 0 picks a free port.
    pub gateway_listen: Option<String>,
    /// File with the webhooks that a messenger calls.
    pub webhooks: Option<PathBuf>,
    /// URL of the object store for inputs and outputs that are too large for the log.
    pub object_store: Option<String>,
    /// What a guardian does about an agent that behaves severely and repeatedly unlike itself.
    pub on_anomaly: OnAnomaly,
    /// How long an agent has to be active before a guardian judges it, in whole seconds.
    pub anomaly_warm_up: Duration,
    /// Whether the agent's connections are encrypted.
    pub tls: TlsMode,
    /// How the agent enrols, with TLS.
    pub enrolment: EnrolmentConfig,
}

impl AgentConfig {
    /// Creates the settings of an agent with the required values, and defaults for the rest.
    pub fn new(name: String, cluster_id: String, role: AgentRole, listen: String, coordinators: Vec<String>) -> Self {
        Self {
            name,
            cluster_id,
            role,
            coordinators,
            listen,
            advertise: None,
            advertises_host_name: false,
            pool: String::new(),
            pool_replicas: POOL_REPLICAS.default,
            pool_standby: POOL_STANDBY.default,
            specializations: Vec::new(),
            slots: SLOTS.default,
            contribute: Contribute::default(),
            drain_timeout: DRAIN_TIMEOUT.default,
            metrics_listen: None,
            worker_listen: DEFAULT_WORKER_LISTEN.to_owned(),
            messages: None,
            data: None,
            gateway_listen: None,
            webhooks: None,
            object_store: None,
            on_anomaly: OnAnomaly::default(),
            anomaly_warm_up: ANOMALY_WARM_UP.default,
            tls: TlsMode::default(),
            enrolment: EnrolmentConfig::default(),
        }
    }
}

/// The role of an agent, which determines the tasks it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentRole {
    /// Takes any task that requires no other role.
    Worker,
    /// Takes tasks whose kind is one of its specializations first, then other tasks.
    Specialist,
    /// Meant for relaying and translating messages. Takes only tasks that require this role, or whose kind is one of
    /// its specializations.
    Messenger,
    /// Meant for validation and anomaly detection. Takes only tasks that require this role, or whose kind is one of its
    /// specializations.
    Guardian,
}

impl AgentRole {
    /// All roles.
    pub const ALL: [Self; 4] = [Self::Worker, Self::Specialist, Self::Messenger, Self::Guardian];

    /// Returns what the role is for, what it can do, and its priority.
    pub const fn traits(self) -> RoleTraits {
        let role = match self {
            Self::Worker => Role::Worker,
            Self::Specialist => Role::Specialist,
            Self::Messenger => Role::Messenger,
            Self::Guardian => Role::Guardian,
        };
        role.traits()
    }
}

/// What a guardian does about an agent that behaves severely and repeatedly unlike itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAnomaly {
    /// It reports the agent.
    Report,
    /// It reports the agent, and quarantines it, but not for how many messages it sends, since others can make it answer.
    #[default]
    Quarantine,
    /// It reports the agent, and quarantines it, whatever it does unlike itself.
    QuarantineAll,
}

impl OnAnomaly {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Report, Self::Quarantine, Self::QuarantineAll];

    /// Returns it as written in a setting.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Report => "report",
            Self::Quarantine => "quarantine",
            Self::QuarantineAll => "quarantine-all",
        }
    }
}

/// How an agent runs a task, in the form of a manifest's `executor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ExecutorSpec {
    /// Run a program for each task.
    Command(CommandSpec),
    /// Send a request to a server for each task.
    Http(HttpSpec),
    /// Hand tasks to processes that attach to the agent; see [`AgentConfig::worker_listen`].
    Worker {},
    /// Return the input as the output.
    Echo {},
}

/// What an agent does with the messages that it receives, in the form of a manifest's `messages`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum MessagesSpec {
    /// Keep them until somebody reads them.
    Inbox {},
    /// Run a program for each message.
    Command(CommandSpec),
    /// Send a request to a server for each message.
    Http(MessagesHttpSpec),
    /// Hand messages to processes that attach to the agent and handle messages; needs [`ExecutorSpec::Worker`].
    Worker {},
}

/// See [`MessagesSpec::Http`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MessagesHttpSpec {
    /// The URL to POST the payload to.
    pub url: String,
}

impl MessagesSpec {
    /// Returns it as JSON, in the form that [`MESSAGES`](super::settings::MESSAGES) takes.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self)
            .unwrap_or_else(|error| unreachable!("it is strings and lists of strings, which have a JSON form: {error}"))
    }

    /// Returns whether it may contain credentials, in a URL, which only the agent may see.
    pub fn may_hold_credentials(&self) -> bool {
        matches!(self, Self::Http(_))
    }
}

/// See [`ExecutorSpec::Command`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandSpec {
    /// The program and its arguments.
    pub argv: Vec<String>,
}

/// See [`ExecutorSpec::Http`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpSpec {
    /// The URL to POST the input to.
    pub url: String,
    /// The path to GET to find out whether the server can take tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// Headers to send in addition to the usual ones, or in place of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderSpec>,
}

/// A header of [`HttpSpec`], with a literal value or one from the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderSpec {
    /// The header's name.
    pub name: String,
    /// The literal value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Text to put before a value from the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The source of a value from the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<HeaderSource>,
}

/// See [`HeaderSpec::value_from`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderSource {
    /// The environment variable that holds the value. A trailing newline in it is removed.
    pub env: String,
}

impl ExecutorSpec {
    /// Returns the executor as JSON, in the form that [`EXECUTOR`](super::settings::EXECUTOR) takes.
    pub fn to_json(&self) -> String {
        // With values from the environment, fields are sorted by name: the pods of running fleets have them in this
        // order, and a different text would restart them.
        let text = match self.takes_from_environment() {
            true => serde_json::to_value(self).and_then(|executor| serde_json::to_string(&executor)),
            false => serde_json::to_string(self),
        };
        text.unwrap_or_else(|error| {
            unreachable!("an executor is strings and lists of strings, which have a JSON form: {error}")
        })
    }

    fn takes_from_environment(&self) -> bool {
        let Self::Http(http) = self else { return false };
        http.headers.iter().any(|header| header.value_from.is_some())
    }

    /// Returns whether the executor may contain credentials, in a URL or in headers, which only the agent may see.
    pub fn may_hold_credentials(&self) -> bool {
        matches!(self, Self::Http(_))
    }
}

impl HeaderSpec {
    /// Returns the header's value, looked up in the given environment if necessary.
    ///
    /// # Errors
    /// A sentence that states the problem, if the header has no value or has two.
    pub fn value(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        match (&self.value, &self.value_from) {
            (Some(value), None) if prefix.is_empty() => Ok(value.clone()),
            (Some(_), None) => Err("prefix goes before a value from the environment; put it into value".into()),
            (None, Some(HeaderSource { env: variable })) => match env(variable) {
                Some(value) => {
                    Ok(format!("{prefix}{}", value.strip_suffix('\n').unwrap_or(&value).trim_end_matches('\r')))
                }
                None => Err(format!("the environment variable {variable}, which should hold its value, is not set")),
            },
            _ => Err("set exactly one of value and valueFrom".into()),
        }
    }
}
