//! The executor of the simulation: it lets time pass, and most tasks succeed. A task's input determines what happens;
//! its output contains the attempt and the agent that produced it.

use std::time::Duration;

use bytes::Bytes;
use robeing_agent::executor::{Attempt, Executor, Failure, FailureKind, Health, Outcome};
use robeing_settings::AgentRole;
use tokio_util::sync::CancellationToken;

use crate::{
    checks::Check,
    faults::Ill,
    graphs::Piece,
    record::{Notes, Record},
    running::Running,
    timed, verified,
};

/// How long a stubborn task continues after it was asked to stop.
const STUBBORN_FOR: Duration = Duration::from_millis(300);
/// How long a deaf task continues after it was asked to stop, at most.
const DEAF_FOR: Duration = Duration::from_millis(700);
/// How long it takes to compare two outputs.
const COMPARES_FOR: Duration = Duration::from_millis(20);
/// How often a steady task makes progress.
const STEP: Duration = Duration::from_millis(200);
/// Tasks whose kind has this prefix name the specialization that they need.
const SPECIALIZED: &str = "special/";
/// Tasks whose kind has this prefix name the role that they need.
const OF_ROLE: &str = "role/";

/// What a task requires of its agent.
#[derive(Clone, Copy)]
pub enum Needs {
    /// Nothing: any worker or specialist will do.
    Nothing,
    /// This specialization.
    Specialization(&'static str),
    /// This role.
    Role(AgentRole),
}

impl Needs {
    /// Returns the kind of tasks with this requirement.
    pub fn kind(self) -> String {
        match self {
            Self::Nothing => "simulated".to_owned(),
            Self::Specialization(name) => format!("{SPECIALIZED}{name}"),
            Self::Role(role) => format!("{OF_ROLE}{role:?}"),
        }
    }
}

/// The executor of an agent.
pub struct SimulatedExecutor {
    /// The agent.
    pub agent: String,
    /// The agent that its outputs name.
    pub signs_as: String,
    /// The agent's specializations.
    pub specializations: Vec<String>,
    /// The agent's role.
    pub role: AgentRole,
    /// The record of the run.
    pub record: Record,
}

/// The course of a task, determined by its input.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Course {
    /// Succeeds after this many milliseconds.
    Succeed(u64),
    /// The same, but takes some time to stop.
    Stubborn(u64),
    /// The same, but ignores that it is asked to stop, and succeeds nevertheless.
    Deaf(u64),
    /// Succeeds at once, with an output of this many bytes.
    Large(u64),
    /// Fails twice, then succeeds, after this many milliseconds each.
    Retry(u64),
    /// Fails permanently.
    Fail(u64),
    /// Ignores its time limit and that it is asked to stop: it continues for this many milliseconds after the limit,
    /// and succeeds. Later attempts take half the limit.
    Overrun(u64),
    /// Succeeds after this many milliseconds with [`verified::output`]: its result is verified.
    Verify(u64),
    /// Never ends on its own.
    Hang,
    /// Makes no progress at the first attempt, and never ends on its own. Later attempts take this many milliseconds.
    Stall(u64),
    /// Makes progress for this many milliseconds, and succeeds.
    Steady(u64),
    /// Fails after this many milliseconds, in a way that the submitter does not want to be tried again.
    Doom(u64),
}

impl Course {
    /// Returns the input for this course, padded to a length.
    pub fn input(self, len: usize) -> Bytes {
        let mut text = match self {
            Self::Succeed(ms) => format!("succeed {ms}"),
            Self::Stubborn(ms) => format!("stubborn {ms}"),
            Self::Deaf(ms) => format!("deaf {ms}"),
            Self::Large(bytes) => format!("large {bytes}"),
            Self::Retry(ms) => format!("retry {ms}"),
            Self::Fail(ms) => format!("fail {ms}"),
            Self::Overrun(ms) => format!("overrun {ms}"),
            Self::Verify(ms) => format!("{} {ms}", verified::WORD),
            Self::Hang => "hang 0".to_owned(),
            Self::Stall(ms) => format!("stall {ms}"),
            Self::Steady(ms) => format!("steady {ms}"),
            Self::Doom(ms) => format!("doom {ms}"),
        };
        if text.len() < len {
            text.push(' ');
        }
        let mut input = text.into_bytes();
        input.resize(input.len().max(len), b'.');
        input.into()
    }

    fn of(input: &[u8]) -> Option<Self> {
        let start = &input[..input.len().min(64)];
        let mut words = std::str::from_utf8(start).ok()?.split(' ');
        let (word, number) = (words.next()?, words.next()?.parse().ok()?);
        match word {
            "succeed" => Some(Self::Succeed(number)),
            "stubborn" => Some(Self::Stubborn(number)),
            "deaf" => Some(Self::Deaf(number)),
            "large" => Some(Self::Large(number)),
            "retry" => Some(Self::Retry(number)),
            "fail" => Some(Self::Fail(number)),
            "overrun" => Some(Self::Overrun(number)),
            verified::WORD => Some(Self::Verify(number)),
            "hang" => Some(Self::Hang),
            "stall" => Some(Self::Stall(number)),
            "steady" => Some(Self::Steady(number)),
            "doom" => Some(Self::Doom(number)),
            _ => None,
        }
    }

    /// Returns whether the coordinators go on without waiting for the end of an attempt that makes no progress.
    fn has_progress_timeout(self) -> bool {
        matches!(self, Self::Stall(_) | Self::Steady(_))
    }
}

/// Returns the prefix of every output.
pub fn signature(task: &str, attempt: u32, agent: &str) -> String {
    format!("{task} {attempt} {agent}")
}

fn failure(kind: FailureKind, message: &str, retryable: bool) -> Failure {
    let (message, stderr_tail, name) = (message.to_owned(), String::new(), String::new());
    Failure { kind, message, code: Some(1), stderr_tail, retryable, retry_after: None, name }
}

/// Returns the outcome of an attempt that fails.
pub fn failed(kind: FailureKind, message: &str, retryable: bool) -> Outcome {
    Outcome::Failed(failure(kind, message, retryable))
}

/// Returns the outcome of an attempt that might be tried again, were it not for the name of its failure.
fn doomed() -> Outcome {
    let other = failure(FailureKind::Exit, "the simulated task is doomed", true);
    Outcome::Failed(Failure { name: timed::DOOM.to_owned(), ..other })
}

/// Makes progress for this many milliseconds.
async fn make_progress(attempt: &Attempt, ms: u64) {
    let (mut passed, whole) = (Duration::ZERO, Duration::from_millis(ms));
    while passed < whole {
        attempt.log.progress(passed.as_secs_f64() / whole.as_secs_f64(), "");
        tokio::time::sleep(STEP).await;
        passed += STEP;
    }
}

impl SimulatedExecutor {
    async fn work(&self, attempt: &Attempt) -> Outcome {
        if attempt.kind == verified::COMPARER
            && let Some(equal) = verified::compare(&attempt.input)
        {
            tokio::time::sleep(COMPARES_FOR).await;
            return Outcome::Succeeded { output: equal.to_string().into() };
        }
        if let Some(piece) = Piece::of(&attempt.input) {
            tokio::time::sleep(piece.lasts()).await;
            return piece.outcome(attempt, &signature(&attempt.task_id, attempt.attempt, &self.signs_as));
        }
        let Some(course) = Course::of(&attempt.input) else {
            let what = format!("task {} got another input: {:?}", attempt.task_id, attempt.input);
            self.record.violation(Check::Input, what);
            return failed(FailureKind::Exit, "the simulated task failed", false);
        };
        let failed = |retryable| failed(FailureKind::Exit, "the simulated task failed", retryable);
        let mut output = signature(&attempt.task_id, attempt.attempt, &self.signs_as).into_bytes();
        let (ms, outcome) = match course {
            Course::Succeed(ms) | Course::Stubborn(ms) | Course::Deaf(ms) => (ms, None),
            Course::Verify(ms) => {
                output = verified::output(&attempt.input, &self.agent).into_bytes();
                (ms, None)
            }
            Course::Large(bytes) => {
                output.push(b' ');
                output.resize(output.len().max(bytes as usize), b'.');
                (0, None)
            }
            Course::Retry(ms) => (ms, (attempt.attempt < 3).then(|| failed(true))),
            Course::Fail(ms) => (ms, Some(failed(false))),
            Course::Overrun(ms) => {
                let limit = attempt.time_limit.unwrap_or_default().as_millis() as u64;
                (if attempt.attempt == 1 { limit + ms } else { limit / 2 }, None)
            }
            Course::Hang => std::future::pending().await,
            Course::Stall(_) if attempt.attempt == 1 => std::future::pending().await,
            Course::Stall(ms) => (ms, None),
            Course::Steady(ms) => {
                make_progress(attempt, ms).await;
                (0, None)
            }
            Course::Doom(ms) => (ms, Some(doomed())),
        };
        tokio::time::sleep(Duration::from_millis(ms)).await;
        outcome.unwrap_or(Outcome::Succeeded { output: output.into() })
    }

    /// Waits until an attempt is asked to stop, and returns its outcome.
    async fn stop(&self, attempt: &Attempt, cancel: &CancellationToken, running: &Running) -> Outcome {
        cancel.cancelled().await;
        running.cancelled();
        match Course::of(&attempt.input) {
            Some(Course::Stubborn(_)) => tokio::time::sleep(STUBBORN_FOR).await,
            Some(Course::Overrun(_)) => std::future::pending().await,
            Some(Course::Deaf(ms)) => {
                tokio::time::sleep(DEAF_FOR.min(Duration::from_millis(ms))).await;
                let output = signature(&attempt.task_id, attempt.attempt, &self.signs_as);
                return Outcome::Succeeded { output: output.into_bytes().into() };
            }
            _ => {}
        }
        Outcome::Cancelled
    }

    fn check_fit(&self, attempt: &Attempt) {
        let compares = (attempt.kind == verified::COMPARER).then_some(verified::COMPARER);
        let (special, of_role) = (attempt.kind.strip_prefix(SPECIALIZED), attempt.kind.strip_prefix(OF_ROLE));
        let special = special.or(compares);
        let has_not = special.is_some_and(|needed| !self.specializations.iter().any(|has| has == needed));
        // A task without requirements is for workers and specialists.
        let (is_any, is_general) =
            (special.is_none() && of_role.is_none(), matches!(self.role, AgentRole::Worker | AgentRole::Specialist));
        if has_not || of_role.is_some_and(|needed| needed != format!("{:?}", self.role)) || (is_any && !is_general) {
            let what = format!("{} runs task {} of kind {}", self.agent, attempt.task_id, attempt.kind);
            self.record.violation(Check::Fit, what);
        }
    }
}

#[async_trait::async_trait]
impl Executor for SimulatedExecutor {
    async fn run(&self, attempt: Attempt, cancel: CancellationToken) -> Outcome {
        tracing::debug!(target: "robeing_sim", task = attempt.task_id, attempt.attempt, self.agent, "begun");
        self.check_fit(&attempt);
        self.record.notes().check_input(&attempt.task_id, &attempt.input);
        self.record.check(|Notes { graphs, finished_at, .. }| graphs.begins(&attempt, finished_at));
        let is_watched = Course::of(&attempt.input).is_some_and(Course::has_progress_timeout);
        let limited = attempt.time_limit.is_some() || is_watched;
        let running = self.record.runs(&self.agent, &attempt.task_id, attempt.attempt, limited);
        let limit = match Course::of(&attempt.input) {
            Some(Course::Overrun(_)) => None,
            _ => attempt.time_limit,
        };
        let limit = limit.unwrap_or(Duration::from_secs(3_600));
        let outcome = tokio::select! {
            biased;
            outcome = self.stop(&attempt, &cancel, &running) => outcome,
            outcome = self.work(&attempt) => outcome,
            () = tokio::time::sleep(limit) => failed(FailureKind::TimedOut, "the simulated task took too long", true),
        };
        if matches!(outcome, Outcome::Succeeded { .. }) {
            self.record.answers(&attempt.input, &self.agent);
        }
        // A failure that is retried is not the end.
        if !matches!(&outcome, Outcome::Failed(failure) if failure.retryable) {
            running.ends(&self.agent);
        } else {
            running.fails();
        }
        outcome
    }

    fn lease(&self, left: Option<Duration>) {
        self.record.notes().lease(&self.agent, left);
    }

    async fn health(&self, _: Duration) -> Health {
        let ill = self.record.notes().ill(&self.agent);
        match ill {
            None => Health::Healthy,
            Some(Ill::Unhealthy) => Health::Unhealthy("it is ill".to_owned()),
            Some(Ill::Silent) => Health::Silent("it does not answer".to_owned()),
            Some(Ill::Hung) => std::future::pending().await,
            Some(Ill::Failed) => Health::Failed("it will never be well again".to_owned()),
        }
    }

    fn name(&self) -> &'static str {
        "simulated"
    }
}
