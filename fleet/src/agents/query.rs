//! Queries about agents and pools.

use std::{ops::Bound, sync::Arc};

use super::indexes::PoolMembers;
use crate::{Agent, AgentId, AgentState, Fleet, Held, PoolView};

/// Number of known agents by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AgentCounts {
    /// Agents that get tasks.
    pub live: u32,
    /// Agents on standby.
    pub standby: u32,
    /// Agents that finish what they have and get no new tasks.
    pub draining: u32,
    /// Agents that are gone and still remembered.
    pub lost: u32,
    /// Agents that get no new tasks until they are healthy again.
    pub unhealthy: u32,
}

impl Fleet {
    /// Returns the agents that changed after `revision`, each once, ordered by their newest change.
    pub fn changed_agents_since(&self, revision: u64) -> impl Iterator<Item = &Agent> + '_ {
        self.indexes
            .agents
            .revisions
            .range((Bound::Excluded(revision), Bound::Unbounded))
            .filter_map(|(_, id)| self.state.agents.known.get(id).map(Arc::as_ref))
    }

    /// Returns an agent, or `None` if it never joined or was forgotten. A clone of the `Arc` keeps it as it is now.
    pub fn agent(&self, id: AgentId) -> Option<&Arc<Agent>> {
        self.state.agents.known.get(&id)
    }

    /// Returns the agent with this name.
    pub fn agent_by_name(&self, name: &str) -> Option<&Arc<Agent>> {
        self.agent(*self.indexes.agents.names.get(name)?)
    }

    /// Returns all known agents, by number.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<Agent>> + '_ {
        self.state.agents.known.values()
    }

    /// Returns the known agents in the order of their names, starting after the name `after`.
    pub fn agents_by_name(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<Agent>> + '_ {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.indexes.agents.names.range::<str, _>((start, Bound::Unbounded));
        names.filter_map(|(_, id)| self.agent(*id))
    }

    /// Returns the agents with numbers above `after`, or all, by number, so that many agents can be read in slices.
    pub fn agents_after(&self, after: Option<AgentId>) -> impl Iterator<Item = &Arc<Agent>> + '_ {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.state.agents.known.range((start, Bound::Unbounded)).map(|(_, agent)| agent)
    }

    /// Returns the number of agents by state.
    pub fn agent_counts(&self) -> AgentCounts {
        let count = |state: AgentState| self.indexes.agents.counts[state as usize];
        AgentCounts {
            live: count(AgentState::Live),
            standby: count(AgentState::Standby),
            draining: count(AgentState::Draining),
            lost: count(AgentState::Lost),
            unhealthy: count(AgentState::Unhealthy),
        }
    }

    /// Returns the pools, by name, including pools without agents whose size is set.
    pub fn pools(&self) -> Vec<PoolView> {
        let pools = self.state.agents.pools.iter();
        let empty = PoolMembers::default();
        let view = pools.map(|(name, pool)| {
            let members = self.indexes.agents.pools.get(name).unwrap_or(&empty);
            PoolView {
                name: name.clone(),
                live: members.live,
                standby: members.standby.len() as u32,
                desired: members.desired(pool.replicas, pool.standby),
            }
        });
        view.collect()
    }

    /// Returns the taken slots of an agent; none if the agent is unknown.
    pub fn held(&self, id: AgentId) -> impl Iterator<Item = Held> + '_ {
        self.agent(id).into_iter().flat_map(|agent| agent.held())
    }
}
