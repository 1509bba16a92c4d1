//! What the end of a task means for others, one step of a command for each of them: for its parent, for its children,
//! for the tasks that depend on it, and for those that it depended on, which nobody else may need; and the same for the
//! parts of a task that are kept apart, when an agent has done with one of them. What is left to do is kept with the fleet,
//! beside the state: it is done before the command ends, after everything else that the command does.

use std::{collections::VecDeque, vec};

use crate::{Effect, Fleet, SubmitTask, steps::Jobs};

/// A task, and what is left to do because it has ended or was accepted.
#[derive(Clone, Debug)]
struct Settling {
    of: u64,
    next: Next,
}

/// The next step.
#[derive(Clone, Debug)]
pub(super) enum Next {
    /// Have the parent of a task count that it has ended.
    Parent,
    /// Cancel the children of a task that has ended, from this number on.
    Children(u32),
    /// Have the tasks note it that depend on one that has ended, after the one with this number.
    Dependents(u64),
    /// Let those be forgotten that a task that has ended depended on, from this place on.
    Dependencies(usize),
    /// Have a new task note those that had ended before it was accepted, from this place on.
    CatchUp(usize),
    /// Accept these subtasks of a task that is suspended.
    Accept(vec::IntoIter<SubmitTask>),
    /// Give the parts of a task that are kept apart, from this number on, to agents: one that could take none of them
    /// runs none any more.
    Spread(u32),
}

/// What is left to do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unsettled(VecDeque<Settling>);

impl Unsettled {
    pub(super) fn add(&mut self, of: u64, next: Next) {
        self.0.push_back(Settling { of, next });
    }

    /// Returns whether nothing is left to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Fleet {
    /// Takes note that a task has ended. `is_linked`: it has links itself.
    pub(crate) fn note_end(&mut self, seq: u64, is_linked: bool) {
        if is_linked || self.indexes.links.has_dependents(seq) {
            self.unsettled.add(seq, Next::Parent);
        }
    }

    /// Takes note that an agent runs a part no more of a task whose parts are kept apart.
    pub(crate) fn note_left(&mut self, parent: u64) {
        self.unsettled.add(parent, Next::Spread(0));
    }

    /// Takes note that a task was accepted.
    pub(in crate::tasks) fn note_accepted(&mut self, seq: u64) {
        let Some(links) = self.state.tasks.kept.get(&seq).and_then(|task| task.links.as_ref()) else { return };
        let parent = links.child_of.as_ref().map(|of| of.seq);
        if links.depends_on.iter().any(|awaited| self.ended(awaited.seq).is_some()) {
            self.unsettled.add(seq, Next::CatchUp(0));
        }
        if let Some(parent) = parent {
            self.child_accepted(parent);
        }
    }

    /// Adds what is left to do to the jobs of a command.
    pub(crate) fn schedule_settling(&self, jobs: &mut Jobs) {
        if !self.unsettled.is_empty() {
            jobs.settle_afterwards();
        }
    }

    /// Takes one step.
    pub(crate) fn settle_one(&mut self, effects: &mut Vec<Effect>) {
        let Some(Settling { of, next }) = self.unsettled.0.pop_front() else { return };
        let (before, is_of_parent) = (self.unsettled.0.len(), matches!(next, Next::Parent));
        let rest = match next {
            Next::Parent => {
                self.child_ended(of, effects);
                Some(Next::Children(0))
            }
            Next::Children(from) => match self.end_child(of, from, effects) {
                Some(from) => Some(Next::Children(from)),
                None => Some(Next::Dependents(0)),
            },
            Next::Dependents(after) => match self.resolve_next_dependent(of, after, effects) {
                Some(dependent) => Some(Next::Dependents(dependent)),
                None => Some(Next::Dependencies(0)),
            },
            Next::Dependencies(place) => self.let_go(of, place).then_some(Next::Dependencies(place + 1)),
            Next::CatchUp(place) => self.catch_up(of, place, effects).then_some(Next::CatchUp(place + 1)),
            Next::Accept(subtasks) => self.accept_next(of, subtasks, effects).map(Next::Accept),
            Next::Spread(from) => self.place_spread(of, from, effects).map(Next::Spread),
        };
        // If the parent has ended with it, that comes first: its other children are not to begin any more.
        let parent = if is_of_parent && self.unsettled.0.len() > before { self.unsettled.0.pop_back() } else { None };
        if let Some(next) = rest {
            self.unsettled.0.push_front(Settling { of, next });
        }
        if let Some(parent) = parent {
            self.unsettled.0.push_front(parent);
        }
    }

    /// Has the next task note it that depends on one that has ended. Returns its number; `None` if there is no further one.
    fn resolve_next_dependent(&mut self, of: u64, after: u64, effects: &mut Vec<Effect>) -> Option<u64> {
        let dependent = self.indexes.links.dependent_after(of, after)?;
        self.resolve(dependent, of, effects);
        Some(dependent)
    }

    /// Lets a task be forgotten that one that has ended depended on. Returns whether there is a next one.
    fn let_go(&mut self, of: u64, place: usize) -> bool {
        let links = self.state.tasks.kept.get(&of).and_then(|task| task.links.as_ref());
        let Some(awaited) = links.and_then(|links| links.depends_on.get(place)).copied() else { return false };
        self.indexes.unlink(awaited.seq, of, &self.state);
        true
    }

    /// Has a task note one that it depends on, if that has ended. Returns whether there is a next one.
    fn catch_up(&mut self, of: u64, place: usize, effects: &mut Vec<Effect>) -> bool {
        let links = self.state.tasks.kept.get(&of).and_then(|task| task.links.as_ref());
        let Some(awaited) = links.and_then(|links| links.depends_on.get(place)).copied() else { return false };
        self.resolve(of, awaited.seq, effects);
        true
    }
}
