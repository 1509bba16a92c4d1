//! How the loss of an agent is noticed and how often its work is tried again.

use kube::KubeSchema;
use robeing_settings::settings;
use serde::{Deserialize, Serialize};

use crate::{Duration, limits::MAX_ATTEMPTS, rules};

/// How the loss of an agent is noticed, and how often its tasks are tried again.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::heartbeats_within_session())]
pub struct Recovery {
    /// How often an agent tells the leader that it is alive.
    #[serde(default = "default_heartbeat_interval")]
    #[x_kube(validation = rules::duration_of("heartbeatInterval", &settings::HEARTBEAT_INTERVAL))]
    pub heartbeat_interval: Duration,

    /// How long an agent may be silent before its tasks are given to others. At least twice heartbeatInterval. A
    /// connection that drops is noticed at once and does not wait for this.
    #[serde(default = "default_session_timeout")]
    #[x_kube(validation = rules::duration_of("sessionTimeout", &settings::SESSION_TIMEOUT))]
    pub session_timeout: Duration,

    /// How often the leader asks each agent, and through it what runs its tasks, how it is. An agent that is unhealthy gets
    /// nothing new and hands back its tasks until it is healthy again. The operator looks at the fleet as often at least.
    #[serde(default = "default_health_check_interval")]
    #[x_kube(validation = rules::duration_of("healthCheckInterval", &settings::HEALTH_CHECK_INTERVAL))]
    pub health_check_interval: Duration,

    /// How often a task is attempted before it is given up, unless the task says otherwise.
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
