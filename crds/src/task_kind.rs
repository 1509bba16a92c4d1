//! What kinds of tasks need by default.

use std::time;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::KubeSchema;
use robeing_settings::{Contribute, quantities, settings};
use schemars::{Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::{
    Duration, Role, embedded,
    limits::{
        MAX_ATTEMPTS, MAX_KIND_NAME, MAX_KIND_QUEUE, MAX_KIND_SKILLS, MAX_KIND_TIME, MAX_MULTIPLIER_PERCENT, MAX_SLOTS,
        MAX_SPECIALIZATION_NAME, MIN_KIND_TIME, MIN_MULTIPLIER_PERCENT,
    },
    rules,
};

/// What the tasks of a kind need. A task that sets a field itself gets its own; what neither sets is as for tasks of any
/// kind. A change counts for tasks that are submitted after it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TaskKind {
    /// The kind of the tasks, as in `robeing submit --kind`.
    #[schemars(length(min = 1, max = MAX_KIND_NAME))]
    #[x_kube(validation = rules::kind_name())]
    pub name: String,

    /// Role of the agents that run the tasks. If not set, that of tasks which require none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,

    /// Specializations that an agent must have, all of them. A task that requires one itself requires none of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "skills")]
    pub skills: Vec<String>,

    /// Number of slots of its agent that a task takes while it runs.
    #[serde(default = "default_slots")]
    #[schemars(range(min = 1, max = MAX_SLOTS))]
    pub slots: u32,

    /// What a task takes of the fleet's resource pool while it runs. If not set, nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<TaskKindResources>,

    /// The queue in which the tasks wait, which `robeing queues set` has set before; tasks with resources also count for its share
    /// of the resource pool. If not set, `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_KIND_QUEUE))]
    pub queue: Option<String>,

    /// How long after its submission a task fails if it is not finished. If not set, there is no deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("deadline", MIN_KIND_TIME, MAX_KIND_TIME))]
    pub deadline: Option<Duration>,

    /// Longest time that one attempt may take. If not set, it is bounded by the deadline only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("attemptTimeout", MIN_KIND_TIME, MAX_KIND_TIME))]
    pub attempt_timeout: Option<Duration>,

    /// Longest time that a task waits for its first attempt before it fails. If not set, it waits for as long as it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("queueExpiry", MIN_KIND_TIME, MAX_KIND_TIME))]
    pub queue_expiry: Option<Duration>,

    /// Longest time that one attempt may run without progress before it is ended and another agent gets the task. If not
    /// set, no progress is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("progressTimeout", MIN_KIND_TIME, MAX_KIND_TIME))]
    pub progress_timeout: Option<Duration>,

    /// How often a task is attempted, and the pauses between attempts. What is not set here is as for tasks of any kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<TaskKindRetry>,
}

/// What a task takes of the fleet's resource pool while it runs.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::some_resource())]
pub struct TaskKindResources {
    /// Processor time, such as `500m` or `"2"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::quantity")]
    #[x_kube(validation = rules::cpu_amount())]
    pub cpu: Option<Quantity>,

    /// Memory, such as `512Mi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::quantity")]
    #[x_kube(validation = rules::whole_amount())]
    pub memory: Option<Quantity>,

    /// Disk space, such as `4Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::quantity")]
    #[x_kube(validation = rules::whole_amount())]
    pub storage: Option<Quantity>,

    /// Network bandwidth, bits per second, such as `100M`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::quantity")]
    #[x_kube(validation = rules::whole_amount())]
    pub bandwidth: Option<Quantity>,
}

/// How often a task of a kind is attempted, and the pauses between attempts.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TaskKindRetry {
    /// Maximum number of attempts. If not set, `spec.recovery.maxAttempts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = settings::MAX_ATTEMPTS.least, max = MAX_ATTEMPTS))]
    pub max_attempts: Option<u32>,

    /// Pause before the second attempt; 0s for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("initialBackoff", time::Duration::ZERO, MAX_KIND_TIME))]
    pub initial_backoff: Option<Duration>,

    /// Longest pause between two attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("maxBackoff", time::Duration::ZERO, MAX_KIND_TIME))]
    pub max_backoff: Option<Duration>,

    /// Factor from one pause to the next, percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = MIN_MULTIPLIER_PERCENT, max = MAX_MULTIPLIER_PERCENT))]
    pub multiplier_percent: Option<u32>,

    /// Largest part of a pause by which it is shortened by chance, percent. If not set, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub jitter_percent: Option<u32>,
}

impl TaskKindResources {
    /// Returns the amounts in the units of the resource pool. What is not set, or not an exact amount, is left open; the
    /// schema takes only exact amounts.
    pub fn amounts(&self) -> Contribute {
        let amount = |text: &Option<Quantity>| text.as_ref().and_then(|text| quantities::amount(&text.0));
        Contribute {
            cpu: self.cpu.as_ref().and_then(|text| quantities::cpu_millis(&text.0)),
            memory: amount(&self.memory),
            storage: amount(&self.storage),
            bandwidth: amount(&self.bandwidth),
        }
    }
}

fn default_slots() -> u32 {
    1
}

fn skills(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "maxItems": MAX_KIND_SKILLS,
        "x-kubernetes-list-type": "set",
        "items": {
            "type": "string",
            "maxLength": MAX_SPECIALIZATION_NAME,
            "x-kubernetes-validations": rules::as_json(&[rules::specialization_form()]),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_in_the_units_of_the_resource_pool() {
        let quantity = |text: &str| Some(Quantity(text.to_owned()));
        let resources = TaskKindResources {
            cpu: quantity("1.5"),
            memory: quantity("512Mi"),
            storage: None,
            bandwidth: quantity("100M"),
        };
        let amounts = resources.amounts();
        let expected =
            Contribute { cpu: Some(1_500), memory: Some(512 << 20), storage: None, bandwidth: Some(100_000_000) };
        assert_eq!(amounts, expected);
    }
}
