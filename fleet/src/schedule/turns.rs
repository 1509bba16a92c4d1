//! The order in which those are served that share a set of agents: queues among each other, keys, and submitters.
//!
//! The key of a child tells its turn: the child with the lowest key is next. Keys change often, and in many columns at
//! once: whenever a queue is served, its turn comes later in each of them. So a column does not keep the key of a child
//! but a bound, which is at most the key. A look puts the children that it meets with too low a bound behind: each of them
//! once for all changes since the last look. So serving a queue costs nothing in the columns that nobody looks at, and
//! a look costs no more than the changes before it.
//!
//! What a look returns depends on the keys alone, and not on how good the bounds are. So it is the same on a coordinator
//! that has just read a snapshot.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use super::columns::Vacant;

#[cfg(test)]
thread_local! {
    /// How many children were looked at by this thread so far, for the tests that bound it.
    pub(crate) static LOOKS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// The name of a queue, a key or a submitter.
pub(crate) type Name = Arc<str>;

/// The children that have something in a column.
///
/// Invariant: the bound of a child is at most its key; and a child whose bound says that it has to wait has no key.
/// Whoever lowers a key, or gives a child one again, calls [`Turns::lower`]. Who knows what the key is at least then, spares
/// the next look a step for each child that was added since the last one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns<K> {
    /// The children by their bounds; those that have to wait are last.
    order: BTreeSet<(bool, K, Name)>,
    /// The bounds: whether the child has to wait, and the bound of its key.
    bounds: BTreeMap<Name, (bool, K)>,
}

/// A child in the order of turns.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Place<K> {
    pub key: K,
    pub name: Name,
}

/// The bounds don't matter.
impl<K> PartialEq for Turns<K> {
    fn eq(&self, other: &Self) -> bool {
        self.bounds.keys().eq(other.bounds.keys())
    }
}

impl<K> Vacant for Turns<K> {
    fn is_vacant(&self) -> bool {
        self.bounds.is_empty()
    }
}

impl<K: Ord + Copy + Default> Turns<K> {
    /// Adds a child whose key is at least this, or does the same as [`Turns::lower`].
    pub(crate) fn insert(&mut self, name: &Name, least: K) {
        let least = match self.bounds.get(name) {
            Some((false, known)) => least.min(*known),
            Some((true, _)) | None => least,
        };
        self.put(Arc::clone(name), (false, least));
    }

    /// Removes a child, if it is there.
    pub(crate) fn remove(&mut self, name: &str) {
        if let Some((name, (waits, bound))) = self.bounds.remove_entry(name) {
            self.order.remove(&(waits, bound, name));
        }
    }

    /// Takes note that the key of a child may be lower than it was, or that it need not wait any more. The key is at least
    /// this, or the bound that is known.
    pub(crate) fn lower(&mut self, name: &str, least: K) {
        if let Some(name) = self.bounds.get_key_value(name).map(|(name, _)| Arc::clone(name)) {
            self.insert(&name, least);
        }
    }

    fn put(&mut self, name: Name, bound: (bool, K)) {
        if let Some((waits, before)) = self.bounds.insert(Arc::clone(&name), bound) {
            self.order.remove(&(waits, before, Arc::clone(&name)));
        }
        self.order.insert((bound.0, bound.1, name));
    }

    /// Returns the child whose turn comes after that of another one, or the first. `key` returns the key of a child, or
    /// `None` if it has to wait.
    pub(crate) fn next(
        &mut self,
        after: Option<&Place<K>>,
        mut key: impl FnMut(&str) -> Option<K>,
    ) -> Option<Place<K>> {
        loop {
            let start = match after {
                None => Bound::Unbounded,
                Some(place) => Bound::Excluded((false, place.key, Arc::clone(&place.name))),
            };
            let (waits, bound, name) = self.order.range((start, Bound::Unbounded)).next()?.clone();
            #[cfg(test)]
            LOOKS.with(|looks| looks.set(looks.get() + 1));
            if waits {
                return None;
            }
            match key(&name) {
                Some(now) if now <= bound => return Some(Place { key: bound, name }),
                Some(now) => self.put(name, (false, now)),
                None => self.put(name, (true, K::default())),
            }
        }
    }

    /// Returns whether the invariant holds for these keys.
    pub(crate) fn is_sound(&self, mut key: impl FnMut(&str) -> Option<K>) -> bool {
        let fits = |(name, (waits, bound)): (&Name, &(bool, K))| key(name).is_none_or(|now| !waits && *bound <= now);
        self.order.len() == self.bounds.len() && self.bounds.iter().all(fits)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn names(count: u64) -> Vec<Name> {
        (0..count).map(|n| Name::from(format!("queue-{n:04}"))).collect()
    }

    #[test]
    fn the_lowest_key_is_next_whatever_keys_were_before() {
        let names = names(3);
        let mut turns = Turns::default();
        names.iter().for_each(|name| turns.insert(name, 0));
        let first = |turns: &mut Turns<u64>, keys: [Option<u64>; 3]| {
            let key = |name: &str| keys[names.iter().position(|known| **known == *name).expect("it is known")];
            assert!(turns.is_sound(key));
            turns.next(None, key).map(|place| place.name)
        };
        assert_eq!(first(&mut turns, [Some(0), Some(0), Some(0)]), Some(names[0].clone()), "of equals the first name");
        assert_eq!(first(&mut turns, [Some(7), Some(5), Some(6)]), Some(names[1].clone()));
        assert_eq!(first(&mut turns, [Some(7), None, Some(8)]), Some(names[0].clone()));
        turns.lower(&names[1], 0);
        assert_eq!(first(&mut turns, [Some(7), Some(5), Some(8)]), Some(names[1].clone()), "it waits no more");
        turns.remove(&names[1]);
        assert_eq!(first(&mut turns, [None, None, None]), None);
    }

    #[test]
    fn each_child_has_its_turn_once_in_the_order_of_keys() {
        let names = names(100);
        let mut turns = Turns::default();
        names.iter().for_each(|name| turns.insert(name, 0));
        let key = |name: &str| {
            let n: u64 = name.trim_start_matches("queue-").parse().expect("a number");
            (!n.is_multiple_of(3)).then_some(n * 37 % 101)
        };
        let (mut place, mut keys) = (None, Vec::new());
        while let Some(next) = turns.next(place.as_ref(), key) {
            keys.push(next.key);
            place = Some(next);
        }
        assert_eq!(keys.len(), 66);
        assert!(keys.is_sorted_by(|one, next| one < next));
    }

    /// Each of a thousand children is served in turn; all but one look are into another column.
    #[test]
    fn a_look_costs_no_more_than_the_changes_before_it() {
        const CHILDREN: u64 = 1_000;
        let names = names(CHILDREN);
        let (mut often, mut rarely) = (Turns::default(), Turns::default());
        for name in &names {
            often.insert(name, 0);
            rarely.insert(name, 0);
        }
        let mut served = vec![0u64; CHILDREN as usize];
        let looks = Cell::new(0u64);
        let place_of = |name: &str| -> usize { name.trim_start_matches("queue-").parse().expect("a number") };
        for _ in 0..10 * CHILDREN {
            let next = often.next(None, |name| {
                looks.set(looks.get() + 1);
                Some(served[place_of(name)])
            });
            served[place_of(&next.expect("none waits").name)] += 1;
        }
        assert!(looks.get() <= 2 * 10 * CHILDREN + CHILDREN, "{} looks", looks.get());
        looks.set(0);
        for _ in 0..CHILDREN {
            rarely.next(None, |name| {
                looks.set(looks.get() + 1);
                Some(served[place_of(name)])
            });
        }
        assert!(looks.get() <= 3 * CHILDREN, "{} looks", looks.get());
    }
}
