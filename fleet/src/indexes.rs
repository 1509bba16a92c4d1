//! Everything that can be computed from the state and is kept so that nothing has to be searched for. A change of a task or
//! an agent is bracketed by `leave` and `enter`; rebuilding from the state gives the same, which the audit checks.

use crate::{
    Agent, HeldState, Task, Weights, agents::indexes::AgentIndexes, fleet::State, schedule::Schedule,
    tasks::indexes::TaskIndexes, timers::Timers,
};

/// The domains' indexes.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Indexes {
    pub tasks: TaskIndexes,
    pub agents: AgentIndexes,
    pub schedule: Schedule,
    pub timers: Timers,
}

impl Indexes {
    /// From the state alone.
    pub(crate) fn rebuild(state: &State) -> Indexes {
        let mut indexes = Indexes::default();
        for task in state.tasks.kept.values() {
            indexes.add_task(task);
        }
        for agent in state.agents.known.values() {
            indexes.enter_agent(agent, &state.config.weights);
            let stopping = agent.held.iter().filter(|(_, held)| **held == HeldState::Stopping);
            stopping.for_each(|((task, attempt), _)| indexes.agents.stopping.insert((*task, *attempt, agent.id)));
        }
        indexes
    }

    /// A task came into being.
    pub(crate) fn add_task(&mut self, task: &Task) {
        self.tasks.add(task);
        self.enter_task(task);
    }

    /// A task is forgotten.
    pub(crate) fn drop_task(&mut self, task: &Task) {
        self.leave_task(task);
        self.tasks.drop(task);
    }

    /// After a change of a task.
    pub(crate) fn enter_task(&mut self, task: &Task) {
        self.tasks.enter(task);
        self.timers.set_task(task);
        self.schedule.enter_task(task);
    }

    /// Before a change of a task.
    pub(crate) fn leave_task(&mut self, task: &Task) {
        self.tasks.leave(task);
        self.timers.clear_task(task);
        self.schedule.leave_task(task);
    }

    /// After a change of an agent.
    pub(crate) fn enter_agent(&mut self, agent: &Agent, weights: &Weights) {
        self.agents.enter(agent);
        self.enter_work(agent, weights);
        self.timers.set_agent(agent);
    }

    /// Before a change of an agent.
    pub(crate) fn leave_agent(&mut self, agent: &Agent, weights: &Weights) {
        self.agents.leave(agent);
        self.leave_work(agent, weights);
        self.timers.clear_agent(agent);
    }

    /// After a change of what an agent holds, or of its record, and of nothing else.
    pub(crate) fn enter_work(&mut self, agent: &Agent, weights: &Weights) {
        self.agents.enter_work(agent);
        self.schedule.free.insert(agent, weights);
    }

    /// Before a change of what an agent holds, or of its record, and of nothing else.
    pub(crate) fn leave_work(&mut self, agent: &Agent, weights: &Weights) {
        self.agents.leave_work(agent);
        self.schedule.free.remove(agent, weights);
    }
}
