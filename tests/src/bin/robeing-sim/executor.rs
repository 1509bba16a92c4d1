//! What running a task means in the simulation: time passes, and it mostly succeeds. Which way a task goes follows from its
//! input; the output says which attempt made it, and where.

use std::time::Duration;

use bytes::Bytes;
use robeing_agent::executor::{Attempt, Executor, Failure, FailureKind, Outcome};
use tokio_util::sync::CancellationToken;

use crate::record::Record;

/// An executor of one agent.
pub struct SimulatedExecutor {
    /// Whose.
    pub agent: String,
    /// Where it is noted.
    pub record: Record,
}

/// How a task goes, as its input says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// Succeeds after so many milliseconds.
    Succeed(u64),
    /// Fails twice, then succeeds.
    Retry(u64),
    /// Fails for good.
    Fail(u64),
    /// Never ends by itself.
    Hang,
}

impl Course {
    /// As an input.
    pub fn input(self) -> Bytes {
        match self {
            Self::Succeed(ms) => format!("succeed {ms}"),
            Self::Retry(ms) => format!("retry {ms}"),
            Self::Fail(ms) => format!("fail {ms}"),
            Self::Hang => "hang 0".to_owned(),
        }
        .into()
    }

    fn of(input: &[u8]) -> Option<Self> {
        let (word, ms) = std::str::from_utf8(input).ok()?.split_once(' ')?;
        let ms = ms.parse().ok()?;
        match word {
            "succeed" => Some(Self::Succeed(ms)),
            "retry" => Some(Self::Retry(ms)),
            "fail" => Some(Self::Fail(ms)),
            "hang" => Some(Self::Hang),
            _ => None,
        }
    }
}

fn failed(retryable: bool) -> Outcome {
    Outcome::Failed(Failure {
        kind: FailureKind::Exit,
        message: "the simulated task failed".to_owned(),
        code: Some(1),
        stderr_tail: String::new(),
        retryable,
    })
}

impl SimulatedExecutor {
    async fn work(&self, attempt: &Attempt) -> Outcome {
        let Some(course) = Course::of(&attempt.input) else {
            self.record.violation(format!("task {} arrived with another input: {:?}", attempt.task_id, attempt.input));
            return failed(false);
        };
        let (ms, outcome) = match course {
            Course::Succeed(ms) => (ms, None),
            Course::Retry(ms) => (ms, (attempt.attempt < 3).then(|| failed(true))),
            Course::Fail(ms) => (ms, Some(failed(false))),
            Course::Hang => std::future::pending().await,
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
        let output = format!("{} {} {}", attempt.task_id, attempt.attempt, self.agent);
        outcome.unwrap_or(Outcome::Succeeded { output: output.into() })
    }
}

#[async_trait::async_trait]
impl Executor for SimulatedExecutor {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        tracing::debug!(target: "robeing_sim", task = attempt.task_id, attempt.attempt, self.agent, "begun");
        *self.record.notes().begun.entry((attempt.task_id.clone(), attempt.attempt)).or_default() += 1;
        let limit = attempt.time_limit.unwrap_or(Duration::from_secs(3_600));
        tokio::select! {
            biased;
            () = cancel.cancelled() => Outcome::Cancelled,
            outcome = self.work(&attempt) => outcome,
            () = tokio::time::sleep(limit) => Outcome::Failed(Failure {
                kind: FailureKind::TimedOut,
                message: "the simulated task took too long".to_owned(),
                code: None,
                stderr_tail: String::new(),
                retryable: true,
            }),
        }
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}
