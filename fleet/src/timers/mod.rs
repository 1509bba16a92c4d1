//! What falls due when, in one ordered set. Every timer is derived from a task or an agent, so none is part of a snapshot.

mod due;

use std::collections::BTreeSet;

use crate::{Agent, AgentId, FleetMillis, Task, TaskState};

/// What falls due. At the same moment, in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Timer {
    /// A task's deadline.
    Deadline(u64),
    /// The time of a task's current attempt.
    Attempt(u64),
    /// The end of a task's delay or backoff.
    Ready(u64),
    /// The end of keeping a finished task.
    Expiry(u64),
    /// The end of remembering a lost agent.
    Forget(AgentId),
}

/// The timers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(FleetMillis, Timer)>,
}

/// Calls `each` with the timers of a task as it is.
fn of_task(task: &Task, mut each: impl FnMut(FleetMillis, Timer)) {
    let seq = task.seq;
    if let Some(due) = task.deadline
        && !task.state.is_final()
    {
        each(due, Timer::Deadline(seq));
    }
    if let Some(due) = task.attempt_due() {
        each(due, Timer::Attempt(seq));
    }
    if let Some(due) = task.not_before
        && task.state == TaskState::Queued
    {
        each(due, Timer::Ready(seq));
    }
    if let Some(due) = task.expires_at {
        each(due, Timer::Expiry(seq));
    }
}

fn of_agent(agent: &Agent) -> Option<(FleetMillis, Timer)> {
    let loss = agent.lost?;
    Some((loss.forget_at, Timer::Forget(agent.id)))
}

impl Timers {
    /// Sets the timers of a task.
    pub(crate) fn set_task(&mut self, task: &Task) {
        of_task(task, |due, timer| {
            self.due.insert((due, timer));
        });
    }

    /// Clears the timers of a task, which must be as it was when they were set.
    pub(crate) fn clear_task(&mut self, task: &Task) {
        of_task(task, |due, timer| {
            self.due.remove(&(due, timer));
        });
    }

    /// Sets the timer of an agent.
    pub(crate) fn set_agent(&mut self, agent: &Agent) {
        self.due.extend(of_agent(agent));
    }

    /// Clears the timer of an agent, which must be as it was when it was set.
    pub(crate) fn clear_agent(&mut self, agent: &Agent) {
        if let Some(timer) = of_agent(agent) {
            self.due.remove(&timer);
        }
    }

    /// The first moment at which something is due.
    pub(crate) fn next_due(&self) -> Option<FleetMillis> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Takes out the first timer that is due by `now`.
    pub(crate) fn pop_due(&mut self, now: FleetMillis) -> Option<Timer> {
        if self.next_due()? > now {
            return None;
        }
        self.due.pop_first().map(|(_, timer)| timer)
    }
}
