//! The fleet's types in the form of the API, and what is submitted in the form of the fleet.

use std::{collections::BTreeSet, str::FromStr};

use prost_types::{Duration as WireDuration, Timestamp};
use robeing_fleet::{
    self as fleet, Agent, Attempt, AttemptEnd, Failure, FailureKind, FleetMillis, Refusal, RetryPolicy, Role,
    ScoreTerms, Stamp, SubmitTask, Task, TaskId, TaskState, UnixMillis,
    limits::{DEFAULT_PRIORITY, MAX_NAME_BYTES},
};
use robeing_proto::v1;

use crate::api::errors;

/// A field of a request that can't be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadField {
    field: &'static str,
    problem: String,
}

fn bad(field: &'static str, problem: impl ToString) -> BadField {
    BadField { field, problem: problem.to_string() }
}

/// A wall time as the API says it.
pub fn timestamp(millis: UnixMillis) -> Timestamp {
    Timestamp { seconds: (millis / 1000) as i64, nanos: (millis % 1000) as i32 * 1_000_000 }
}

/// When something happened, by the wall time of that moment.
fn happened(at: Stamp) -> Timestamp {
    timestamp(at.wall)
}

/// When something will happen, by the wall time as far as can be told now.
fn due(at: FleetMillis, now: Stamp) -> Timestamp {
    timestamp(now.wall_at(at))
}

/// Characters of a text from outside that an error repeats.
const EXCERPT_CHARS: usize = 64;

/// The beginning of a text from outside, for repeating it in an error: enough to recognize it, however long it is.
pub fn excerpt(text: &str) -> &str {
    let end = text.char_indices().nth(EXCERPT_CHARS).map_or(text.len(), |(end, _)| end);
    &text[..end]
}

/// A task id from its text.
pub fn task_id(text: &str) -> Result<TaskId, BadField> {
    let not_one = |_| bad("id", format!("{:?} is not a task id; it is a UUID", excerpt(text)));
    Ok(TaskId(uuid::Uuid::from_str(text).map_err(not_one)?.as_u128()))
}

/// A name to filter by, if one is given.
pub fn filter_name(field: &'static str, name: String) -> Result<Option<String>, BadField> {
    if name.len() > MAX_NAME_BYTES {
        return Err(bad(field, format!("it has {} bytes, the most is {MAX_NAME_BYTES}", name.len())));
    }
    Ok(some(name))
}

fn millis(field: &'static str, duration: Option<WireDuration>) -> Result<Option<u64>, BadField> {
    let Some(duration) = duration else { return Ok(None) };
    let duration = std::time::Duration::try_from(duration).map_err(|_| bad(field, "it must not be negative"))?;
    let millis = u64::try_from(duration.as_millis()).map_err(|_| bad(field, "it is too long"))?;
    if millis == 0 && !duration.is_zero() {
        return Err(bad(field, "it is shorter than a millisecond"));
    }
    Ok(Some(millis))
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn submitted_role(role: i32) -> Result<Option<Role>, BadField> {
    match v1::Role::try_from(role) {
        Ok(v1::Role::Unspecified) => Ok(None),
        Ok(role) => agent_role(role).map(Some).map_err(|_| bad("required_role", "coordinators run no tasks")),
        Err(_) => Err(bad("required_role", format!("unknown role {role}"))),
    }
}

/// The role of an agent.
pub fn agent_role(role: v1::Role) -> Result<Role, BadField> {
    match role {
        v1::Role::Worker => Ok(Role::Worker),
        v1::Role::Specialist => Ok(Role::Specialist),
        v1::Role::Messenger => Ok(Role::Messenger),
        v1::Role::Guardian => Ok(Role::Guardian),
        v1::Role::Coordinator | v1::Role::Unspecified => {
            Err(bad("role", "an agent is a worker, specialist, messenger or guardian"))
        }
    }
}

fn retry(policy: Option<v1::RetryPolicy>, default: RetryPolicy) -> Result<Option<RetryPolicy>, BadField> {
    let Some(policy) = policy else { return Ok(None) };
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let initial_backoff = millis("retry.initial_backoff", policy.initial_backoff)?.unwrap_or(default.initial_backoff);
    let max_backoff = millis("retry.max_backoff", policy.max_backoff)?;
    Ok(Some(RetryPolicy {
        max_attempts: or(policy.max_attempts, default.max_attempts),
        initial_backoff,
        max_backoff: max_backoff.unwrap_or(default.max_backoff.max(initial_backoff)),
        multiplier_percent: or(policy.multiplier_percent, default.multiplier_percent),
    }))
}

/// A submission. `fresh` is the id for one that brings none.
pub fn submission(
    spec: v1::TaskSpec,
    default_retry: RetryPolicy,
    fresh: impl FnOnce() -> u128,
) -> Result<SubmitTask, BadField> {
    let id = if spec.id.is_empty() { TaskId(fresh()) } else { task_id(&spec.id)? };
    let priority = match spec.priority {
        0 => DEFAULT_PRIORITY,
        priority => u8::try_from(priority).map_err(|_| bad("priority", "it is 1 (last) to 10 (first)"))?,
    };
    Ok(SubmitTask {
        #[cfg(feature = "trial")]
        trial: robeing_fleet::trial::is_known() && spec.kind.starts_with("trial:"),
        priority,
        deadline_in: millis("deadline_in", spec.deadline_in)?,
        delay: millis("delay", spec.delay)?,
        attempt_timeout: millis("attempt_timeout", spec.attempt_timeout)?,
        retry: retry(spec.retry, default_retry)?,
        required_role: submitted_role(spec.required_role)?,
        required_specialization: some(spec.required_specialization),
        idempotency_key: some(spec.idempotency_key),
        result_ttl: millis("result_ttl", spec.result_ttl)?,
        submitter: spec.submitter,
        ..SubmitTask::new(id, spec.kind, spec.input)
    })
}

/// A failure from an agent's report.
pub fn failure_from_wire(failure: v1::Failure) -> Failure {
    let kind = match v1::FailureKind::try_from(failure.kind).unwrap_or_default() {
        v1::FailureKind::Exit => FailureKind::Exit,
        v1::FailureKind::Signal => FailureKind::Signal,
        v1::FailureKind::Spawn => FailureKind::Spawn,
        v1::FailureKind::TimedOut => FailureKind::TimedOut,
        v1::FailureKind::OutputTooLarge => FailureKind::OutputTooLarge,
        v1::FailureKind::Http => FailureKind::Http,
        v1::FailureKind::Unreachable => FailureKind::Unreachable,
        v1::FailureKind::Reported => FailureKind::Reported,
        v1::FailureKind::AgentLost => FailureKind::AgentLost,
        v1::FailureKind::Deadline => FailureKind::Deadline,
        v1::FailureKind::Internal | v1::FailureKind::Unspecified => FailureKind::Internal,
    };
    Failure {
        kind,
        message: failure.message,
        code: failure.code,
        stderr_tail: failure.stderr_tail,
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after_ms,
    }
}

fn failure(failure: &Failure) -> v1::Failure {
    let kind = match failure.kind {
        FailureKind::Exit => v1::FailureKind::Exit,
        FailureKind::Signal => v1::FailureKind::Signal,
        FailureKind::Spawn => v1::FailureKind::Spawn,
        FailureKind::TimedOut => v1::FailureKind::TimedOut,
        FailureKind::OutputTooLarge => v1::FailureKind::OutputTooLarge,
        FailureKind::Http => v1::FailureKind::Http,
        FailureKind::Unreachable => v1::FailureKind::Unreachable,
        FailureKind::Reported => v1::FailureKind::Reported,
        FailureKind::AgentLost => v1::FailureKind::AgentLost,
        FailureKind::Deadline => v1::FailureKind::Deadline,
        FailureKind::Internal => v1::FailureKind::Internal,
    };
    v1::Failure {
        kind: kind.into(),
        message: failure.message.clone(),
        code: failure.code,
        stderr_tail: failure.stderr_tail.clone(),
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after_ms,
    }
}

/// A role as the API says it.
pub fn role(role: Role) -> v1::Role {
    match role {
        Role::Worker => v1::Role::Worker,
        Role::Specialist => v1::Role::Specialist,
        Role::Messenger => v1::Role::Messenger,
        Role::Guardian => v1::Role::Guardian,
    }
}

/// A task's state as the API says it.
pub fn task_state(state: TaskState) -> v1::TaskState {
    match state {
        TaskState::Queued => v1::TaskState::Queued,
        TaskState::Assigned => v1::TaskState::Assigned,
        TaskState::Succeeded => v1::TaskState::Succeeded,
        TaskState::Failed => v1::TaskState::Failed,
        TaskState::Cancelled => v1::TaskState::Cancelled,
        TaskState::DeadLettered => v1::TaskState::DeadLettered,
    }
}

/// States to filter by, each once.
pub fn task_states(states: &[i32]) -> Result<Vec<TaskState>, BadField> {
    let known = |state: &i32| match v1::TaskState::try_from(*state) {
        Ok(v1::TaskState::Queued) => Ok(TaskState::Queued),
        Ok(v1::TaskState::Assigned) => Ok(TaskState::Assigned),
        Ok(v1::TaskState::Succeeded) => Ok(TaskState::Succeeded),
        Ok(v1::TaskState::Failed) => Ok(TaskState::Failed),
        Ok(v1::TaskState::Cancelled) => Ok(TaskState::Cancelled),
        Ok(v1::TaskState::DeadLettered) => Ok(TaskState::DeadLettered),
        Ok(v1::TaskState::Unspecified) | Err(_) => Err(bad("states", format!("unknown state {state}"))),
    };
    let states: BTreeSet<TaskState> = states.iter().map(known).collect::<Result<_, _>>()?;
    Ok(states.into_iter().collect())
}

fn score(terms: &ScoreTerms) -> v1::Score {
    let points = |millipoints: i64| millipoints as f64 / 1000.0;
    v1::Score {
        specialization: points(terms.specialization),
        load: points(terms.load),
        performance: points(terms.performance),
        total: points(terms.total),
    }
}

fn attempt(attempt: &Attempt) -> v1::Attempt {
    let state = match attempt.end {
        None => v1::AttemptState::Running,
        Some(AttemptEnd::Succeeded) => v1::AttemptState::Succeeded,
        Some(AttemptEnd::Failed) => v1::AttemptState::Failed,
        Some(AttemptEnd::TimedOut) => v1::AttemptState::TimedOut,
        Some(AttemptEnd::Cancelled) => v1::AttemptState::Cancelled,
        Some(AttemptEnd::Lost) => v1::AttemptState::Lost,
        Some(AttemptEnd::HandedBack) => v1::AttemptState::HandedBack,
    };
    v1::Attempt {
        number: attempt.number,
        agent: attempt.agent_name.to_string(),
        state: state.into(),
        assigned_at: Some(happened(attempt.assigned_at)),
        ended_at: attempt.ended_at.map(happened),
        score: Some(score(&attempt.score)),
        candidates: attempt.candidates,
        failure: attempt.failure.as_ref().map(failure),
    }
}

/// Which of a task's large parts to tell.
#[derive(Clone, Copy, Default)]
pub struct Parts {
    /// The input.
    pub input: bool,
    /// The output.
    pub output: bool,
    /// The attempts.
    pub attempts: bool,
}

/// A task as the API says it, in a fleet whose clocks say `now`.
pub fn task(task: &Task, parts: Parts, now: Stamp) -> v1::Task {
    let attempts = if parts.attempts { &task.attempts[..] } else { &[] };
    v1::Task {
        id: task.id.to_string(),
        kind: task.kind.clone(),
        state: task_state(task.state).into(),
        priority: task.priority.into(),
        submitter: task.submitter.clone(),
        input: if parts.input { task.input.clone() } else { Default::default() },
        output: task.output.as_ref().filter(|_| parts.output).cloned().unwrap_or_default(),
        failure: task.failure.as_ref().map(failure),
        cancel_reason: task.cancel_reason.clone().unwrap_or_default(),
        max_attempts: task.retry.max_attempts,
        attempts: attempts.iter().map(attempt).collect(),
        submitted_at: Some(happened(task.submitted_at)),
        finished_at: task.finished_at.map(happened),
        deadline: task.deadline.map(|at| due(at, now)),
        not_before: task.not_before.map(|at| due(at, now)),
        // By the time of day at its end, so that every answer says the same.
        expires_at: task.finished_at.zip(task.expires_at).map(|(ended, at)| due(at, ended)),
        required_role: task.required_role.map_or(v1::Role::Unspecified, role).into(),
        required_specialization: task.required_specialization.clone().unwrap_or_default(),
        idempotency_key: task.idempotency_key.clone().unwrap_or_default(),
        revision: task.revision,
        waiting_for: String::new(),
        attempt: task.attempt,
        attempts_used: task.attempts_used,
    }
}

struct RoleTraits {
    responsibilities: &'static [&'static str],
    capabilities: &'static [&'static str],
    priority: u32,
}

/// What a role is for, can do, and how early it is served.
fn traits(role: Role) -> RoleTraits {
    let (responsibilities, capabilities, priority): (&[_], &[_], _) = match role {
        Role::Specialist => {
            (&["domain_expertise", "deep_analysis"], &["specialized_processing", "expert_knowledge"], 2)
        }
        Role::Guardian => (&["security", "monitoring", "validation"], &["threat_detection", "access_control"], 2),
        Role::Worker => (&["task_execution", "data_processing"], &["parallel_processing", "batch_operations"], 3),
        Role::Messenger => (&["communication", "data_transfer"], &["protocol_handling", "format_conversion"], 4),
    };
    RoleTraits { responsibilities, capabilities, priority }
}

/// An agent as the API says it.
pub fn agent(agent: &Agent) -> v1::Agent {
    let state = match agent.state {
        fleet::AgentState::Live => v1::AgentState::Live,
        fleet::AgentState::Standby => v1::AgentState::Standby,
        fleet::AgentState::Draining => v1::AgentState::Draining,
        fleet::AgentState::Lost => v1::AgentState::Lost,
        fleet::AgentState::Unhealthy => v1::AgentState::Unhealthy,
    };
    let share = |millionths: u32| f64::from(millionths) / 1e6;
    let RoleTraits { responsibilities, capabilities, priority } = traits(agent.role);
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect();
    v1::Agent {
        name: agent.name.to_string(),
        role: role(agent.role).into(),
        state: state.into(),
        pool: agent.pool.clone().unwrap_or_default(),
        specializations: agent.specializations.iter().map(ToString::to_string).collect(),
        slots: agent.slots,
        used_slots: agent.used_slots(),
        address: agent.address.clone(),
        pid: agent.pid,
        version: agent.version.clone(),
        incarnation: format!("{:016x}", agent.incarnation),
        session: agent.session.0,
        joined_at: Some(happened(agent.joined_at)),
        lost_at: agent.lost.as_ref().map(|loss| happened(loss.at)),
        lost_reason: agent.lost.as_ref().map(|loss| loss_reason(loss.reason).to_owned()).unwrap_or_default(),
        succeeded: agent.record.succeeded,
        failed: agent.record.failed,
        performance: f64::from(agent.record.performance()) / 1000.0,
        success_rate: share(agent.record.success),
        relative_speed: share(agent.record.speed),
        responsibilities: owned(responsibilities),
        capabilities: owned(capabilities),
        role_priority: priority,
        revision: agent.revision,
        unhealthy_reason: agent.unhealthy.clone().unwrap_or_default(),
        unhealthy_since: agent.unhealthy.as_ref().map(|_| timestamp(agent.recovery.began().wall)),
        recovery: Vec::new(),
    }
}

/// A step in the recovery of an agent as the API says it.
pub fn recovery_step(step: &fleet::RecoveryStep) -> v1::RecoveryStep {
    use v1::RecoveryAction as Action;
    let mut told = v1::RecoveryStep {
        at: Some(timestamp(step.at.wall)),
        took: Some(WireDuration { seconds: (step.took / 1000) as i64, nanos: (step.took % 1000) as i32 * 1_000_000 }),
        ..v1::RecoveryStep::default()
    };
    let action = match &step.event {
        fleet::RecoveryEvent::Unhealthy { reason } => {
            told.reason.clone_from(reason);
            Action::Unhealthy
        }
        fleet::RecoveryEvent::Lost { reason } => {
            loss_reason(*reason).clone_into(&mut told.reason);
            Action::Lost
        }
        fleet::RecoveryEvent::Redistributed { tasks } => {
            told.tasks = *tasks;
            Action::Redistribute
        }
        fleet::RecoveryEvent::StandbyActivated { agent } => {
            told.standby = agent.to_string();
            Action::ActivateStandby
        }
        fleet::RecoveryEvent::Removed => Action::Remove,
        fleet::RecoveryEvent::RecoveryAttempted => Action::AttemptRecovery,
        fleet::RecoveryEvent::Readmitted { standby } => {
            told.waits = *standby;
            Action::Readmit
        }
    };
    told.action = action.into();
    told
}

/// Such a step as the whole fleet keeps it.
pub fn fleet_recovery_step(kept: &fleet::FleetRecoveryStep) -> v1::FleetRecoveryStep {
    v1::FleetRecoveryStep {
        number: kept.number,
        agent: kept.agent.to_string(),
        pool: kept.pool.clone().unwrap_or_default(),
        step: Some(recovery_step(&kept.step)),
    }
}

fn loss_reason(reason: fleet::LossReason) -> &'static str {
    match reason {
        fleet::LossReason::Disconnected => "its process is gone",
        fleet::LossReason::Silent => "no heartbeat for the session timeout",
        fleet::LossReason::Replaced => "another process of its name joined",
        fleet::LossReason::Failed => "it failed its health checks",
    }
}

/// Bytes that the fixed parts of an answer, a failure or an attempt take at most.
const ANSWER_BYTES: usize = 256;

/// Bytes of an answer in a message, or a little more: cheaper than the exact number, since every answer is asked.
pub fn answer_size(answer: &v1::streamed_answer::Answer) -> usize {
    use v1::streamed_answer::Answer;
    let refusal = |refusal: &v1::Refusal| refusal.code.len() + refusal.message.len();
    match answer {
        Answer::Submitted(result) => ANSWER_BYTES + result.task_id.len() + result.refusal.as_ref().map_or(0, refusal),
        Answer::Finished(task) => result_size(task),
        Answer::Expired(id) => ANSWER_BYTES + id.len(),
    }
}

/// As [`answer_size`], of a result.
pub fn result_size(task: &v1::Task) -> usize {
    let failure = |failure: &Option<v1::Failure>| {
        failure.as_ref().map_or(0, |failure| failure.message.len() + failure.stderr_tail.len() + ANSWER_BYTES / 4)
    };
    let attempt = |attempt: &v1::Attempt| attempt.agent.len() + failure(&attempt.failure) + ANSWER_BYTES;
    let texts = [&task.id, &task.kind, &task.submitter, &task.required_specialization];
    let more = [&task.idempotency_key, &task.cancel_reason, &task.waiting_for];
    ANSWER_BYTES
        + texts.into_iter().chain(more).map(String::len).sum::<usize>()
        + task.input.len()
        + task.output.len()
        + failure(&task.failure)
        + task.attempts.iter().map(attempt).sum::<usize>()
}

/// A refusal as the API says it.
pub fn refusal(refusal: &Refusal) -> v1::Refusal {
    v1::Refusal { code: errors::code_name(refusal).to_owned(), message: refusal.to_string() }
}

/// That there was no room for something, as the API says it.
pub fn exhausted(error: &impl ToString) -> v1::Refusal {
    v1::Refusal { code: "RESOURCE_EXHAUSTED".to_owned(), message: error.to_string() }
}

/// A field that can't be taken, as the API says it.
pub fn bad_field(error: &BadField) -> v1::Refusal {
    v1::Refusal { code: "INVALID_ARGUMENT".to_owned(), message: error.to_string() }
}

/// The fleet's own part of its status.
pub fn status(fleet: &fleet::Fleet) -> v1::FleetStatus {
    let (counts, totals, agents) = (fleet.counts(), fleet.totals(), fleet.agent_counts());
    let pools = fleet.pools().into_iter().map(|pool| v1::PoolStatus {
        name: pool.name,
        live: pool.live,
        standby: pool.standby,
        desired: pool.desired,
    });
    v1::FleetStatus {
        revision: fleet.revision(),
        agents: Some(v1::AgentCounts {
            live: agents.live,
            standby: agents.standby,
            draining: agents.draining,
            lost: agents.lost,
            unhealthy: agents.unhealthy,
        }),
        tasks: Some(v1::TaskCounts {
            queued: counts.queued.into(),
            running: counts.assigned.into(),
            succeeded: counts.succeeded.into(),
            failed: counts.failed.into(),
            cancelled: counts.cancelled.into(),
            dead_lettered: counts.dead_lettered.into(),
        }),
        finished_total: Some(v1::TaskCounts {
            queued: 0,
            running: 0,
            succeeded: totals.succeeded,
            failed: totals.failed,
            cancelled: totals.cancelled,
            dead_lettered: totals.dead_lettered,
        }),
        pools: pools.collect(),
        fleet_version: fleet.version(),
        redistributed_total: totals.redistributed,
        stale_refused_total: totals.stale_refused,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use robeing_fleet::Outcome;
    use v1::streamed_answer::Answer;

    use super::*;
    use crate::fixture::{fleet_with_ended, wordy_failure};

    #[test]
    fn an_answer_is_never_taken_for_smaller_than_it_is() {
        let parts = Parts { input: true, output: true, attempts: true };
        let ended =
            [Outcome::Succeeded(Bytes::new()), Outcome::Succeeded(vec![1; 1024 * 1024].into()), wordy_failure()];
        let finished = ended.map(|outcome| {
            let fleet = fleet_with_ended(1, &outcome);
            Answer::Finished(task(fleet.task(TaskId(1)).expect("it ended"), parts, fleet.now()))
        });
        let refusal = Some(v1::Refusal { code: "RESOURCE_EXHAUSTED".into(), message: "m".repeat(500) });
        let submitted = v1::SubmitResult { task_id: TaskId(u128::MAX).to_string(), existing: true, refusal };
        for answer in finished.into_iter().chain([Answer::Submitted(submitted)]) {
            let assumed = answer_size(&answer);
            let answer = v1::StreamedAnswer { tag: u64::MAX, answer: Some(answer) };
            // With the tag and length that it has as a part of its message.
            let exact = answer.encoded_len() + 6;
            assert!(assumed >= exact && assumed <= exact + 1024, "{assumed} bytes assumed for {exact}");
        }
    }

    #[test]
    fn an_excerpt_is_cut_at_a_character() {
        assert_eq!(excerpt("short"), "short");
        assert_eq!(excerpt(&"ä".repeat(1_000)), "ä".repeat(EXCERPT_CHARS));
    }

    #[test]
    fn states_are_filtered_by_once_however_often_they_are_named() {
        let states = vec![i32::from(v1::TaskState::Queued); 100_000];
        assert_eq!(task_states(&states), Ok(vec![TaskState::Queued]));
    }

    #[test]
    fn a_filter_is_no_longer_than_a_name() {
        assert!(filter_name("kind", "x".repeat(MAX_NAME_BYTES)).is_ok());
        assert!(filter_name("kind", "x".repeat(MAX_NAME_BYTES + 1)).is_err());
    }
}
