//! The roles of agents.

use robeing_settings::{AgentRole, ProcessRole};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The role of agents.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[schemars(inline)]
pub enum Role {
    /// Takes any task that requires no other role.
    #[default]
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

impl From<Role> for AgentRole {
    fn from(role: Role) -> Self {
        match role {
            Role::Worker => Self::Worker,
            Role::Specialist => Self::Specialist,
            Role::Messenger => Self::Messenger,
            Role::Guardian => Self::Guardian,
        }
    }
}

impl From<Role> for ProcessRole {
    fn from(role: Role) -> Self {
        Self::Agent(role.into())
    }
}
