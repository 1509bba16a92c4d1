//! Reads the resource pool, and waits for allocations.

use std::{sync::Arc, time::Duration};

use robeing_fleet::{
    AgentId, AgentResources, Allocation, AllocationId, AllocationState, Fleet, PoolSums, QueueView, Refusal, Shortage,
    Stamp,
};
use tokio::time::{Instant, timeout_at};

use super::{MAX_WAITING, ResourceError, ResourcePool};

/// Longest wait of a call for an allocation.
const MAX_WAIT: Duration = Duration::from_secs(600);
/// Maximum number of allocations on a page, and of agents on a page of theirs.
const MAX_PAGE: usize = 100;
const MAX_AGENTS_PAGE: usize = 1_000;
/// Default number of allocations on a page, and of agents on a page of theirs.
const DEFAULT_PAGE: usize = 20;
const DEFAULT_AGENTS_PAGE: usize = 100;

/// An allocation with what the state says besides.
#[derive(Clone, Debug)]
pub struct Seen {
    pub allocation: Arc<Allocation>,
    /// The names of the agents of its parts; empty where there is none, or none any more.
    pub agents: Vec<String>,
    /// What is short for it while it waits.
    pub short: Vec<Shortage>,
    pub now: Stamp,
}

/// A page of what agents contribute.
#[derive(Clone, Debug)]
pub struct AgentsPage {
    /// By number, each with its name.
    pub agents: Vec<(String, AgentResources)>,
    pub sums: PoolSums,
    pub queues: Vec<QueueView>,
    pub has_more: bool,
}

impl Seen {
    /// Looks at an allocation.
    pub fn of(fleet: &Fleet, allocation: &Arc<Allocation>) -> Self {
        let name = |agent| fleet.agent(agent).map(|agent| agent.name.to_string());
        let agents = allocation.parts.iter().map(|part| part.agent.and_then(name).unwrap_or_default()).collect();
        let waits = matches!(allocation.state, AllocationState::Waiting);
        let short = if waits { fleet.shortages_of(allocation) } else { Vec::new() };
        Self { allocation: Arc::clone(allocation), agents, short, now: fleet.now() }
    }
}

impl ResourcePool {
    /// Looks at an allocation that was read before.
    pub fn seen(&self, allocation: &Arc<Allocation>) -> Seen {
        self.state.look(|fleet| Seen::of(fleet, allocation))
    }

    /// Returns an allocation, after waiting for at most `wait` until it no longer waits.
    ///
    /// # Errors
    /// [`ResourceError`] if it is not known, or the state can't be read, or too many callers wait.
    pub async fn get(&self, id: AllocationId, wait: Duration) -> Result<Arc<Allocation>, ResourceError> {
        if wait.is_zero() {
            return self.current(id).await;
        }
        let until = Instant::now() + wait.min(MAX_WAIT);
        // Before the state is read, or a change may be missed.
        let waiting = self.observer.allocations.wait_for(id);
        let mut waiting = waiting.ok_or(ResourceError::TooManyWaiting { most: MAX_WAITING })?;
        let mut allocation = self.current(id).await?;
        while matches!(allocation.state, AllocationState::Waiting) {
            if timeout_at(until, waiting.news()).await.is_err() {
                break;
            }
            let now = self.state.look(|fleet| fleet.allocation(id).cloned());
            allocation = now.ok_or(ResourceError::Refused(Refusal::UnknownAllocation { allocation: id }))?;
        }
        Ok(allocation)
    }

    /// Returns a page of the newest allocations before the one with the number `before`, and the number to go on
    /// before. A `limit` of 0 means the default.
    ///
    /// # Errors
    /// [`ResourceError`] if the state can't be read.
    pub async fn list(
        &self,
        before: Option<u64>,
        limit: usize,
        only_live: bool,
    ) -> Result<(Vec<Seen>, Option<u64>), ResourceError> {
        let limit = if limit == 0 { DEFAULT_PAGE } else { limit.min(MAX_PAGE) };
        self.catch_up().await?;
        Ok(self.state.look(|fleet| {
            let (found, next) = fleet.allocations(before, limit, only_live);
            (found.into_iter().map(|allocation| Seen::of(fleet, allocation)).collect(), next)
        }))
    }

    /// Returns a page of the agents with numbers above `after` that contribute. A `limit` of 0 means the default.
    ///
    /// # Errors
    /// [`ResourceError`] if the state can't be read.
    pub async fn agents(&self, after: Option<AgentId>, limit: usize) -> Result<AgentsPage, ResourceError> {
        let limit = if limit == 0 { DEFAULT_AGENTS_PAGE } else { limit.min(MAX_AGENTS_PAGE) };
        self.catch_up().await?;
        Ok(self.state.look(|fleet| {
            let name = |found: &AgentResources| fleet.agent(found.agent).map(|agent| agent.name.to_string());
            let mut found = fleet.contributions(after).map(|found| (name(&found).unwrap_or_default(), found));
            let agents: Vec<(String, AgentResources)> = found.by_ref().take(limit).collect();
            let has_more = found.next().is_some();
            AgentsPage { agents, sums: fleet.pool_sums(), queues: fleet.resource_queues(), has_more }
        }))
    }
}
