//! The `worker` executor: user processes, in any language, attach to the agent over gRPC on its loopback address and
//! run attempts for it (`robeing/worker/v1/worker.proto`).
//!
//! Invariants:
//!
//! 1. An attempt goes to one process, the one that runs the fewest, and only that process's result counts for it.
//! 2. When a process is gone, the attempts it ran fail at once, as retryable. A process that sends a message too large
//!    to be read is detached, and the failures report that.
//! 3. An attempt that no process has started is handed back as if it had never arrived.
//! 4. A process is told to stop an attempt and has [`Limits::kill_grace`] to answer; later answers are ignored. The
//!    agent can't end the work by force; only the process itself can.
//! 5. An unhealthy process gets no attempts while another is healthy. The agent is unhealthy when all processes are.
//! 6. A process that does not read its messages is detached rather than waited for.
//! 7. Lines and progress of an attempt are taken only from the process that runs it.
//! 8. Messages of other agents go to processes that announce that they handle them. One that is gone before it answers
//!    leaves its messages to another.
//! 9. Tasks that wait for a process that takes batches are sent together, in their order. None waits for others to come.

mod attached;
mod batches;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod mail;
mod service;
mod suspending;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
pub use attached::{MAX_PROCESSES, MAX_UNHEALTHY, MAX_UNREAD};
pub use batches::{MAX_BATCH, MAX_BATCH_BYTES, MAX_BATCH_SUBTASKS};
use bytes::Bytes;
pub use mail::{MAX_SENDING, Post, WorkerMail};
use robeing_fleet::limits::{MAX_FAILURE_NAME_BYTES, MAX_INPUT_BYTES, MAX_PASSED_BYTES};
use robeing_net::Transport;
use robeing_proto::worker::v1::{self as proto, to_process};
use robeing_telemetry::Metrics;
pub use service::{HELLO_WITHIN, MAX_PROCESS_NAME};
pub use suspending::MAX_SUSPEND_BYTES;
use tokio::{sync::watch, time::timeout};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info};

use self::attached::{Answer, Attached, Begun};
use super::{
    Attempt, Executor, ExecutorError, Failure, FailureKind, Health, Limits, Outcome, PassedEnd, PassedResult,
    text::at_limit,
};

/// Largest input that is sent to a process, with the results and what an earlier attempt has left, bytes: with all else, it
/// fits into the 4 MiB of a message that clients of gRPC take by default.
pub const MAX_PROCESS_INPUT: usize = MAX_INPUT_BYTES + MAX_PASSED_BYTES as usize;
/// Largest output of a process, bytes: with all else, it fits into a message.
pub const MAX_PROCESS_OUTPUT: usize = 15 << 20;

/// The address to listen on, and what to send to processes.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// An address of the loopback interface, host:port; port 0 selects a free one.
    pub listen: String,
    /// The agent's name.
    pub agent: String,
    /// The number of attempts the agent runs at once.
    pub slots: u32,
    /// The limits of an attempt; `stderr_tail` bounds how much of a failure's message and of its details is kept.
    pub limits: Limits,
}

/// Runs attempts in attached processes. Dropping it stops the listener.
pub struct WorkerExecutor {
    attached: Arc<Attached>,
    mail: Arc<WorkerMail>,
    limits: Limits,
    local: SocketAddr,
    serving: AbortOnDropHandle<()>,
}

impl WorkerExecutor {
    /// Starts listening for processes.
    ///
    /// # Errors
    /// When the agent can't listen on the address.
    pub async fn listen(config: WorkerConfig, transport: &Transport, metrics: &Metrics) -> Result<Self, ExecutorError> {
        let bound = transport.bind(&config.listen).await.map_err(ExecutorError::Listen)?;
        let local = bound.local_addr().map_err(ExecutorError::Listen)?;
        let attached = Arc::new(Attached::new(
            metrics.gauge("agent_worker_processes", "Processes that are attached and run attempts"),
        ));
        let welcome = proto::Welcome {
            agent: config.agent,
            slots: config.slots,
            max_output_bytes: config.limits.max_output as u64,
            takes_batches: true,
        };
        let mail = Arc::new(WorkerMail::new());
        let routes =
            service::routes(Arc::clone(&attached), Arc::clone(&mail), welcome).map_err(ExecutorError::Listen)?;
        info!(%local, "processes can attach here; tasks are accepted once one has");
        let serving = tokio::spawn(async move {
            if let Err(error) = bound.serve(routes, CancellationToken::new()).await {
                error!(%error, "the listener for processes failed");
            }
        });
        Ok(Self { attached, mail, limits: config.limits, local, serving: AbortOnDropHandle::new(serving) })
    }

    /// Returns the address it listens on, with the actual port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Sends the attempt to the process and waits for the answer.
    async fn converse(&self, begun: &mut Begun, attempt: Attempt) -> Outcome {
        let task = proto::Task {
            task_id: attempt.task_id,
            attempt: attempt.attempt,
            kind: attempt.kind,
            input: attempt.input,
            deadline_in_ms: attempt.deadline.map_or(0, |deadline| millis(deadline.left).max(1)),
            time_limit_ms: attempt.time_limit.map_or(0, |limit| millis(limit).max(1)),
            results: attempt.results.into_iter().map(passed).collect(),
            carried: attempt.carried,
        };
        if begun.send(to_process::Message::Task(task)).await.is_none() {
            return Outcome::NotBegun;
        }
        match begun.answer().await {
            Some(answer) => outcome(&self.limits, begun.process_name(), answer),
            None => Outcome::Failed(gone(begun.process_name())),
        }
    }
}

#[async_trait]
impl Executor for WorkerExecutor {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        let bytes = given_bytes(&attempt);
        if bytes > MAX_PROCESS_INPUT {
            let message = format!(
                "what it is given has {bytes} bytes, and a process that is attached can be given {MAX_PROCESS_INPUT}; use \
                 another executor"
            );
            return Outcome::Failed(Failure::new(FailureKind::InvalidAttempt, false, message));
        }
        let Some(mut begun) = self.attached.begin(&attempt) else {
            return Outcome::NotBegun;
        };
        let at_limit = at_limit(attempt.time_limit);
        let stopped = tokio::select! {
            biased;
            outcome = self.converse(&mut begun, attempt) => return outcome,
            () = cancel.cancelled() => Outcome::Cancelled,
            failure = at_limit => Outcome::Failed(failure),
        };
        // Whatever the process answers now, the attempt was stopped.
        let _ = timeout(self.limits.kill_grace, begun.stop()).await;
        stopped
    }

    fn presence(&self) -> Option<watch::Receiver<bool>> {
        Some(self.attached.presence())
    }

    /// Returns true: nothing is wrong while no process is attached, and users check that the agent is in the fleet
    /// before they start one.
    fn is_member_when_absent(&self) -> bool {
        true
    }

    fn mail(&self) -> Option<Arc<WorkerMail>> {
        Some(Arc::clone(&self.mail))
    }

    async fn health(&self, within: Duration) -> Health {
        if self.serving.is_finished() {
            return Health::Failed("the listener for processes has ended; restart the agent".to_owned());
        }
        self.attached.health(within).await
    }

    fn name(&self) -> &'static str {
        "worker"
    }
}

/// Returns what a process's answer to an attempt is, within these limits.
fn outcome(limits: &Limits, process: &str, answer: Answer) -> Outcome {
    let said = match answer {
        Answer::Said(said) => said,
        Answer::TooLarge { is_only } => return Outcome::Failed(too_large(process, is_only)),
    };
    match said {
        Some(proto::task_result::Outcome::Output(output)) if output.len() <= limits.max_output => {
            Outcome::Succeeded { output }
        }
        Some(proto::task_result::Outcome::Output(output)) => {
            let message = format!(
                "{process} answered with {} bytes, the limit is {}; answer with less, or with a reference",
                output.len(),
                limits.max_output
            );
            Outcome::Failed(Failure::new(FailureKind::OutputTooLarge, false, message))
        }
        Some(proto::task_result::Outcome::Failure(failure)) => Outcome::Failed(reported(limits, process, failure)),
        Some(proto::task_result::Outcome::Suspend(asked)) => suspending::suspended(process, asked),
        Some(proto::task_result::Outcome::Stopped(_)) => {
            let message = format!("{process} stopped the attempt without being asked to");
            Outcome::Failed(Failure::new(FailureKind::Reported, true, message))
        }
        None => {
            let message = format!("{process} answered without an outcome; set output, failure, suspend or stopped");
            Outcome::Failed(Failure::new(FailureKind::Reported, false, message))
        }
    }
}

/// Returns how many bytes a process would be given with an attempt. An input from the object store may be as large as all
/// else together is otherwise.
fn given_bytes(attempt: &Attempt) -> usize {
    let result = |result: &PassedResult| match &result.end {
        PassedEnd::Succeeded(output) => output.len(),
        PassedEnd::Stored { sha256, .. } => sha256.len(),
        PassedEnd::Failed(reason) | PassedEnd::Cancelled(reason) => reason.len(),
    };
    attempt.input.len() + attempt.carried.len() + attempt.results.iter().map(result).sum::<usize>()
}

/// Returns the result of another task as it is sent to a process.
fn passed(result: PassedResult) -> proto::GivenResult {
    let mut stored = None;
    let (state, output, reason) = match result.end {
        PassedEnd::Succeeded(output) => (proto::ResultState::Succeeded, output, String::new()),
        PassedEnd::Stored { sha256, bytes } => {
            stored = Some(proto::StoredOutput { sha256, bytes });
            (proto::ResultState::Succeeded, Bytes::new(), String::new())
        }
        PassedEnd::Failed(reason) => (proto::ResultState::Failed, Bytes::new(), reason),
        PassedEnd::Cancelled(reason) => (proto::ResultState::Cancelled, Bytes::new(), reason),
    };
    proto::GivenResult { task_id: result.task_id, state: state.into(), output, reason, stored }
}

fn reported(limits: &Limits, process: &str, failure: proto::Failure) -> Failure {
    let most = limits.stderr_tail;
    let said = &failure.message[..failure.message.floor_char_boundary(most)];
    let message = if said.is_empty() { format!("{process} failed without a reason") } else { said.to_owned() };
    let cut = failure.details.len().saturating_sub(most);
    Failure {
        name: failure.name[..failure.name.floor_char_boundary(MAX_FAILURE_NAME_BYTES)].to_owned(),
        code: failure.code,
        stderr_tail: failure.details[failure.details.ceil_char_boundary(cut)..].to_owned(),
        ..Failure::new(FailureKind::Reported, !failure.permanent, message)
    }
}

/// Returns the failure of an attempt whose process sent a message too large to be read. If the attempt was the only
/// one, the message was its answer; otherwise it may have been another's.
fn too_large(process: &str, is_only: bool) -> Failure {
    let limit = robeing_net::message_limit();
    let advice = "answer with less, or with a reference";
    if is_only {
        let message = format!("{process} answered with a message of more than {limit} bytes; {advice}");
        return Failure::new(FailureKind::OutputTooLarge, false, message);
    }
    let message = format!("{process} sent a message of more than {limit} bytes, ending all its attempts; {advice}");
    Failure::new(FailureKind::Unreachable, true, message)
}

fn gone(process: &str) -> Failure {
    let message = format!("{process}, a process attached to the agent, was gone before it answered");
    Failure::new(FailureKind::Unreachable, true, message)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
