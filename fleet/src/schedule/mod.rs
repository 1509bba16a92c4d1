//! Which agent gets which task: the queue of ready tasks, the agents with free slots, and the scoring. It reads tasks
//! and agents and changes neither.

pub(crate) mod audit;
pub(crate) mod free_agents;
pub(crate) mod needing;
pub(crate) mod queue;
pub(crate) mod score;
pub(crate) mod speed;

use std::collections::BTreeMap;

use self::{free_agents::FreeAgents, needing::Needing, queue::ReadyQueue};
use crate::{Task, TeamId};

/// The ready tasks and the agents with free slots.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Schedule {
    /// The tasks that are addressed to no team.
    pub queue: ReadyQueue,
    /// The tasks that are addressed to each team that has any.
    pub teams: BTreeMap<TeamId, ReadyQueue>,
    /// The tasks that need resources, which are in none of these queues.
    pub needing: Needing,
    pub free: FreeAgents,
}

impl Schedule {
    /// Queues a task after a change, if it is ready.
    pub(crate) fn enter_task(&mut self, task: &Task) {
        if let Some(claim) = &task.resources {
            return self.needing.enter(task, &claim.asked);
        }
        if !task.is_ready() {
            return;
        }
        match task.team {
            Some(team) => self.teams.entry(team).or_default().insert(task),
            None => self.queue.insert(task),
        }
    }

    /// Removes a task from the queue before a change.
    pub(crate) fn leave_task(&mut self, task: &Task) {
        if let Some(claim) = &task.resources {
            return self.needing.leave(task, &claim.asked);
        }
        if !task.is_ready() {
            return;
        }
        let Some(team) = task.team else { return self.queue.remove(task) };
        let Some(queue) = self.teams.get_mut(&team) else { return };
        queue.remove(task);
        if queue.is_empty() {
            self.teams.remove(&team);
        }
    }
}
