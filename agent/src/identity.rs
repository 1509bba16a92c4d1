//! Who an agent is to others. It is only claimed so far: its settings say it, and a coordinator believes whatever connects.

use robeing_proto::v1;
use robeing_settings::{AgentConfig, AgentRole};

/// An agent's identity within its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: String,
    /// The agent's name, the same after a restart.
    pub name: String,
    /// What it is for.
    pub role: AgentRole,
}

impl Identity {
    /// The one that settings claim.
    pub fn claimed(config: &AgentConfig) -> Self {
        Self { cluster_id: config.cluster_id.clone(), name: config.name.clone(), role: config.role }
    }
}

/// What an agent is for, as it tells coordinators.
pub fn told_role(role: AgentRole) -> v1::Role {
    match role {
        AgentRole::Worker => v1::Role::Worker,
        AgentRole::Specialist => v1::Role::Specialist,
        AgentRole::Messenger => v1::Role::Messenger,
        AgentRole::Guardian => v1::Role::Guardian,
    }
}
