//! Conversion of assignments into attempts and of outcomes into completions.

use std::time::Duration;

use robeing_fleet::limits::MAX_RETRY_AFTER_MS;
use robeing_proto::{
    internal::v1::{self as internal, completion},
    v1,
};

use super::held::Waiting;
use crate::executor::{
    Allowance, Attempt, AttemptLog, Deadline, Failure, FailureKind, Outcome, PassedEnd, PassedResult, Subtask,
};

/// Returns the attempt for an assignment that has waited for `waited`, on a machine whose wall clock reads `unix_ms`.
/// `Err`: its whole time limit has passed.
pub(crate) fn attempt(waiting: Waiting, waited: Duration, unix_ms: u64) -> Result<Attempt, completion::Outcome> {
    let internal::Assignment {
        task_id,
        attempt,
        kind,
        input,
        deadline_in_ms,
        time_limit_ms,
        resources,
        results,
        carried,
        ..
    } = waiting.assignment;
    let limit = (time_limit_ms > 0).then(|| Duration::from_millis(time_limit_ms));
    let time_limit = limit.map(|limit| limit.saturating_sub(waited));
    if time_limit == Some(Duration::ZERO) {
        return Err(completion::Outcome::Failure(v1::Failure {
            kind: v1::FailureKind::TimedOut.into(),
            message: format!(
                "the attempt's time limit of {time_limit_ms} ms passed before a slot of the agent was free"
            ),
            retryable: true,
            ..Default::default()
        }));
    }
    let deadline = (deadline_in_ms > 0).then(|| {
        let left = Duration::from_millis(deadline_in_ms).saturating_sub(waited);
        Deadline { left, unix_ms: unix_ms.saturating_add(left.as_millis() as u64) }
    });
    // Nothing binds a process to disk space or bandwidth.
    let allowance =
        resources.map(|v1::ResourceAmounts { cpu_millis, memory_bytes, .. }| Allowance { cpu_millis, memory_bytes });
    let allowance = allowance.filter(|allowance| *allowance != Allowance::default());
    let (log, results) = (AttemptLog::default(), results.into_iter().map(passed).collect());
    Ok(Attempt { task_id, attempt, kind, input, deadline, time_limit, allowance, log, results, carried })
}

/// Converts an outcome for the coordinator.
pub(super) fn outcome(outcome: Outcome) -> completion::Outcome {
    match outcome {
        Outcome::Succeeded { output } => completion::Outcome::Output(output),
        Outcome::Failed(failure) => completion::Outcome::Failure(self::failure(failure)),
        Outcome::Cancelled => completion::Outcome::Stopped(internal::Stopped {}),
        Outcome::NotBegun => completion::Outcome::HandedBack(internal::HandedBack {}),
        Outcome::Suspended { subtasks, carried } => {
            let subtasks = subtasks.into_iter().map(subtask).collect();
            completion::Outcome::Suspended(internal::Suspended { subtasks, carried })
        }
    }
}

/// Converts the result of another task.
fn passed(result: internal::PassedResult) -> PassedResult {
    let end = match result.state() {
        v1::TaskState::Unspecified | v1::TaskState::Succeeded => match result.output_ref {
            Some(v1::BlobRef { sha256, bytes }) => PassedEnd::Stored { sha256, bytes },
            None => PassedEnd::Succeeded(result.output),
        },
        v1::TaskState::Cancelled => PassedEnd::Cancelled(result.reason),
        _ => PassedEnd::Failed(result.reason),
    };
    PassedResult { task_id: result.task_id, end }
}

/// Converts a subtask for the coordinator.
fn subtask(subtask: Subtask) -> v1::TaskSpec {
    let duration = |of: Option<Duration>| of.and_then(|of| prost_types::Duration::try_from(of).ok());
    let dependency = |task| v1::Dependency { task, on_failure: v1::OnFailure::Fail.into() };
    let max_attempts = subtask.max_attempts;
    v1::TaskSpec {
        kind: subtask.kind,
        input: subtask.input,
        priority: subtask.priority,
        deadline_in: duration(subtask.deadline),
        delay: duration(subtask.delay),
        attempt_timeout: duration(subtask.time_limit),
        retry: (max_attempts > 0).then(|| v1::RetryPolicy { max_attempts, ..v1::RetryPolicy::default() }),
        required_specialization: subtask.required_specialization,
        depends_on: subtask.depends_on.into_iter().map(dependency).collect(),
        ..v1::TaskSpec::default()
    }
}

/// Converts a retry delay to milliseconds, capped at what the coordinators honor.
fn retry_after_ms(after: Duration) -> u64 {
    u64::try_from(after.as_millis()).unwrap_or(u64::MAX).min(MAX_RETRY_AFTER_MS)
}

fn failure(failure: Failure) -> v1::Failure {
    let kind = match failure.kind {
        FailureKind::Exit => v1::FailureKind::Exit,
        FailureKind::Signal => v1::FailureKind::Signal,
        FailureKind::Spawn => v1::FailureKind::Spawn,
        FailureKind::TimedOut => v1::FailureKind::TimedOut,
        FailureKind::OutputTooLarge => v1::FailureKind::OutputTooLarge,
        FailureKind::Http => v1::FailureKind::Http,
        FailureKind::Unreachable => v1::FailureKind::Unreachable,
        FailureKind::Reported => v1::FailureKind::Reported,
        FailureKind::InvalidAttempt => v1::FailureKind::Internal,
    };
    v1::Failure {
        kind: kind.into(),
        message: failure.message,
        code: failure.code,
        stderr_tail: failure.stderr_tail,
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after.map_or(0, retry_after_ms),
        name: failure.name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_subtasks_are_passed_on_as_they_are() {
        let result = |state: v1::TaskState, reason: &str| {
            let (task_id, output) = ("t".to_owned(), "out".into());
            let (state, reason, output_ref) = (state.into(), reason.to_owned(), None);
            passed(internal::PassedResult { task_id, state, output, reason, output_ref }).end
        };
        assert_eq!(result(v1::TaskState::Unspecified, ""), PassedEnd::Succeeded("out".into()));
        assert_eq!(result(v1::TaskState::DeadLettered, "lost"), PassedEnd::Failed("lost".to_owned()));
        assert_eq!(result(v1::TaskState::Cancelled, "skipped"), PassedEnd::Cancelled("skipped".to_owned()));
        let asked = Subtask {
            kind: "k".to_owned(),
            deadline: Some(Duration::from_secs(3)),
            max_attempts: 2,
            depends_on: vec!["d".to_owned()],
            ..Subtask::default()
        };
        let subtasks = vec![asked, Subtask::default()];
        let told = outcome(Outcome::Suspended { subtasks, carried: "state".into() });
        let completion::Outcome::Suspended(told) = &told else { panic!("{told:?}") };
        assert_eq!(&*told.carried, b"state");
        let first = &told.subtasks[0];
        assert_eq!(
            (&*first.kind, first.deadline_in.map(|span| span.seconds), first.depends_on.len()),
            ("k", Some(3), 1)
        );
        assert_eq!(first.retry.as_ref().map(|retry| retry.max_attempts), Some(2));
        assert_eq!(told.subtasks[1], v1::TaskSpec::default());
    }

    #[test]
    fn no_more_of_a_wait_is_told_than_is_heeded() {
        for (asked, told) in
            [(None, 0), (Some(Duration::from_secs(17)), 17_000), (Some(Duration::MAX), MAX_RETRY_AFTER_MS)]
        {
            let (kind, message) = (FailureKind::Http, String::new());
            let (stderr_tail, name) = (String::new(), String::new());
            let failed = Failure { kind, message, code: None, stderr_tail, retryable: true, retry_after: asked, name };
            assert_eq!(failure(failed).retry_after_ms, told, "{asked:?}");
        }
    }
}
