//! The scheduler's weights.

use kube::KubeSchema;
use robeing_settings::settings::{LOAD_TERM, PERFORMANCE_TERM, SPECIALIZATION_TERM};
use serde::{Deserialize, Serialize};

/// How the leader chooses an agent for a task.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Weights of the terms in an agent's score for a task. The agent with the highest score gets the task.
    #[serde(default)]
    pub weights: Weights,
}

/// Weights of the terms in an agent's score. Each term is between 0 and 1.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Weights {
    /// Weight for having the specialization that the task's kind names.
    #[serde(default = "default_specialization")]
    #[schemars(range(min = SPECIALIZATION_TERM.least, max = SPECIALIZATION_TERM.most))]
    pub specialization: i32,

    /// Weight of the agent's load. Zero or negative, because load lowers the score.
    #[serde(default = "default_load")]
    #[schemars(range(min = LOAD_TERM.least, max = LOAD_TERM.most))]
    pub load: i32,

    /// Weight of the agent's track record: how often it succeeded, and how fast.
    #[serde(default = "default_performance")]
    #[schemars(range(min = PERFORMANCE_TERM.least, max = PERFORMANCE_TERM.most))]
    pub performance: i32,
}

impl Default for Weights {
    fn default() -> Self {
        Self { specialization: default_specialization(), load: default_load(), performance: default_performance() }
    }
}

impl From<&Weights> for robeing_settings::Weights {
    fn from(weights: &Weights) -> Self {
        Self { specialization: weights.specialization, load: weights.load, performance: weights.performance }
    }
}

fn default_specialization() -> i32 {
    SPECIALIZATION_TERM.default
}

fn default_load() -> i32 {
    LOAD_TERM.default
}

fn default_performance() -> i32 {
    PERFORMANCE_TERM.default
}
