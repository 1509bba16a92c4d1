//! The rules about time that only some tasks have: how long a task may wait for its first attempt, and how long an
//! attempt may run without progress.
//!
//! Progress is not in the log: the leader times it in memory, as it does heartbeats, and only its absence becomes a
//! command. The state machine holds that command to what it knows itself: that the attempt is current, and has run for
//! as long as it may without progress.

use bilrost::Message;

use super::retries::{FailureMatch, Jitter};
use crate::{
    AgentId, AttemptEnd, CancelCause, Effect, FailureKind, Fleet, FleetMillis, Refusal, Reply, Task, TaskId, TaskState,
    config::{check_duration, invalid},
    limits::MAX_NON_RETRYABLE,
    sabotage::{Mistake, planted},
    tasks::attempts::own_failure,
};

/// The rules about its time and its retries that only some tasks have. Durations are in milliseconds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Timing {
    /// How long the task may wait for its first attempt, from its acceptance, the end of its delay or that of the tasks
    /// that it waits for; beyond it, it fails. `None`: for as long as it takes.
    #[bilrost(1)]
    pub queue_expiry: Option<u64>,
    /// How long an attempt may run without progress before it is ended, and the task is given to another agent. `None`:
    /// for as long as it may run.
    #[bilrost(2)]
    pub progress_timeout: Option<u64>,
    /// By how much backoffs are shortened by chance. `None`: by nothing.
    #[bilrost(3)]
    pub jitter: Option<Jitter>,
    /// The failures after which the task is not tried again; at most [`MAX_NON_RETRYABLE`].
    #[bilrost(4)]
    pub non_retryable: Vec<FailureMatch>,
}

/// The rules of an accepted task, and until when it may wait.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct TaskTiming {
    /// What was asked for.
    #[bilrost(1)]
    pub asked: Timing,
    /// When the task fails if no attempt has begun; cleared when one begins, or the task ends. None while it waits for
    /// other tasks.
    #[bilrost(2)]
    pub queue_until: Option<FleetMillis>,
}

impl Timing {
    /// Refuses what is out of bounds, whatever the fleet's state.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        check_duration("queue_expiry", self.queue_expiry, 1)?;
        check_duration("progress_timeout", self.progress_timeout, 1)?;
        self.jitter.as_ref().map_or(Ok(()), Jitter::check)?;
        if self.non_retryable.len() > MAX_NON_RETRYABLE {
            let problem = format!("names {} failures, the most is {MAX_NON_RETRYABLE}", self.non_retryable.len());
            return Err(invalid("retry.non_retryable", problem));
        }
        self.non_retryable.iter().try_for_each(FailureMatch::check)
    }

    /// Returns these rules, with those that they leave open from others. `seed` is that of a jitter from there.
    pub(crate) fn or(self, others: &Timing, seed: u64) -> Timing {
        let named = if self.non_retryable.is_empty() { others.non_retryable.clone() } else { self.non_retryable };
        Timing {
            queue_expiry: self.queue_expiry.or(others.queue_expiry),
            progress_timeout: self.progress_timeout.or(others.progress_timeout),
            jitter: self.jitter.or_else(|| others.jitter.map(|jitter| Jitter { seed, ..jitter })),
            non_retryable: named,
        }
    }

    /// Returns the bytes that count against the fleet's budget.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.non_retryable.iter().map(FailureMatch::stored_bytes).sum()
    }
}

impl TaskTiming {
    /// Returns the rules of a task that may start at `from`.
    pub(crate) fn of(asked: Timing, from: FleetMillis) -> Self {
        let queue_until = asked.queue_expiry.map(|most| from.saturating_add(most));
        Self { asked, queue_until }
    }

    /// Returns the rules of a member of a task with these ones: the task itself expires, and not its members.
    pub(super) fn of_member(&self) -> Box<Self> {
        Box::new(Self { asked: self.asked.clone(), queue_until: None })
    }
}

impl Task {
    /// Returns when the task fails if no attempt has begun; `None` if it may wait for longer, or has not to wait.
    pub fn queue_until(&self) -> Option<FleetMillis> {
        self.timing.as_ref()?.queue_until
    }

    /// Returns whether the task has waited for too long. Its timer is about to end it: until then, no agent gets it.
    pub(crate) fn has_expired(&self, now: FleetMillis) -> bool {
        self.queue_until().is_some_and(|at| at <= now)
    }

    /// Returns how long an attempt may run without progress, ms.
    pub fn progress_timeout(&self) -> Option<u64> {
        self.timing.as_ref()?.asked.progress_timeout
    }

    /// Notes that the task may start from now on, or from the end of its delay, because it waits for no other task any
    /// more.
    pub(crate) fn start_waiting(&mut self, now: FleetMillis) {
        let from = self.not_before.map_or(now, |at| at.max(now));
        if let Some(timing) = &mut self.timing {
            **timing = TaskTiming::of(std::mem::take(&mut timing.asked), from);
        }
    }

    /// Notes that the task waits for its first attempt no longer, or not yet.
    pub(crate) fn stop_waiting(&mut self) {
        if let Some(timing) = &mut self.timing {
            timing.queue_until = None;
        }
    }
}

impl Fleet {
    /// Returns the agents that are still stopping an attempt at a task that is watched for progress: until they have,
    /// it is for others.
    pub(crate) fn still_stopping(&self, task: &Task) -> impl Iterator<Item = AgentId> {
        let stopping = &self.indexes.agents.stopping;
        task.progress_timeout().map(|_| stopping.agents_of(task.id)).into_iter().flatten()
    }

    /// Returns how long an attempt that an agent runs may make no progress, ms; `None` if it does not run it, or it may
    /// be as long as it runs.
    pub fn progress_timeout_of(&self, task: TaskId, attempt: u32, agent: AgentId) -> Option<u64> {
        let task = self.task(task)?;
        task.current().filter(|current| current.number == attempt && current.agent == agent)?;
        task.progress_timeout()
    }

    /// Ends a task that has waited too long for its first attempt. One whose result is verified has begun when one of
    /// its members has.
    pub(crate) fn queue_expired(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        let has_begun = |member: &u64| {
            let member = self.state.tasks.kept.get(member);
            member.is_some_and(|member| !member.attempts.is_empty())
        };
        let is_verified = task.verification.as_ref();
        let has_begun = is_verified.is_some_and(|of| !task.attempts.is_empty() || of.members.iter().any(has_begun));
        if has_begun || planted(Mistake::QueueExpiryIgnored) {
            self.change_task(seq, Task::stop_waiting);
            return;
        }
        let most = task.timing.as_ref().and_then(|timing| timing.asked.queue_expiry).unwrap_or_default();
        let message = format!("no agent took the task within {most} ms, which is as long as it may wait for one");
        let failure = own_failure(FailureKind::Expired, &message, false);
        self.finish(seq, TaskState::Failed, effects, |task, now| {
            task.finish(now, TaskState::Failed, Some(failure));
        });
    }

    /// Ends an attempt that makes no progress, as the leader has found: the task is queued again at once, and is not
    /// given to the same agent before that has stopped the attempt. Changes nothing if the attempt is not current.
    pub(crate) fn stalled(&mut self, id: TaskId, attempt: u32, effects: &mut Vec<Effect>) -> Reply {
        let Some(seq) = self.indexes.tasks.ids.get(&id).copied() else { return Reply::Stale(self.why_stale(id)) };
        let current = self.state.tasks.kept.get(&seq).and_then(|task| Some((task, task.current()?)));
        let Some((task, current)) = current.filter(|(_, current)| current.number == attempt) else {
            return Reply::Stale(self.why_stale(id));
        };
        let Some(most) = task.progress_timeout() else {
            return Reply::Refused(invalid("task", "has no progress timeout"));
        };
        let ran = self.state.now.fleet.saturating_sub(current.assigned_at.fleet);
        if ran < most {
            let problem = format!("has run for {ran} ms, and may make no progress for {most} ms");
            return Reply::Refused(invalid("attempt", problem));
        }
        self.stop_current(seq, CancelCause::Stalled, effects);
        let message = format!("the attempt made no progress for {most} ms, and was ended");
        let failure = own_failure(FailureKind::Stalled, &message, true);
        self.fail_attempt(seq, AttemptEnd::TimedOut, failure, effects);
        self.place(seq, effects);
        Reply::Done
    }
}
