//! An agent's identity. For now it is claimed, not proved: it comes from the agent's settings, and coordinators trust
//! every connection.

use robeing_proto::v1;
use robeing_settings::{AgentConfig, AgentRole};

/// An agent's identity within its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's id.
    pub cluster_id: String,
    /// The agent's name, the same after a restart.
    pub name: String,
    /// The agent's role.
    pub role: AgentRole,
}

impl Identity {
    /// Returns the identity that the settings claim.
    pub fn claimed(config: &AgentConfig) -> Self {
        Self { cluster_id: config.cluster_id.clone(), name: config.name.clone(), role: config.role }
    }
}

/// Converts an agent's role to the protocol's type.
pub fn told_role(role: AgentRole) -> v1::Role {
    match role {
        AgentRole::Worker => v1::Role::Worker,
        AgentRole::Specialist => v1::Role::Specialist,
        AgentRole::Messenger => v1::Role::Messenger,
        AgentRole::Guardian => v1::Role::Guardian,
    }
}
