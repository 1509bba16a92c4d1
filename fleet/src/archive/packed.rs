//! The rows of archived tasks, of which there may be a million, in blocks: a tree of single rows takes about three times
//! the memory.

use std::{collections::BTreeMap, ops::Bound};

use super::{Archived, block::Block};

/// Most values of a block.
pub(super) const BLOCK: usize = 512;
/// Values for which a block that is full gets room. To double it would leave a quarter of all memory unused.
const GROWTH: usize = 64;

/// Rows sorted by the numbers of their tasks, which no two share. Adding, removing and finding one takes a look at a
/// few blocks and moves at most two.
#[derive(Clone, Debug, Default)]
pub(crate) struct Packed {
    /// The blocks, none of them empty, by a bound: it is no higher than the numbers in its block, and higher than those
    /// of the block before.
    blocks: BTreeMap<u64, Block>,
    len: usize,
}

/// How the rows are divided into blocks does not matter.
impl PartialEq for Packed {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Packed {}

impl Packed {
    /// Adds sorted rows in blocks of their own; none that is there has one of their numbers, or one between them.
    pub(crate) fn append(&mut self, rows: &[Archived]) {
        self.blocks.extend(rows.chunks(BLOCK).map(|rows| (rows[0].seq, Block::of(rows))));
        self.len += rows.len();
    }

    /// Returns the row with the highest number.
    pub(crate) fn last(&self) -> Option<Archived> {
        self.blocks.last_key_value().and_then(|(_, block)| block.last())
    }

    /// Returns the number of rows.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Returns the row with this number.
    pub(crate) fn get(&self, seq: u64) -> Option<Archived> {
        self.blocks.range(..=seq).next_back().and_then(|(_, block)| block.get(seq))
    }

    /// Returns all rows.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Archived> {
        self.blocks.values().flat_map(Block::iter)
    }

    /// Returns the rows whose numbers are not lower than this one.
    pub(crate) fn starting_at(&self, seq: u64) -> impl Iterator<Item = Archived> {
        let first = self.blocks.range(..=seq).next_back().map_or(seq, |(bound, _)| *bound);
        self.blocks.range(first..).flat_map(move |(_, block)| block.starting_at(seq))
    }

    /// Adds a row. One with the same number is replaced.
    pub(crate) fn insert(&mut self, row: Archived) {
        let at = self.blocks.range(..=row.seq).next_back().or_else(|| self.blocks.first_key_value());
        let Some(mut bound) = at.map(|(bound, _)| *bound) else {
            self.append(&[row]);
            return;
        };
        if row.seq < bound
            && let Some(first) = self.blocks.remove(&bound)
        {
            // It comes before all others.
            self.blocks.insert(row.seq, first);
            bound = row.seq;
        }
        let is_last = self.blocks.last_key_value().is_some_and(|(last, _)| *last == bound);
        let Some(block) = self.blocks.get_mut(&bound) else { return };
        match block.find(row.seq) {
            Ok(place) => {
                block.remove(place);
                block.insert(place, &row);
            }
            Err(place) if block.len() < BLOCK => {
                block.insert(place, &row);
                self.len += 1;
            }
            // Most rows come at the end, which leaves full blocks behind.
            Err(BLOCK) if is_last => self.append(&[row]),
            Err(place) => {
                let mut rows = self.take_block(bound);
                rows.insert(place, row);
                let (before, after) = rows.split_at(BLOCK / 2);
                self.append(before);
                self.append(after);
            }
        }
    }

    /// Removes a block and returns its rows.
    fn take_block(&mut self, bound: u64) -> Vec<Archived> {
        let rows: Vec<Archived> = self.blocks.remove(&bound).iter().flat_map(Block::iter).collect();
        self.len -= rows.len();
        rows
    }

    /// Removes and returns the row with this number.
    pub(crate) fn remove(&mut self, seq: u64) -> Option<Archived> {
        let (bound, block) = self.blocks.range_mut(..=seq).next_back()?;
        let place = block.find(seq).ok()?;
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
    fn merge(&mut self, bound: u64) {
        let after = self.blocks.range((Bound::Excluded(bound), Bound::Unbounded)).next().map(|(bound, _)| *bound);
        let before = self.blocks.range(..bound).next_back().map(|(bound, _)| *bound);
        for (first, second) in [(Some(bound), after), (before, Some(bound))] {
            let (Some(first), Some(second)) = (first, second) else { continue };
            if self.blocks[&first].len() + self.blocks[&second].len() > BLOCK / 2 {
                continue;
            }
            let mut rows = self.take_block(first);
            rows.extend(self.take_block(second));
            self.append(&rows);
            return;
        }
        if let Some(block) = self.blocks.get_mut(&bound) {
            block.move_if_larger(BLOCK / 2);
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
    use proptest::prelude::*;

    use super::*;
    use crate::TaskState;

    fn check(packed: &Packed, expected: &BTreeMap<u64, Archived>) {
        assert!(packed.iter().eq(expected.values().copied()));
        let last = expected.last_key_value().map(|(_, row)| *row);
        assert_eq!((packed.len(), packed.last()), (expected.len(), last));
        let blocks: Vec<_> = packed.blocks.iter().collect();
        for (bound, block) in &blocks {
            assert!((1..=BLOCK).contains(&block.len()) && block.room().iter().all(|room| *room <= BLOCK));
            assert!(block.iter().next().is_some_and(|row| row.seq >= **bound), "a bound");
        }
        let is_above = |bound: u64, block: &Block| block.last().is_some_and(|row| row.seq < bound);
        assert!(blocks.windows(2).all(|pair| is_above(*pair[1].0, pair[0].1)), "a bound");
    }

    /// What is done with rows.
    #[derive(Clone, Copy, Debug)]
    struct Change {
        adds: bool,
        first: u64,
        count: u64,
        step: u64,
        /// How far the rows are from each other.
        far: u64,
        /// Whether some have what most do not have.
        is_rare: bool,
    }

    impl Change {
        /// Returns one of the rows.
        fn row(&self, n: u64) -> Archived {
            let number = self.first + n * self.step;
            let seq = number * (self.far / 2 + 1);
            let row = Archived {
                record: (number ^ 1).wrapping_mul(self.far),
                revision: seq.wrapping_add(self.far),
                expires_at: number % 2 * self.far,
                id: [seq, !seq],
                input: n as u32,
                checksum: self.far as u32,
                bytes: 3,
                passed: 4,
                ..Archived::plain(seq)
            };
            match number % 4 {
                1 if self.is_rare => Archived { parent: 5, root: 6, index: 7, ..row },
                2 if self.is_rare => Archived { epoch: 8, state: TaskState::Cancelled, ..row },
                3 if self.is_rare => Archived { has_children: true, ..row },
                _ => row,
            }
        }
    }

    fn change() -> impl Strategy<Value = Change> {
        let far = prop_oneof![Just(1_u64), Just(u64::from(u32::MAX)), Just(1_u64 << 33), Just(u64::MAX / 10_000)];
        (any::<bool>(), 0..3_000u64, 1..900u64, 1..4u64, far, any::<bool>())
            .prop_map(|(adds, first, count, step, far, is_rare)| Change { adds, first, count, step, far, is_rare })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn rows_are_found_and_sorted_however_they_came(
            changes in prop::collection::vec(change(), 1..12),
            descends in any::<bool>(),
            at in 0..4_000u64,
        ) {
            let (mut packed, mut expected) = (Packed::default(), BTreeMap::new());
            for change in changes {
                for n in 0..change.count {
                    let row = change.row(if descends { change.count - 1 - n } else { n });
                    if change.adds {
                        packed.insert(row);
                        expected.insert(row.seq, row);
                    } else {
                        prop_assert_eq!(packed.remove(row.seq), expected.remove(&row.seq));
                    }
                }
                check(&packed, &expected);
            }
            prop_assert!(packed.starting_at(at).eq(expected.range(at..).map(|(_, row)| *row)));
            prop_assert_eq!(packed.get(at), expected.get(&at).copied());
            prop_assert!(expected.values().all(|row| packed.get(row.seq) == Some(*row)));
            let sorted: Vec<Archived> = expected.values().copied().collect();
            let (first, rest) = sorted.split_at(sorted.len() / 3);
            let mut appended = Packed::default();
            appended.append(first);
            appended.append(rest);
            check(&appended, &expected);
            prop_assert!(appended == packed);
        }
    }

    #[test]
    fn rows_that_come_in_order_fill_their_blocks() {
        let mut packed = Packed::default();
        (0..BLOCK as u64 * 3).for_each(|seq| packed.insert(Archived::plain(seq)));
        assert!(packed.blocks.values().all(|block| block.len() == BLOCK && block.room() == [BLOCK, 0, 0, 0]));
        assert!((0..BLOCK as u64 * 3 - 1).all(|seq| packed.remove(seq).is_some()));
        assert_eq!(packed.blocks.len(), 1);
        assert!(packed.blocks.values().all(|block| block.room()[0] <= BLOCK / 2), "what is left takes little");
    }

    #[test]
    fn a_block_that_is_divided_has_room_for_its_rows_alone() {
        let mut packed = Packed::default();
        let seqs = (0..=BLOCK as u64).filter(|seq| *seq != 100);
        seqs.for_each(|seq| packed.insert(Archived::plain(seq)));
        packed.insert(Archived { parent: 1, root: 1, ..Archived::plain(100) });
        let room: Vec<[usize; 4]> = packed.blocks.values().map(Block::room).collect();
        assert_eq!(room, [[BLOCK / 2, 0, BLOCK / 2, 0], [BLOCK / 2 + 1, 0, 0, 0]]);
    }
}
