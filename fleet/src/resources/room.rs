//! Which agents have room for what, found without a look at all of them.

use std::{cmp::Ordering, collections::BTreeMap};

use super::{
    Part,
    amounts::{Amounts, Resource},
    share::dominant,
    sum,
};
use crate::AgentId;

/// What each of some agents has, in the order of each resource.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Room {
    by: [BTreeMap<(u64, AgentId), Amounts>; 4],
    /// What they have together.
    pub sum: Amounts,
}

impl Room {
    pub(crate) fn insert(&mut self, agent: AgentId, amounts: Amounts) {
        for (order, resource) in self.by.iter_mut().zip(Resource::ALL) {
            order.insert((amounts.get(resource), agent), amounts);
        }
        self.sum = self.sum.plus(amounts);
    }

    pub(crate) fn remove(&mut self, agent: AgentId, amounts: Amounts) {
        for (order, resource) in self.by.iter_mut().zip(Resource::ALL) {
            order.remove(&(amounts.get(resource), agent));
        }
        self.sum = self.sum.minus(amounts);
    }

    /// Returns the most of a resource that one agent has.
    pub(crate) fn largest(&self, resource: Resource) -> u64 {
        let last = self.by[resource as usize].last_key_value();
        last.map_or(0, |((amount, _), _)| *amount)
    }

    /// Returns an agent for each part, or `None` if this finds no room for all of them. The parts are placed one by
    /// one, the one with the largest share of `total` first, each at the agent that it fits best. Several parts may be
    /// placed at one agent unless they are to be `spread`. As packing in several dimensions is hard, this may miss a
    /// choice of agents that has room; a single part always gets one if there is one.
    pub(crate) fn place(&self, parts: &[Part], spread: bool, total: Amounts) -> Option<Vec<AgentId>> {
        let asked = sum(parts);
        let fits = |part: &Part| Resource::ALL.iter().all(|r| part.amounts.get(*r) <= self.largest(*r));
        if !self.sum.covers(asked) || !parts.iter().all(fits) {
            return None;
        }
        let mut order: Vec<(usize, &Part)> = parts.iter().enumerate().collect();
        let share = |part: &(usize, &Part)| dominant(part.1.amounts, total).1;
        // The sort is stable, so that equal parts stay in order.
        order.sort_by(|one, other| share(other).compare(share(one)));
        let mut left = BTreeMap::new();
        let mut chosen = Vec::with_capacity(parts.len());
        for (place, part) in order {
            let (agent, rest) = self.best(part.amounts, &left, spread, total)?;
            left.insert(agent, rest);
            chosen.push((place, agent));
        }
        chosen.sort_unstable_by_key(|(place, _)| *place);
        Some(chosen.into_iter().map(|(_, agent)| agent).collect())
    }

    /// Returns the agent that this part fits best, with what it has left afterwards: the agent with the least left of
    /// the resource of which the part is the largest share, of equal ones the one with the lowest number. `left` is
    /// what the agents of other parts have left.
    fn best(
        &self,
        part: Amounts,
        left: &BTreeMap<AgentId, Amounts>,
        spread: bool,
        total: Amounts,
    ) -> Option<(AgentId, Amounts)> {
        let (resource, _) = dominant(part, total);
        let candidates = self.by[resource as usize].range((part.get(resource), AgentId::default())..);
        let mut candidates = candidates.map(|((_, agent), amounts)| (*agent, *amounts));
        let fresh = candidates.find(|(agent, amounts)| amounts.covers(part) && !left.contains_key(agent));
        let reused = left.iter().map(|(agent, amounts)| (*agent, *amounts));
        let reused = reused.filter(|(_, amounts)| !spread && amounts.covers(part));
        let by_rest = |one: &(AgentId, Amounts), other: &(AgentId, Amounts)| -> Ordering {
            (one.1.get(resource), one.0).cmp(&(other.1.get(resource), other.0))
        };
        let (agent, amounts) = reused.chain(fresh).min_by(by_rest)?;
        Some((agent, amounts.minus(part)))
    }
}
