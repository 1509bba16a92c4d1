//! Gives tasks to agents that limits have held back until now: because a running one has ended, a token has come in, or
//! the limits are others.
//!
//! Only such tasks, and agents with free slots, have to be looked at, because nothing else waits for nothing. There are a
//! few columns to look at for the roles of free agents, and for each domain of the queue's tasks two for each role of those
//! that have it as a specialization. Each step of a command gives one task to an agent.

use std::sync::Arc;

use crate::{
    Agent, Effect, Fleet, Task, TeamId,
    schedule::{
        columns::{Column, general_columns, matched_columns, own_columns},
        line::Rules,
        queue::{Found, ReadyQueue},
    },
};

impl Fleet {
    /// Returns what decides about turns.
    pub(crate) fn rules(&self) -> Rules<'_> {
        Rules { shares: &self.state.queues.shares, gate: &self.indexes.schedule.gate }
    }

    /// Returns whether tasks that were held back may have to be given to agents.
    #[inline]
    pub(crate) fn has_opened(&self) -> bool {
        self.indexes.schedule.gate.next_opened().is_some()
    }

    /// Returns whether a task is one of those of a queue that are about to be given to agents in their order. So it is not
    /// given to one before it is its turn.
    #[inline]
    pub(crate) fn is_being_admitted(&self, task: &Task) -> bool {
        task.resources.is_none() && self.indexes.schedule.gate.is_opening(task.queue())
    }

    /// Has an agent take its next task that can take one of those that were held back; or takes note that there is none.
    pub(crate) fn admit_one(&mut self, effects: &mut Vec<Effect>) {
        let Some((queue, _)) = self.indexes.schedule.gate.next_opened().cloned() else { return };
        // Those that need resources are looked at in turns, with all that wait for some.
        if self.indexes.schedule.needing.ready > 0 {
            self.wake_allocations();
        }
        let is_any_free = self.indexes.schedule.free.is_any_free();
        let found = if is_any_free { self.first_admitted(&queue) } else { None };
        let agent = found.and_then(|found| self.best_for(self.state.tasks.kept.get(&found.seq())?));
        let is_taken = agent.is_some_and(|agent| self.pull_one(agent, effects));
        if !is_taken {
            // All tasks of the queue were looked at, whatever their keys.
            self.indexes.schedule.gate.close_opened(&queue);
        }
    }

    /// Counts a start that an agent, or several, could have given to others.
    pub(crate) fn count_start(&mut self, found: &Found) {
        if let Some(rival) = found.rival {
            let weight = self.weight_of(found.queue());
            self.state.queues.shares.count_queue(found.queue(), weight, rival);
        }
        if found.turn.is_contested {
            self.state.queues.shares.count_submitter(found.queue(), &found.turn.submitter);
        }
    }

    /// Forgets what was served if no task waits.
    #[inline]
    pub(crate) fn forget_idle_shares(&mut self) {
        if !self.state.queues.shares.is_empty() && self.indexes.schedule.is_idle() {
            self.state.queues.shares.clear();
        }
    }

    /// Forgets what a queue was served that is not there any more, once the last of its tasks has ended: this one.
    #[inline]
    pub(crate) fn forget_left_share(&mut self, seq: u64) {
        if self.state.queues.shares.is_empty() {
            return;
        }
        let Some(task) = self.state.tasks.kept.get(&seq).filter(|task| self.is_share_left(task.queue())) else {
            return;
        };
        let task = Arc::clone(task);
        self.state.queues.shares.forget(task.queue());
    }

    /// Forgets what queues were served that are not there any more and have no tasks.
    pub(crate) fn forget_left_shares(&mut self) {
        let queues = self.state.queues.shares.queues().keys();
        let left: Vec<String> = queues.filter(|queue| self.is_share_left(queue)).cloned().collect();
        left.iter().for_each(|queue| self.state.queues.shares.forget(queue));
    }

    fn is_share_left(&self, queue: &str) -> bool {
        !self.knows_queue(queue) && self.indexes.schedule.gate.counts_of(queue).unfinished == 0
    }

    /// Returns the task of a queue that is next, of those that an agent with a free slot can take.
    fn first_admitted(&mut self, queue: &str) -> Option<Found> {
        let mut everyones = std::mem::take(&mut self.indexes.schedule.queue);
        let found = self.first_of_everyones(&mut everyones, queue);
        self.indexes.schedule.queue = everyones;
        let of_queue = self.indexes.schedule.teams.iter().filter(|(_, tasks)| tasks.has(queue)).map(|(team, _)| *team);
        let mut best = found;
        for team in of_queue.collect::<Vec<TeamId>>() {
            let Some(mut tasks) = self.indexes.schedule.teams.remove(&team) else { continue };
            if let Some(found) = self.first_of_team(&mut tasks, team, queue) {
                best = Found::better(best, found);
            }
            self.indexes.schedule.teams.insert(team, tasks);
        }
        match self.first_wide_of(queue) {
            Some(found) => Found::better(best, found),
            None => best,
        }
    }

    fn first_of_everyones(&self, tasks: &mut ReadyQueue, queue: &str) -> Option<Found> {
        let free = &self.indexes.schedule.free;
        let skip = |seq: u64| self.unplaced(seq);
        let mut columns: Vec<Column<'_>> = free.roles().flat_map(general_columns).collect();
        // The agents may have many more specializations than the tasks have domains.
        let matches = tasks.domains(queue).flat_map(|domain| free.matches(domain));
        columns.extend(matches.flat_map(|(domain, role)| matched_columns(domain, role)));
        tasks.first_of(queue, columns.into_iter(), self.rules(), &skip)
    }

    fn first_of_team(&self, tasks: &mut ReadyQueue, team: TeamId, queue: &str) -> Option<Found> {
        let skip = |seq: u64| self.unplaced(seq);
        let members = self.team(team).into_iter().flat_map(|team| &team.members);
        let agents = members.filter_map(|member| self.state.agents.known.get(&member.agent));
        let mut best = None;
        for agent in agents.filter(|agent| agent.free_slots() > 0) {
            let agent: &Agent = agent;
            let columns = own_columns(agent).chain(general_columns(agent.role));
            if let Some(found) = tasks.first_of(queue, columns, self.rules(), &skip) {
                best = Found::better(best, found);
            }
        }
        best
    }

    /// Returns the number of a task that no agent can take now, as those that it could go to have had their turn.
    pub(crate) fn unplaced(&self, seq: u64) -> Option<u64> {
        let task = self.state.tasks.kept.get(&seq)?;
        (self.is_special(task) && self.best_for(task).is_none()).then_some(seq)
    }

    /// Returns whether there may be agents that could take others of the same needs but not this task.
    pub(crate) fn is_special(&self, task: &Task) -> bool {
        task.member_of.is_some() || !self.excluded(task).is_empty()
    }
}
