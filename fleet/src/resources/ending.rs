//! How allocations are kept and how they end: release, renewal, expiry, and the end of a holder.

use std::fmt;

use super::{Allocation, AllocationEnd, AllocationState, Holder};
use crate::{
    AllocationId, Effect, Fleet, Refusal, Reply, TaskId,
    config::invalid,
    sabotage::{Mistake, planted},
    timers::SWEEP,
};

impl fmt::Display for Holder {
    /// Writes the kind and the name: `task:ID`, `agent:NAME`, `team:ID` or `client:NAME`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Nobody => f.write_str("nobody"),
            Holder::Task(id) => write!(f, "task:{id}"),
            Holder::Agent(name) => write!(f, "agent:{name}"),
            Holder::Team(id) => write!(f, "team:{id}"),
            Holder::Client(name) => write!(f, "client:{name}"),
        }
    }
}

/// Returns the refusal to release or to renew an allocation that only the end of an attempt ends.
fn of_attempt(allocation: &Allocation) -> Option<Refusal> {
    let attempt = allocation.attempt.filter(|_| !allocation.is_ended())?;
    let problem = format!("is of attempt {attempt} of {} and ends with it; cancel the task", allocation.holder);
    Some(invalid("allocation", problem))
}

impl Fleet {
    pub(super) fn release_resources(
        &mut self,
        id: AllocationId,
        token: Option<u64>,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let Some(known) = self.allocation(id) else {
            return Reply::Refused(Refusal::UnknownAllocation { allocation: id });
        };
        if known.is_ended() {
            return Reply::Done;
        }
        if let Some(refusal) = of_attempt(known) {
            return Reply::Refused(refusal);
        }
        if token.is_some() && known.token() != token {
            return Reply::Refused(Refusal::StaleToken { allocation: id });
        }
        let seq = known.seq;
        self.end_allocation(seq, AllocationEnd::Released, effects);
        Reply::Done
    }

    pub(super) fn renew_lease(&mut self, id: AllocationId, token: u64) -> Reply {
        let Some(known) = self.allocation(id) else {
            return Reply::Refused(Refusal::UnknownAllocation { allocation: id });
        };
        if let Some(refusal) = of_attempt(known) {
            return Reply::Refused(refusal);
        }
        let now = self.state.now.fleet;
        let (seq, ttl, renewed) = (known.seq, known.ttl, now.saturating_add(known.ttl));
        match known.state {
            // The timer of its expiry may have to wait for the next command, if very many are due.
            AllocationState::Granted { token: current, expires, .. } if current == token && expires > now => {}
            _ => return Reply::Refused(Refusal::StaleToken { allocation: id }),
        }
        self.change_allocation(seq, |allocation| {
            if let AllocationState::Granted { expires, .. } = &mut allocation.state
                && !planted(Mistake::RenewalForgotten)
            {
                *expires = renewed;
            }
        });
        Reply::LeaseRenewed { ttl }
    }

    /// Ends what a task holds or waits for, because it is finished. At most
    /// [`MAX_HELD_BY_ONE`](crate::limits::MAX_HELD_BY_ONE) allocations, with at most
    /// [`MAX_PARTS_OF_ONE`](crate::limits::MAX_PARTS_OF_ONE) parts.
    pub(crate) fn task_is_gone(&mut self, task: TaskId, effects: &mut Vec<Effect>) {
        if !self.indexes.resources.holders.is_empty() {
            self.holder_is_gone(&Holder::Task(task), effects);
        }
    }

    /// Ends what a holder has or waits for, because it is gone. At most
    /// [`MAX_HELD_BY_ONE`](crate::limits::MAX_HELD_BY_ONE) allocations, with at most
    /// [`MAX_PARTS_OF_ONE`](crate::limits::MAX_PARTS_OF_ONE) parts.
    pub(crate) fn holder_is_gone(&mut self, holder: &Holder, effects: &mut Vec<Effect>) {
        let Some(held) = self.indexes.resources.holders.get(holder) else { return };
        for seq in held.allocations.clone() {
            self.end_allocation(seq, AllocationEnd::HolderGone, effects);
        }
    }

    /// Ends an allocation: what it takes is free.
    pub(super) fn end_allocation(&mut self, seq: u64, end: AllocationEnd, effects: &mut Vec<Effect>) {
        let at = self.state.now;
        let id = self.change_allocation(seq, |allocation| {
            allocation.end(end, at);
            allocation.id
        });
        effects.extend(id.map(|id| Effect::AllocationChanged { id }));
        self.wake_allocations();
    }

    /// Does what is due: a wait or a lease ends, an ended allocation is forgotten, or, by [`SWEEP`], the requests that wait
    /// are looked at.
    pub(crate) fn allocation_due(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        if seq == SWEEP {
            return self.sweep_allocations(effects);
        }
        let Some(allocation) = self.state.resources.allocations.get(seq) else { return };
        let end = match allocation.state {
            AllocationState::Waiting => AllocationEnd::NotGranted,
            AllocationState::Granted { .. } => AllocationEnd::Expired,
            AllocationState::Ended { .. } => return self.forget_allocation(seq),
        };
        self.end_allocation(seq, end, effects);
    }

    /// Changes an allocation and updates the indexes. Does nothing if there is no such allocation.
    pub(super) fn change_allocation<R>(&mut self, seq: u64, change: impl FnOnce(&mut Allocation) -> R) -> Option<R> {
        let indexes = &mut self.indexes;
        self.state.resources.allocations.change(seq, &self.snapshots, |allocation| {
            indexes.leave_allocation(allocation);
            let result = change(allocation);
            indexes.enter_allocation(allocation);
            result
        })
    }

    /// Removes an allocation.
    pub(super) fn forget_allocation(&mut self, seq: u64) {
        if let Some(allocation) = self.state.resources.allocations.remove(seq, &self.snapshots) {
            self.indexes.leave_allocation(&allocation);
        }
    }
}
