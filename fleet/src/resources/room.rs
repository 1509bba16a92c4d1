//! Which agents have room for what, found without a look at all of them.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    Part,
    amounts::{Amounts, Resource, Shortage},
    share::dominant,
    sum,
};
use crate::{AgentId, limits::MAX_CANDIDATES};

/// How many agents are looked at for the best one before the search takes any that has room.
const NEAR: usize = 32;

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
    /// choice of agents that has room. A single part always gets one if there is one, unless more than
    /// [`MAX_CANDIDATES`] agents have enough of each resource that it needs, but not of all of them.
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
        let mut search = Search { room: self, left: BTreeMap::new(), spread, total, looks: MAX_CANDIDATES };
        let mut chosen = Vec::with_capacity(parts.len());
        for (place, part) in order {
            chosen.push((place, search.place(part.amounts)?));
        }
        chosen.sort_unstable_by_key(|(place, _)| *place);
        Some(chosen.into_iter().map(|(_, agent)| agent).collect())
    }

    /// Returns the agents that have this much, which is not nothing, and that `fit`: those with the least of something
    /// first, at most [`NEAR`]. Not all of them are found if more than [`MAX_CANDIDATES`] agents have enough of each
    /// resource, but not of all of them, or do not fit.
    pub(crate) fn with_room(&self, amounts: Amounts, fits: impl Fn(AgentId) -> bool) -> Vec<AgentId> {
        let asked = Resource::ALL.into_iter().filter(|resource| amounts.get(*resource) > 0);
        let mut orders: Vec<_> = asked.map(|resource| self.with_enough(resource, amounts)).collect();
        let (count, mut found) = (orders.len().max(1), BTreeSet::new());
        for look in 0..MAX_CANDIDATES {
            // The search in turns ends with the resource of which the fewest agents have enough.
            let Some((agent, has)) = orders.get_mut(look % count).and_then(Iterator::next) else { break };
            if has.covers(amounts) && fits(agent) {
                found.insert(agent);
            }
            if found.len() == NEAR {
                break;
            }
        }
        found.into_iter().collect()
    }

    /// Returns the resources that are short for these parts; none if something else is in the way.
    pub(crate) fn shortages(&self, parts: &[Part]) -> Vec<Shortage> {
        let total = sum(parts);
        let short = |resource: Resource| {
            let (asked, free) = (total.get(resource), self.sum.get(resource));
            if asked > free {
                return Some(Shortage { resource, asked, free, of_one: false });
            }
            let largest = parts.iter().map(|part| part.amounts.get(resource)).max().unwrap_or(0);
            let free = self.largest(resource);
            (largest > free).then_some(Shortage { resource, asked: largest, free, of_one: true })
        };
        Resource::ALL.into_iter().filter_map(short).collect()
    }

    /// Returns the agents that have enough of one resource for a part, those with the least of it first.
    fn with_enough(&self, resource: Resource, part: Amounts) -> impl Iterator<Item = (AgentId, Amounts)> + '_ {
        let from = (part.get(resource), AgentId::default());
        self.by[resource as usize].range(from..).map(|((_, agent), amounts)| (*agent, *amounts))
    }
}

/// The search for agents for the parts of one request.
struct Search<'a> {
    room: &'a Room,
    /// What the agents of the parts so far have left.
    left: BTreeMap<AgentId, Amounts>,
    spread: bool,
    total: Amounts,
    /// How many more agents may be looked at.
    looks: usize,
}

impl Search<'_> {
    /// Returns the agent that this part fits best: the one with the least left of the resource of which the part is the
    /// largest share, of equal ones the one with the lowest number.
    fn place(&mut self, part: Amounts) -> Option<AgentId> {
        let (resource, _) = dominant(part, self.total);
        let fresh = self.fresh(part, resource);
        let reused = self.left.iter().map(|(agent, amounts)| (*agent, *amounts));
        let reused = reused.filter(|(_, amounts)| !self.spread && amounts.covers(part));
        let by_rest = |one: &(AgentId, Amounts), other: &(AgentId, Amounts)| -> Ordering {
            (one.1.get(resource), one.0).cmp(&(other.1.get(resource), other.0))
        };
        let (agent, amounts) = reused.chain(fresh).min_by(by_rest)?;
        self.left.insert(agent, amounts.minus(part));
        Some(agent)
    }

    /// Returns an agent without any of the parts so far. Where many agents have enough of the largest share and too
    /// little of something else, all resources of the part are searched in turns, so that the search ends with the
    /// resource of which the fewest agents have enough.
    fn fresh(&mut self, part: Amounts, resource: Resource) -> Option<(AgentId, Amounts)> {
        let room = self.room;
        for (agent, amounts) in room.with_enough(resource, part).take(NEAR) {
            if self.fits(part, agent, amounts)? {
                return Some((agent, amounts));
            }
        }
        let asked = Resource::ALL.into_iter().filter(|resource| part.get(*resource) > 0);
        let mut orders: Vec<_> = asked.map(|resource| room.with_enough(resource, part)).collect();
        if orders.is_empty() {
            // A part that needs nothing fits everywhere: what is left is any agent without a part.
            orders.push(room.with_enough(resource, part));
        }
        loop {
            for order in &mut orders {
                let (agent, amounts) = order.next()?;
                if self.fits(part, agent, amounts)? {
                    return Some((agent, amounts));
                }
            }
        }
    }

    /// Looks at an agent; `None` if no more may be looked at.
    fn fits(&mut self, part: Amounts, agent: AgentId, amounts: Amounts) -> Option<bool> {
        self.looks = self.looks.checked_sub(1)?;
        Some(amounts.covers(part) && !self.left.contains_key(&agent))
    }
}
