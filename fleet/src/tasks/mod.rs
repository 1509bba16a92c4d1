//! A task and its attempts, with the transitions that concern nothing but the task itself. Knows nothing of agents'
//! slots, queues or timers: whoever calls these transitions keeps those in step.

pub(crate) mod attempts;
pub(crate) mod audit;
pub(crate) mod command;
pub(crate) mod indexes;
pub(crate) mod query;
pub(crate) mod state;
mod submission;
pub(crate) mod waiting;

use std::sync::Arc;

use bilrost::{Enumeration, Message};
use bytes::Bytes;

use crate::{
    AgentId, Failure, FleetConfig, FleetMillis, RetryPolicy, Role, ScoreTerms, SessionId, Stamp, SubmitTask, TaskId,
    limits::{ATTEMPT_GRACE_MS, MAX_KEPT_ATTEMPTS},
    schedule::free_agents::Needs,
};

/// Where a task is in its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum TaskState {
    /// Waits for an agent, or for its delay or backoff to pass.
    Queued = 0,
    /// Given to an agent.
    Assigned = 1,
    /// Final: an attempt gave a result.
    Succeeded = 2,
    /// Final: an executor's failure was the last word, or the deadline passed.
    Failed = 3,
    /// Final: somebody cancelled it.
    Cancelled = 4,
    /// Final: its attempts were used up by lost agents or by running out of time; no answer could be had.
    DeadLettered = 5,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
pub enum AttemptEnd {
    /// With the result of the task.
    Succeeded = 0,
    /// With an executor's failure.
    Failed = 1,
    /// Its own time, or the task's deadline, ran out.
    TimedOut = 2,
    /// The task was cancelled.
    Cancelled = 3,
    /// Its agent was lost.
    Lost = 4,
    /// Its agent gave it back; it does not count against the retry policy.
    HandedBack = 5,
}

/// One assignment of a task to an agent.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Attempt {
    /// The fencing number: grows with each assignment of the task, never used twice.
    #[bilrost(1)]
    pub number: u32,
    /// Who got it.
    #[bilrost(2)]
    pub agent: AgentId,
    /// The agent's name, which outlives the agent's number.
    #[bilrost(3)]
    pub agent_name: Arc<str>,
    /// In which stay of the agent.
    #[bilrost(4)]
    pub session: SessionId,
    /// When.
    #[bilrost(5)]
    pub assigned_at: Stamp,
    /// When it ended.
    #[bilrost(6)]
    pub ended_at: Option<Stamp>,
    /// How it ended; `None` while it is current.
    #[bilrost(7)]
    pub end: Option<AttemptEnd>,
    /// Why this agent.
    #[bilrost(8)]
    pub score: ScoreTerms,
    /// Agents, this one included, that fitted and had a free slot at that moment.
    #[bilrost(9)]
    pub candidates: u32,
    /// What went wrong.
    #[bilrost(10)]
    pub failure: Option<Failure>,
}

/// A task, as every coordinator knows it.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Task {
    /// Its number in the order of acceptance; also the cursor of listings.
    #[bilrost(1)]
    pub seq: u64,
    /// Its identity.
    #[bilrost(2)]
    pub id: TaskId,
    /// What is to be done.
    #[bilrost(3)]
    pub kind: String,
    /// For the executor.
    #[bilrost(4)]
    pub input: Bytes,
    /// Of a task that succeeded.
    #[bilrost(5)]
    pub output: Option<Bytes>,
    /// 1 (last) to 10 (first).
    #[bilrost(tag(6), encoding(varint))]
    pub priority: u8,
    /// Where it is in its life.
    #[bilrost(7)]
    pub state: TaskState,
    /// How often, and how far apart, it is tried.
    #[bilrost(8)]
    pub retry: RetryPolicy,
    /// Only agents of this role take it.
    #[bilrost(9)]
    pub required_role: Option<Role>,
    /// Only agents that have this specialization take it.
    #[bilrost(10)]
    pub required_specialization: Option<String>,
    /// A second submission with this key is this task.
    #[bilrost(11)]
    pub idempotency_key: Option<String>,
    /// Who submitted it.
    #[bilrost(12)]
    pub submitter: String,
    /// When it was accepted.
    #[bilrost(13)]
    pub submitted_at: Stamp,
    /// When it fails, whatever its state.
    #[bilrost(14)]
    pub deadline: Option<FleetMillis>,
    /// Set while a queued task is held back by its delay or backoff; cleared when that has passed.
    #[bilrost(15)]
    pub not_before: Option<FleetMillis>,
    /// The longest an attempt may take, ms.
    #[bilrost(16)]
    pub attempt_timeout: Option<u64>,
    /// How long it is kept once finished, ms.
    #[bilrost(17)]
    pub result_ttl: u64,
    /// The newest attempts, oldest first; at most [`MAX_KEPT_ATTEMPTS`].
    #[bilrost(18)]
    pub attempts: Vec<Attempt>,
    /// Fencing number of the newest attempt; what it was before the first one otherwise, normally 0.
    #[bilrost(19)]
    pub attempt: u32,
    /// Attempts that count against the retry policy, the current one included.
    #[bilrost(20)]
    pub attempts_used: u32,
    /// Attempts that were handed back.
    #[bilrost(21)]
    pub hand_backs: u32,
    /// Why it failed or was dead-lettered.
    #[bilrost(22)]
    pub failure: Option<Failure>,
    /// Why it was cancelled.
    #[bilrost(23)]
    pub cancel_reason: Option<String>,
    /// When it reached its final state.
    #[bilrost(24)]
    pub finished_at: Option<Stamp>,
    /// When the finished task is forgotten.
    #[bilrost(25)]
    pub expires_at: Option<FleetMillis>,
    /// Of a queued task whose last attempt was lost with this agent or handed back by it because it is unhealthy, until the
    /// task is given to an agent or ends.
    #[bilrost(26)]
    pub displaced_from: Option<AgentId>,
    /// The fleet's revision at its last change.
    #[bilrost(27)]
    pub revision: u64,
    /// It was submitted with [`Feature::Trial`](crate::Feature::Trial).
    #[cfg(feature = "trial")]
    #[bilrost(28)]
    pub trial: bool,
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
            #[cfg(feature = "trial")]
            trial: s.trial,
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
        if self.attempts.is_empty() {
            // Most tasks have no second one, and a vector makes room for four.
            self.attempts.reserve_exact(1);
        }
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
    /// The pause after `used` attempts, ms: the first is `initial_backoff`, each further one `multiplier_percent` of the one
    /// before, cut to whole milliseconds; at most `max_backoff`.
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
