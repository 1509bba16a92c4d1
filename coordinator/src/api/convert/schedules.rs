//! Schedules.

use robeing_fleet::{
    Concurrency, MissedRuns, RetryPolicy, ScheduleRun, ScheduleSpec, SubmitTask, TaskState, limits::DEFAULT_MISSED_RUNS,
};
use robeing_proto::v1;

use super::{
    agents::role,
    blobs::told_blob_ref,
    fields::{BadField, bad, millis},
    happened,
    resources::told_amounts,
    span,
    submissions::{submission, told_retries},
    tasks::{task_state, told_queue, verify},
    timestamp,
};
use crate::schedules::Shown;

fn missed(missed: i32) -> Result<MissedRuns, BadField> {
    match v1::MissedRuns::try_from(missed) {
        Ok(v1::MissedRuns::Unspecified | v1::MissedRuns::Skip) => Ok(MissedRuns::Skip),
        Ok(v1::MissedRuns::Latest) => Ok(MissedRuns::Latest),
        Ok(v1::MissedRuns::All) => Ok(MissedRuns::All),
        Err(_) => Err(bad("spec.missed", format!("unknown value {missed}"))),
    }
}

fn told_missed(missed: MissedRuns) -> v1::MissedRuns {
    match missed {
        MissedRuns::Skip => v1::MissedRuns::Skip,
        MissedRuns::Latest => v1::MissedRuns::Latest,
        MissedRuns::All => v1::MissedRuns::All,
    }
}

fn concurrency(policy: i32) -> Result<Concurrency, BadField> {
    match v1::ConcurrencyPolicy::try_from(policy) {
        Ok(v1::ConcurrencyPolicy::Unspecified | v1::ConcurrencyPolicy::Allow) => Ok(Concurrency::Allow),
        Ok(v1::ConcurrencyPolicy::Forbid) => Ok(Concurrency::Forbid),
        Ok(v1::ConcurrencyPolicy::Replace) => Ok(Concurrency::Replace),
        Err(_) => Err(bad("spec.concurrency", format!("unknown value {policy}"))),
    }
}

fn told_concurrency(policy: Concurrency) -> v1::ConcurrencyPolicy {
    match policy {
        Concurrency::Allow => v1::ConcurrencyPolicy::Allow,
        Concurrency::Forbid => v1::ConcurrencyPolicy::Forbid,
        Concurrency::Replace => v1::ConcurrencyPolicy::Replace,
    }
}

/// Reads what a schedule does, and when.
///
/// # Errors
/// If a field is none, or is one that the task of a schedule can't have.
pub fn schedule_spec(spec: v1::ScheduleSpec, default_retry: RetryPolicy) -> Result<ScheduleSpec, BadField> {
    let v1::ScheduleSpec { cron, time_zone, missed: on_missed, start_within, missed_limit, .. } = spec;
    let task = spec.task.ok_or_else(|| bad("spec.task", "it is missing"))?;
    if !task.id.is_empty() {
        return Err(bad("spec.task.id", "each run has its own; leave it out"));
    }
    if task.requires_approval.is_some() {
        return Err(bad("spec.task.requires_approval", "nobody could be asked when a run is due; leave it out"));
    }
    if task.not_before.is_some() {
        return Err(bad("spec.task.not_before", "a run starts when it is due; leave it out, or set a delay"));
    }
    Ok(ScheduleSpec {
        cron,
        time_zone,
        missed: missed(on_missed)?,
        start_within: millis("spec.start_within", start_within)?,
        missed_limit: if missed_limit == 0 { DEFAULT_MISSED_RUNS } else { missed_limit },
        concurrency: concurrency(spec.concurrency)?,
        suspended: spec.suspended,
        task: submission(task, default_retry, || 0)?,
    })
}

fn told_retry(retry: RetryPolicy) -> v1::RetryPolicy {
    v1::RetryPolicy {
        max_attempts: retry.max_attempts,
        initial_backoff: Some(span(retry.initial_backoff)),
        max_backoff: Some(span(retry.max_backoff)),
        multiplier_percent: retry.multiplier_percent,
        ..v1::RetryPolicy::default()
    }
}

/// Converts the task of a schedule to its API form, without its input if `brief`. It has no id, key, approval and term.
fn task_spec(task: &SubmitTask, brief: bool) -> v1::TaskSpec {
    let (timing, demand) = (task.timing.as_deref(), task.demand.as_deref());
    let (jitter_percent, non_retryable) = told_retries(timing);
    let retry = match task.retry {
        None if jitter_percent == 0 && non_retryable.is_empty() => None,
        retry => Some(v1::RetryPolicy { jitter_percent, non_retryable, ..retry.map(told_retry).unwrap_or_default() }),
    };
    v1::TaskSpec {
        kind: task.kind.clone(),
        input: if brief { Default::default() } else { task.input.clone() },
        priority: task.priority.into(),
        deadline_in: task.deadline_in.map(span),
        delay: task.delay.map(span),
        attempt_timeout: task.attempt_timeout.map(span),
        retry,
        queue_expiry: timing.and_then(|timing| timing.queue_expiry).map(span),
        progress_timeout: timing.and_then(|timing| timing.progress_timeout).map(span),
        slots: demand.map_or(0, |demand| demand.slots),
        skills: demand.map_or_else(Vec::new, |demand| demand.skills.clone()),
        required_role: task.required_role.map_or(v1::Role::Unspecified, role).into(),
        required_specialization: task.required_specialization.clone().unwrap_or_default(),
        result_ttl: task.result_ttl.map(span),
        submitter: task.submitter.clone(),
        verify: task.verify.as_deref().map(verify),
        team: task.team.map(|team| team.to_string()).unwrap_or_default(),
        resources: task.resources.as_ref().map(|needed| told_amounts(needed.amounts)),
        queue: told_queue(task.queue(), task.resources.is_some()),
        limit_key: task.limit_key().to_owned(),
        input_ref: task.input_ref.as_deref().map(told_blob_ref),
        ..v1::TaskSpec::default()
    }
}

fn run(run: &ScheduleRun, state: Option<TaskState>) -> v1::schedule::Run {
    v1::schedule::Run {
        due: Some(timestamp(run.due)),
        task_id: run.task.to_string(),
        started_at: Some(happened(run.started)),
        ended_at: run.end.map(|end| happened(end.at)),
        state: state.map_or(v1::TaskState::Unspecified, task_state).into(),
        by_hand: run.by_hand,
    }
}

/// Converts a schedule to its API form, without the input of its task if `brief`.
pub fn schedule(shown: &Shown, brief: bool) -> v1::Schedule {
    let Shown { schedule, states } = shown;
    let (spec, totals) = (&schedule.spec, schedule.totals);
    v1::Schedule {
        name: schedule.name.clone(),
        spec: Some(v1::ScheduleSpec {
            cron: spec.cron.clone(),
            time_zone: spec.time_zone.clone(),
            missed: told_missed(spec.missed).into(),
            start_within: spec.start_within.map(span),
            missed_limit: spec.missed_limit,
            concurrency: told_concurrency(spec.concurrency).into(),
            suspended: spec.suspended,
            task: Some(task_spec(&spec.task, brief)),
        }),
        generation: schedule.generation,
        managed: schedule.managed,
        set_by: schedule.set_by.name.clone(),
        created_at: Some(happened(schedule.created_at)),
        changed_at: Some(happened(schedule.changed_at)),
        next: schedule.next.map(timestamp),
        runs: schedule.runs.iter().zip(states).map(|(of, state)| run(of, *state)).collect(),
        totals: Some(v1::schedule::Totals {
            started: totals.started,
            succeeded: totals.succeeded,
            unsuccessful: totals.unsuccessful,
            missed: totals.missed,
            busy: totals.busy,
            refused: totals.refused,
        }),
        last_success: schedule.last_success.map(timestamp),
        problem: schedule.problem.as_ref().map(|problem| problem.reason.clone()).unwrap_or_default(),
        problem_due: schedule.problem.as_ref().map(|problem| timestamp(problem.due)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> v1::ScheduleSpec {
        let task = v1::TaskSpec {
            kind: "report".to_owned(),
            input: "x".into(),
            priority: 7,
            deadline_in: Some(span(90_500)),
            delay: Some(span(1)),
            attempt_timeout: Some(span(1_000)),
            retry: Some(v1::RetryPolicy { jitter_percent: 20, ..told_retry(RetryPolicy::default()) }),
            queue_expiry: Some(span(30_000)),
            progress_timeout: Some(span(2_000)),
            slots: 2,
            skills: vec!["law".to_owned()],
            required_role: v1::Role::Specialist.into(),
            required_specialization: "ocr".to_owned(),
            result_ttl: Some(span(60_000)),
            submitter: "ann".to_owned(),
            verify: Some(v1::Verify { agents: 3, agree: 2, ..v1::Verify::default() }),
            team: "00000000-0000-0000-0000-000000000001".to_owned(),
            resources: Some(v1::ResourceAmounts { cpu_millis: 1, ..v1::ResourceAmounts::default() }),
            queue: "batch".to_owned(),
            limit_key: "customer".to_owned(),
            ..v1::TaskSpec::default()
        };
        v1::ScheduleSpec {
            cron: "@daily".to_owned(),
            time_zone: "Europe/Berlin".to_owned(),
            missed: v1::MissedRuns::All.into(),
            start_within: Some(span(3_600_000)),
            missed_limit: 3,
            concurrency: v1::ConcurrencyPolicy::Replace.into(),
            suspended: true,
            task: Some(task),
        }
    }

    #[test]
    fn a_schedule_is_shown_as_it_was_set() {
        let spec = schedule_spec(asked(), RetryPolicy::default()).expect("it is right");
        assert_eq!(spec.check(), Ok(()));
        assert_eq!(Some(task_spec(&spec.task, false)), asked().task);
        assert!(task_spec(&spec.task, true).input.is_empty());
        let told = (told_missed(spec.missed), told_concurrency(spec.concurrency), spec.start_within.map(span));
        assert_eq!(told, (asked().missed(), asked().concurrency(), asked().start_within));
    }

    #[test]
    fn what_is_left_out_has_its_default() {
        let task = Some(v1::TaskSpec { kind: "k".to_owned(), ..v1::TaskSpec::default() });
        let spec = v1::ScheduleSpec { cron: "@daily".to_owned(), task, ..v1::ScheduleSpec::default() };
        let spec = schedule_spec(spec, RetryPolicy::default()).expect("it is right");
        assert_eq!((spec.missed, spec.missed_limit), (MissedRuns::Skip, DEFAULT_MISSED_RUNS));
        assert_eq!((spec.concurrency, spec.start_within), (Concurrency::Allow, None));
    }

    #[test]
    fn what_the_task_of_a_schedule_can_not_have_is_refused() {
        let refused = |change: fn(&mut v1::ScheduleSpec)| {
            let mut spec = asked();
            change(&mut spec);
            schedule_spec(spec, RetryPolicy::default()).expect_err("it is refused").to_string()
        };
        let with = |spec: &mut v1::ScheduleSpec, change: fn(&mut v1::TaskSpec)| spec.task.iter_mut().for_each(change);
        assert!(refused(|spec| spec.task = None).contains("spec.task: it is missing"));
        assert!(refused(|spec| spec.missed = 9).contains("spec.missed: unknown value 9"));
        assert!(refused(|spec| spec.concurrency = -1).contains("spec.concurrency: unknown value -1"));
        let mut spec = asked();
        with(&mut spec, |task| task.id = "00000000-0000-0000-0000-000000000001".to_owned());
        assert!(schedule_spec(spec, RetryPolicy::default()).is_err());
        let mut spec = asked();
        with(&mut spec, |task| task.requires_approval = Some(v1::RequiredApproval::default()));
        assert!(schedule_spec(spec, RetryPolicy::default()).is_err());
        let mut spec = asked();
        with(&mut spec, |task| task.not_before = Some(timestamp(1)));
        assert!(schedule_spec(spec, RetryPolicy::default()).is_err());
    }
}
