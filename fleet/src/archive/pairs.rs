//! Sorted pairs of numbers in blocks, for the indexes of what there may be a million of. The pairs of a block are close to
//! each other, so of each number only what it is beyond another one of the block is kept: 8 bytes for both instead of 16.

use std::{collections::BTreeMap, ops::Bound};

use super::packed::{BLOCK, move_if_larger, put};

/// Two numbers, of which the first one counts more.
pub(crate) type Pair = (u64, u64);

/// How far the second number of a pair may be below that of the pair that its block was made for.
const BELOW: u64 = 1 << 31;

/// A block of pairs.
#[derive(Clone, Debug)]
struct Block {
    /// What is kept of each number is what it is beyond this, which fits 32 bits.
    origin: Pair,
    /// The pairs in ascending order: the first number in the upper half.
    offsets: Vec<u64>,
}

impl Block {
    /// Returns a block without pairs that has room for this one, and for those after it which are close to it.
    fn beginning_at((first, second): Pair) -> Self {
        Self { origin: (first, second.saturating_sub(BELOW)), offsets: Vec::new() }
    }

    /// Returns what is kept of a pair; `None` if it is too far away.
    fn offset(&self, (first, second): Pair) -> Option<u64> {
        let first = u32::try_from(first.checked_sub(self.origin.0)?).ok()?;
        let second = u32::try_from(second.checked_sub(self.origin.1)?).ok()?;
        Some(u64::from(first) << 32 | u64::from(second))
    }

    fn pair(&self, offset: u64) -> Pair {
        (self.origin.0 + (offset >> 32), self.origin.1 + (offset & u64::from(u32::MAX)))
    }

    /// Returns the place of a pair, if it is there.
    fn find(&self, pair: Pair) -> Option<usize> {
        self.offsets.binary_search(&self.offset(pair)?).ok()
    }

    /// Returns the pairs that are not lower than this one.
    fn starting_at(&self, pair: Pair) -> impl Iterator<Item = Pair> {
        let place = self.offsets.partition_point(|offset| self.pair(*offset) < pair);
        self.offsets[place..].iter().map(move |offset| self.pair(*offset))
    }

    fn pairs(&self) -> impl Iterator<Item = Pair> {
        self.offsets.iter().map(move |offset| self.pair(*offset))
    }

    /// Returns the highest pair.
    fn last(&self) -> Option<Pair> {
        self.offsets.last().map(|offset| self.pair(*offset))
    }
}

/// Sorted pairs. Adding, removing and finding one takes a look at a few blocks and moves at most two.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pairs {
    /// The blocks, none of them empty, by a bound: it is no higher than the pairs in its block, and higher than those of
    /// the block before.
    blocks: BTreeMap<Pair, Block>,
    len: usize,
}

/// How the pairs are divided into blocks does not matter.
impl PartialEq for Pairs {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Pairs {
    /// Sorts pairs, of which no two are equal.
    pub(crate) fn of(mut pairs: Vec<Pair>) -> Self {
        pairs.sort_unstable();
        let mut sorted = Self::default();
        sorted.add_blocks(&pairs);
        sorted
    }

    /// Adds sorted pairs between those that are there, in blocks of their own.
    fn add_blocks(&mut self, mut pairs: &[Pair]) {
        while let Some(bound) = pairs.first().copied() {
            let mut block = Block::beginning_at(bound);
            let mut offsets: Vec<u64> = pairs.iter().take(BLOCK).map_while(|pair| block.offset(*pair)).collect();
            // A vector that is collected may have room for twice as many.
            let count = offsets.len();
            move_if_larger(&mut offsets, count);
            self.len += count;
            // At least the first one is close to itself.
            pairs = &pairs[count..];
            block.offsets = offsets;
            self.blocks.insert(bound, block);
        }
    }

    /// Removes a block and returns its pairs.
    fn take_block(&mut self, bound: Pair) -> Vec<Pair> {
        let pairs: Vec<Pair> = self.blocks.remove(&bound).iter().flat_map(Block::pairs).collect();
        self.len -= pairs.len();
        pairs
    }

    /// Returns all pairs.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Pair> {
        self.blocks.values().flat_map(Block::pairs)
    }

    /// Returns the lowest pair.
    pub(crate) fn first(&self) -> Option<Pair> {
        self.iter().next()
    }

    /// Returns the pairs that are not lower than this one.
    pub(crate) fn starting_at(&self, pair: Pair) -> impl Iterator<Item = Pair> {
        let first = self.blocks.range(..=pair).next_back().map_or(pair, |(bound, _)| *bound);
        self.blocks.range(first..).flat_map(move |(_, block)| block.starting_at(pair))
    }

    /// Adds a pair, unless it is there.
    pub(crate) fn insert(&mut self, pair: Pair) {
        let at = self.blocks.range_mut(..=pair).next_back();
        if let Some((_, block)) = at
            && let Some(offset) = block.offset(pair)
        {
            match block.offsets.binary_search(&offset) {
                Ok(_) => return,
                Err(place) if block.offsets.len() < BLOCK => {
                    put(&mut block.offsets, place, offset);
                    self.len += 1;
                    return;
                }
                Err(_) => {}
            }
        }
        self.insert_dividing(pair);
    }

    /// Adds a pair that is not there, for which its block is full, or from which that is too far away.
    fn insert_dividing(&mut self, pair: Pair) {
        let at = self.blocks.range(..=pair).next_back().or_else(|| self.blocks.first_key_value());
        let highest = self.blocks.last_key_value().and_then(|(_, block)| block.last());
        let Some(bound) = at.map(|(bound, _)| *bound).filter(|_| highest >= Some(pair)) else {
            // Most pairs come at the end, which leaves full blocks behind.
            self.add_blocks(&[pair]);
            return;
        };
        let mut pairs = self.take_block(bound);
        let place = pairs.partition_point(|other| *other < pair);
        pairs.insert(place, pair);
        let (before, after) = pairs.split_at(if pairs.len() > BLOCK { pairs.len() / 2 } else { 0 });
        self.add_blocks(before);
        self.add_blocks(after);
    }

    /// Removes a pair, if it is there.
    pub(crate) fn remove(&mut self, pair: Pair) {
        let Some((bound, block)) = self.blocks.range_mut(..=pair).next_back() else { return };
        let Some(place) = block.find(pair) else { return };
        block.offsets.remove(place);
        let (bound, left) = (*bound, block.offsets.len());
        self.len -= 1;
        if left == 0 {
            self.blocks.remove(&bound);
        } else if left <= BLOCK / 4 {
            self.merge(bound);
        }
    }

    /// Merges a block that has become small with the one after it or before it, if half a block has room for both.
    fn merge(&mut self, bound: Pair) {
        let after = self.blocks.range((Bound::Excluded(bound), Bound::Unbounded)).next().map(|(bound, _)| *bound);
        let before = self.blocks.range(..bound).next_back().map(|(bound, _)| *bound);
        for (first, second) in [(Some(bound), after), (before, Some(bound))] {
            let (Some(first), Some(second)) = (first, second) else { continue };
            let (one, other) = (&self.blocks[&first], &self.blocks[&second]);
            let are_close = other.last().is_some_and(|last| one.offset(last).is_some());
            if !are_close || one.offsets.len() + other.offsets.len() > BLOCK / 2 {
                continue;
            }
            let mut pairs = self.take_block(first);
            pairs.extend(self.take_block(second));
            self.add_blocks(&pairs);
            return;
        }
        if let Some(block) = self.blocks.get_mut(&bound) {
            move_if_larger(&mut block.offsets, BLOCK / 2);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn check(pairs: &Pairs, expected: &BTreeSet<Pair>) {
        assert!(pairs.iter().eq(expected.iter().copied()));
        assert_eq!((pairs.len, pairs.first()), (expected.len(), expected.first().copied()));
        let blocks: Vec<_> = pairs.blocks.iter().collect();
        for (bound, block) in &blocks {
            assert!((1..=BLOCK).contains(&block.offsets.len()) && block.offsets.capacity() <= 2 * BLOCK);
            assert!(block.pairs().next() >= Some(**bound), "a bound");
        }
        assert!(blocks.windows(2).all(|pair| pair[0].1.last() < Some(*pair[1].0)), "a bound");
    }

    /// Adds or removes the pairs from one on, with so much between them, close to each other or not.
    fn change() -> impl Strategy<Value = (bool, u64, u64, u64, u64)> {
        let far = prop_oneof![Just(1_u64), Just(u64::from(u32::MAX)), Just(1_u64 << 33), Just(u64::MAX / 10_000)];
        (any::<bool>(), 0..3_000u64, 1..900u64, 1..4u64, far)
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn pairs_are_found_and_sorted_however_they_came(
            changes in prop::collection::vec(change(), 1..12),
            descends in any::<bool>(),
            at in 0..4_000u64,
        ) {
            let (mut pairs, mut expected) = (Pairs::default(), BTreeSet::new());
            for (adds, first, count, step, far) in changes {
                for n in 0..count {
                    let n = if descends { count - 1 - n } else { n };
                    let number = first + n * step;
                    let pair = (number * (far / 2 + 1), number % 2 * far);
                    if adds {
                        pairs.insert(pair);
                        expected.insert(pair);
                    } else {
                        pairs.remove(pair);
                        expected.remove(&pair);
                    }
                }
                check(&pairs, &expected);
            }
            prop_assert!(pairs.starting_at((at, 1)).eq(expected.range((at, 1)..).copied()));
            let read = Pairs::of(expected.iter().rev().copied().collect());
            check(&read, &expected);
            prop_assert!(read == pairs);
        }
    }

    #[test]
    fn pairs_that_come_in_order_fill_their_blocks() {
        let mut pairs = Pairs::default();
        (0..BLOCK as u64 * 3).for_each(|n| pairs.insert((n, n)));
        assert!(pairs.blocks.values().all(|block| block.offsets.len() == BLOCK && block.offsets.capacity() == BLOCK));
        (0..BLOCK as u64 * 3 - 1).for_each(|n| pairs.remove((n, n)));
        assert_eq!((pairs.blocks.len(), pairs.len), (1, 1));
        assert!(pairs.blocks.values().all(|block| block.offsets.capacity() <= BLOCK / 2), "what is left takes little");
    }

    #[test]
    fn pairs_that_come_in_the_opposite_order_fill_half_their_blocks() {
        let mut pairs = Pairs::default();
        (0..BLOCK as u64 * 4).rev().for_each(|n| pairs.insert((n, n)));
        assert!(pairs.blocks.len() <= 8, "{} blocks", pairs.blocks.len());
    }

    #[test]
    fn a_block_has_pairs_as_far_from_each_other_as_fits_and_no_further() {
        let far = u64::from(u32::MAX);
        for (pair, blocks) in [((far, 0), 1), ((far + 1, 0), 2), ((1, far), 1), ((1, far + 1), 2)] {
            let mut pairs = Pairs::default();
            pairs.insert((0, 0));
            pairs.insert(pair);
            assert_eq!(pairs.blocks.len(), blocks, "{pair:?}");
            assert!(pairs.iter().eq([(0, 0), pair]));
        }
        let mut pairs = Pairs::default();
        for pair in [(u64::MAX, u64::MAX), (0, u64::MAX), (u64::MAX, 0), (0, 0)] {
            pairs.insert(pair);
        }
        assert!(pairs.iter().eq([(0, 0), (0, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX)]));
    }
}
