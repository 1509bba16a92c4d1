//! What falls due when, in one ordered set. Every timer is derived from a task or an agent, so none is part of a snapshot.

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

/// The timers of a task as it is.
fn of_task(task: &Task) -> impl Iterator<Item = (FleetMillis, Timer)> {
    let seq = task.seq;
    let unfinished = !task.state.is_final();
    let deadline = task.deadline.filter(|_| unfinished);
    let ready = task.not_before.filter(|_| task.state == TaskState::Queued);
    [
        deadline.map(|due| (due, Timer::Deadline(seq))),
        task.attempt_due().map(|due| (due, Timer::Attempt(seq))),
        ready.map(|due| (due, Timer::Ready(seq))),
        task.expires_at.map(|due| (due, Timer::Expiry(seq))),
    ]
    .into_iter()
    .flatten()
}

fn of_agent(agent: &Agent) -> Option<(FleetMillis, Timer)> {
    let loss = agent.lost?;
    Some((loss.forget_at, Timer::Forget(agent.id)))
}

impl Timers {
    /// Sets the timers of a task.
    pub(crate) fn set_task(&mut self, task: &Task) {
        self.due.extend(of_task(task));
    }

    /// Clears the timers of a task, which must be as it was when they were set.
    pub(crate) fn clear_task(&mut self, task: &Task) {
        for timer in of_task(task) {
            self.due.remove(&timer);
        }
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
