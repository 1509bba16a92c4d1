//! A task and its attempts, with the transitions that concern only the task itself. They know nothing of agents' slots,
//! queues or timers: the callers keep those consistent.

pub(crate) mod approvals;
pub(crate) mod attempts;
pub(crate) mod audit;
pub(crate) mod blobs;
pub(crate) mod command;
pub(crate) mod comparisons;
pub(crate) mod dead;
pub(crate) mod demand;
pub(crate) mod indexes;
pub(crate) mod keys;
pub(crate) mod links;
pub(crate) mod members;
mod pulling;
pub(crate) mod query;
pub(crate) mod retries;
pub(crate) mod running;
pub(crate) mod skips;
pub(crate) mod state;
mod submission;
pub(crate) mod timing;
pub(crate) mod verification;
pub(crate) mod waiting;

use std::sync::Arc;

use bilrost::{Enumeration, Message};
use bytes::Bytes;

use self::{
    approvals::Approval, blobs::BlobRef, dead::Revival, demand::Demand, links::Links, timing::TaskTiming,
    verification::Verification,
};
use crate::{
    AgentId, Claim, Failure, FleetConfig, FleetMillis, Lane, RetryPolicy, Role, ScheduledFor, ScoreTerms, SessionId,
    Stamp, SubmitTask, TaskId, TeamId,
    limits::{ATTEMPT_GRACE_MS, MAX_KEPT_ATTEMPTS},
    schedule::free_agents::Needs,
};

/// The state of a task.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum TaskState {
    /// The task waits for other tasks, for an approval, for an agent, or for its delay or backoff to pass.
    Queued = 0,
    /// The task was given to an agent.
    Assigned = 1,
    /// Final: an attempt succeeded.
    Succeeded = 2,
    /// Final: an attempt failed and there is no further one, or the deadline or the queue expiry passed. A dead letter
    /// may be tried again, which is the only way out of a final state.
    Failed = 3,
    /// Final: the task was cancelled.
    Cancelled = 4,
    /// Final: its attempts are used up and the last one timed out, or was lost or handed back, so there is no result.
    DeadLettered = 5,
}

impl TaskState {
    /// All states, in the order of their numbers.
    pub const ALL: [TaskState; 6] = [
        TaskState::Queued,
        TaskState::Assigned,
        TaskState::Succeeded,
        TaskState::Failed,
        TaskState::Cancelled,
        TaskState::DeadLettered,
    ];

    /// Returns whether the task has ended. It never changes again, unless it is a dead letter: see `dead`.
    pub fn is_final(self) -> bool {
        !matches!(self, TaskState::Queued | TaskState::Assigned)
    }
}

/// How an attempt ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
pub enum AttemptEnd {
    /// The attempt produced the task's result.
    Succeeded = 0,
    /// The executor reported a failure.
    Failed = 1,
    /// The attempt's timeout or the task's deadline passed.
    TimedOut = 2,
    /// The task was cancelled.
    Cancelled = 3,
    /// The agent was lost.
    Lost = 4,
    /// The agent handed the attempt back, which counts against the retry policy only beyond
    /// [`MAX_FREE_HAND_BACKS`](crate::limits::MAX_FREE_HAND_BACKS).
    HandedBack = 5,
    /// Other agents agree on another output. Needs [`Feature::Verification`](crate::Feature::Verification).
    Outvoted = 6,
    /// The attempt asked for subtasks, for which the task waits. It does not count against the retry policy. Needs
    /// [`Feature::Graphs`](crate::Feature::Graphs).
    Suspended = 60,
}

/// One assignment of a task to an agent.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Attempt {
    /// The fencing number, which grows with each assignment of the task and is never reused.
    #[bilrost(1)]
    pub number: u32,
    /// The agent that got the task.
    #[bilrost(2)]
    pub agent: AgentId,
    /// The agent's name, which is known even after the agent is forgotten.
    #[bilrost(3)]
    pub agent_name: Arc<str>,
    /// The agent's session.
    #[bilrost(4)]
    pub session: SessionId,
    /// When the task was assigned.
    #[bilrost(5)]
    pub assigned_at: Stamp,
    /// When the attempt ended.
    #[bilrost(6)]
    pub ended_at: Option<Stamp>,
    /// How the attempt ended; `None` while it is current.
    #[bilrost(7)]
    pub end: Option<AttemptEnd>,
    /// The agent's score, which explains the choice.
    #[bilrost(8)]
    pub score: ScoreTerms,
    /// Number of agents, including this one, that fitted and had a free slot at that moment.
    #[bilrost(9)]
    pub candidates: u32,
    /// The failure, if the attempt failed.
    #[bilrost(10)]
    pub failure: Option<Failure>,
    /// The digest of what is compared of the output, if it is compared with those of other agents.
    #[bilrost(tag(11), encoding(plainbytes))]
    pub digest: Option<[u8; 32]>,
}

/// A task in the state machine.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Task {
    /// The task's number in the order of acceptance; also the cursor of listings.
    #[bilrost(1)]
    pub seq: u64,
    /// The task's id.
    #[bilrost(2)]
    pub id: TaskId,
    /// The kind of work.
    #[bilrost(3)]
    pub kind: String,
    /// The input for the executor.
    #[bilrost(4)]
    pub input: Bytes,
    /// The output, if the task succeeded.
    #[bilrost(5)]
    pub output: Option<Bytes>,
    /// The priority, 1 (last) to 10 (first).
    #[bilrost(tag(6), encoding(varint))]
    pub priority: u8,
    /// The task's state.
    #[bilrost(7)]
    pub state: TaskState,
    /// How often the task is attempted, and the backoff between attempts.
    #[bilrost(8)]
    pub retry: RetryPolicy,
    /// The role an agent must have.
    #[bilrost(9)]
    pub required_role: Option<Role>,
    /// The specialization an agent must have.
    #[bilrost(10)]
    pub required_specialization: Option<String>,
    /// The idempotency key; a second submission with it is this task.
    #[bilrost(11)]
    pub idempotency_key: Option<String>,
    /// The name of the submitter.
    #[bilrost(12)]
    pub submitter: String,
    /// When the task was accepted.
    #[bilrost(13)]
    pub submitted_at: Stamp,
    /// When the task fails if it is not finished.
    #[bilrost(14)]
    pub deadline: Option<FleetMillis>,
    /// When the task's delay or backoff ends; cleared when that has passed.
    #[bilrost(15)]
    pub not_before: Option<FleetMillis>,
    /// The longest time an attempt may take, ms.
    #[bilrost(16)]
    pub attempt_timeout: Option<u64>,
    /// How long the task is kept once finished, ms.
    #[bilrost(17)]
    pub result_ttl: u64,
    /// The newest attempts, oldest first; at most [`MAX_KEPT_ATTEMPTS`].
    #[bilrost(18)]
    pub attempts: Vec<Attempt>,
    /// Fencing number of the newest attempt. Before the first attempt: the highest number that an agent is still
    /// stopping for the same task id, normally 0.
    #[bilrost(19)]
    pub attempt: u32,
    /// Number of attempts that count against the retry policy, including the current one.
    #[bilrost(20)]
    pub attempts_used: u32,
    /// Number of attempts that were handed back.
    #[bilrost(21)]
    pub hand_backs: u32,
    /// Why the task failed or was dead-lettered.
    #[bilrost(22)]
    pub failure: Option<Failure>,
    /// Why the task was cancelled.
    #[bilrost(23)]
    pub cancel_reason: Option<String>,
    /// When the task reached its final state.
    #[bilrost(24)]
    pub finished_at: Option<Stamp>,
    /// When the finished task is forgotten.
    #[bilrost(25)]
    pub expires_at: Option<FleetMillis>,
    /// The agent from which a queued task was displaced: the last attempt was lost with it, or handed back because it
    /// is unhealthy. Cleared when the task is given to an agent or ends.
    #[bilrost(26)]
    pub displaced_from: Option<AgentId>,
    /// The fleet's revision at the task's last change.
    #[bilrost(27)]
    pub revision: u64,
    /// The approval that the task needs before it may start.
    #[bilrost(29)]
    pub approval: Option<Approval>,
    /// How the task's result is verified, by the outputs of other tasks, its members.
    #[bilrost(30)]
    pub verification: Option<Box<Verification>>,
    /// The number of the task whose result this one verifies, as a member or a comparison. It is no task that anybody
    /// submitted, and is removed when it ends.
    #[bilrost(31)]
    pub member_of: Option<u64>,
    /// The task was submitted with [`Feature::Trial`](crate::Feature::Trial).
    #[cfg(feature = "trial")]
    #[bilrost(28)]
    pub trial: bool,
    /// The rules about its time and its retries that only some tasks have.
    #[bilrost(40)]
    pub timing: Option<Box<TaskTiming>>,
    /// It has used up its attempts, or failed in a way that is not tried again, and may be tried again even so.
    #[bilrost(41)]
    pub dead: bool,
    /// That it was a dead letter and was tried again.
    #[bilrost(42)]
    pub revival: Option<Box<Revival>>,
    /// The team whose members alone may run it.
    #[bilrost(50)]
    pub team: Option<TeamId>,
    /// The resources that it needs while it runs, and has.
    #[bilrost(52)]
    pub resources: Option<Box<Claim>>,
    /// The tasks that it depends on, its children, and whose child it is.
    #[bilrost(60)]
    pub links: Option<Box<Links>>,
    /// Where it waits, if it says so: otherwise in [`DEFAULT_QUEUE`](crate::limits::DEFAULT_QUEUE), or the queue of its
    /// resources.
    #[bilrost(100)]
    pub lane: Option<Box<Lane>>,
    /// What it takes of its agent beyond one slot and one skill. Needs [`Feature::Kinds`](crate::Feature::Kinds).
    #[bilrost(120)]
    pub demand: Option<Box<Demand>>,
    /// The schedule that it is a run of.
    #[bilrost(140)]
    pub scheduled: Option<Box<ScheduledFor>>,
    /// The input, if it is in the object store; `input` is empty then. Needs [`Feature::Blobs`](crate::Feature::Blobs).
    #[bilrost(170)]
    pub input_ref: Option<Box<BlobRef>>,
    /// The output, if it is in the object store; `output` is empty then.
    #[bilrost(171)]
    pub output_ref: Option<Box<BlobRef>>,
}

impl Task {
    /// Creates the task of a valid submission, in state `Queued`. `floor` is the highest fencing number that an agent
    /// may still be stopping for its id.
    pub(crate) fn accept(s: SubmitTask, seq: u64, now: Stamp, config: &FleetConfig, floor: u32) -> Task {
        let may_start = now.fleet.saturating_add(s.delay.unwrap_or(0));
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
            approval: None,
            verification: s.verify.map(|verify| Box::new(Verification::of(*verify))),
            member_of: None,
            #[cfg(feature = "trial")]
            trial: s.trial,
            timing: s.timing.map(|asked| Box::new(TaskTiming::of(*asked, may_start))),
            dead: false,
            revival: None,
            team: s.team,
            resources: s.resources.map(|asked| Box::new(Claim { asked: *asked, allocation: None })),
            lane: s.lane.map(|asked| Box::new(Lane { asked: *asked, aging: 0 })),
            links: None,
            demand: Demand::of_task(s.demand, s.input_ref.is_some()),
            scheduled: None,
            input_ref: s.input_ref,
            output_ref: None,
        }
    }

    /// Returns the attempt that is running.
    pub fn current(&self) -> Option<&Attempt> {
        self.attempts.last().filter(|a| a.end.is_none())
    }

    /// Returns whether the task is queued and waits for neither a delay, a backoff, an approval nor other tasks.
    pub(crate) fn is_due(&self) -> bool {
        self.state == TaskState::Queued
            && self.not_before.is_none()
            && self.awaited_ballot().is_none()
            && !self.awaits_tasks()
    }

    /// Returns whether the task is queued and an agent may take it: it waits for neither a delay, a backoff, an
    /// approval nor other tasks, and does not run on several agents, by its members.
    pub fn is_ready(&self) -> bool {
        self.is_due() && self.verification.is_none()
    }

    /// Returns when the coordinators end the current attempt because of its timeout. The agent ends it
    /// [`ATTEMPT_GRACE_MS`] earlier, so its own report normally comes first.
    pub fn attempt_due(&self) -> Option<FleetMillis> {
        let timeout = self.attempt_timeout?;
        let current = self.current()?;
        Some(current.assigned_at.fleet.saturating_add(timeout).saturating_add(ATTEMPT_GRACE_MS))
    }

    /// Returns how many bytes count against the fleet's budget: input, output, where it waits, and the texts of failures,
    /// of cancellation and of what is not tried again.
    pub fn stored_bytes(&self) -> u64 {
        let text = |f: &Failure| f.message.len() + f.stderr_tail.len() + f.name.len();
        let attempts: usize = self.attempts.iter().filter_map(|a| a.failure.as_ref()).map(text).sum();
        let total = self.input.len()
            + self.output.as_ref().map_or(0, Bytes::len)
            + self.failure.as_ref().map_or(0, text)
            + self.cancel_reason.as_ref().map_or(0, String::len)
            + self.verification.as_ref().map_or(0, |verification| verification.stored_bytes())
            + self.lane.as_ref().map_or(0, |lane| lane.asked.stored_bytes())
            + self.timing.as_ref().map_or(0, |timing| timing.asked.stored_bytes())
            + self.links.as_ref().map_or(0, |links| links.stored_bytes())
            + self.demand.as_ref().map_or(0, |demand| demand.stored_bytes())
            + attempts;
        total as u64
    }

    /// Returns what the task requires of an agent.
    pub(crate) fn needs(&self) -> Needs<'_> {
        Needs {
            role: self.required_role,
            specialization_required: self.required_specialization.is_some(),
            domain: self.required_specialization.as_deref().unwrap_or(self.kind_to_run()),
            kind: self.kind_to_run(),
            slots: self.slots(),
            skills: self.skills(),
            store: self.needs_store(),
        }
    }

    /// Returns the next fencing number.
    pub(crate) fn next_attempt(&self) -> u32 {
        self.attempt.saturating_add(1)
    }

    /// Starts `attempt`, and drops the oldest kept attempt if there are too many.
    pub(crate) fn begin_attempt(&mut self, attempt: Attempt) {
        debug_assert!(self.is_ready() && attempt.number > self.attempt);
        if self.attempts.len() >= MAX_KEPT_ATTEMPTS {
            self.attempts.remove(0);
        }
        self.state = TaskState::Assigned;
        self.stop_waiting();
        self.attempt = attempt.number;
        self.attempts_used = self.attempts_used.saturating_add(1);
        if self.attempts.is_empty() {
            // Most tasks have only one attempt, and a vector that grows reserves room for four.
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

    /// Queues the task again, with a backoff of `pause` ms.
    pub(crate) fn requeue(&mut self, now: Stamp, pause: u64) {
        debug_assert!(self.current().is_none());
        self.state = TaskState::Queued;
        self.not_before = (pause > 0).then(|| now.fleet.saturating_add(pause));
    }

    /// Moves the task to its final state. It is kept for at least one millisecond, so that it is not forgotten in the
    /// moment in which it ends.
    pub(crate) fn finish(&mut self, now: Stamp, state: TaskState, failure: Option<Failure>) {
        debug_assert!(state.is_final() && !self.state.is_final() && self.current().is_none());
        self.state = state;
        self.not_before = None;
        self.stop_waiting();
        self.close_links();
        self.failure = failure;
        self.finished_at = Some(now);
        self.expires_at = Some(now.fleet.saturating_add(self.result_ttl.max(1)));
    }

    /// Returns whether the retry policy allows no further attempt.
    pub(crate) fn is_used_up(&self) -> bool {
        self.attempts_used >= self.retry.max_attempts
    }
}

impl RetryPolicy {
    /// Returns the backoff after `used` attempts, ms: the first is `initial_backoff`, each further one is
    /// `multiplier_percent` of the one before, truncated to whole milliseconds; at most `max_backoff`.
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
