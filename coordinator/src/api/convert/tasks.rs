//! Conversion of tasks and their attempts.

use std::collections::BTreeSet;

use bytes::Bytes;
use robeing_fleet::{
    Approval, Attempt, AttemptEnd, Candidate, Candidates, Obstacle, ScoreTerms, Stamp, Task, TaskState, UnmetNeed,
    Verification, Verify, limits::DEFAULT_QUEUE,
};
use robeing_proto::v1;

use super::{
    agents::{role, state as agent_state},
    blobs::told_blob_ref,
    due,
    failures::failure,
    fields::{BadField, bad},
    happened,
    links::told_links,
    resources::told_amounts,
    same_variants, span,
    submissions::told_retries,
    timestamp,
};

same_variants! {
    /// Converts a task's state to its API form.
    task_state,
    /// Converts a task's state from a request; `None` for an unknown one.
    known_task_state,
    TaskState { Queued, Assigned, Succeeded, Failed, Cancelled, DeadLettered }
}

/// Returns the states to filter by, each once.
pub fn task_states(states: &[i32]) -> Result<Vec<TaskState>, BadField> {
    let known = |state: &i32| {
        let found = v1::TaskState::try_from(*state).ok().and_then(known_task_state);
        found.ok_or_else(|| bad("states", format!("unknown state {state}")))
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
        Some(AttemptEnd::Outvoted) => v1::AttemptState::Outvoted,
        Some(AttemptEnd::Suspended) => v1::AttemptState::Suspended,
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
        digest: attempt.digest.map(|digest| Bytes::copy_from_slice(&digest)).unwrap_or_default(),
    }
}

fn approval(approval: Approval) -> v1::TaskApproval {
    v1::TaskApproval { ballot: approval.ballot.to_string(), approved: approval.approved }
}

pub(super) fn verify(asked: &Verify) -> v1::Verify {
    v1::Verify {
        agents: asked.agents,
        agree: asked.agree,
        pointer: asked.pointer.clone(),
        compare: asked.compare.clone().unwrap_or_default(),
    }
}

/// Returns which outputs were compared, and which are being compared.
fn comparisons(verification: &Verification) -> Vec<v1::Comparison> {
    let ended = verification.comparisons.iter().map(|found| v1::Comparison {
        one: found.one,
        other: found.other,
        agent: found.by.to_string(),
        equal: Some(found.equal),
    });
    let running = verification.comparing.and_then(|_| verification.compared());
    let running = running.map(|[one, other]| v1::Comparison { one, other, agent: String::new(), equal: None });
    ended.chain(running).collect()
}

/// Returns the queue of a task, unless it goes without saying.
pub fn told_queue(queue: &str, has_resources: bool) -> String {
    if has_resources || queue != DEFAULT_QUEUE { queue.to_owned() } else { String::new() }
}

fn candidate(of: Candidate) -> v1::Candidate {
    let free_in = match of.obstacle {
        Some(Obstacle::Busy { free_in }) => free_in,
        _ => None,
    };
    v1::Candidate {
        agent: of.agent.to_string(),
        state: agent_state(of.state).into(),
        score: Some(score(&of.score)),
        free_slots: of.free_slots,
        why_not: of.obstacle.map(|obstacle| obstacle.to_string()).unwrap_or_default(),
        free_in: free_in.map(span),
    }
}

/// Adds the agents that could take a task to its API form.
pub fn add_candidates(task: &mut v1::Task, candidates: Candidates<'_>) {
    let (best, left, others) = candidates.told();
    task.candidates = best.into_iter().map(candidate).collect();
    task.candidates_left = u32::try_from(left).unwrap_or(u32::MAX);
    task.unfit_agents = u32::try_from(others).unwrap_or(u32::MAX);
}

/// Converts what tasks need that no agent has to its API form.
pub fn unmet_need(need: UnmetNeed) -> v1::UnmetNeed {
    v1::UnmetNeed {
        tasks: need.tasks,
        task_id: need.task.to_string(),
        kind: need.kind,
        since: Some(happened(need.since)),
        problem: need.problem,
    }
}

/// Which of a task's large parts to include.
#[derive(Clone, Copy, Default)]
pub struct Parts {
    /// The input.
    pub input: bool,
    /// The output.
    pub output: bool,
    /// The attempts.
    pub attempts: bool,
}

/// Converts a task to its API form, in a fleet whose clocks show `now`.
pub fn task(task: &Task, parts: Parts, now: Stamp) -> v1::Task {
    let attempts = if parts.attempts { &task.attempts[..] } else { &[] };
    let (jitter_percent, non_retryable) = told_retries(task.timing.as_ref().map(|timing| &timing.asked));
    let told = v1::Task {
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
        // In the wall time of the task's end, so that every answer has the same value.
        expires_at: task.finished_at.zip(task.expires_at).map(|(ended, at)| due(at, ended)),
        required_role: task.required_role.map_or(v1::Role::Unspecified, role).into(),
        required_specialization: task.required_specialization.clone().unwrap_or_default(),
        idempotency_key: task.idempotency_key.clone().unwrap_or_default(),
        revision: task.revision,
        waiting_for: String::new(),
        attempt: task.attempt,
        attempts_used: task.attempts_used,
        approval: task.approval.map(approval),
        verify: task.verification.as_ref().map(|verification| verify(&verification.asked)),
        comparisons: match &task.verification {
            Some(verification) if parts.attempts => comparisons(verification),
            _ => Vec::new(),
        },
        queue_until: task.queue_until().map(|at| due(at, now)),
        progress_timeout: task.progress_timeout().map(span),
        jitter_percent,
        non_retryable,
        dead: task.dead,
        epoch: task.epoch(),
        retried_at: task.revival.as_ref().map(|revival| happened(revival.at)),
        team: task.team.map(|team| team.to_string()).unwrap_or_default(),
        resources: task.resources.as_ref().map(|claim| told_amounts(claim.asked.amounts)),
        queue: told_queue(task.queue(), task.resources.is_some()),
        limit_key: task.limit_key().to_owned(),
        submitted_by: task.lane.as_ref().map(|lane| lane.asked.identity.clone()).unwrap_or_default(),
        slots: task.slots(),
        skills: task.skills().to_vec(),
        schedule: task.scheduled.as_ref().map(|of| of.schedule.clone()).unwrap_or_default(),
        scheduled_for: task.scheduled.as_ref().map(|of| timestamp(of.due)),
        input_ref: task.input_ref.as_deref().map(told_blob_ref),
        output_ref: task.output_ref.as_deref().map(told_blob_ref),
        ..v1::Task::default()
    };
    match &task.links {
        Some(links) => told_links(told, links, task.state),
        None => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_filtered_by_once_however_often_they_are_named() {
        let states = vec![i32::from(v1::TaskState::Queued); 100_000];
        assert_eq!(task_states(&states), Ok(vec![TaskState::Queued]));
    }

    #[test]
    fn a_state_that_no_task_has_is_refused() {
        for unknown in [v1::TaskState::Unspecified.into(), i32::MAX, -1] {
            assert!(task_states(&[unknown]).is_err(), "{unknown}");
        }
    }
}
