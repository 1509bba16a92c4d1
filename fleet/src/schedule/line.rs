//! The ready tasks of one queue: those without a key that limits are about, and those of each key, of which some may have
//! to wait for its limits.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    columns::{Column, Columns, Vacant, columns_of},
    free_agents::Needs,
    queue::Rank,
    submitters::{Key, Submitters, Turn},
    turns::{Name, Turns},
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

#[derive(Clone, PartialEq, Debug, Default)]
struct Keyed {
    classes: BTreeMap<Name, Columns<Submitters>>,
    /// The turns of the keys in each column.
    turns: Columns<Turns<Key>>,
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
            if keyed.classes.is_empty() {
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
        let served = |submitter: &str| rules.shares.of_submitter(queue, submitter);
        self.keyed.as_mut().is_some_and(|keyed| keyed.has_turn(column, queue, &served, rules))
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
                best = keyed.better(best, column, queue, (&served, rules), skip);
            }
        }
        best
    }

    /// Takes note that tasks with a key need not wait any more. Returns the columns that they are in.
    pub(crate) fn open_key(&mut self, key: &str) -> Vec<Column<'_>> {
        let Some(keyed) = &mut self.keyed else { return Vec::new() };
        let Keyed { classes, turns } = &mut **keyed;
        let Some(class) = classes.get(key) else { return Vec::new() };
        let columns: Vec<Column<'_>> = class.used().collect();
        for column in &columns {
            if let Some(turns) = turns.at_mut(*column) {
                turns.lower(key);
            }
        }
        columns
    }

    /// Returns the columns that have tasks.
    pub(crate) fn used(&self) -> impl Iterator<Item = Column<'_>> {
        let keyed = self.keyed.iter().flat_map(|keyed| keyed.turns.used());
        self.free.used().chain(keyed)
    }

    /// Returns the places of the tasks, in sets of the same domain, required role, key and submitter.
    pub(crate) fn by_need(&self) -> impl Iterator<Item = &BTreeSet<Rank>> {
        let keyed = self.keyed.iter().flat_map(|keyed| keyed.classes.values());
        let columns = [&self.free].into_iter().chain(keyed);
        columns.flat_map(|columns| columns.of_domains()).flat_map(|ready| ready.sets())
    }

    /// Returns the number of different domains of its tasks, at least.
    pub(crate) fn domains(&self) -> usize {
        let keyed = self.keyed.as_ref().map_or(0, |keyed| keyed.turns.domains());
        self.free.domains().max(keyed)
    }

    /// Returns whether it has tasks with this domain.
    pub(crate) fn has_domain(&self, domain: &str) -> bool {
        self.free.has_domain(domain) || self.keyed.as_ref().is_some_and(|keyed| keyed.turns.has_domain(domain))
    }

    /// Returns whether all turns are as [`Turns`] requires.
    pub(crate) fn is_sound(&self, queue: &str, rules: Rules<'_>) -> bool {
        let served = |submitter: &str| rules.shares.of_submitter(queue, submitter);
        let are_sound = |class: &Columns<Submitters>| {
            class.used().filter_map(|column| class.at(column)).all(|ready| ready.is_sound(&served))
        };
        let Some(keyed) = &self.keyed else { return are_sound(&self.free) };
        let Keyed { classes, turns } = &**keyed;
        let fits = |column: Column<'_>| {
            let mut copy = classes.clone();
            let key = |key: &str| class_key(&mut copy, key, column, queue, &served, rules);
            turns.at(column).is_none_or(|turns| turns.is_sound(key))
        };
        are_sound(&self.free) && classes.values().all(are_sound) && turns.used().all(fits)
    }
}

/// Returns the turn of a key in a column; `None` if it has to wait for its limits.
fn class_key(
    classes: &mut BTreeMap<Name, Columns<Submitters>>,
    key: &str,
    column: Column<'_>,
    queue: &str,
    served: &impl Fn(&str) -> u64,
    rules: Rules<'_>,
) -> Option<Key> {
    if rules.gate.is_held(queue, key) {
        return None;
    }
    classes.get_mut(key)?.at_mut(column)?.key(served)
}

impl Keyed {
    fn insert(&mut self, column: Column<'_>, of: &Entry<'_>) -> bool {
        let Keyed { classes, turns } = self;
        let known = classes.get_key_value(of.key).map(|(name, _)| Arc::clone(name));
        let name = known.unwrap_or_else(|| Name::from(of.key));
        let class = classes.entry(Arc::clone(&name)).or_default();
        let is_first = class.grow(column, |ready| ready.insert(of.submitter, of.rank));
        if is_first {
            turns.grow(column, |turns| turns.insert(&name));
        }
        is_first
    }

    fn remove(&mut self, column: Column<'_>, of: &Entry<'_>) {
        let Keyed { classes, turns } = self;
        let Some(class) = classes.get_mut(of.key) else { return };
        let is_left = class.shrink(column, |ready| {
            ready.remove(of.submitter, of.rank);
            !ready.is_vacant()
        });
        if is_left == Some(false) {
            turns.shrink(column, |turns| turns.remove(of.key));
        }
        // Its tasks leave the column of their domain last.
        if class.is_vacant() {
            classes.remove(of.key);
        }
    }

    fn has(&self, column: Column<'_>) -> bool {
        self.turns.at(column).is_some_and(|turns| !turns.is_vacant())
    }

    fn has_turn(&mut self, column: Column<'_>, queue: &str, served: &impl Fn(&str) -> u64, rules: Rules<'_>) -> bool {
        let Keyed { classes, turns } = self;
        let Some(turns) = turns.at_mut(column) else { return false };
        turns.next(None, |key| class_key(classes, key, column, queue, served, rules)).is_some()
    }

    /// Returns the better one of a turn and the first one in a column. A second key shows whether others wait.
    fn better(
        &mut self,
        mut best: Option<Turn>,
        column: Column<'_>,
        queue: &str,
        (served, rules): (&impl Fn(&str) -> u64, Rules<'_>),
        skip: &impl Fn(u64) -> Option<u64>,
    ) -> Option<Turn> {
        let Keyed { classes, turns } = self;
        let Some(turns) = turns.at_mut(column) else { return best };
        let (mut place, mut found) = (None, 0);
        while found < 2 {
            let next = turns.next(place.as_ref(), |key| class_key(classes, key, column, queue, served, rules));
            let Some(next) = next else { break };
            let class = classes.get_mut(&next.name).and_then(|class| class.at_mut(column));
            if let Some(turn) = class.and_then(|ready| ready.first(served, skip)) {
                // Among the tasks of one submitter, those with other keys count as others: whether there are
                // others behind them can't be seen.
                let is_contested = turn.is_contested || found > 0;
                best = Turn::better(best, Turn { is_contested, ..turn });
                found += 1;
            }
            place = Some(next);
        }
        best
    }
}

/// Returns the columns of a task.
pub(crate) fn columns<'a>(of: &Entry<'a>) -> impl Iterator<Item = Column<'a>> + use<'a> {
    columns_of(&of.needs)
}
