//! Which agent gets which task: the queue of ready tasks, the agents with free slots, and the scoring. It reads tasks
//! and agents and changes neither.

pub(crate) mod audit;
pub(crate) mod free_agents;
pub(crate) mod queue;
pub(crate) mod score;
pub(crate) mod speed;

use self::{free_agents::FreeAgents, queue::ReadyQueue};
use crate::Task;

/// The ready tasks and the agents with free slots.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Schedule {
    pub queue: ReadyQueue,
    pub free: FreeAgents,
}

impl Schedule {
    /// Queues a task after a change, if it is ready.
    pub(crate) fn enter_task(&mut self, task: &Task) {
        if task.is_ready() {
            self.queue.insert(task);
        }
    }

    /// Removes a task from the queue before a change.
    pub(crate) fn leave_task(&mut self, task: &Task) {
        if task.is_ready() {
            self.queue.remove(task);
        }
    }
}
