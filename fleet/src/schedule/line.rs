//! The ready tasks of one queue: those without a key that limits are about, and those of each key, of which some may have
//! to wait for its limits.

use std::collections::BTreeSet;

use super::{
    columns::{Column, Columns, Vacant, columns_of},
    free_agents::Needs,
    keyed::Keyed,
    queue::Rank,
    submitters::{Submitters, Turn},
};
use crate::queues::{gate::Gate, shares::Shares};

/// Where a ready task waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry<'a> {
    pub queue: &'a str,
    /// The key that limits are about; empty if it has none.
    pub key: &'a str,
    pub submitter: &'a str,
    pub needs: Needs<'a>,
    pub rank: Rank,
}

/// What decides about turns, besides the tasks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub shares: &'a Shares,
    pub gate: &'a Gate,
}

/// The ready tasks of a queue.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Line {
    free: Columns<Submitters>,
    /// Those that have keys, if there are any.
    keyed: Option<Box<Keyed>>,
}

impl Vacant for Line {
    fn is_vacant(&self) -> bool {
        self.free.is_vacant() && self.keyed.is_none()
    }
}

impl Line {
    /// Adds a task to one of its columns. Returns whether the queue's turn there may come earlier.
    pub(crate) fn insert(&mut self, column: Column<'_>, of: &Entry<'_>) -> bool {
        if of.key.is_empty() {
            return self.free.grow(column, |ready| ready.insert(of.submitter, of.rank));
        }
        self.keyed.get_or_insert_default().insert(column, of)
    }

    /// Removes a task from one of its columns. Returns whether others are left there.
    pub(crate) fn remove(&mut self, column: Column<'_>, of: &Entry<'_>) -> bool {
        if of.key.is_empty() {
            self.free.shrink(column, |ready| ready.remove(of.submitter, of.rank));
        } else if let Some(keyed) = &mut self.keyed {
            keyed.remove(column, of);
            if keyed.is_vacant() {
                self.keyed = None;
            }
        }
        self.has(column)
    }

    fn has(&self, column: Column<'_>) -> bool {
        let is_free = self.free.at(column).is_some_and(|ready| !ready.is_vacant());
        is_free || self.keyed.as_ref().is_some_and(|keyed| keyed.has(column))
    }

    /// Returns whether a task in a column need not wait for the limits of its key.
    pub(crate) fn has_turn(&mut self, column: Column<'_>, queue: &str, rules: Rules<'_>) -> bool {
        if self.free.at(column).is_some_and(|ready| !ready.is_vacant()) {
            return true;
        }
        self.keyed.as_mut().is_some_and(|keyed| keyed.has_turn(column, queue, rules))
    }

    /// Returns the first task in some columns that need not wait for the limits of its key, and is not to be skipped.
    pub(crate) fn first<'c>(
        &mut self,
        columns: impl Iterator<Item = Column<'c>>,
        queue: &str,
        rules: Rules<'_>,
        skip: &impl Fn(u64) -> Option<u64>,
    ) -> Option<Turn> {
        let served = |submitter: &str| rules.shares.of_submitter(queue, submitter);
        let mut best = None;
        for column in columns {
            if let Some(turn) = self.free.at_mut(column).and_then(|ready| ready.first(&served, skip)) {
                best = Turn::better(best, turn);
            }
            if let Some(keyed) = &mut self.keyed {
                best = keyed.better(best, column, queue, rules, skip);
            }
        }
        best
    }

    /// Takes note that tasks with a key need not wait any more. Returns the columns that they are in.
    pub(crate) fn open_key(&mut self, key: &str) -> Vec<Column<'_>> {
        self.keyed.as_mut().map_or_else(Vec::new, |keyed| keyed.open(key))
    }

    /// Returns the columns that have tasks.
    pub(crate) fn used(&self) -> impl Iterator<Item = Column<'_>> {
        self.free.used().chain(self.keyed.iter().flat_map(|keyed| keyed.used()))
    }

    /// Returns the places of the tasks, in sets of the same domain, required role, key and submitter: so many of each domain
    /// and role.
    pub(crate) fn by_need(&self, most: usize) -> impl Iterator<Item = &BTreeSet<Rank>> {
        let free = self.free.of_domains().flat_map(move |ready| ready.sets().take(most));
        free.chain(self.keyed.iter().flat_map(move |keyed| keyed.sets(most)))
    }

    /// Returns something for each domain and required role, with and without keys.
    pub(crate) fn different(&self) -> impl Iterator<Item = ()> {
        let free = self.free.of_domains().map(|_| ());
        free.chain(self.keyed.iter().flat_map(|keyed| keyed.different()))
    }

    /// Returns the different domains of its tasks.
    pub(crate) fn domains(&self) -> impl Iterator<Item = &str> {
        let keyed = self.keyed.iter().flat_map(|keyed| keyed.domains());
        self.free.domains().chain(keyed.filter(move |domain| !self.free.has_domain(domain)))
    }

    /// Returns the number of different domains of its tasks, at least.
    pub(crate) fn domain_count(&self) -> usize {
        let keyed = self.keyed.as_ref().map_or(0, |keyed| keyed.domain_count());
        self.free.domain_count().max(keyed)
    }

    /// Returns whether it has tasks with this domain.
    pub(crate) fn has_domain(&self, domain: &str) -> bool {
        self.free.has_domain(domain) || self.keyed.as_ref().is_some_and(|keyed| keyed.has_domain(domain))
    }

    /// Returns whether all turns are as [`Turns`](super::turns::Turns) requires.
    pub(crate) fn is_sound(&self, queue: &str, rules: Rules<'_>) -> bool {
        let served = |submitter: &str| rules.shares.of_submitter(queue, submitter);
        let mut free = self.free.used().filter_map(|column| self.free.at(column));
        free.all(|ready| ready.is_sound(&served)) && self.keyed.as_ref().is_none_or(|of| of.is_sound(queue, rules))
    }
}

/// Returns the columns of a task.
pub(crate) fn columns<'a>(of: &Entry<'a>) -> impl Iterator<Item = Column<'a>> + use<'a> {
    columns_of(&of.needs)
}
