//! What an agent process is told at its start.

use std::time::Duration;

use robeing_proto::v1;
use serde::Deserialize;

/// Default of [`AgentConfig::drain_timeout`].
pub const DEFAULT_DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

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

impl From<AgentRole> for v1::Role {
    fn from(role: AgentRole) -> Self {
        match role {
            AgentRole::Worker => v1::Role::Worker,
            AgentRole::Specialist => v1::Role::Specialist,
            AgentRole::Messenger => v1::Role::Messenger,
            AgentRole::Guardian => v1::Role::Guardian,
        }
    }
}

/// What running a task means, in the form of a manifest's `executor`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CommandSpec {
    /// The program and its arguments.
    pub argv: Vec<String>,
}

/// See [`ExecutorSpec::Http`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpSpec {
    /// Where to POST the input.
    pub url: String,
    /// What to GET, to learn whether the server can take tasks.
    #[serde(default)]
    pub health_path: Option<String>,
    /// Headers to send besides, or in place of, the usual ones.
    #[serde(default)]
    pub headers: Vec<HeaderSpec>,
}

/// A header of [`HttpSpec`]: with a value, or with one from the environment.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderSpec {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: Option<String>,
    /// What goes before a value from the environment.
    #[serde(default)]
    pub prefix: String,
    /// Where its value is.
    pub value_from: Option<HeaderSource>,
}

/// See [`HeaderSpec::value_from`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderSource {
    /// The environment variable that holds it. A line's end at its end is left out.
    pub env: String,
}

impl HeaderSpec {
    /// Its value, with an environment at hand; what is wrong with it otherwise, in a sentence.
    ///
    /// # Errors
    /// When there is none, or there are two.
    pub fn value(&self, env: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
        match (&self.value, &self.value_from) {
            (Some(value), None) if self.prefix.is_empty() => Ok(value.clone()),
            (Some(_), None) => Err("prefix goes before a value from the environment; put it into value".into()),
            (None, Some(HeaderSource { env: variable })) => match env(variable) {
                Some(value) => {
                    Ok(format!("{}{}", self.prefix, value.strip_suffix('\n').unwrap_or(&value).trim_end_matches('\r')))
                }
                None => Err(format!("its value is to be in the environment variable {variable}, which is not set")),
            },
            _ => Err("give it a value, or say with valueFrom where that is".into()),
        }
    }
}
