//! Which agent gets which task: the queue of ready tasks, the agents with free slots, and how they are scored. Knows tasks and
//! agents, and changes neither.

pub(crate) mod audit;
pub(crate) mod free_agents;
pub(crate) mod queue;
pub(crate) mod score;
pub(crate) mod speed;

use self::{free_agents::FreeAgents, queue::ReadyQueue};
use crate::Task;

/// Who waits for whom.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Schedule {
    pub queue: ReadyQueue,
    pub free: FreeAgents,
}

impl Schedule {
    /// After a change of a task.
    pub(crate) fn enter_task(&mut self, task: &Task) {
        if task.is_ready() {
            self.queue.insert(task);
        }
    }

    /// Before a change of a task.
    pub(crate) fn leave_task(&mut self, task: &Task) {
        if task.is_ready() {
            self.queue.remove(task);
        }
    }
}
