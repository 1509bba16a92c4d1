//! The teams that a fleet keeps.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Role,
    limits::{MAX_SPECIALIZATION_NAME, MAX_TEAM_NAME, MAX_TEAM_PURPOSE, MAX_TEAM_SIZE, MAX_TEAM_SKILLS},
    rules,
};

/// A team of agents for a purpose. Its members are the best agents that fit and are in no other team. A change disbands
/// the team, which cancels its unfinished tasks, and forms another one.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Team {
    /// Name of the team, unique in the cluster: lower-case letters, digits and '-'.
    #[schemars(length(min = 1, max = MAX_TEAM_NAME))]
    #[x_kube(validation = rules::team_name())]
    pub name: String,

    /// What the team is for.
    #[schemars(length(min = 1, max = MAX_TEAM_PURPOSE))]
    pub purpose: String,

    /// Number of members.
    #[schemars(range(min = 1, max = MAX_TEAM_SIZE))]
    pub size: u32,

    /// Form the team also of fewer members, if there are not so many agents.
    #[serde(default)]
    pub partial: bool,

    /// Role of all members. If not set, workers and specialists, or agents of any role if skills are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,

    /// Specializations that each member must have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_TEAM_SKILLS), inner(length(min = 1, max = MAX_SPECIALIZATION_NAME)))]
    pub skills: Vec<String>,
}

/// What became of a team.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum TeamState {
    /// It could not be formed; the message states why.
    #[default]
    NotFormed,
    /// It has its members, but not yet a path between every two of them.
    Forming,
    /// It has its members, and every two of them reach each other.
    Active,
    /// Members are missing, or it was active and a path is missing now.
    Degraded,
    /// Somebody has disbanded it; another one is formed next.
    Disbanded,
}

/// A team that the operator keeps.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TeamStatus {
    /// Name of the team in the spec.
    pub name: String,
    /// Its id in the fleet, a UUID, by which tasks and messages are addressed to it.
    #[serde(default)]
    pub id: String,
    /// Digest of the part of the spec that it was formed for.
    #[serde(default)]
    pub spec_digest: String,
    /// Its state.
    #[serde(default)]
    pub state: TeamState,
    /// Number of its members.
    #[serde(default)]
    pub members: u32,
    /// Number of members that it should have.
    #[serde(default)]
    pub size: u32,
    /// Name of the member that leads it. Not set if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<String>,
    /// Number of the leader's election.
    #[serde(default)]
    pub term: u64,
    /// Why it is not formed, disbanded or looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}
