//! Sorted values in blocks, for what there may be a million of: a tree of single values takes about twice the memory.

use std::{collections::BTreeMap, fmt::Debug, ops::Bound};

/// Most values of a block.
pub(super) const BLOCK: usize = 512;
/// Values for which a block that is full gets room. To double it would leave a quarter of all memory unused.
const GROWTH: usize = 64;

/// A value with a key, by which it is sorted.
pub(crate) trait Keyed: Copy + Eq + Debug {
    /// The key.
    type Key: Ord + Copy + Debug;

    /// Returns the key, which no two values share.
    fn key(&self) -> Self::Key;
}

/// Values sorted by their keys. Adding, removing and finding one takes a look at a few blocks and moves at most one.
#[derive(Clone, Debug)]
pub(crate) struct Packed<V: Keyed> {
    /// The blocks, none of them empty, by a bound: it is no higher than the keys in its block, and higher than those of
    /// the block before.
    blocks: BTreeMap<V::Key, Vec<V>>,
    len: usize,
}

impl<V: Keyed> Default for Packed<V> {
    fn default() -> Self {
        Self { blocks: BTreeMap::new(), len: 0 }
    }
}

/// How the values are divided into blocks does not matter.
impl<V: Keyed> PartialEq for Packed<V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<V: Keyed> Eq for Packed<V> {}

impl<V: Keyed> Packed<V> {
    /// Adds values that are sorted by their keys, all of which are higher than those that are there.
    pub(crate) fn append(&mut self, values: &[V]) {
        self.blocks.extend(values.chunks(BLOCK).map(|block| (block[0].key(), block.to_vec())));
        self.len += values.len();
    }

    /// Returns the value with the highest key.
    pub(crate) fn last(&self) -> Option<&V> {
        self.blocks.last_key_value().and_then(|(_, block)| block.last())
    }

    /// Returns the number of values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the value with this key.
    pub(crate) fn get(&self, key: V::Key) -> Option<&V> {
        let (_, block) = self.blocks.range(..=key).next_back()?;
        let place = block.binary_search_by_key(&key, V::key).ok()?;
        block.get(place)
    }

    /// Returns all values.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &V> {
        self.blocks.values().flatten()
    }

    /// Returns the values whose keys are not lower than this one.
    pub(crate) fn starting_at(&self, key: V::Key) -> impl Iterator<Item = &V> {
        let first = self.blocks.range(..=key).next_back().map_or(key, |(bound, _)| *bound);
        let blocks = self.blocks.range(first..).map(|(_, block)| block.as_slice());
        blocks.flat_map(move |block| &block[block.partition_point(|value| value.key() < key)..])
    }

    /// Adds a value. One with the same key is replaced.
    pub(crate) fn insert(&mut self, value: V) {
        let key = value.key();
        let at = self.blocks.range(..=key).next_back().or_else(|| self.blocks.first_key_value());
        let Some(mut bound) = at.map(|(bound, _)| *bound) else {
            self.blocks.insert(key, vec![value]);
            self.len = 1;
            return;
        };
        if key < bound
            && let Some(first) = self.blocks.remove(&bound)
        {
            // It comes before all others.
            self.blocks.insert(key, first);
            bound = key;
        }
        let is_last = self.blocks.last_key_value().is_some_and(|(last, _)| *last == bound);
        let Some(block) = self.blocks.get_mut(&bound) else { return };
        match block.binary_search_by_key(&key, V::key) {
            Ok(place) => block[place] = value,
            Err(place) if block.len() < BLOCK => {
                put(block, place, value);
                self.len += 1;
            }
            Err(place) => {
                // Most values come at the end, which leaves full blocks behind.
                let kept = if is_last && place == BLOCK { BLOCK } else { BLOCK / 2 };
                let mut rest = block[kept..].to_vec();
                block.truncate(kept);
                move_if_larger(block, kept);
                match place.checked_sub(kept) {
                    Some(place) => put(&mut rest, place, value),
                    None => put(block, place, value),
                }
                self.len += 1;
                self.blocks.insert(rest[0].key(), rest);
            }
        }
    }

    /// Removes and returns the value with this key.
    pub(crate) fn remove(&mut self, key: V::Key) -> Option<V> {
        let (bound, block) = self.blocks.range_mut(..=key).next_back()?;
        let place = block.binary_search_by_key(&key, V::key).ok()?;
        let removed = block.remove(place);
        let (bound, left) = (*bound, block.len());
        self.len -= 1;
        if left == 0 {
            self.blocks.remove(&bound);
        } else if left <= BLOCK / 4 {
            self.merge(bound);
        }
        Some(removed)
    }

    /// Merges a block that has become small with the one after it or before it, if half a block has room for both.
    fn merge(&mut self, bound: V::Key) {
        let after = self.blocks.range((Bound::Excluded(bound), Bound::Unbounded)).next().map(|(bound, _)| *bound);
        let before = self.blocks.range(..bound).next_back().map(|(bound, _)| *bound);
        for (first, second) in [(Some(bound), after), (before, Some(bound))] {
            let (Some(first), Some(second)) = (first, second) else { continue };
            let of = |bound: V::Key| self.blocks.get(&bound).map_or(0, Vec::len);
            if of(first) + of(second) > BLOCK / 2 {
                continue;
            }
            let rest = self.blocks.remove(&second).unwrap_or_default();
            if let Some(block) = self.blocks.get_mut(&first) {
                block.extend(rest);
            }
            return;
        }
        if let Some(block) = self.blocks.get_mut(&bound) {
            move_if_larger(block, BLOCK / 2);
        }
    }
}

/// Moves the values of a block elsewhere if it has room for more than so many. To shrink it is not enough: allocators leave
/// what shrinks to half where it is, and its other half is lost.
pub(super) fn move_if_larger<V: Copy>(block: &mut Vec<V>, most: usize) {
    if block.capacity() > most {
        *block = block.as_slice().to_vec();
    }
}

/// Adds a value to a block of fewer than [`BLOCK`].
pub(super) fn put<V>(block: &mut Vec<V>, place: usize, value: V) {
    if block.len() == block.capacity() {
        block.reserve_exact(GROWTH.min(BLOCK - block.len()));
    }
    block.insert(place, value);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    impl Keyed for (u64, u64) {
        type Key = Self;

        fn key(&self) -> Self {
            *self
        }
    }

    fn check(packed: &Packed<(u64, u64)>, expected: &BTreeSet<(u64, u64)>) {
        assert!(packed.iter().eq(expected.iter()));
        assert_eq!((packed.len(), packed.last()), (expected.len(), expected.last()));
        let blocks: Vec<_> = packed.blocks.iter().collect();
        for (bound, block) in &blocks {
            assert!((1..=BLOCK).contains(&block.len()) && block.capacity() <= 2 * BLOCK && **bound <= block[0]);
        }
        assert!(blocks.windows(2).all(|pair| pair[0].1.last() < Some(pair[1].0)), "a bound");
    }

    /// Adds or removes the keys from one on, with so much between them.
    fn change() -> impl Strategy<Value = (bool, u64, u64, u64)> {
        (any::<bool>(), 0..3_000u64, 1..900u64, 1..4u64)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn values_are_found_and_sorted_however_they_came(changes in prop::collection::vec(change(), 1..12), at in 0..4_000u64) {
            let (mut packed, mut expected): (Packed<(u64, u64)>, _) = (Packed::default(), BTreeSet::new());
            for (adds, first, count, step) in changes {
                let values = (0..count).map(|n| (first + n * step, n % 2));
                for value in values {
                    if adds {
                        packed.insert(value);
                        expected.insert(value);
                    } else {
                        prop_assert_eq!(packed.remove(value), expected.take(&value));
                    }
                }
                check(&packed, &expected);
            }
            prop_assert!(packed.starting_at((at, 1)).eq(expected.range((at, 1)..)));
            prop_assert_eq!(packed.get((at, 0)), expected.get(&(at, 0)));
            let sorted: Vec<_> = expected.iter().copied().collect();
            let (first, rest) = sorted.split_at(sorted.len() / 3);
            let mut appended = Packed::default();
            appended.append(first);
            appended.append(rest);
            check(&appended, &expected);
        }
    }

    #[test]
    fn values_that_come_in_order_fill_their_blocks() {
        let mut packed: Packed<(u64, u64)> = Packed::default();
        (0..BLOCK as u64 * 3).for_each(|n| packed.insert((n, 0)));
        assert!(packed.blocks.values().all(|block| block.len() == BLOCK && block.capacity() == BLOCK));
        assert!((0..BLOCK as u64 * 3 - 1).all(|n| packed.remove((n, 0)).is_some()));
        assert_eq!(packed.blocks.len(), 1);
        assert!(packed.blocks.values().all(|block| block.capacity() <= BLOCK / 2), "what is left takes little");
    }
}
