//! Which of the requests that wait is looked at next, and how long it keeps others waiting.
//!
//! Whenever something may be free, a *round* begins, in which all requests that wait are looked at, each once, and then
//! the tasks that need resources, unless another round begins. One that can't be granted goes to the end of its queue
//! and keeps nobody waiting, but for one that has to wait for what others have: no other is granted before it, so that
//! small requests never keep a large one waiting. As holders could keep what they have for ever, this lasts for
//! [`MAX_HOLD_MS`]; for as long after that, all are granted that can be.

use std::{cmp::Ordering, sync::Arc};

use super::{
    Allocation, AllocationState,
    amounts::Amounts,
    share::{Share, dominant},
};
use crate::{
    AgentId, Effect, Fleet, FleetMillis,
    limits::{MAX_HOLD_MS, MAX_SWEPT, SWEEP_PAUSE_MS},
    schedule::queue::Found,
};

/// What can become of a request that waits.
enum Chance {
    /// These agents can give its parts.
    Now(Vec<AgentId>),
    /// The live agents could give it if nobody had anything.
    Later,
    /// The live agents could not give it, or its queue's quota does not allow it now.
    None,
}

impl Fleet {
    /// Begins another round: something may be free, or the order of the queues may be another one.
    pub(crate) fn wake_allocations(&mut self) {
        let nobody_waits = self.indexes.resources.waiting == 0 && self.indexes.schedule.needing.ready == 0;
        let resources = &mut self.state.resources;
        resources.held_by = None;
        if nobody_waits {
            (resources.tasks_after, resources.tasks_again) = (None, false);
            return self.sweep_at(None);
        }
        resources.tasks_again = resources.tasks_after.is_some();
        resources.round += 1;
        self.sweep_at(Some(self.state.now.fleet));
    }

    fn sweep_at(&mut self, at: Option<FleetMillis>) {
        let timers = &mut self.indexes.timers;
        if let Some(before) = std::mem::replace(&mut self.state.resources.sweep, at) {
            timers.clear_sweep(before);
        }
        if let Some(at) = at {
            timers.set_sweep(at);
        }
    }

    /// Returns whether it has to be found out now which of the requests that wait can be granted.
    pub(super) fn sweep_is_due(&self) -> bool {
        self.state.resources.sweep.is_some_and(|at| at <= self.state.now.fleet)
    }

    /// Looks at the next few requests that wait, and grants the first one that can be.
    pub(super) fn sweep_allocations(&mut self, effects: &mut Vec<Effect>) {
        let (now, hold) = (self.state.now.fleet, self.hold_until());
        self.state.resources.held_by = None;
        for _ in 0..MAX_SWEPT {
            let (front, waits_for_quota) = self.next_front(hold.is_some());
            let Some(front) = front else { return self.sweep_tasks(hold.filter(|_| waits_for_quota), effects) };
            match (self.chance_of(&front), hold) {
                (Chance::Now(agents), _) => {
                    self.grant(front.seq, agents, effects);
                    return self.sweep_at(Some(now));
                }
                (Chance::Later, Some(until)) => return self.hold(Some(front.seq), Some(until)),
                (Chance::Later | Chance::None, _) => self.pass_over(front.seq),
            }
        }
        self.sweep_at(Some(now.saturating_add(SWEEP_PAUSE_MS)));
    }

    /// Looks at the next few needs of tasks that wait for resources, once no request is left in this round. The first
    /// agent that is found for one takes a task. Then the round ends until the given time, if any.
    fn sweep_tasks(&mut self, until: Option<FleetMillis>, effects: &mut Vec<Effect>) {
        let now = self.state.now.fleet;
        // Else the tasks would wait for this very sweep.
        self.sweep_at(None);
        for _ in 0..MAX_SWEPT {
            let after = self.state.resources.tasks_after.take();
            let Some(shape) = self.indexes.schedule.needing.after(after.as_ref()).cloned() else {
                if std::mem::take(&mut self.state.resources.tasks_again) {
                    continue;
                }
                return self.hold(None, until);
            };
            if let Some((seq, agent)) = self.first_with_room(&shape) {
                self.state.resources.tasks_after = after;
                // Of all that this agent can take, that of the queue with the smallest share.
                let next = self.next_needing(agent).map(|(_, found)| found);
                self.start(next.as_ref().map_or(seq, Found::seq), next.as_ref(), agent, effects);
                return self.sweep_at(Some(now));
            }
            self.state.resources.tasks_after = Some(shape);
        }
        self.sweep_at(Some(now.saturating_add(SWEEP_PAUSE_MS)));
    }

    /// Returns until when requests may keep others waiting; `None` if none may now.
    fn hold_until(&self) -> Option<FleetMillis> {
        let now = self.state.now.fleet;
        let since = self.state.resources.hold_since.filter(|since| now < since.saturating_add(2 * MAX_HOLD_MS));
        let until = since.unwrap_or(now).saturating_add(MAX_HOLD_MS);
        (now < until).then_some(until)
    }

    /// Ends the round until then: this request keeps others waiting, or requests keep those in their queues waiting. If
    /// no time is given, none does.
    fn hold(&mut self, by: Option<u64>, until: Option<FleetMillis>) {
        let resources = &mut self.state.resources;
        resources.held_by = by;
        if let Some(until) = until {
            resources.hold_since = Some(until.saturating_sub(MAX_HOLD_MS));
        }
        self.sweep_at(until);
    }

    /// Returns the request that is looked at next, if any is left in this round: of the first ones of the queues, the
    /// one of the queue with the smallest dominant share for its weight, of equal ones the oldest one. With `holds`, a
    /// queue is left out while its first request has to wait for the queue's quota; the second value says whether one
    /// is.
    fn next_front(&self, holds: bool) -> (Option<Arc<Allocation>>, bool) {
        let mut waits_for_quota = false;
        let mut next: Option<(Share, &Arc<Allocation>)> = None;
        for name in self.indexes.resources.queues.keys() {
            let Some(first) = self.first_in(name) else { continue };
            if holds && self.waits_for_quota(first) {
                waits_for_quota = true;
                continue;
            }
            let share = self.share_of(name);
            let is_before = |(other, seq): (Share, u64)| share.compare(other).then(first.seq.cmp(&seq)).is_lt();
            if next.is_none_or(|(other, found)| is_before((other, found.seq))) {
                next = Some((share, first));
            }
        }
        (next.map(|(_, first)| Arc::clone(first)), waits_for_quota)
    }

    /// Returns the first request of a queue that was not looked at in this round.
    fn first_in(&self, queue: &str) -> Option<&Arc<Allocation>> {
        let resources = &self.state.resources;
        let (round, seq) = self.indexes.resources.queues.get(queue)?.waiting.first()?;
        resources.allocations.get(*seq).filter(|_| *round < resources.round)
    }

    pub(super) fn share_of(&self, queue: &str) -> Share {
        let (_, share) = dominant(self.used_from(queue), self.indexes.resources.contributed);
        share.per_weight(self.queue_of(queue).weight)
    }

    /// Returns whether the queue's quota allows this request, but not together with what is granted.
    fn waits_for_quota(&self, request: &Allocation) -> bool {
        let (queue, asked) = (&request.queue, request.asked());
        let is_over = |used: Amounts| self.check_quota(queue, used, asked).is_err();
        is_over(self.used_from(queue)) && !is_over(Amounts::NONE)
    }

    fn chance_of(&self, request: &Allocation) -> Chance {
        let indexes = &self.indexes.resources;
        let (parts, spread, total) = (&request.parts, request.spread, indexes.contributed);
        if self.check_quota(&request.queue, self.used_from(&request.queue), request.asked()).is_err() {
            return Chance::None;
        }
        match indexes.free.place(parts, spread, total) {
            Some(agents) => Chance::Now(agents),
            None if indexes.whole.place(parts, spread, total).is_some() => Chance::Later,
            None => Chance::None,
        }
    }

    /// Puts a request that waits behind those of its queue that were not looked at in this round.
    fn pass_over(&mut self, seq: u64) {
        let round = self.state.resources.round;
        self.change_allocation(seq, |allocation| allocation.round = round);
    }

    /// Returns whether requests that wait come before a new one of this queue: all, until they were looked at; one that
    /// keeps others waiting, unless the queue has a smaller share than its queue; and one of the same queue that waits
    /// for the queue's quota.
    pub(super) fn others_come_before(&self, queue: &str) -> bool {
        self.indexes.resources.waiting > 0 && (self.sweep_is_due() || self.is_kept_waiting(queue))
    }

    /// Returns whether requests that wait come before a task of this queue: as before a new request, but not those that
    /// were looked at in this round, once the needs of tasks are looked at. The sweep does not come back to the needs
    /// that it has passed, so a task that becomes ready then, or a slot that becomes free, would wait for another round.
    pub(super) fn requests_come_before(&self, queue: &str) -> bool {
        let resources = &self.state.resources;
        let were_looked_at = resources.tasks_after.is_some() && !resources.tasks_again;
        let are_due = self.sweep_is_due() && !were_looked_at;
        self.indexes.resources.waiting > 0 && (are_due || self.is_kept_waiting(queue))
    }

    /// Returns whether a request keeps this queue waiting, after all were looked at.
    fn is_kept_waiting(&self, queue: &str) -> bool {
        let resources = &self.state.resources;
        let holder = resources.held_by.and_then(|seq| resources.allocations.get(seq));
        let is_next = |holder: &Arc<Allocation>| {
            holder.queue != queue && self.share_of(queue).compare(self.share_of(&holder.queue)) == Ordering::Less
        };
        let first_waits = || self.first_in(queue).is_some_and(|first| self.waits_for_quota(first));
        holder.is_some_and(|holder| !is_next(holder)) || (self.hold_until().is_some() && first_waits())
    }

    /// Returns whether a request for one part waits that could be granted. Several parts could be by chance: whether
    /// room is found for them depends on all others.
    pub(super) fn could_grant(&self) -> bool {
        let mut waiting =
            self.state.resources.allocations.iter().filter(|allocation| {
                matches!(allocation.state, AllocationState::Waiting) && allocation.parts.len() == 1
            });
        waiting.any(|request| matches!(self.chance_of(request), Chance::Now(_)))
    }
}
