//! The `echo` executor: returns its input. For trials and benchmarks.

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Attempt, Executor, Outcome};

/// Returns each input as the output, immediately.
#[derive(Debug, Clone, Copy, Default)]
pub struct EchoExecutor;

#[async_trait]
impl Executor for EchoExecutor {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        if cancel.is_cancelled() {
            return Outcome::Cancelled;
        }
        Outcome::Succeeded { output: attempt.input }
    }

    fn name(&self) -> &'static str {
        "echo"
    }
}
