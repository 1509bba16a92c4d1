//! Reads of agents and pools.

use std::{ops::Bound, sync::Arc};

use super::indexes::PoolMembers;
use crate::{Agent, AgentId, AgentState, Fleet, Held, PoolView};

/// Agents that are known, by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AgentCounts {
    /// Given work.
    pub live: u32,
    /// Waiting.
    pub standby: u32,
    /// Finishing what they have.
    pub draining: u32,
    /// Gone and remembered.
    pub lost: u32,
    /// Given nothing until they are healthy again.
    pub unhealthy: u32,
}

impl Fleet {
    /// The agents that changed after `revision`, each once, by their newest change.
    pub fn changed_agents_since(&self, revision: u64) -> impl Iterator<Item = &Agent> + '_ {
        self.indexes
            .agents
            .revisions
            .range((Bound::Excluded(revision), Bound::Unbounded))
            .filter_map(|(_, id)| self.state.agents.known.get(id).map(Arc::as_ref))
    }

    /// An agent, unless it never joined or was forgotten. A clone of the `Arc` keeps it as it is now.
    pub fn agent(&self, id: AgentId) -> Option<&Arc<Agent>> {
        self.state.agents.known.get(&id)
    }

    /// The agent of this name.
    pub fn agent_by_name(&self, name: &str) -> Option<&Arc<Agent>> {
        self.agent(*self.indexes.agents.names.get(name)?)
    }

    /// All agents that are known, by number.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<Agent>> + '_ {
        self.state.agents.known.values()
    }

    /// The agents that are known, by name, from after the name `after`.
    pub fn agents_by_name(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<Agent>> + '_ {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.indexes.agents.names.range::<str, _>((start, Bound::Unbounded));
        names.filter_map(|(_, id)| self.agent(*id))
    }

    /// The agents with numbers above `after`, or all, by number: for reading many of them in slices.
    pub fn agents_after(&self, after: Option<AgentId>) -> impl Iterator<Item = &Arc<Agent>> + '_ {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.state.agents.known.range((start, Bound::Unbounded)).map(|(_, agent)| agent)
    }

    /// Agents by state.
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

    /// The pools, by name; those whose size was set also while they have no agent.
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

    /// The taken slots of an agent; none if it is unknown.
    pub fn held(&self, id: AgentId) -> impl Iterator<Item = Held> + '_ {
        self.agent(id).into_iter().flat_map(|agent| agent.held())
    }
}
