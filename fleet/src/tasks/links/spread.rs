//! Parts that are kept apart: each runs on an agent that runs no other part of the same task. So a task that is split among
//! `n` agents runs on the `n` best different ones of those that are free, and never with two parts on one of them.
//!
//! It is a rule about what runs at the same time, not a reservation: with fewer fitting agents than parts, the other parts
//! wait in the queue like any task, and an agent that has done with one takes the next. So a part never waits for an agent
//! that is not there as long as one fits.
//!
//! Which agents run parts of which task is indexed. An agent that looks for its next task passes over parts of tasks of
//! which it runs one; and when an attempt at such a part ends, in whatever way, the others are given to agents again, as
//! its agent may have other slots free.

use std::{collections::BTreeMap, sync::Arc};

use super::indexes::LinkIndexes;
use crate::{AgentId, Effect, Fleet, Task};

impl Task {
    /// Returns the task of which this one is a part that is kept apart from the others, by its number in the order of
    /// acceptance.
    pub(crate) fn spread_in(&self) -> Option<u64> {
        self.child_of().filter(|of| of.spread).map(|of| of.seq)
    }

    /// Returns the task of which this one is a part that is kept apart, and the agent that runs it now.
    pub(crate) fn spread_on(&self) -> Option<(u64, AgentId)> {
        let parent = self.spread_in()?;
        self.current().map(|current| (parent, current.agent))
    }
}

impl Fleet {
    /// Returns the agents that run other parts of the task of which this one is a queued part, if they are kept apart.
    pub(crate) fn siblings_run_on(&self, task: &Task) -> impl Iterator<Item = AgentId> {
        task.spread_in().map(|parent| self.indexes.links.spread_over(parent)).into_iter().flatten()
    }

    /// Returns whether an agent runs another part of the task of which this one is a part, if they are kept apart.
    pub(crate) fn runs_sibling(&self, task: &Task, agent: AgentId) -> bool {
        task.spread_in().is_some_and(|parent| {
            task.spread_on() != Some((parent, agent)) && self.indexes.links.is_spread_on(parent, agent)
        })
    }

    /// Gives the next part of a task, from this number on, to an agent, if it waits for one and there is one. Returns the
    /// number after it; `None` if there is no further one.
    pub(super) fn place_spread(&mut self, parent: u64, from: u32, effects: &mut Vec<Effect>) -> Option<u32> {
        if self.state.tasks.kept.get(&parent).is_none_or(|parent| parent.state.is_final()) {
            return None;
        }
        let (index, seq) = self.indexes.links.child_from(parent, from)?;
        self.place(seq, effects);
        index.checked_add(1)
    }
}

impl LinkIndexes {
    /// Returns the last of the parts up to which an agent can take none, as it runs another one of the same task: they were
    /// accepted one after the other. `None` if it can take this one. `kept` are all tasks.
    pub(crate) fn kept_apart(&self, kept: &BTreeMap<u64, Arc<Task>>, seq: u64, agent: AgentId) -> Option<u64> {
        // Few parts are kept apart, and this is asked of every task that an agent could take.
        if self.is_none_spread() {
            return None;
        }
        let of = kept.get(&seq)?.child_of().filter(|of| of.spread)?;
        if !self.is_spread_on(of.seq, agent) {
            return None;
        }
        let siblings = self.children_from(of.seq, of.index).map(|(_, sibling)| sibling);
        let in_a_row = siblings.zip(seq..).take_while(|(sibling, next)| sibling == next);
        Some(in_a_row.last().map_or(seq, |(sibling, _)| sibling))
    }
}
