//! How requests are granted, and which one is next.

use std::cmp::Ordering;

use super::{
    Allocation, AllocationState, Holder, Part, Queue,
    amounts::{Amounts, Resource, Shortage},
    command::RequestResources,
    share::{Share, dominant},
    sum,
};
use crate::{
    AgentId, Effect, Fleet, Refusal, Reply,
    limits::{MAX_ALLOCATIONS, MAX_HELD_BY_ONE, MAX_LIVE_ALLOCATIONS, MAX_QUEUES},
};

/// The request at the front of a queue.
#[derive(Clone, Copy, Debug)]
struct Front<'a> {
    /// Its number; `None` if it is new.
    seq: Option<u64>,
    queue: &'a str,
    parts: &'a [Part],
    spread: bool,
}

impl Fleet {
    /// Returns the refusal that this request would get now; `None` if it would be granted or would wait. A request
    /// whose id is known is not refused for want of resources.
    pub fn refusal_of_request(&self, request: &RequestResources) -> Option<Refusal> {
        if let Err(refusal) = request.check() {
            return Some(refusal);
        }
        if self.allocation(request.id).is_some() {
            return None;
        }
        let parts = request.to_parts();
        self.check_request(request, &parts).and_then(|()| self.try_grant(request, &parts).map(|_| ())).err()
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
        self.make_room_for_allocation();
        let RequestResources { id, holder, queue, parts: _, spread, ttl, wait, requested_by } = request;
        let requested = self.state.now;
        let state = AllocationState::Waiting;
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
            state,
        });
        let seq = allocation.seq;
        self.indexes.enter_allocation(allocation);
        let token = match agents {
            Some(agents) => self.grant(seq, agents, effects),
            None => {
                effects.push(Effect::AllocationChanged { id });
                None
            }
        };
        Reply::Allocated { existing: false, token }
    }

    /// Refuses a request of a holder that is gone, one for which there is no room, and one beyond its queue's quota.
    fn check_request(&self, request: &RequestResources, parts: &[Part]) -> Result<(), Refusal> {
        self.check_holder(&request.holder)?;
        let full = |what: &str, limit: usize, remedy: &str| {
            Err(Refusal::Full { what: what.to_owned(), limit: limit as u64, remedy: remedy.to_owned() })
        };
        let indexes = &self.indexes.resources;
        if indexes.waiting + indexes.granted >= MAX_LIVE_ALLOCATIONS {
            return full("allocations", MAX_LIVE_ALLOCATIONS, "ask again when some are released");
        }
        if indexes.holders.get(&request.holder).is_some_and(|held| held.allocations.len() >= MAX_HELD_BY_ONE) {
            return full("allocations of one holder", MAX_HELD_BY_ONE, "release some, or ask for parts together");
        }
        if indexes.queues.len() >= MAX_QUEUES && !indexes.queues.contains_key(&request.queue) {
            return full("queues in use", MAX_QUEUES, "use one of them");
        }
        // A request that may wait is refused only if the quota does not allow it even alone.
        let used = if request.wait > 0 { Amounts::NONE } else { self.used_from(&request.queue) };
        self.check_quota(&request.queue, used, sum(parts))
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

    fn used_from(&self, queue: &str) -> Amounts {
        self.indexes.resources.queues.get(queue).map_or(Amounts::NONE, |queue| queue.used)
    }

    fn queue_of(&self, name: &str) -> Queue {
        self.state.resources.queues.get(name).copied().unwrap_or_default()
    }

    fn check_quota(&self, name: &str, used: Amounts, asked: Amounts) -> Result<(), Refusal> {
        match self.queue_of(name).quota.exceeded_by(used.plus(asked)) {
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

    /// Returns the agents that are to give the parts of a new request; `None` if it has to wait.
    fn try_grant(&self, request: &RequestResources, parts: &[Part]) -> Result<Option<Vec<AgentId>>, Refusal> {
        let front = Front { seq: None, queue: &request.queue, parts, spread: request.spread };
        match self.next_grant(Some(front)) {
            Some((None, agents)) => Ok(Some(agents)),
            _ if request.wait > 0 => Ok(None),
            _ => {
                let (short, others_wait) = (self.shortages(parts), self.indexes.resources.waiting > 0);
                Err(Refusal::InsufficientResources { short, others_wait })
            }
        }
    }

    /// Returns the resources that are short for these parts; none if something else is in the way.
    pub(super) fn shortages(&self, parts: &[Part]) -> Vec<Shortage> {
        let (room, asked) = (&self.indexes.resources.free, sum(parts));
        let short = |resource: Resource| {
            let (asked, free) = (asked.get(resource), room.sum.get(resource));
            if asked > free {
                return Some(Shortage { resource, asked, free, of_one: false });
            }
            let largest = parts.iter().map(|part| part.amounts.get(resource)).max().unwrap_or(0);
            let free = room.largest(resource);
            (largest > free).then_some(Shortage { resource, asked: largest, free, of_one: true })
        };
        Resource::ALL.into_iter().filter_map(short).collect()
    }

    /// Returns the request that is granted next, and the agents that are to give its parts. Of the requests at the
    /// fronts of the queues, the one of the queue with the smallest dominant share for its weight is next. If it has to
    /// wait for what others have, all others wait with it, so that small requests never keep a large one waiting. It is
    /// passed over if its queue's quota is used up, or if the live agents could not give it even if nobody had
    /// anything.
    fn next_grant(&self, new: Option<Front<'_>>) -> Option<(Option<u64>, Vec<AgentId>)> {
        let indexes = &self.indexes.resources;
        let total = indexes.contributed;
        for front in self.fronts(new) {
            if self.check_quota(front.queue, self.used_from(front.queue), sum(front.parts)).is_err() {
                continue;
            }
            if let Some(agents) = indexes.free.place(front.parts, front.spread, total) {
                return Some((front.seq, agents));
            }
            if indexes.whole.place(front.parts, front.spread, total).is_some() {
                return None;
            }
        }
        None
    }

    /// Returns the requests at the fronts of the queues, in the order of the queues' shares for their weights, of equal
    /// ones in the order of their names. A new request is at the front if no other one waits in its queue.
    fn fronts<'a>(&'a self, new: Option<Front<'a>>) -> Vec<Front<'a>> {
        let indexes = &self.indexes.resources;
        let total = indexes.contributed;
        let waiting = |name: &str| indexes.queues.get(name).and_then(|queue| queue.waiting.first());
        let mut fronts: Vec<(Share, Front<'a>)> = Vec::new();
        let share = |name: &str| dominant(self.used_from(name), total).1.per_weight(self.queue_of(name).weight);
        if indexes.waiting > 0 {
            for (name, queue) in &indexes.queues {
                let first = queue.waiting.first().and_then(|seq| self.state.resources.allocations.get(*seq));
                let Some(first) = first else { continue };
                let front = Front { seq: Some(first.seq), queue: name, parts: &first.parts, spread: first.spread };
                fronts.push((share(name), front));
            }
        }
        if let Some(new) = new
            && waiting(new.queue).is_none()
        {
            fronts.push((share(new.queue), new));
        }
        let by_share = |one: &(Share, Front<'a>), other: &(Share, Front<'a>)| -> Ordering {
            one.0.compare(other.0).then_with(|| one.1.queue.cmp(other.1.queue))
        };
        fronts.sort_by(by_share);
        fronts.into_iter().map(|(_, front)| front).collect()
    }

    /// Grants a request that waits. Returns its fencing token.
    fn grant(&mut self, seq: u64, agents: Vec<AgentId>, effects: &mut Vec<Effect>) -> Option<u64> {
        let at = self.state.now;
        self.state.resources.tokens += 1;
        let token = self.state.resources.tokens;
        let id = self.change_allocation(seq, |allocation| {
            for (part, agent) in allocation.parts.iter_mut().zip(agents) {
                part.agent = Some(agent);
            }
            let expires = at.fleet.saturating_add(allocation.ttl);
            allocation.state = AllocationState::Granted { token, at, expires };
            allocation.id
        })?;
        effects.push(Effect::AllocationChanged { id });
        Some(token)
    }

    /// Sees to it that the requests that wait are looked at: something may be free, or the order of the queues may be
    /// another one.
    pub(crate) fn wake_allocations(&mut self) {
        if self.indexes.resources.waiting == 0 || self.state.resources.sweep.is_some() {
            return;
        }
        let at = self.state.now.fleet;
        self.state.resources.sweep = Some(at);
        self.indexes.timers.set_sweep(at);
    }

    /// Grants the next request that waits. If there is one, the following one is looked for by the next firing.
    pub(super) fn sweep_allocations(&mut self, effects: &mut Vec<Effect>) {
        let Some(at) = self.state.resources.sweep else { return };
        match self.next_grant(None) {
            Some((Some(seq), agents)) => {
                self.grant(seq, agents, effects);
                // The timer that fires is no longer among the timers.
                self.indexes.timers.set_sweep(at);
            }
            _ => self.state.resources.sweep = None,
        }
    }

    /// Returns whether a request waits that could be granted.
    pub(super) fn could_grant(&self) -> bool {
        self.next_grant(None).is_some()
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
