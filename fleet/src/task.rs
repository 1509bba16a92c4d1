//! A task and its attempts, with the transitions that concern nothing but the task itself. Knows nothing of agents'
//! slots, queues or timers: whoever calls these transitions keeps those in step.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::limits::{ATTEMPT_GRACE_MS, MAX_KEPT_ATTEMPTS};
use crate::scheduler::Needs;
use crate::{
    AgentId, Failure, FleetConfig, FleetMillis, RetryPolicy, Role, ScoreTerms, SessionId, Stamp, SubmitTask, TaskId,
};

/// Where a task is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum TaskState {
    /// Waits for an agent, or for its delay or backoff to pass.
    Queued,
    /// Given to an agent.
    Assigned,
    /// Final: an attempt gave a result.
    Succeeded,
    /// Final: an executor's failure was the last word, or the deadline passed.
    Failed,
    /// Final: somebody cancelled it.
    Cancelled,
    /// Final: its attempts were used up by lost agents or by running out of time; no answer could be had.
    DeadLettered,
}

impl TaskState {
    /// Every state, in the order of their numbers.
    pub const ALL: [TaskState; 6] = [
        TaskState::Queued,
        TaskState::Assigned,
        TaskState::Succeeded,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::DeadLettered,
    ];

    /// Whether the task will never change again.
    pub fn is_final(self) -> bool {
        !matches!(self, TaskState::Queued | TaskState::Assigned)
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum AttemptEnd {
    /// With the result of the task.
    Succeeded,
    /// With an executor's failure.
    Failed,
    /// Its own time, or the task's deadline, ran out.
    TimedOut,
    /// The task was cancelled.
    Cancelled,
    /// Its agent was lost.
    Lost,
    /// Its agent gave it back; it does not count against the retry policy.
    HandedBack,
}

/// One assignment of a task to an agent.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// The fencing number: grows with each assignment of the task, never used twice.
    pub number: u32,
    /// Who got it.
    pub agent: AgentId,
    /// The agent's name, which outlives the agent's number.
    pub agent_name: Arc<str>,
    /// In which stay of the agent.
    pub session: SessionId,
    /// When.
    pub assigned_at: Stamp,
    /// When it ended.
    pub ended_at: Option<Stamp>,
    /// How it ended; `None` while it is current.
    pub end: Option<AttemptEnd>,
    /// Why this agent.
    pub score: ScoreTerms,
    /// Agents, this one included, that fitted and had a free slot at that moment.
    pub candidates: u32,
    /// What went wrong.
    pub failure: Option<Failure>,
}

/// A task, as every coordinator knows it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Its number in the order of acceptance; also the cursor of listings.
    pub seq: u64,
    /// Its identity.
    pub id: TaskId,
    /// What is to be done.
    pub kind: String,
    /// For the executor.
    pub input: Bytes,
    /// Of a task that succeeded.
    pub output: Option<Bytes>,
    /// 1 (last) to 10 (first).
    pub priority: u8,
    /// Where it is in its life.
    pub state: TaskState,
    /// How often, and how far apart, it is tried.
    pub retry: RetryPolicy,
    /// Only agents of this role take it.
    pub required_role: Option<Role>,
    /// Only agents that have this specialization take it.
    pub required_specialization: Option<String>,
    /// A second submission with this key is this task.
    pub idempotency_key: Option<String>,
    /// Who submitted it.
    pub submitter: String,
    /// When it was accepted.
    pub submitted_at: Stamp,
    /// When it fails, whatever its state.
    pub deadline: Option<FleetMillis>,
    /// Set while a queued task is held back by its delay or backoff; cleared when that has passed.
    pub not_before: Option<FleetMillis>,
    /// The longest an attempt may take, ms.
    pub attempt_timeout: Option<u64>,
    /// How long it is kept once finished, ms.
    pub result_ttl: u64,
    /// The newest attempts, oldest first; at most [`MAX_KEPT_ATTEMPTS`].
    pub attempts: Vec<Attempt>,
    /// Fencing number of the newest attempt; what it was before the first one otherwise, normally 0.
    pub attempt: u32,
    /// Attempts that count against the retry policy, the current one included.
    pub attempts_used: u32,
    /// Attempts that were handed back.
    pub hand_backs: u32,
    /// Why it failed or was dead-lettered.
    pub failure: Option<Failure>,
    /// Why it was cancelled.
    pub cancel_reason: Option<String>,
    /// When it reached its final state.
    pub finished_at: Option<Stamp>,
    /// When the finished task is forgotten.
    pub expires_at: Option<FleetMillis>,
    /// Of a queued task whose last attempt was lost with this agent or handed back by it because it is unhealthy, until the
    /// task is given to an agent or ends.
    pub displaced_from: Option<AgentId>,
    /// The fleet's revision at its last change.
    pub revision: u64,
}

impl Task {
    /// The task of a valid submission, queued. `floor` is the highest fencing number ever seen with its id.
    pub(crate) fn accept(s: SubmitTask, seq: u64, now: Stamp, config: &FleetConfig, floor: u32) -> Task {
        Task {
            seq,
            id: s.id,
            kind: s.kind,
            input: s.input,
            output: None,
            priority: s.priority,
            state: TaskState::Queued,
            retry: s.retry.unwrap_or(config.retry),
            required_role: s.required_role,
            required_specialization: s.required_specialization,
            idempotency_key: s.idempotency_key,
            submitter: s.submitter,
            submitted_at: now,
            deadline: s.deadline_in.map(|d| now.fleet.saturating_add(d)),
            not_before: s.delay.filter(|d| *d > 0).map(|d| now.fleet.saturating_add(d)),
            attempt_timeout: s.attempt_timeout,
            result_ttl: s.result_ttl.unwrap_or(config.result_ttl),
            attempts: Vec::new(),
            attempt: floor,
            attempts_used: 0,
            hand_backs: 0,
            failure: None,
            cancel_reason: None,
            finished_at: None,
            expires_at: None,
            displaced_from: None,
            revision: 0,
        }
    }

    /// The attempt that runs now.
    pub fn current(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|a| a.end.is_none())
    }

    /// Queued, with neither delay nor backoff to wait for.
    pub fn is_ready(&self) -> bool {
        self.state == TaskState::Queued && self.not_before.is_none()
    }

    /// When the coordinators end the current attempt for taking too long. An agent ends it [`ATTEMPT_GRACE_MS`] earlier,
    /// so that normally its own report is first.
    pub fn attempt_due(&self) -> Option<FleetMillis> {
        let timeout = self.attempt_timeout?;
        let current = self.current()?;
        Some(current.assigned_at.fleet.saturating_add(timeout).saturating_add(ATTEMPT_GRACE_MS))
    }

    /// Bytes it counts for against the fleet's budget: input, output and what failures and cancellation say.
    pub fn stored_bytes(&self) -> u64 {
        let text = |f: &Failure| f.message.len() + f.stderr_tail.len();
        let attempts: usize = self.attempts.iter().filter_map(|a| a.failure.as_ref()).map(text).sum();
        let total = self.input.len()
            + self.output.as_ref().map_or(0, Bytes::len)
            + self.failure.as_ref().map_or(0, text)
            + self.cancel_reason.as_ref().map_or(0, String::len)
            + attempts;
        total as u64
    }

    /// What an agent must be to take it.
    pub(crate) fn needs(&self) -> Needs<'_> {
        Needs {
            role: self.required_role,
            specialization_required: self.required_specialization.is_some(),
            domain: self.required_specialization.as_deref().unwrap_or(&self.kind),
        }
    }

    /// The next fencing number, unless there is none left.
    pub(crate) fn next_attempt(&self) -> u32 {
        self.attempt.saturating_add(1)
    }

    /// Starts `attempt`, dropping the oldest kept one if there are too many.
    pub(crate) fn begin_attempt(&mut self, attempt: Attempt) {
        debug_assert!(self.is_ready() && attempt.number > self.attempt);
        if self.attempts.len() >= MAX_KEPT_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.state = TaskState::Assigned;
        self.attempt = attempt.number;
        self.attempts_used = self.attempts_used.saturating_add(1);
        self.attempts.push(attempt);
    }

    /// Ends the current attempt.
    pub(crate) fn end_attempt(&mut self, now: Stamp, end: AttemptEnd, failure: Option<Failure>) {
        if let Some(current) = self.attempts.last_mut().filter(|a| a.end.is_none()) {
            current.end = Some(end);
            current.ended_at = Some(now);
            current.failure = failure;
        }
    }

    /// Queues the task again, held back by `pause` ms.
    pub(crate) fn requeue(&mut self, now: Stamp, pause: u64) {
        debug_assert!(self.current().is_none());
        self.state = TaskState::Queued;
        self.not_before = (pause > 0).then(|| now.fleet.saturating_add(pause));
    }

    /// Brings the task to its final state. Kept for at least one millisecond, so that nothing ends and vanishes at once.
    pub(crate) fn finish(&mut self, now: Stamp, state: TaskState, failure: Option<Failure>) {
        debug_assert!(state.is_final() && !self.state.is_final() && self.current().is_none());
        self.state = state;
        self.not_before = None;
        self.failure = failure;
        self.finished_at = Some(now);
        self.expires_at = Some(now.fleet.saturating_add(self.result_ttl.max(1)));
    }

    /// Whether the retry policy allows no further attempt.
    pub(crate) fn is_used_up(&self) -> bool {
        self.attempts_used >= self.retry.max_attempts
    }
}

impl RetryPolicy {
    /// The pause after `used` attempts, ms: `initial × multiplier^(used − 1)`, at most `max_backoff`.
    pub fn backoff(&self, used: u32) -> u64 {
        let mut pause = self.initial_backoff.min(self.max_backoff);
        if self.multiplier_percent > 100 {
            for _ in 1..used {
                let next = pause.saturating_mul(u64::from(self.multiplier_percent)) / 100;
                if next >= self.max_backoff {
                    return self.max_backoff;
                }
                if next == pause {
                    break;
                }
                pause = next;
            }
        }
        pause
    }
}
