//! Conversion of assignments into attempts and of outcomes into completions.

use std::time::Duration;

use robeing_fleet::limits::MAX_RETRY_AFTER_MS;
use robeing_proto::{
    internal::v1::{self as internal, completion},
    v1,
};

use super::held::Waiting;
use crate::executor::{Allowance, Attempt, AttemptLog, Deadline, Failure, FailureKind, Outcome};

/// Returns the attempt for an assignment that has waited for `waited`, on a machine whose wall clock reads `unix_ms`.
/// `Err`: its whole time limit has passed.
pub(crate) fn attempt(waiting: Waiting, waited: Duration, unix_ms: u64) -> Result<Attempt, completion::Outcome> {
    let internal::Assignment { task_id, attempt, kind, input, deadline_in_ms, time_limit_ms, resources } =
        waiting.assignment;
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
    let log = AttemptLog::default();
    Ok(Attempt { task_id, attempt, kind, input, deadline, time_limit, allowance, log })
}

/// Converts an outcome for the coordinator.
pub(super) fn outcome(outcome: Outcome) -> completion::Outcome {
    match outcome {
        Outcome::Succeeded { output } => completion::Outcome::Output(output),
        Outcome::Failed(failure) => completion::Outcome::Failure(self::failure(failure)),
        Outcome::Cancelled => completion::Outcome::Stopped(internal::Stopped {}),
        Outcome::NotBegun => completion::Outcome::HandedBack(internal::HandedBack {}),
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_of_a_wait_is_told_than_is_heeded() {
        for (asked, told) in
            [(None, 0), (Some(Duration::from_secs(17)), 17_000), (Some(Duration::MAX), MAX_RETRY_AFTER_MS)]
        {
            let (kind, message) = (FailureKind::Http, String::new());
            let stderr_tail = String::new();
            let failed = Failure { kind, message, code: None, stderr_tail, retryable: true, retry_after: asked };
            assert_eq!(failure(failed).retry_after_ms, told, "{asked:?}");
        }
    }
}
