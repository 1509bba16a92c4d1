//! Everything that can be computed from the state and is kept so that nothing has to be searched for. A change of a task or
//! an agent is bracketed by `leave` and `enter`; rebuilding from the state gives the same, which the audit checks.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use crate::{
    Agent, AgentId, AgentState, FleetMillis, HeldState, Task, TaskId, TrackRecord, Weights,
    fixed_map::FixedMap,
    fleet::State,
    schedule::{free_agents::FreeAgents, queue::ReadyQueue},
    timers::Timers,
};

/// The agents of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PoolMembers {
    pub live: u32,
    pub standby: BTreeSet<AgentId>,
    pub draining: u32,
    pub lost: u32,
    pub unhealthy: u32,
}

/// Sums over all agents that are known, for the record of a newcomer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct RecordSums {
    pub agents: u64,
    pub success: u64,
    pub speed: u64,
}

/// Attempts that agents are stopping.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Stopping {
    attempts: BTreeSet<(TaskId, u32, AgentId)>,
    /// How many each agent has, if any.
    by_agent: BTreeMap<AgentId, u32>,
}

/// See the module.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Indexes {
    pub ids: FixedMap<TaskId, u64>,
    pub keys: FixedMap<String, u64>,
    pub names: BTreeMap<Arc<str>, AgentId>,
    pub task_revisions: BTreeMap<u64, u64>,
    pub agent_revisions: BTreeMap<u64, AgentId>,
    pub timers: Timers,
    pub queue: ReadyQueue,
    pub free: FreeAgents,
    pub pools: BTreeMap<String, PoolMembers>,
    pub counts: [u32; 6],
    pub agent_counts: [u32; 5],
    pub bytes: u64,
    pub records: RecordSums,
    /// Lost agents, by when they were lost.
    pub lost: BTreeSet<(FleetMillis, AgentId)>,
    /// Attempts that were ended and not yet confirmed as stopped. Kept by those who change what an agent holds: going through
    /// all that it holds for each change would make many stops cost the square of their number.
    pub stopping: Stopping,
}

impl Indexes {
    /// From the state alone.
    pub(crate) fn rebuild(state: &State) -> Indexes {
        let mut indexes = Indexes::default();
        for task in state.tasks.values() {
            indexes.add_task(task);
        }
        for agent in state.agents.values() {
            indexes.enter_agent(agent, &state.config.weights);
            let stopping = agent.held.iter().filter(|(_, held)| **held == HeldState::Stopping);
            stopping.for_each(|((task, attempt), _)| indexes.stopping.insert((*task, *attempt, agent.id)));
        }
        indexes
    }

    /// A task came into being.
    pub(crate) fn add_task(&mut self, task: &Task) {
        self.ids.insert(task.id, task.seq);
        if let Some(key) = &task.idempotency_key {
            self.keys.insert(key.clone(), task.seq);
        }
        self.enter_task(task);
    }

    /// A task is forgotten.
    pub(crate) fn drop_task(&mut self, task: &Task) {
        self.leave_task(task);
        self.ids.remove(&task.id);
        if let Some(key) = &task.idempotency_key {
            self.keys.remove(key);
        }
    }

    /// After a change of a task.
    pub(crate) fn enter_task(&mut self, task: &Task) {
        self.task_revisions.insert(task.revision, task.seq);
        self.counts[task.state as usize] += 1;
        self.bytes += task.stored_bytes();
        self.timers.set_task(task);
        if task.is_ready() {
            self.queue.insert(task);
        }
    }

    /// Before a change of a task.
    pub(crate) fn leave_task(&mut self, task: &Task) {
        self.task_revisions.remove(&task.revision);
        self.counts[task.state as usize] -= 1;
        self.bytes -= task.stored_bytes();
        self.timers.clear_task(task);
        if task.is_ready() {
            self.queue.remove(task);
        }
    }

    /// After a change of an agent.
    pub(crate) fn enter_agent(&mut self, agent: &Agent, weights: &Weights) {
        self.names.insert(agent.name.clone(), agent.id);
        self.agent_counts[agent.state as usize] += 1;
        self.enter_work(agent, weights);
        self.timers.set_agent(agent);
        self.lost.extend(agent.lost.map(|loss| (loss.at.fleet, agent.id)));
        let Some(pool) = &agent.pool else { return };
        let members = self.pools.entry(pool.clone()).or_default();
        match agent.state {
            AgentState::Live => members.live += 1,
            AgentState::Draining => members.draining += 1,
            AgentState::Lost => members.lost += 1,
            AgentState::Unhealthy => members.unhealthy += 1,
            AgentState::Standby => {
                members.standby.insert(agent.id);
            }
        }
    }

    /// Before a change of an agent.
    pub(crate) fn leave_agent(&mut self, agent: &Agent, weights: &Weights) {
        self.names.remove(&agent.name);
        self.agent_counts[agent.state as usize] -= 1;
        self.leave_work(agent, weights);
        self.timers.clear_agent(agent);
        if let Some(loss) = agent.lost {
            self.lost.remove(&(loss.at.fleet, agent.id));
        }
        let Some(members) = agent.pool.as_ref().and_then(|p| self.pools.get_mut(p)) else {
            return;
        };
        match agent.state {
            AgentState::Live => members.live -= 1,
            AgentState::Draining => members.draining -= 1,
            AgentState::Lost => members.lost -= 1,
            AgentState::Unhealthy => members.unhealthy -= 1,
            AgentState::Standby => {
                members.standby.remove(&agent.id);
            }
        }
    }

    /// After a change of what an agent holds, or of its record, and of nothing else.
    pub(crate) fn enter_work(&mut self, agent: &Agent, weights: &Weights) {
        self.agent_revisions.insert(agent.revision, agent.id);
        self.free.insert(agent, weights);
        self.records.agents += 1;
        self.records.success += u64::from(agent.record.success);
        self.records.speed += u64::from(agent.record.speed);
    }

    /// Before a change of what an agent holds, or of its record, and of nothing else.
    pub(crate) fn leave_work(&mut self, agent: &Agent, weights: &Weights) {
        self.agent_revisions.remove(&agent.revision);
        self.free.remove(agent, weights);
        self.records.agents -= 1;
        self.records.success -= u64::from(agent.record.success);
        self.records.speed -= u64::from(agent.record.speed);
    }

    /// The record a newcomer starts with: the mean of all.
    pub(crate) fn newcomer(&self) -> TrackRecord {
        let sums = self.records;
        if sums.agents == 0 {
            return TrackRecord::BLANK;
        }
        TrackRecord {
            success: (sums.success / sums.agents) as u32,
            speed: (sums.speed / sums.agents) as u32,
            ..TrackRecord::BLANK
        }
    }

    /// Whether the pool has no member left.
    pub(crate) fn pool_is_empty(&self, pool: &str) -> bool {
        self.pools.get(pool).is_none_or(|m| *m == PoolMembers::default())
    }
}

impl Stopping {
    /// An attempt is to be stopped. Nothing if it is already.
    pub(crate) fn insert(&mut self, attempt: (TaskId, u32, AgentId)) {
        if self.attempts.insert(attempt) {
            *self.by_agent.entry(attempt.2).or_default() += 1;
        }
    }

    /// An attempt has stopped, or its agent has gone. Nothing if it is not among them.
    pub(crate) fn remove(&mut self, attempt: (TaskId, u32, AgentId)) {
        if self.attempts.remove(&attempt)
            && let Entry::Occupied(mut count) = self.by_agent.entry(attempt.2)
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// How many an agent has.
    pub(crate) fn of(&self, agent: AgentId) -> u32 {
        self.by_agent.get(&agent).copied().unwrap_or(0)
    }

    /// The highest fencing number that an agent may still be stopping under this id.
    pub(crate) fn highest(&self, task: TaskId) -> u32 {
        let range = (task, 0, AgentId(0))..=(task, u32::MAX, AgentId(u32::MAX));
        let last = self.attempts.range(range).next_back();
        last.map_or(0, |(_, attempt, _)| *attempt)
    }
}

impl PoolMembers {
    /// How many should be live, for a pool of this shape. Where no number is fixed, at least one.
    pub(crate) fn desired(&self, replicas: Option<u32>, standby: u32) -> u32 {
        let known = self.live + self.draining + self.lost + self.unhealthy + self.standby.len() as u32;
        replicas.unwrap_or_else(|| known.saturating_sub(standby).max(u32::from(known > 0)))
    }
}
