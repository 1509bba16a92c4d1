//! Conversion of tasks and their attempts.

use std::collections::BTreeSet;

use bytes::Bytes;
use robeing_fleet::{Approval, Attempt, AttemptEnd, ScoreTerms, Stamp, Task, TaskState, Verification, Verify};
use robeing_proto::v1;

use super::{
    agents::role,
    due,
    failures::failure,
    fields::{BadField, bad},
    happened,
    resources::told_amounts,
    same_variants,
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

fn verify(asked: &Verify) -> v1::Verify {
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
        team: task.team.map(|team| team.to_string()).unwrap_or_default(),
        resources: task.resources.as_ref().map(|claim| told_amounts(claim.asked.amounts)),
        queue: task.resources.as_ref().map(|claim| claim.asked.queue.clone()).unwrap_or_default(),
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
