//! Which agent gets which task: the queue of ready tasks, the agents with free slots, and the scoring. It reads tasks
//! and agents and changes neither.

pub(crate) mod audit;
pub(crate) mod candidates;
mod choice;
pub(crate) mod columns;
pub(crate) mod expected;
pub(crate) mod free_agents;
mod keyed;
pub(crate) mod line;
pub(crate) mod needing;
pub(crate) mod queue;
pub(crate) mod score;
pub(crate) mod speed;
pub(crate) mod submitters;
pub(crate) mod turns;
pub(crate) mod unschedulable;
mod wide;

use std::collections::BTreeMap;

pub(crate) use self::choice::place_of;
use self::{
    free_agents::FreeAgents,
    line::{Entry, Rules},
    needing::Needing,
    queue::{ReadyQueue, rank},
};
use crate::{Feature, FleetMillis, Task, TeamId, fleet::State, queues::gate::Gate};

/// The ready tasks and the agents with free slots.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Schedule {
    /// The tasks that are addressed to no team.
    pub queue: ReadyQueue,
    /// The tasks that are addressed to each team that has any.
    pub teams: BTreeMap<TeamId, ReadyQueue>,
    /// The tasks that need resources, which are in none of these queues.
    pub needing: Needing,
    /// The other ones that take several slots or skills, or an object store, which are in none of them either.
    pub wide: Needing,
    pub free: FreeAgents,
    /// The limits of queues.
    pub gate: Gate,
    /// The first task for which its submitter counts; none before the fleet has [`Feature::Queues`].
    pub shared_from: u64,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            queue: ReadyQueue::default(),
            teams: BTreeMap::new(),
            needing: Needing::default(),
            wide: Needing::default(),
            free: FreeAgents::default(),
            gate: Gate::default(),
            shared_from: u64::MAX,
        }
    }
}

/// Returns for whose share a task counts. Those that were accepted before this one count as those of one submitter, who has
/// no name.
pub(crate) fn submitter_of(task: &Task, shared_from: u64) -> &str {
    if task.seq < shared_from { "" } else { task.counts_for() }
}

impl Schedule {
    /// Returns the schedule of a state, before any task or agent is entered.
    pub(crate) fn of(state: &State) -> Schedule {
        let is_known = state.version >= Feature::Queues.since();
        let shared_from = if is_known { state.queues.shared_from } else { u64::MAX };
        Schedule { gate: Gate::of(&state.queues), shared_from, ..Schedule::default() }
    }

    /// Counts a task after a change, and queues it if it is ready.
    pub(crate) fn enter_task(&mut self, task: &Task) {
        self.count(task, true);
        if task.resources.is_some() {
            return self.needing.enter(task, submitter_of(task, self.shared_from));
        }
        if task.demand.is_some() {
            return self.wide.enter(task, submitter_of(task, self.shared_from));
        }
        if !task.is_ready() {
            return;
        }
        let entry = self.entry_of(task);
        match task.team {
            Some(team) => self.teams.entry(team).or_default().insert(&entry),
            None => self.queue.insert(&entry),
        }
    }

    /// Counts a task no more before a change, and removes it from the queue.
    pub(crate) fn leave_task(&mut self, task: &Task) {
        self.count(task, false);
        if task.resources.is_some() {
            return self.needing.leave(task, submitter_of(task, self.shared_from));
        }
        if task.demand.is_some() {
            return self.wide.leave(task, submitter_of(task, self.shared_from));
        }
        if !task.is_ready() {
            return;
        }
        let entry = self.entry_of(task);
        let Some(team) = task.team else { return self.queue.remove(&entry) };
        let Some(queue) = self.teams.get_mut(&team) else { return };
        queue.remove(&entry);
        if queue.is_empty() {
            self.teams.remove(&team);
        }
    }

    fn entry_of<'a>(&self, task: &'a Task) -> Entry<'a> {
        Entry {
            queue: task.queue(),
            key: task.limit_key(),
            submitter: submitter_of(task, self.shared_from),
            needs: task.needs(),
            rank: rank(task),
        }
    }

    #[inline]
    fn count(&mut self, task: &Task, is_there: bool) {
        let [opens, opens_key] = self.gate.count(task, is_there);
        if opens {
            self.open(task.queue(), "");
        }
        if opens_key {
            self.open(task.queue(), task.limit_key());
        }
    }

    /// Takes note that tasks of a queue need not wait for a limit any more: those with this key, or all if it is empty.
    pub(crate) fn open(&mut self, queue: &str, key: &str) {
        self.queue.open(queue, key);
        self.teams.values_mut().for_each(|tasks| tasks.open(queue, key));
    }

    /// Takes note that the timer of buckets is set for the first one that is due. Returns when that is.
    pub(crate) fn set_bucket_timer(&mut self) -> Option<FleetMillis> {
        self.gate.timer = self.gate.next_due().map(|(due, _)| *due);
        self.gate.timer
    }

    /// Returns whether no task waits.
    pub(crate) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.teams.is_empty() && self.needing.ready + self.wide.ready == 0
    }

    /// Returns whether all turns are as looks need them.
    pub(crate) fn is_sound(&self, rules: Rules<'_>) -> bool {
        self.queue.is_sound(rules)
            && self.teams.values().all(|tasks| tasks.is_sound(rules))
            && self.needing.is_sound(rules)
            && self.wide.is_sound(rules)
    }
}
