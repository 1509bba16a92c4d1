//! How requests are granted.

use std::collections::BTreeSet;

use super::{
    Allocation, AllocationState, Holder, Part, Queue,
    amounts::{Amounts, Shortage},
    command::RequestResources,
    sum,
};
use crate::{
    AgentId, Effect, Feature, Fleet, Refusal, Reply,
    config::invalid,
    limits::{
        DEFAULT_QUEUE, MAX_ALLOCATIONS, MAX_ASKED_BY_ONE, MAX_ASKED_FOR_ONE, MAX_HELD_BY_ONE, MAX_LIVE_ALLOCATIONS,
        MAX_PARTS_OF_ONE,
    },
    sabotage::{Mistake, planted},
};

/// How many queues a refusal names.
const MAX_NAMED_QUEUES: usize = 8;

impl Fleet {
    /// Returns the refusal that this request would get now; `None` if it would be granted or would wait. A request
    /// whose id is known is not refused for want of resources.
    pub fn refusal_of_request(&self, request: &RequestResources) -> Option<Refusal> {
        if let Err(refusal) = request.check() {
            return Some(refusal);
        }
        // A fleet without the feature says so when the command is applied.
        if !self.has(Feature::Resources) || self.allocation(request.id).is_some() {
            return None;
        }
        let parts = request.to_parts();
        // While it has to be found out who is granted what is free, only the log can tell.
        let granted = || if self.sweep_is_due() { Ok(()) } else { self.try_grant(request, &parts).map(drop) };
        self.check_request(request, &parts).and_then(|()| granted()).err()
    }

    pub(super) fn request_resources(&mut self, request: RequestResources, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = request.check() {
            return Reply::Refused(refusal);
        }
        if let Some(known) = self.allocation(request.id) {
            return match known.is_same_as(&request) {
                true => Reply::Allocated { existing: true, token: known.token() },
                false => Reply::Refused(Refusal::AllocationConflict { allocation: request.id }),
            };
        }
        let parts = request.to_parts();
        let granted = self.check_request(&request, &parts).and_then(|()| self.try_grant(&request, &parts));
        let agents = match granted {
            Ok(agents) => agents,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let id = request.id;
        let seq = self.add_allocation(request, parts, AllocationState::Waiting, None);
        let token = match agents {
            Some(agents) => self.grant(seq, agents, effects),
            None => {
                effects.push(Effect::AllocationChanged { id });
                // It may keep others waiting.
                self.wake_allocations();
                None
            }
        };
        Reply::Allocated { existing: false, token }
    }

    /// Adds an allocation with a new id, and makes room for it. Returns its number.
    pub(super) fn add_allocation(
        &mut self,
        request: RequestResources,
        parts: Vec<Part>,
        state: AllocationState,
        attempt: Option<u32>,
    ) -> u64 {
        self.make_room_for_allocation();
        let RequestResources { id, holder, queue, parts: _, spread, ttl, wait, requested_by } = request;
        let (requested, round) = (self.state.now, self.state.resources.round);
        let allocation = self.state.resources.allocations.add(|seq| Allocation {
            seq,
            id,
            holder,
            queue,
            parts,
            spread,
            ttl,
            wait,
            requested,
            requested_by,
            round,
            state,
            attempt,
        });
        self.indexes.enter_allocation(allocation);
        allocation.seq
    }

    /// Refuses a request of a holder that is gone, one from a queue that is not there, one for which there is no room,
    /// and one beyond its queue's quota.
    fn check_request(&self, request: &RequestResources, parts: &[Part]) -> Result<(), Refusal> {
        self.check_holder(&request.holder)?;
        self.check_queue(&request.queue)?;
        let full = |what: &str, limit: usize, remedy: &str| {
            Err(Refusal::Full { what: what.to_owned(), limit: limit as u64, remedy: remedy.to_owned() })
        };
        let indexes = &self.indexes.resources;
        if indexes.waiting + indexes.granted >= MAX_LIVE_ALLOCATIONS {
            return full("allocations", MAX_LIVE_ALLOCATIONS, "ask again when some are released");
        }
        if let Some(held) = indexes.holders.get(&request.holder) {
            if held.allocations.len() >= MAX_HELD_BY_ONE {
                return full("allocations of one holder", MAX_HELD_BY_ONE, "release some, or ask for parts together");
            }
            if held.parts + parts.len() > MAX_PARTS_OF_ONE {
                return full("parts of the allocations of one holder", MAX_PARTS_OF_ONE, "release some");
            }
        }
        let asked = indexes.askers.get(&request.requested_by).copied().unwrap_or(0);
        if asked >= MAX_ASKED_BY_ONE {
            return full("allocations that one caller asked for", MAX_ASKED_BY_ONE, "release some");
        }
        if matches!(request.holder, Holder::Task(_) | Holder::Team(_)) && self.asked_for(request) >= MAX_ASKED_FOR_ONE {
            let what = "allocations of one task or team that one caller asked for";
            return full(what, MAX_ASKED_FOR_ONE, "release some, or ask for parts together");
        }
        // A request that may wait is refused only if the quota does not allow it even alone.
        let used = if request.wait > 0 { Amounts::NONE } else { self.used_from(&request.queue) };
        self.check_quota(&request.queue, used, sum(parts))
    }

    /// Returns how many allocations of the same holder the same caller has asked for.
    fn asked_for(&self, request: &RequestResources) -> usize {
        let held = self.indexes.resources.holders.get(&request.holder).map(|held| &held.allocations);
        let held = held.into_iter().flatten().filter_map(|seq| self.state.resources.allocations.get(*seq));
        held.filter(|allocation| allocation.requested_by == request.requested_by).count()
    }

    /// Refuses a queue that nobody has set: whoever asks could else get any number of shares.
    pub(crate) fn check_queue(&self, name: &str) -> Result<(), Refusal> {
        if self.knows_queue(name) {
            return Ok(());
        }
        let set = self.state.queues.set.keys().chain(self.state.resources.queues.keys()).map(String::as_str);
        let known: BTreeSet<&str> = set.filter(|known| *known != DEFAULT_QUEUE).collect();
        let known: Vec<&str> = known.into_iter().collect();
        let others = known.get(..MAX_NAMED_QUEUES).unwrap_or(&known).join(", ");
        let others = if others.is_empty() { "none" } else { &others };
        Err(invalid("queue", format!("is {name:?}, which was not set; name {DEFAULT_QUEUE:?} or a set one: {others}")))
    }

    /// Returns whether there is a queue with this name.
    pub(crate) fn knows_queue(&self, name: &str) -> bool {
        let (of_tasks, of_resources) = (&self.state.queues.set, &self.state.resources.queues);
        name == DEFAULT_QUEUE || of_resources.contains_key(name) || of_tasks.contains_key(name)
    }

    fn check_holder(&self, holder: &Holder) -> Result<(), Refusal> {
        let is_there = match holder {
            Holder::Nobody => false,
            Holder::Task(id) => self.task(*id).is_some_and(|task| !task.state.is_final()),
            Holder::Agent(name) => self.has_session(name),
            Holder::Team(id) => self.team(*id).is_some_and(|team| team.is_open()),
            Holder::Client(_) => true,
        };
        match is_there {
            true => Ok(()),
            false => Err(Refusal::HolderGone { holder: holder.to_string() }),
        }
    }

    pub(super) fn used_from(&self, queue: &str) -> Amounts {
        self.indexes.resources.queues.get(queue).map_or(Amounts::NONE, |queue| queue.used)
    }

    pub(super) fn queue_of(&self, name: &str) -> Queue {
        let set = self.state.resources.queues.get(name).copied();
        set.unwrap_or_else(|| Queue { weight: self.weight_of(name), ..Queue::default() })
    }

    pub(super) fn check_quota(&self, name: &str, used: Amounts, asked: Amounts) -> Result<(), Refusal> {
        match self.queue_of(name).quota.exceeded_by(used.plus(asked)).filter(|_| !planted(Mistake::QuotaIgnored)) {
            None => Ok(()),
            Some((resource, quota)) => Err(Refusal::OverQuota {
                queue: name.to_owned(),
                resource,
                asked: asked.get(resource),
                used: used.get(resource),
                quota,
            }),
        }
    }

    /// Returns the agents that are to give the parts of a new request; `None` if it has to wait. The requests that wait
    /// need not be looked at: none of them can be granted now, or the sweep is due.
    fn try_grant(&self, request: &RequestResources, parts: &[Part]) -> Result<Option<Vec<AgentId>>, Refusal> {
        let indexes = &self.indexes.resources;
        let others_wait = self.others_come_before(&request.queue);
        let is_over = self.check_quota(&request.queue, self.used_from(&request.queue), sum(parts)).is_err();
        let agents = match others_wait || is_over {
            true => None,
            false => indexes.free.place(parts, request.spread, indexes.contributed),
        };
        match agents {
            Some(agents) => Ok(Some(agents)),
            None if request.wait > 0 => Ok(None),
            None => {
                Err(Refusal::InsufficientResources { short: self.shortages(parts), others_wait, contributed: false })
            }
        }
    }

    /// Returns the resources that are short for these parts; none if something else is in the way.
    pub(super) fn shortages(&self, parts: &[Part]) -> Vec<Shortage> {
        self.indexes.resources.free.shortages(parts)
    }

    /// Grants a request that waits. Returns its fencing token.
    pub(super) fn grant(&mut self, seq: u64, agents: Vec<AgentId>, effects: &mut Vec<Effect>) -> Option<u64> {
        let at = self.state.now;
        self.state.resources.tokens += 1;
        let token = self.state.resources.tokens;
        let id = self.change_allocation(seq, |allocation| {
            for (part, agent) in allocation.parts.iter_mut().zip(agents) {
                part.agent = Some(agent);
            }
            let from = if planted(Mistake::LeaseFromRequest) { allocation.requested } else { at };
            let expires = from.fleet.saturating_add(allocation.ttl);
            allocation.state = AllocationState::Granted { token, at, expires };
            allocation.id
        })?;
        effects.push(Effect::AllocationChanged { id });
        Some(token)
    }

    /// Drops the allocations that ended first, if it takes that to keep another one.
    fn make_room_for_allocation(&mut self) {
        while self.state.resources.allocations.len() >= MAX_ALLOCATIONS
            && let Some((_, seq)) = self.indexes.resources.ended.first().copied()
        {
            self.forget_allocation(seq);
        }
    }
}
