//! The limits of the `RobeingCluster` schema. The schema, the messages of its rules and the tests take them from here.
//! Lists and strings are bounded because the API server multiplies the estimated cost of a CEL rule by the maximum size
//! of its input, and refuses a definition that could cost too much. Fields that become settings of agents or
//! coordinators take their bounds from [`robeing_settings::settings`]; where Kubernetes' own limit is tighter, it is
//! checked to lie within the setting's bounds.

use std::time::Duration;

use robeing_settings::settings;

/// Maximum length of a cluster's `metadata.name`, in characters. The coordinators' StatefulSet is named
/// `<cluster>-coordinators`, and its pods have that name plus an eleven-character revision suffix in a label of at most
/// 63 characters, so the limit may not exceed 39.
pub const MAX_CLUSTER_NAME: u32 = 36;
/// Maximum length of a pool's name, in characters.
pub const MAX_POOL_NAME: u32 = 32;
/// Maximum length of a cluster's name plus a pool's name, in characters. A pool's Deployment is named
/// `<cluster>-<pool>`, and Kubernetes appends up to 17 characters for a pod's name, which is also its host name and so
/// must fit in a DNS label of 63 characters: 63 − 17 − 1.
pub const MAX_CLUSTER_AND_POOL_NAME: u32 = 45;
/// Maximum number of coordinators in a cluster. More voters add latency and no worthwhile safety.
pub const MAX_COORDINATORS: u32 = 7;
/// Maximum number of pools in a cluster.
pub const MAX_POOLS: u32 = 64;
/// Maximum number of policies in a cluster.
pub const MAX_POLICIES: u32 = robeing_policy::limits::MAX_POLICIES as u32;
/// Maximum number of teams that a cluster keeps.
pub const MAX_TEAMS: u32 = 16;
/// Maximum number of teams in the status of a cluster: also those that are about to be disbanded.
pub const MAX_TEAM_STATUSES: u32 = 2 * MAX_TEAMS;
/// Maximum length of a team's name, in characters.
pub const MAX_TEAM_NAME: u32 = 63;
/// Maximum length of a team's purpose, in characters, so that it is at most 1 KiB, which coordinators accept.
pub const MAX_TEAM_PURPOSE: u32 = 256;
/// Maximum number of members of a team: what coordinators accept.
pub const MAX_TEAM_SIZE: u32 = 64;
/// Maximum number of skills that the members of a team must have: what coordinators accept.
pub const MAX_TEAM_SKILLS: u32 = 8;
/// Maximum number of kinds of tasks whose needs a cluster sets; coordinators accept more.
pub const MAX_TASK_KINDS: u32 = 64;
/// Maximum length of the name of a kind of tasks, in characters, so that it is at most 253 bytes, which coordinators accept.
pub const MAX_KIND_NAME: u32 = 63;
/// Maximum number of agents among which a task of a kind is split.
pub const MAX_KIND_AGENTS: u32 = 64;
/// Maximum length of the name of a kind's queue, in characters, so that it is at most 253 bytes.
pub const MAX_KIND_QUEUE: u32 = 63;
/// Maximum number of skills that the tasks of a kind require: what coordinators accept.
pub const MAX_KIND_SKILLS: u32 = 8;
/// Minimum deadline and time for an attempt of a kind: the unit of coordinators.
pub const MIN_KIND_TIME: Duration = Duration::from_millis(1);
/// Maximum deadline, time for an attempt and backoff of a kind: 366 days, what coordinators accept.
pub const MAX_KIND_TIME: Duration = Duration::from_secs(366 * 24 * 3600);
/// Minimum factor from one backoff to the next, percent: one that stays the same.
pub const MIN_MULTIPLIER_PERCENT: u32 = 100;
/// Maximum factor from one backoff to the next, percent: what coordinators accept.
pub const MAX_MULTIPLIER_PERCENT: u32 = 10_000;
/// Maximum number of schedules that a cluster keeps.
pub const MAX_SCHEDULES: u32 = 100;
/// Maximum number of schedules in the status of a cluster: also those that are about to be removed.
pub const MAX_SCHEDULE_STATUSES: u32 = 2 * MAX_SCHEDULES;
/// Maximum length of a schedule's name, in characters: what coordinators accept.
pub const MAX_SCHEDULE_NAME: u32 = 63;
/// Maximum length of a cron expression, in characters of one byte each: what coordinators accept.
pub const MAX_CRON: u32 = robeing_cron::MAX_CRON_BYTES as u32;
/// Maximum length of a time zone's name, in characters of one byte each: what coordinators accept.
pub const MAX_TIME_ZONE: u32 = robeing_cron::MAX_ZONE_BYTES as u32;
/// Maximum number of runs of a schedule that start late: what coordinators accept.
pub const MAX_MISSED_RUNS: u32 = 100;
/// Maximum length of the input of a schedule's task, in characters, so that it is at most 64 KiB, which coordinators
/// accept.
pub const MAX_SCHEDULE_INPUT: u32 = 16 * 1024;
/// Lowest priority of a task.
pub const MIN_PRIORITY: u32 = 1;
/// Highest priority of a task.
pub const MAX_PRIORITY: u32 = 10;
/// Minimum deadline, time limit and the like of a schedule's task.
pub const MIN_TASK_SPAN: Duration = Duration::from_millis(1);
/// Maximum deadline, time limit and the like of a schedule's task: 366 days, what coordinators accept.
pub const MAX_TASK_SPAN: Duration = Duration::from_secs(366 * 24 * 3600);
/// Maximum number of specializations of one pool.
pub const MAX_SPECIALIZATIONS: u32 = settings::MAX_SPECIALIZATIONS as u32;
/// Maximum length of a specialization, in characters of one byte each.
pub const MAX_SPECIALIZATION_NAME: u32 = settings::MAX_NAME_BYTES as u32;
/// Maximum `replicas` of one pool.
pub const MAX_POOL_REPLICAS: u32 = settings::POOL_REPLICAS.most;
/// Maximum number of standby agents of one pool.
pub const MAX_POOL_STANDBY: u32 = settings::POOL_STANDBY.most;
/// Maximum number of tasks that one agent runs at once.
pub const MAX_SLOTS: u32 = settings::SLOTS.most;
/// Maximum termination grace period of a pod, in seconds: one day.
pub const MAX_GRACE_SECONDS: i64 = 86_400;
/// Highest port number.
pub const MAX_PORT: u32 = 65_535;
/// Maximum number of arguments in a command's `argv`.
pub const MAX_ARGV: u32 = 64;
/// Maximum length of one argument in a command's `argv`, in characters.
pub const MAX_ARG: u32 = 8_192;
/// Maximum size of an executor as JSON, in bytes. An agent gets it in one argument or environment variable, which Linux
/// limits to 128 KiB.
pub const MAX_EXECUTOR_BYTES: usize = 100 * 1024;
/// Maximum length of an `http` executor's URL, in characters.
pub const MAX_URL: u32 = 2_048;
/// Maximum number of webhooks in a cluster. Their list is an annotation of the messengers' pods, whose annotations may have
/// 256 KiB together.
pub const MAX_WEBHOOKS: u32 = 16;
/// Maximum length of a webhook's name, in characters: what messengers accept.
pub const MAX_WEBHOOK_NAME: u32 = 63;
/// Maximum number of kinds of tasks of one webhook.
pub const MAX_WEBHOOK_KINDS: u32 = 16;
/// Maximum number of settings of the object store.
pub const MAX_STORAGE_VARIABLES: u32 = 16;
/// Maximum length of the name of such a setting, in characters.
pub const MAX_STORAGE_NAME: u32 = 63;
/// Maximum length of the value of such a setting, in characters.
pub const MAX_STORAGE_VALUE: u32 = 2_048;
/// Maximum number of headers of an `http` executor.
pub const MAX_HEADERS: u32 = 32;
/// Maximum length of a header's name, in characters.
pub const MAX_HEADER_NAME: u32 = 128;
/// Maximum length of a header's value, in characters.
pub const MAX_HEADER_VALUE: u32 = 2_048;
/// Maximum length of the prefix of a header's value from a Secret, in characters.
pub const MAX_HEADER_PREFIX: u32 = 64;
/// Maximum length of an image reference, in characters.
pub const MAX_IMAGE: u32 = 512;
/// Maximum length of the name of another Kubernetes object that a cluster refers to, in characters: Kubernetes' own
/// limit.
pub const MAX_OBJECT_NAME: u32 = 253;
/// Maximum length of a trust domain, in characters: what coordinators accept.
pub const MAX_TRUST_DOMAIN: u32 = 253;
/// Maximum length of a quantity such as `1Gi`, in characters.
pub const MAX_QUANTITY: u32 = 32;
/// Maximum number of resource kinds in `requests` or `limits`.
pub const MAX_RESOURCE_KINDS: u32 = 32;
/// Maximum length of a duration such as `1m30s`, in characters.
pub const MAX_DURATION: u32 = 20;
/// Minimum deadline of a ballot.
pub const MIN_DEADLINE: Duration = Duration::from_millis(100);
/// Maximum deadline of a ballot.
pub const MAX_DEADLINE: Duration = Duration::from_secs(24 * 3600);
/// Maximum length of a threshold such as `2/3`, in characters.
pub const MAX_THRESHOLD: u32 = 16;
/// Maximum number of attempts at one task.
pub const MAX_ATTEMPTS: u32 = settings::MAX_ATTEMPTS.most;
/// Maximum number of environment variables, volumes, tolerations and the like, each, that a pool may add to its pods.
pub const MAX_POD_LIST: u32 = 128;

/// Maximum size of a manifest, in bytes (1 MiB). By default etcd accepts requests of up to 1.5 MiB.
pub const MAX_MANIFEST_BYTES: usize = 1024 * 1024;
/// Maximum nesting depth of maps and lists in a manifest. The deepest Kubernetes type used here, a pod's affinity,
/// needs 16.
pub const MAX_MANIFEST_DEPTH: usize = 48;
/// Maximum number of values that YAML aliases may expand to in one manifest.
pub const MAX_MANIFEST_ALIASED: usize = 10_000;
/// Maximum number of documents in one manifest.
pub const MAX_MANIFEST_DOCUMENTS: usize = 64;
/// Maximum number of problems reported for one manifest.
pub const MAX_PROBLEMS: usize = 50;

// Agents and coordinators accept every value that the schema accepts.
const _: () = {
    assert!(MAX_CLUSTER_AND_POOL_NAME as usize <= settings::MAX_NAME_BYTES);
    assert!(MAX_COORDINATORS as usize <= robeing_settings::MAX_COORDINATORS);
    assert!(MAX_GRACE_SECONDS as u64 <= settings::DRAIN_TIMEOUT.most.as_secs());
};
