//! When an agent that is busy is expected to have room for a task. An expectation is for people, and decides nothing.

use crate::{
    Agent, Fleet, FleetMillis, Held, HeldState,
    limits::{ATTEMPT_GRACE_MS, MAX_EXPECTED_LOOKS},
};

impl Fleet {
    /// Returns when an agent is expected to have this many slots free, at the time `now`: when so many of its attempts have
    /// taken as long as tasks of their kinds take on average, or reach their time limits. `None` if that is not known; of
    /// an agent with many attempts, [`MAX_EXPECTED_LOOKS`] are looked at.
    pub fn expected_free(&self, agent: &Agent, slots: u32, now: FleetMillis) -> Option<FleetMillis> {
        let mut free = agent.slots.saturating_sub(agent.used_slots());
        if free >= slots {
            return Some(now);
        }
        let end_of = |held: Held| Some((self.expected_end(&held, now)?, agent.slots_of(held.task, held.attempt)));
        let mut ends: Vec<(FleetMillis, u32)> = agent.held().take(MAX_EXPECTED_LOOKS).filter_map(end_of).collect();
        ends.sort_unstable();
        for (end, taken) in ends {
            free = free.saturating_add(taken);
            if free >= slots {
                return Some(end.max(now));
            }
        }
        None
    }

    /// Returns when an attempt is expected to end. Of one that has taken longer than others of its kind do, only its time
    /// limit is known.
    fn expected_end(&self, held: &Held, now: FleetMillis) -> Option<FleetMillis> {
        if held.state == HeldState::Stopping {
            return Some(now);
        }
        let task = self.task(held.task)?;
        let began = task.current()?.assigned_at.fleet;
        let mean = self.state.kinds.mean(task.kind_to_run());
        let mean = mean.map(|mean| began.saturating_add(mean.div_ceil(1_000)));
        let limit = task.attempt_due().map(|due| due.saturating_sub(ATTEMPT_GRACE_MS));
        let known = [mean.filter(|end| *end >= now), limit, self.deadline_of(task)];
        known.into_iter().flatten().min()
    }
}
