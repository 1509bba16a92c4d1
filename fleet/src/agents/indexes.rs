//! Indexes of agents and pools, so that no operation has to search them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use crate::{Agent, AgentId, AgentState, FleetMillis, TaskId, TrackRecord};

/// The indexes of agents and pools.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct AgentIndexes {
    pub names: BTreeMap<Arc<str>, AgentId>,
    pub revisions: BTreeMap<u64, AgentId>,
    pub pools: BTreeMap<String, PoolMembers>,
    /// Number of agents by state.
    pub counts: [u32; 5],
    pub records: RecordSums,
    /// Lost agents, by the time of their loss.
    pub lost: BTreeSet<(FleetMillis, AgentId)>,
    /// Attempts that were ended but are not yet confirmed as stopped. Code that changes what an agent holds updates
    /// this too: scanning everything the agent holds at each change would make many stops quadratic.
    pub stopping: Stopping,
}

/// The agents of a pool.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct PoolMembers {
    pub live: u32,
    pub standby: BTreeSet<AgentId>,
    pub draining: u32,
    pub lost: u32,
    pub unhealthy: u32,
}

/// Sums over all known agents, for the record of a new agent.
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
    /// Number of attempts per agent that has any.
    by_agent: BTreeMap<AgentId, u32>,
}

impl AgentIndexes {
    /// Indexes an agent after a change, together with [`AgentIndexes::enter_work`].
    pub(crate) fn enter(&mut self, agent: &Agent) {
        self.names.insert(agent.name.clone(), agent.id);
        self.counts[agent.state as usize] += 1;
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

    /// Removes an agent before a change, together with [`AgentIndexes::leave_work`].
    pub(crate) fn leave(&mut self, agent: &Agent) {
        self.names.remove(&agent.name);
        self.counts[agent.state as usize] -= 1;
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

    /// Indexes an agent's record and revision after a change.
    pub(crate) fn enter_work(&mut self, agent: &Agent) {
        self.revisions.insert(agent.revision, agent.id);
        self.records.agents += 1;
        self.records.success += u64::from(agent.record.success);
        self.records.speed += u64::from(agent.record.speed);
    }

    /// Removes an agent's record and revision before a change.
    pub(crate) fn leave_work(&mut self, agent: &Agent) {
        self.revisions.remove(&agent.revision);
        self.records.agents -= 1;
        self.records.success -= u64::from(agent.record.success);
        self.records.speed -= u64::from(agent.record.speed);
    }

    /// Returns how many agents are in a session, whatever their state.
    pub(crate) fn in_session(&self) -> u32 {
        let states = [AgentState::Live, AgentState::Standby, AgentState::Draining, AgentState::Unhealthy];
        states.into_iter().map(|state| self.counts[state as usize]).sum()
    }

    /// Returns the record with which a new agent starts: the mean of all known agents.
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

    /// Returns whether the pool has no members left.
    pub(crate) fn pool_is_empty(&self, pool: &str) -> bool {
        self.pools.get(pool).is_none_or(|m| *m == PoolMembers::default())
    }
}

impl Stopping {
    /// Adds an attempt that must stop. Does nothing if it is already there.
    pub(crate) fn insert(&mut self, attempt: (TaskId, u32, AgentId)) {
        if self.attempts.insert(attempt) {
            *self.by_agent.entry(attempt.2).or_default() += 1;
        }
    }

    /// Removes an attempt that has stopped or whose agent is gone. Does nothing if it is not there.
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

    /// Returns how many attempts the agent is stopping.
    pub(crate) fn of(&self, agent: AgentId) -> u32 {
        self.by_agent.get(&agent).copied().unwrap_or(0)
    }

    /// Returns the agents that are stopping an attempt at this task, one for each attempt.
    pub(crate) fn agents_of(&self, task: TaskId) -> impl Iterator<Item = AgentId> {
        self.of_task(task).map(|(_, agent)| agent)
    }

    /// Returns the highest fencing number that an agent may still be stopping for this task id; 0 if there is none.
    pub(crate) fn highest(&self, task: TaskId) -> u32 {
        self.of_task(task).next_back().map_or(0, |(attempt, _)| attempt)
    }

    /// Returns the attempts that agents are stopping for this task id, by their fencing numbers.
    pub(crate) fn of_task(&self, task: TaskId) -> impl DoubleEndedIterator<Item = (u32, AgentId)> + '_ {
        let range = (task, 0, AgentId(0))..=(task, u32::MAX, AgentId(u32::MAX));
        self.attempts.range(range).map(|(_, attempt, agent)| (*attempt, *agent))
    }

    /// Returns whether an agent is stopping an attempt of this task id.
    pub(crate) fn has(&self, task: TaskId) -> bool {
        self.of_task(task).next().is_some()
    }
}

impl PoolMembers {
    /// Returns whether a pool of this shape lacks agents, live or on standby. One that drains is to be replaced; if
    /// `replicas` is not fixed, one that was lost is expected back.
    pub(crate) fn lacks_any(&self, replicas: Option<u32>, standby: u32) -> bool {
        let present = self.live + self.unhealthy + self.standby.len() as u32;
        replicas.map_or(self.lost > 0, |replicas| present < replicas.saturating_add(standby))
    }

    /// Returns how many agents should be live in a pool of this shape: if `replicas` is not fixed, at least one of its
    /// members.
    pub(crate) fn desired(&self, replicas: Option<u32>, standby: u32) -> u32 {
        let known = self.live + self.draining + self.lost + self.unhealthy + self.standby.len() as u32;
        replicas.unwrap_or_else(|| known.saturating_sub(standby).max(u32::from(known > 0)))
    }
}
