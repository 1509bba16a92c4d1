//! The ready tasks of one queue that have no keys, in one column, by their submitters: these take turns, and the tasks of each
//! are in the order of their ranks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    columns::Vacant,
    queue::{Rank, first},
    turns::{Name, Turns},
};

/// The turn of a submitter: how many tasks were started for it while others waited, then the rank of its first task, so
/// that of equals the most urgent one is next.
pub(crate) type Key = (u64, Rank);

/// The ready tasks by submitter. Most often there is one submitter.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) enum Submitters {
    #[default]
    None,
    One(Name, BTreeSet<Rank>),
    /// There are two or more.
    Many(Box<Many>),
}

#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Many {
    ready: BTreeMap<Name, BTreeSet<Rank>>,
    turns: Turns<Key>,
}

/// The first task of a queue in some columns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Turn {
    /// How many tasks were started for its submitter while others waited.
    pub served: u64,
    pub rank: Rank,
    pub submitter: Name,
    /// Other submitters wait for the same agent.
    pub is_contested: bool,
}

impl Turn {
    /// Returns a value that is lower for the better one of two turns in one queue.
    pub(crate) fn order(&self) -> (u64, Rank, &str) {
        (self.served, self.rank, &self.submitter)
    }

    /// Returns the better one of two turns, which others contest unless both are the same submitter's.
    pub(crate) fn better(best: Option<Turn>, other: Turn) -> Option<Turn> {
        let Some(best) = best else { return Some(other) };
        let is_contested = best.is_contested || other.is_contested || best.submitter != other.submitter;
        let first = if other.order() < best.order() { other } else { best };
        Some(Turn { is_contested, ..first })
    }
}

impl Vacant for Submitters {
    fn is_vacant(&self) -> bool {
        matches!(self, Submitters::None)
    }
}

impl Submitters {
    /// Adds a task. Returns whether it is the first one of its submitter, so that the turn may come earlier.
    pub(crate) fn insert(&mut self, submitter: &str, rank: Rank) -> bool {
        match self {
            Submitters::Many(many) => return many.insert(submitter, rank),
            Submitters::One(name, ready) if **name == *submitter => {
                let is_first = ready.first().is_none_or(|first| rank < *first);
                ready.insert(rank);
                return is_first;
            }
            Submitters::None | Submitters::One(..) => {}
        }
        // To make a set of an array would sort it first, and most queues are empty most of the time.
        let mut ready = BTreeSet::new();
        ready.insert(rank);
        *self = match std::mem::take(self) {
            Submitters::One(name, others) => {
                let mut many = Many::default();
                many.add(name, others);
                many.add(Name::from(submitter), ready);
                Submitters::Many(Box::new(many))
            }
            _ => Submitters::One(Name::from(submitter), ready),
        };
        true
    }

    /// Removes a task.
    pub(crate) fn remove(&mut self, submitter: &str, rank: Rank) {
        match self {
            Submitters::None => {}
            Submitters::One(_, ready) => {
                ready.remove(&rank);
                if ready.is_empty() {
                    *self = Submitters::None;
                }
            }
            Submitters::Many(many) => {
                many.remove(submitter, rank);
                if many.ready.len() == 1
                    && let Some((name, ready)) = many.ready.pop_first()
                {
                    *self = Submitters::One(name, ready);
                }
            }
        }
    }

    /// Returns the first task that is not to be skipped. `served` returns how many tasks were started for a submitter.
    pub(crate) fn first(&mut self, served: &impl Fn(&str) -> u64, skip: &impl Fn(u64) -> Option<u64>) -> Option<Turn> {
        match self {
            Submitters::None => None,
            Submitters::One(name, ready) => {
                let rank = first(ready, skip)?;
                Some(Turn { served: served(name), rank, submitter: Arc::clone(name), is_contested: false })
            }
            Submitters::Many(many) => many.first(served, skip),
        }
    }

    /// Returns the ranks of the tasks, by submitter.
    pub(crate) fn ranks(&self) -> impl Iterator<Item = &Rank> {
        self.sets().flatten()
    }

    /// Returns the ranks of the tasks of each submitter.
    pub(crate) fn sets(&self) -> impl Iterator<Item = &BTreeSet<Rank>> {
        let (one, many) = match self {
            Submitters::None => (None, None),
            Submitters::One(_, ready) => (Some(ready), None),
            Submitters::Many(many) => (None, Some(many.ready.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Returns whether the turns are as [`Turns`] requires.
    pub(crate) fn is_sound(&self, served: &impl Fn(&str) -> u64) -> bool {
        let Submitters::Many(many) = self else { return true };
        many.turns.is_sound(|name| key_of(&many.ready, name, served))
    }
}

fn key_of(ready: &BTreeMap<Name, BTreeSet<Rank>>, name: &str, served: &impl Fn(&str) -> u64) -> Option<Key> {
    let rank = ready.get(name)?.first()?;
    Some((served(name), *rank))
}

impl Many {
    fn add(&mut self, name: Name, ready: BTreeSet<Rank>) {
        let first = ready.first().copied().unwrap_or_default();
        self.turns.insert(&name, (0, first));
        self.ready.insert(name, ready);
    }

    fn insert(&mut self, submitter: &str, rank: Rank) -> bool {
        let Some(ready) = self.ready.get_mut(submitter) else {
            self.add(Name::from(submitter), BTreeSet::from([rank]));
            return true;
        };
        let is_first = ready.first().is_none_or(|first| rank < *first);
        ready.insert(rank);
        if is_first {
            self.turns.lower(submitter, (0, rank));
        }
        is_first
    }

    fn remove(&mut self, submitter: &str, rank: Rank) {
        let Some(ready) = self.ready.get_mut(submitter) else { return };
        ready.remove(&rank);
        if ready.is_empty() {
            self.ready.remove(submitter);
            self.turns.remove(submitter);
        }
    }

    fn first(&mut self, served: &impl Fn(&str) -> u64, skip: &impl Fn(u64) -> Option<u64>) -> Option<Turn> {
        let Many { ready, turns } = self;
        let mut place = None;
        loop {
            let next = turns.next(place.as_ref(), |name| key_of(ready, name, served))?;
            if let Some(rank) = ready.get(&next.name).and_then(|ready| first(ready, skip)) {
                return Some(Turn { served: next.key.0, rank, submitter: next.name, is_contested: true });
            }
            place = Some(next);
        }
    }
}
