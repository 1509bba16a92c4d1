//! How the loss of an agent is detected, and how often its tasks are retried.

use kube::KubeSchema;
use robeing_settings::settings;
use serde::{Deserialize, Serialize};

use crate::{Duration, limits::MAX_ATTEMPTS, rules};

/// How the loss of an agent is detected, and how often its tasks are retried.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::heartbeats_within_session())]
pub struct Recovery {
    /// How often an agent sends a heartbeat to the leader.
    #[serde(default = "default_heartbeat_interval")]
    #[x_kube(validation = rules::duration_of("heartbeatInterval", &settings::HEARTBEAT_INTERVAL))]
    pub heartbeat_interval: Duration,

    /// Time without a heartbeat after which an agent counts as lost and its tasks are given to other agents. At least
    /// twice heartbeatInterval. If it is proved earlier that the agent's process has ended, its tasks are given away at
    /// once.
    #[serde(default = "default_session_timeout")]
    #[x_kube(validation = rules::duration_of("sessionTimeout", &settings::SESSION_TIMEOUT))]
    pub session_timeout: Duration,

    /// How often the leader checks the health of each agent, and through it of what runs its tasks. An unhealthy agent
    /// hands back its tasks and gets none until it is healthy again. The operator polls a healthy fleet that can't
    /// notify it of changes at this interval, or at its own if that is shorter.
    #[serde(default = "default_health_check_interval")]
    #[x_kube(validation = rules::duration_of("healthCheckInterval", &settings::HEALTH_CHECK_INTERVAL))]
    pub health_check_interval: Duration,

    /// Maximum number of attempts at a task before it is given up, unless the task sets its own limit.
    #[serde(default = "default_max_attempts")]
    #[schemars(range(min = settings::MAX_ATTEMPTS.least, max = MAX_ATTEMPTS))]
    pub max_attempts: u32,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            heartbeat_interval: default_heartbeat_interval(),
            session_timeout: default_session_timeout(),
            health_check_interval: default_health_check_interval(),
            max_attempts: default_max_attempts(),
        }
    }
}

fn default_heartbeat_interval() -> Duration {
    Duration::default_of(&settings::HEARTBEAT_INTERVAL)
}

fn default_session_timeout() -> Duration {
    Duration::default_of(&settings::SESSION_TIMEOUT)
}

fn default_health_check_interval() -> Duration {
    Duration::default_of(&settings::HEALTH_CHECK_INTERVAL)
}

fn default_max_attempts() -> u32 {
    settings::MAX_ATTEMPTS.default
}
