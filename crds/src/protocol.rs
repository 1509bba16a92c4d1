//! What coordinators keep of a spec, in the messages of their protocol.

use std::time;

use robeing_proto::v1;

use crate::{
    ConcurrencyPolicy, Duration, MissedRuns, Role, Schedule, ScheduledTask, SplitBy, SplitJoin, Splitter, TaskKind,
    TaskKindRetry,
};

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Worker => Self::Worker,
            Role::Specialist => Self::Specialist,
            Role::Messenger => Self::Messenger,
            Role::Guardian => Self::Guardian,
        }
    }
}

/// Returns a time in the unit of coordinators: what is less than a millisecond does not count. The schema takes no time that
/// is too long for the protocol.
fn whole_millis(span: Duration) -> Option<prost_types::Duration> {
    time::Duration::from_millis(u64::try_from(span.get().as_millis()).ok()?).try_into().ok()
}

/// Returns the role that is required of agents, or that none is.
fn required(role: Option<Role>) -> v1::Role {
    role.map_or(v1::Role::Unspecified, v1::Role::from)
}

impl From<&TaskKind> for v1::TaskKind {
    fn from(kind: &TaskKind) -> Self {
        let amounts = kind.resources.as_ref().map(|resources| {
            let amounts = resources.amounts();
            v1::ResourceAmounts {
                cpu_millis: amounts.cpu.unwrap_or(0),
                memory_bytes: amounts.memory.unwrap_or(0),
                storage_bytes: amounts.storage.unwrap_or(0),
                bandwidth_bits_per_second: amounts.bandwidth.unwrap_or(0),
            }
        });
        Self {
            name: kind.name.clone(),
            role: required(kind.role).into(),
            skills: kind.skills.clone(),
            slots: kind.slots,
            resources: amounts,
            queue: kind.queue.clone().unwrap_or_default(),
            deadline_in: kind.deadline.and_then(whole_millis),
            attempt_timeout: kind.attempt_timeout.and_then(whole_millis),
            retry: kind.retry.as_ref().map(retry),
            queue_expiry: kind.queue_expiry.and_then(whole_millis),
            progress_timeout: kind.progress_timeout.and_then(whole_millis),
            agents: kind.agents.unwrap_or(0),
            splitter: kind.splitter.as_ref().map(splitter),
        }
    }
}

fn splitter(splitter: &Splitter) -> v1::Splitter {
    let by = match splitter.by {
        SplitBy::Lines => v1::SplitBy::Lines,
        SplitBy::Chunks => v1::SplitBy::Chunks,
        SplitBy::Json => v1::SplitBy::Json,
        SplitBy::Command => v1::SplitBy::Command,
    };
    let join = match splitter.join {
        SplitJoin::All => v1::Join::All,
        SplitJoin::Settled => v1::Join::Settled,
        SplitJoin::Any => v1::Join::Any,
        SplitJoin::Reduce => v1::Join::Reduce,
    };
    v1::Splitter {
        by: by.into(),
        join: join.into(),
        part_kind: splitter.part_kind.clone().unwrap_or_default(),
        kind: splitter.kind.clone().unwrap_or_default(),
    }
}

fn retry(retry: &TaskKindRetry) -> v1::RetryPolicy {
    v1::RetryPolicy {
        max_attempts: retry.max_attempts.unwrap_or(0),
        initial_backoff: retry.initial_backoff.and_then(whole_millis),
        max_backoff: retry.max_backoff.and_then(whole_millis),
        multiplier_percent: retry.multiplier_percent.unwrap_or(0),
        jitter_percent: retry.jitter_percent.unwrap_or(0),
        ..v1::RetryPolicy::default()
    }
}

/// The request for a schedule that is a part of the cluster's resource.
impl From<&Schedule> for v1::SetScheduleRequest {
    fn from(schedule: &Schedule) -> Self {
        let missed = match schedule.missed_runs {
            MissedRuns::Skip => v1::MissedRuns::Skip,
            MissedRuns::Latest => v1::MissedRuns::Latest,
            MissedRuns::All => v1::MissedRuns::All,
        };
        let concurrency = match schedule.concurrency_policy {
            ConcurrencyPolicy::Allow => v1::ConcurrencyPolicy::Allow,
            ConcurrencyPolicy::Forbid => v1::ConcurrencyPolicy::Forbid,
            ConcurrencyPolicy::Replace => v1::ConcurrencyPolicy::Replace,
        };
        let spec = v1::ScheduleSpec {
            cron: schedule.cron.clone(),
            time_zone: schedule.time_zone.clone().unwrap_or_default(),
            missed: missed.into(),
            start_within: schedule.start_within.and_then(whole_millis),
            missed_limit: schedule.missed_limit.unwrap_or_default(),
            concurrency: concurrency.into(),
            suspended: schedule.suspend,
            task: Some(task(&schedule.task)),
        };
        Self { name: schedule.name.clone(), spec: Some(spec), managed: true }
    }
}

fn task(task: &ScheduledTask) -> v1::TaskSpec {
    let retry = task.max_attempts.map(|most| v1::RetryPolicy { max_attempts: most, ..v1::RetryPolicy::default() });
    v1::TaskSpec {
        kind: task.kind.clone(),
        input: task.input.clone().into(),
        priority: task.priority.unwrap_or_default(),
        deadline_in: task.deadline.and_then(whole_millis),
        attempt_timeout: task.attempt_timeout.and_then(whole_millis),
        retry,
        required_role: required(task.role).into(),
        required_specialization: task.specialization.clone().unwrap_or_default(),
        result_ttl: task.result_ttl.and_then(whole_millis),
        ..v1::TaskSpec::default()
    }
}
