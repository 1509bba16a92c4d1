//! A hash map for lookups only.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use ahash::RandomState;

/// A hash map with random keys per process, so that no client can choose ids that collide. It can't be iterated: the
/// order would depend on the random keys, which must not affect the state.
#[derive(Clone, Debug)]
pub(crate) struct FixedMap<K: Eq + Hash, V>(HashMap<K, V, RandomState>);

impl<K: Eq + Hash, V: PartialEq> PartialEq for FixedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<K: Eq + Hash, V> Default for FixedMap<K, V> {
    fn default() -> Self {
        FixedMap(HashMap::default())
    }
}

impl<K: Eq + Hash, V> FixedMap<K, V> {
    pub(crate) fn get<Q: Eq + Hash + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.0.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) {
        self.0.insert(key, value);
    }

    pub(crate) fn remove<Q: Eq + Hash + ?Sized>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
    {
        self.0.remove(key);
    }
}
