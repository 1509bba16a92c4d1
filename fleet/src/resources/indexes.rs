//! The indexes of the resource pool.

use std::collections::{BTreeMap, BTreeSet};

use super::{Allocation, AllocationState, Contribution, Holder, amounts::Amounts, room::Room};
use crate::{
    Agent, AgentId, AgentState, AllocationId, FleetMillis,
    fixed_map::FixedMap,
    sabotage::{Mistake, planted},
};

/// The indexes of the resource pool. They refer to contributions and allocations by their numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct ResourceIndexes {
    pub ids: FixedMap<AllocationId, u64>,
    /// The agents that contribute.
    pub agents: BTreeMap<AgentId, AgentUse>,
    /// What the live ones of them have free.
    pub free: Room,
    /// What the live ones of them contribute, free or not.
    pub whole: Room,
    /// What each of them contributes, live or not.
    pub offered: Room,
    /// What all of them contribute.
    pub contributed: Amounts,
    /// What is granted.
    pub used: Amounts,
    /// Who holds something or waits for it.
    pub holders: BTreeMap<Holder, HolderUse>,
    /// How many allocations each caller has asked for that are granted or waited for.
    pub askers: BTreeMap<String, usize>,
    /// The queues of which something is granted or waited for.
    pub queues: BTreeMap<String, QueueUse>,
    /// The allocations that have ended, the one that ended first in front.
    pub ended: BTreeSet<(FleetMillis, u64)>,
    /// The number of requests that wait.
    pub waiting: usize,
    /// The number of allocations that are granted.
    pub granted: usize,
}

/// The use of what an agent contributes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct AgentUse {
    /// The number of its contribution.
    pub number: u64,
    pub contributed: Amounts,
    pub used: Amounts,
    /// Only live agents give more.
    pub is_live: bool,
    /// The granted allocations of which it gives a part.
    pub allocations: BTreeSet<u64>,
}

/// What a holder has or waits for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct HolderUse {
    pub allocations: BTreeSet<u64>,
    /// The number of their parts.
    pub parts: usize,
    pub used: Amounts,
}

/// What is granted from a queue, and the requests that wait in it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct QueueUse {
    /// By round and number.
    pub waiting: BTreeSet<(u64, u64)>,
    pub granted: BTreeSet<u64>,
    pub used: Amounts,
}

impl ResourceIndexes {
    /// Indexes a contribution. Its agent counts as not live until [`ResourceIndexes::enter_agent`].
    pub(crate) fn enter_contribution(&mut self, contribution: &Contribution) {
        let Contribution { number, agent, amounts } = contribution;
        self.contributed = self.contributed.plus(*amounts);
        self.offered.insert(*agent, *amounts);
        let used = AgentUse { number: *number, contributed: *amounts, ..AgentUse::default() };
        self.agents.insert(*agent, used);
    }

    /// Removes a contribution of which nothing is granted.
    pub(crate) fn leave_contribution(&mut self, contribution: &Contribution) {
        self.with_agent(contribution.agent, |agent| agent.is_live = false);
        self.contributed = self.contributed.minus(contribution.amounts);
        self.offered.remove(contribution.agent, contribution.amounts);
        self.agents.remove(&contribution.agent);
    }

    /// Notes what an agent contributes now. No less than what is granted of it.
    pub(crate) fn set_amounts(&mut self, agent: AgentId, before: Amounts, amounts: Amounts) {
        self.contributed = self.contributed.minus(before).plus(amounts);
        self.offered.remove(agent, before);
        self.offered.insert(agent, amounts);
        self.with_agent(agent, |agent| agent.contributed = amounts);
    }

    /// Notes whether an agent is live. Does nothing if it contributes nothing.
    pub(crate) fn enter_agent(&mut self, agent: &Agent) {
        let is_live = agent.state == AgentState::Live;
        if self.agents.get(&agent.id).is_some_and(|known| known.is_live != is_live) {
            self.with_agent(agent.id, |known| known.is_live = is_live);
        }
    }

    /// Changes what is granted of an agent's contribution.
    fn with_used(&mut self, id: AgentId, change: impl FnOnce(&mut AgentUse)) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        let before = agent.free();
        change(agent);
        if agent.is_live {
            self.free.remove(id, before);
            self.free.insert(id, agent.free());
        }
    }

    /// Changes an agent's contribution, or whether it is live.
    fn with_agent(&mut self, id: AgentId, change: impl FnOnce(&mut AgentUse)) {
        let Some(agent) = self.agents.get_mut(&id) else { return };
        if agent.is_live {
            self.free.remove(id, agent.free());
            self.whole.remove(id, agent.contributed);
        }
        change(agent);
        if agent.is_live {
            self.free.insert(id, agent.free());
            self.whole.insert(id, agent.contributed);
        }
    }

    /// Indexes an allocation, or its new state after a change.
    pub(crate) fn enter(&mut self, allocation: &Allocation) {
        let seq = allocation.seq;
        self.ids.insert(allocation.id, seq);
        match &allocation.state {
            AllocationState::Ended { at, .. } => {
                self.ended.insert((at.fleet, seq));
                return;
            }
            AllocationState::Waiting => {
                self.waiting += 1;
                self.queue(&allocation.queue).waiting.insert((allocation.round, seq));
            }
            AllocationState::Granted { .. } => self.take(allocation),
        }
        let holder = self.holder(&allocation.holder);
        holder.allocations.insert(seq);
        holder.parts += allocation.parts.len();
        if allocation.attempt.is_none() {
            *self.askers.entry(allocation.requested_by.clone()).or_default() += 1;
        }
    }

    /// Removes an allocation, or its old state before a change.
    pub(crate) fn leave(&mut self, allocation: &Allocation) {
        let seq = allocation.seq;
        self.ids.remove(&allocation.id);
        match &allocation.state {
            AllocationState::Ended { at, .. } => {
                self.ended.remove(&(at.fleet, seq));
                return;
            }
            AllocationState::Waiting => {
                self.waiting -= 1;
                self.queue(&allocation.queue).waiting.remove(&(allocation.round, seq));
            }
            AllocationState::Granted { .. } => self.give_back(allocation),
        }
        let holder = self.holder(&allocation.holder);
        holder.allocations.remove(&seq);
        holder.parts -= allocation.parts.len();
        self.drop_empty(allocation);
    }

    fn take(&mut self, allocation: &Allocation) {
        let (seq, asked) = (allocation.seq, allocation.asked());
        self.granted += 1;
        self.used = self.used.plus(asked);
        let queue = self.queue(&allocation.queue);
        queue.granted.insert(seq);
        queue.used = queue.used.plus(asked);
        let holder = self.holder(&allocation.holder);
        holder.used = holder.used.plus(asked);
        for part in &allocation.parts {
            let Some(agent) = part.agent else { continue };
            self.with_used(agent, |agent| {
                if !planted(Mistake::AllocationOver) {
                    agent.used = agent.used.plus(part.amounts);
                }
                agent.allocations.insert(seq);
            });
        }
    }

    fn give_back(&mut self, allocation: &Allocation) {
        let (seq, asked) = (allocation.seq, allocation.asked());
        self.granted -= 1;
        self.used = self.used.minus(asked);
        let queue = self.queue(&allocation.queue);
        queue.granted.remove(&seq);
        queue.used = queue.used.minus(asked);
        let holder = self.holder(&allocation.holder);
        holder.used = holder.used.minus(asked);
        for part in &allocation.parts {
            let Some(agent) = part.agent else { continue };
            self.with_used(agent, |agent| {
                agent.used = agent.used.minus(part.amounts);
                agent.allocations.remove(&seq);
            });
        }
    }

    fn queue(&mut self, name: &str) -> &mut QueueUse {
        self.queues.entry(name.to_owned()).or_default()
    }

    fn holder(&mut self, holder: &Holder) -> &mut HolderUse {
        self.holders.entry(holder.clone()).or_default()
    }

    /// Drops what nothing is granted to or waited for by any more.
    fn drop_empty(&mut self, allocation: &Allocation) {
        if allocation.attempt.is_none()
            && let Some(asked) = self.askers.get_mut(&allocation.requested_by)
        {
            *asked -= 1;
            if *asked == 0 {
                self.askers.remove(&allocation.requested_by);
            }
        }
        if self.queues.get(&allocation.queue).is_some_and(|queue| *queue == QueueUse::default()) {
            self.queues.remove(&allocation.queue);
        }
        if self.holders.get(&allocation.holder).is_some_and(|holder| *holder == HolderUse::default()) {
            self.holders.remove(&allocation.holder);
        }
    }
}

impl AgentUse {
    /// Returns what can still be granted of the contribution.
    pub(crate) fn free(&self) -> Amounts {
        self.contributed.minus(self.used)
    }
}
