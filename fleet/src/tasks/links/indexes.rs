//! Indexes of links, so that the end of a task finds those that it matters to.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use crate::{AgentId, Archived, Task, fleet::State, indexes::Indexes};

/// The indexes of links. They refer to tasks by their numbers in the order of acceptance.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct LinkIndexes {
    /// The unfinished tasks that depend on others, by what they depend on: whether that has ended or not, because its
    /// result is kept for them.
    edges: BTreeSet<(u64, u64)>,
    /// The children that are kept, in memory or archived, by their parents and their numbers among their siblings.
    children: BTreeMap<(u64, u32), u64>,
    /// How many children of unfinished tasks are still to be accepted.
    pub expected: u64,
    /// How many unfinished tasks are to be divided by attempts.
    pub dividing: u64,
    /// The agents that run a child that is kept apart from its siblings, by its parent.
    spread: BTreeSet<(u64, AgentId)>,
}

impl LinkIndexes {
    /// Indexes a task after a change.
    pub(crate) fn enter(&mut self, task: &Task) {
        self.expected += u64::from(task.expected_children());
        self.dividing += u64::from(task.is_dividing());
        self.spread.extend(task.spread_on());
    }

    /// Removes a task before a change.
    pub(crate) fn leave(&mut self, task: &Task) {
        self.expected -= u64::from(task.expected_children());
        self.dividing -= u64::from(task.is_dividing());
        if let Some(on) = task.spread_on() {
            self.spread.remove(&on);
        }
    }

    /// Removes a task that is forgotten.
    pub(crate) fn drop(&mut self, task: &Task) {
        if let Some(of) = task.child_of() {
            self.children.remove(&(of.seq, of.index));
        }
    }

    /// Indexes a task that was archived.
    pub(crate) fn enter_archived(&mut self, row: &Archived) {
        if let Some(place) = row.place() {
            self.children.insert(place, row.seq);
        }
    }

    /// Removes an archived task that is forgotten.
    pub(crate) fn leave_archived(&mut self, row: &Archived) {
        if let Some(place) = row.place() {
            self.children.remove(&place);
        }
    }

    /// Returns whether an unfinished task depends on this one.
    pub(crate) fn has_dependents(&self, seq: u64) -> bool {
        self.dependent_after(seq, 0).is_some()
    }

    /// Returns the next unfinished task after this number that depends on a task. No task has the number 0.
    pub(super) fn dependent_after(&self, of: u64, after: u64) -> Option<u64> {
        let rest = (Bound::Excluded((of, after)), Bound::Included((of, u64::MAX)));
        self.edges.range(rest).next().map(|(_, dependent)| *dependent)
    }

    /// Returns whether no agent runs a child that is kept apart from its siblings.
    pub(super) fn is_none_spread(&self) -> bool {
        self.spread.is_empty()
    }

    /// Returns whether an agent runs a child of a task that is kept apart from its siblings.
    pub(super) fn is_spread_on(&self, parent: u64, agent: AgentId) -> bool {
        self.spread.contains(&(parent, agent))
    }

    /// Returns the agents that run children of a task that are kept apart.
    pub(super) fn spread_over(&self, parent: u64) -> impl Iterator<Item = AgentId> {
        self.spread.range((parent, AgentId(0))..=(parent, AgentId(u32::MAX))).map(|(_, agent)| *agent)
    }

    /// Returns the child with this number of a task.
    pub(super) fn child(&self, parent: u64, index: u32) -> Option<u64> {
        self.children.get(&(parent, index)).copied()
    }

    /// Returns the first kept child of a task from this number on, with its number.
    pub(super) fn child_from(&self, parent: u64, from: u32) -> Option<(u32, u64)> {
        self.children_from(parent, from).next()
    }

    /// Returns the kept children of a task from this number on, with their numbers.
    pub(super) fn children_from(&self, parent: u64, from: u32) -> impl Iterator<Item = (u32, u64)> {
        let range = (parent, from)..=(parent, u32::MAX);
        self.children.range(range).map(|((_, index), seq)| (*index, *seq))
    }
}

impl Indexes {
    /// Indexes the links of a task that was added to this state, or is about to be.
    pub(crate) fn link(&mut self, task: &Task, state: &State) {
        let Some(links) = &task.links else { return };
        if let Some(of) = &links.child_of {
            self.links.children.insert((of.seq, of.index), task.seq);
            if state.tasks.kept.get(&of.seq).is_some_and(|parent| !parent.state.is_final()) {
                self.leave_recent(task);
                self.timers.pin(task);
            }
        }
        if task.state.is_final() {
            return;
        }
        for awaited in &links.depends_on {
            self.links.edges.insert((awaited.seq, task.seq));
            if let Some(dependency) = state.tasks.kept.get(&awaited.seq) {
                self.leave_recent(dependency);
                self.timers.pin(dependency);
            } else if let Some(row) = state.archive.kept.get(awaited.seq) {
                self.timers.pin_archived(&row);
            }
        }
    }

    /// Lets go of a task that was kept for one that depended on it.
    pub(super) fn unlink(&mut self, dependency: u64, dependent: u64, state: &State) {
        self.links.edges.remove(&(dependency, dependent));
        self.let_go(dependency, state);
    }

    /// Lets go of a task that was kept for another one.
    pub(super) fn let_go(&mut self, seq: u64, state: &State) {
        self.timers.unpin(seq);
        if let Some(task) = state.tasks.kept.get(&seq) {
            self.enter_recent(task);
        }
    }
}
