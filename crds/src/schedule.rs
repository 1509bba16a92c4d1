//! The schedules that a fleet keeps: tasks that are submitted again and again.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::KubeSchema;
use robeing_cron::{CronError, Timetable};
use robeing_settings::settings;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Duration, Role, embedded,
    limits::{
        MAX_ATTEMPTS, MAX_CRON, MAX_MISSED_RUNS, MAX_PRIORITY, MAX_SCHEDULE_INPUT, MAX_SCHEDULE_NAME,
        MAX_SPECIALIZATION_NAME, MAX_TASK_SPAN, MAX_TIME_ZONE, MIN_PRIORITY, MIN_TASK_SPAN,
    },
    rules,
};

/// A schedule: a task that is submitted whenever a cron expression says so. Each run starts once, whichever coordinator
/// leads.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = rules::missed_limit_has_use())]
pub struct Schedule {
    /// Name of the schedule, unique in the fleet.
    #[schemars(length(min = 1, max = MAX_SCHEDULE_NAME))]
    #[x_kube(validation = rules::schedule_name())]
    pub name: String,

    /// When it is due: minute, hour, day of the month, month and day of the week, as in a CronJob, such as
    /// `30 4 * * mon-fri`; or `@hourly`, `@daily`, `@weekly`, `@monthly` or `@yearly`.
    #[schemars(length(min = 1, max = MAX_CRON))]
    #[x_kube(validation = rules::cron_form())]
    pub cron: String,

    /// Time zone of the expression, by its name in the IANA database, such as `Europe/Berlin`. If not set, UTC. A time that
    /// the zone's clock skips is due when the clock is turned; a time that is repeated is due once, unless the expression is
    /// for every hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_TIME_ZONE))]
    #[x_kube(validation = rules::time_zone_form())]
    pub time_zone: Option<String>,

    /// Which runs start late that could not start when they were due, because no coordinator led or there was no room for
    /// their tasks: with Skip only the newest one, and only within startWithin; with Latest the newest one; with All all of
    /// them, oldest first.
    #[serde(default)]
    pub missed_runs: MissedRuns,

    /// How long after it was due a run may start. If not set, one minute with Skip, and without end with Latest and All.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("startWithin", MIN_TASK_SPAN, MAX_TASK_SPAN))]
    pub start_within: Option<Duration>,

    /// Maximum number of runs that start late, the newest ones, with All. If not set, 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MAX_MISSED_RUNS))]
    pub missed_limit: Option<u32>,

    /// What becomes of a run that is due while an earlier one is not finished: with Allow it starts, with Forbid it is
    /// skipped, and with Replace it starts and the earlier ones are cancelled.
    #[serde(default)]
    pub concurrency_policy: ConcurrencyPolicy,

    /// Start no runs. What is due meanwhile is not missed. A suspended cluster starts none either.
    #[serde(default)]
    pub suspend: bool,

    /// The task of each run; what it leaves open is as its kind says.
    pub task: ScheduledTask,
}

/// The task of each run of a schedule.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledTask {
    /// Kind of work, which is matched with the specializations of agents.
    #[schemars(length(min = 1, max = MAX_SPECIALIZATION_NAME))]
    pub kind: String,

    /// Text that the executor gets as it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = MAX_SCHEDULE_INPUT))]
    pub input: String,

    /// Priority, 10 the highest. If not set, 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = MIN_PRIORITY, max = MAX_PRIORITY))]
    pub priority: Option<u32>,

    /// Time after the start of the run after which the task fails if it has not finished. If not set, there is no deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("deadline", MIN_TASK_SPAN, MAX_TASK_SPAN))]
    pub deadline: Option<Duration>,

    /// Time limit of one attempt. If not set, only the deadline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("attemptTimeout", MIN_TASK_SPAN, MAX_TASK_SPAN))]
    pub attempt_timeout: Option<Duration>,

    /// Maximum number of attempts. If not set, `spec.recovery.maxAttempts`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = settings::MAX_ATTEMPTS.least, max = MAX_ATTEMPTS))]
    pub max_attempts: Option<u32>,

    /// How long the finished task is kept. If not set, as long as other tasks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = rules::duration_between("resultTtl", MIN_TASK_SPAN, MAX_TASK_SPAN))]
    pub result_ttl: Option<Duration>,

    /// Role of the agents that take the task. If not set, workers and specialists take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,

    /// Specialization that an agent must have to take the task. If not set, any agent takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_SPECIALIZATION_NAME))]
    #[x_kube(validation = rules::specialization_form())]
    pub specialization: Option<String>,
}

/// Which runs start late that could not start when they were due.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum MissedRuns {
    /// The newest one, and only within a short time.
    #[default]
    Skip,
    /// The newest one.
    Latest,
    /// All of them.
    All,
}

/// What becomes of a run that is due while an earlier one is not finished.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[schemars(inline)]
pub enum ConcurrencyPolicy {
    /// It starts.
    #[default]
    Allow,
    /// It is skipped.
    Forbid,
    /// It starts, and the earlier ones are cancelled.
    Replace,
}

impl Schedule {
    /// Returns the first problem that coordinators would refuse but no schema rule can express: the field, relative to this,
    /// and a sentence.
    pub fn problem(&self) -> Option<(&'static str, String)> {
        let error = Timetable::parse(&self.cron, self.time_zone.as_deref().unwrap_or_default()).err()?;
        let field = if matches!(error, CronError::Zone { .. }) { "timeZone" } else { "cron" };
        Some((field, format!("This schedule can't be kept: {error}.")))
    }
}

/// A schedule that the operator keeps, or is about to remove.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ScheduleStatus {
    /// Name of the schedule in the spec.
    pub name: String,
    /// Whether the fleet has it as the spec says; if not, the message states why.
    #[serde(default)]
    pub accepted: bool,
    /// Digest of the part of the spec that the fleet has taken.
    #[serde(default)]
    pub spec_digest: String,
    /// How often it was changed in the fleet.
    #[serde(default)]
    pub generation: u64,
    /// When it is due next. Not set if it is suspended or never due again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub next_run: Option<Time>,
    /// When the newest run was due that has started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub last_run: Option<Time>,
    /// Id of that run's task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_task: Option<String>,
    /// State of that run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_state: Option<RunState>,
    /// When the newest run was due that succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "embedded::time")]
    pub last_success: Option<Time>,
    /// Number of runs that are not finished.
    #[serde(default)]
    pub active: u32,
    /// Number of runs that were missed, skipped or refused.
    #[serde(default)]
    pub not_started: u64,
    /// Why the fleet does not have it as the spec says, or else why the newest run that did not start did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// The state of a run of a schedule.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[schemars(inline)]
pub enum RunState {
    /// Its task is not finished.
    Active,
    /// Its task has succeeded.
    Succeeded,
    /// Its task has failed.
    Failed,
    /// Its task was cancelled.
    Cancelled,
    /// All attempts at its task failed.
    DeadLettered,
}
