//! What an agent process is told at its start.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::settings::{DRAIN_TIMEOUT, POOL_REPLICAS, POOL_STANDBY, SLOTS};

/// Default of [`AgentConfig::worker_listen`].
pub const DEFAULT_WORKER_LISTEN: &str = "127.0.0.1:8081";

/// The cluster of a process that is not told another.
pub const DEFAULT_CLUSTER: &str = "default";

/// An agent's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentConfig {
    /// Its name, the same after a restart.
    pub name: String,
    /// The cluster it belongs to.
    pub cluster_id: String,
    /// What it is for.
    pub role: AgentRole,
    /// Addresses of coordinators, host:port, at least one; any of them leads to the leader.
    pub coordinators: Vec<String>,
    /// Where to listen, host:port; port 0 takes a free one.
    pub listen: String,
    /// Where others reach it, host:port; see [`advertised_address`](super::advertised_address).
    pub advertise: Option<String>,
    /// `advertise` is this machine's own name, which others need not know: its address is advertised instead, if it has one.
    pub advertises_host_name: bool,
    /// The pool it is of; empty: none.
    pub pool: String,
    /// Agents of the pool that work; 0: not fixed.
    pub pool_replicas: u32,
    /// Agents of the pool that wait as standby.
    pub pool_standby: u32,
    /// Its skills.
    pub specializations: Vec<String>,
    /// Tasks it runs at once, at least 1.
    pub slots: u32,
    /// How long running tasks may go on after the agent was asked to stop; what is left then is handed back.
    pub drain_timeout: Duration,
    /// Where to serve metrics and probes over HTTP, host:port.
    pub metrics_listen: Option<String>,
    /// Where processes attach that run tasks, with [`ExecutorSpec::Worker`]: host:port of the loopback interface.
    pub worker_listen: String,
}

impl AgentConfig {
    /// An agent of which nothing is said but what has no default.
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
            drain_timeout: DRAIN_TIMEOUT.default,
            metrics_listen: None,
            worker_listen: DEFAULT_WORKER_LISTEN.to_owned(),
        }
    }
}

/// What an agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentRole {
    /// Takes any task.
    Worker,
    /// Takes the tasks of its specializations.
    Specialist,
    /// Relays and translates messages.
    Messenger,
    /// Validates, watches for anomalies.
    Guardian,
}

/// What running a task means, in the form of a manifest's `executor`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum ExecutorSpec {
    /// A program for each task.
    Command(CommandSpec),
    /// A request to a server for each task.
    Http(HttpSpec),
    /// Processes that attach to the agent; see [`AgentConfig::worker_listen`].
    Worker {},
    /// The input is the output.
    Echo {},
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
    /// Where to POST the input.
    pub url: String,
    /// What to GET, to learn whether the server can take tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health_path: Option<String>,
    /// Headers to send besides, or in place of, the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderSpec>,
}

/// A header of [`HttpSpec`]: with a value, or with one from the environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderSpec {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What goes before a value from the environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Where its value is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<HeaderSource>,
}

/// See [`HeaderSpec::value_from`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderSource {
    /// The environment variable that holds it. A line's end at its end is left out.
    pub env: String,
}

impl ExecutorSpec {
    /// The executor as JSON, as [`EXECUTOR`](super::settings::EXECUTOR) takes it.
    pub fn to_json(&self) -> String {
        // In the order of their names where a value comes from the environment: so they stand in the pods of running fleets,
        // which another text would restart.
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

    /// Whether there may be credentials in it, as in a URL or in headers, which nobody but the agent may see.
    pub fn may_hold_credentials(&self) -> bool {
        matches!(self, Self::Http(_))
    }
}

impl HeaderSpec {
    /// Its value, with an environment at hand; what is wrong with it otherwise, in a sentence.
    ///
    /// # Errors
    /// When there is none, or there are two.
    pub fn value(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        match (&self.value, &self.value_from) {
            (Some(value), None) if prefix.is_empty() => Ok(value.clone()),
            (Some(_), None) => Err("prefix goes before a value from the environment; put it into value".into()),
            (None, Some(HeaderSource { env: variable })) => match env(variable) {
                Some(value) => {
                    Ok(format!("{prefix}{}", value.strip_suffix('\n').unwrap_or(&value).trim_end_matches('\r')))
                }
                None => Err(format!("its value is to be in the environment variable {variable}, which is not set")),
            },
            _ => Err("give it a value, or say with valueFrom where that is".into()),
        }
    }
}
