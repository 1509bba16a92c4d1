//! How the scheduler weighs agents against each other.

use kube::KubeSchema;
use robeing_settings::settings::{LOAD_TERM, PERFORMANCE_TERM, SPECIALIZATION_TERM};
use serde::{Deserialize, Serialize};

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
    #[schemars(range(min = SPECIALIZATION_TERM.least, max = SPECIALIZATION_TERM.most))]
    pub specialization: i32,

    /// How much it counts against an agent that it is busy: zero or less, because load lowers the score.
    #[serde(default = "default_load")]
    #[schemars(range(min = LOAD_TERM.least, max = LOAD_TERM.most))]
    pub load: i32,

    /// How much the agent's track record counts: how often it succeeded, and how fast.
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
