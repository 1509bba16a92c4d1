//! Queries about the resource pool.

use std::{ops::Bound, sync::Arc};

use super::{
    Allocation, Holder,
    amounts::{Amounts, Quota, Shortage},
};
use crate::{AgentId, AllocationId, Fleet, limits::MAX_PAGE};

/// What an agent contributes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgentResources {
    /// The agent.
    pub agent: AgentId,
    /// What it contributes.
    pub contributed: Amounts,
    /// What is granted of it.
    pub used: Amounts,
    /// The agent is live: more can be granted of it.
    pub is_live: bool,
}

/// A queue, as it is set or used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct QueueView {
    /// The queue's name.
    pub name: String,
    /// Its weight.
    pub weight: u32,
    /// The most that can be granted from it at a time.
    pub quota: Quota,
    /// What is granted from it.
    pub used: Amounts,
    /// The number of its requests that wait.
    pub waiting: u32,
    /// The number of its allocations that are granted.
    pub granted: u32,
}

/// Sums of the resource pool.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PoolSums {
    /// What agents contribute.
    pub contributed: Amounts,
    /// What is granted.
    pub used: Amounts,
    /// What live agents have free.
    pub free: Amounts,
    /// The number of agents that contribute.
    pub agents: u32,
    /// The number of requests that wait.
    pub waiting: u32,
    /// The number of allocations that are granted.
    pub granted: u32,
    /// The number of allocations that have ended and are still kept.
    pub ended: u32,
}

impl Fleet {
    /// Returns an allocation, or `None` if it was never asked for or was forgotten. A clone of the `Arc` keeps it as it
    /// is now.
    pub fn allocation(&self, id: AllocationId) -> Option<&Arc<Allocation>> {
        self.state.resources.allocations.get(*self.indexes.resources.ids.get(&id)?)
    }

    /// Returns at most `limit` (clamped to 1 to [`MAX_PAGE`]) allocations with numbers below `before`, the newest
    /// first. At most so many are looked at, so fewer, even none, may be followed by more; the second value is the
    /// number to go on before, or `None` if there are no more. `only_live` leaves out those that have ended.
    pub fn allocations(
        &self,
        before: Option<u64>,
        limit: usize,
        only_live: bool,
    ) -> (Vec<&Arc<Allocation>>, Option<u64>) {
        let (end, limit) = (before.unwrap_or(u64::MAX), limit.clamp(1, MAX_PAGE));
        let mut rest = self.state.resources.allocations.kept().range(..end).rev();
        let seen: Vec<&Arc<Allocation>> = rest.by_ref().take(limit).map(|(_, allocation)| allocation).collect();
        let next = rest.next().and(seen.last()).map(|last| last.seq);
        let shown = seen.into_iter().filter(|allocation| !(only_live && allocation.is_ended())).collect();
        (shown, next)
    }

    /// Returns what an agent contributes; `None` if it contributes nothing.
    pub fn contribution(&self, agent: AgentId) -> Option<AgentResources> {
        let known = self.indexes.resources.agents.get(&agent)?;
        let (contributed, used, is_live) = (known.contributed, known.used, known.is_live);
        Some(AgentResources { agent, contributed, used, is_live })
    }

    /// Returns what the agents with numbers above `after` contribute, by number. Those that contribute nothing are left
    /// out.
    pub fn contributions(&self, after: Option<AgentId>) -> impl Iterator<Item = AgentResources> + '_ {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let agents = self.indexes.resources.agents.range((start, Bound::Unbounded));
        agents.map(|(agent, known)| AgentResources {
            agent: *agent,
            contributed: known.contributed,
            used: known.used,
            is_live: known.is_live,
        })
    }

    /// Returns what a holder has.
    pub fn held_resources(&self, holder: &Holder) -> Amounts {
        self.indexes.resources.holders.get(holder).map_or(Amounts::NONE, |held| held.used)
    }

    /// Returns the queues that are set or in use, by name.
    pub fn resource_queues(&self) -> Vec<QueueView> {
        let (set, used) = (&self.state.resources.queues, &self.indexes.resources.queues);
        let mut names: Vec<&String> = set.keys().chain(used.keys()).collect();
        names.sort_unstable();
        names.dedup();
        let view = |name: &String| {
            let shape = self.queue_of(name);
            let (used, waiting, granted) = match used.get(name) {
                None => (Amounts::NONE, 0, 0),
                Some(queue) => (queue.used, queue.waiting.len() as u32, queue.granted.len() as u32),
            };
            QueueView { name: name.clone(), weight: shape.weight, quota: shape.quota, used, waiting, granted }
        };
        names.into_iter().map(view).collect()
    }

    /// Returns the sums of the resource pool.
    pub fn pool_sums(&self) -> PoolSums {
        let indexes = &self.indexes.resources;
        PoolSums {
            contributed: indexes.contributed,
            used: indexes.used,
            free: indexes.free.sum,
            agents: indexes.agents.len() as u32,
            waiting: indexes.waiting as u32,
            granted: indexes.granted as u32,
            ended: indexes.ended.len() as u32,
        }
    }

    /// Returns the resources that are short for an allocation that waits; none if something else is in the way.
    pub fn shortages_of(&self, allocation: &Allocation) -> Vec<Shortage> {
        self.shortages(&allocation.parts)
    }
}
