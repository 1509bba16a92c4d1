//! How the scheduler weighs agents against each other.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::limits::MAX_WEIGHT;

/// How the leader chooses the agent for a task.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// The weight of each term in an agent's score. The agent with the highest score gets the task.
    #[serde(default)]
    pub weights: Weights,
}

/// The weights of the terms in an agent's score. Each term lies between 0 and 1.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Weights {
    /// How much it counts that the agent has the specialization the task asks for.
    #[serde(default = "default_specialization")]
    #[schemars(range(min = 0, max = MAX_WEIGHT))]
    pub specialization: i32,

    /// How much it counts against an agent that it is busy: zero or less, because load lowers the score.
    #[serde(default = "default_load")]
    #[schemars(range(min = -MAX_WEIGHT, max = 0))]
    pub load: i32,

    /// How much the agent's track record counts: how often it succeeded, and how fast.
    #[serde(default = "default_performance")]
    #[schemars(range(min = 0, max = MAX_WEIGHT))]
    pub performance: i32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { specialization: default_specialization(), load: default_load(), performance: default_performance() }
    }
}

fn default_specialization() -> i32 {
    50
}

fn default_load() -> i32 {
    -10
}

fn default_performance() -> i32 {
    20
}
