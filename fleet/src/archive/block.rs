//! A block of rows of archived tasks, by columns: what is the same for nearly all tasks takes no memory, and neither do
//! the upper halves of numbers that are close to each other. So most rows take 48 bytes instead of 80.
//!
//! Invariants:
//! - The rows are in ascending order of their tasks' numbers, which no two share.
//! - A number of a row is that of the origin and what is kept of it beyond that, modulo 2^64: the lower half in `near`,
//!   the upper half in `far`. So there is room for any numbers, and `far` is empty if all are close to the origin.
//! - A [`Rare`] column is empty or has as many values as there are rows.

use super::{Archived, packed::put};
use crate::TaskState;

/// How far a number may be below that of the row that its block was made for until its upper half is kept.
const BELOW: u64 = 1 << 31;

/// The numbers of a row that are close to those of other rows: its task, its record, its revision and its expiry.
type Numbers = [u64; 4];

/// What is kept of each row.
#[derive(Clone, Copy, Debug)]
struct Near {
    /// The lower halves of the numbers beyond the origin.
    numbers: [u32; 4],
    id: [u32; 4],
    input: u32,
    checksum: u32,
    bytes: u32,
    passed: u32,
}

/// A full block of these takes 24 KiB, which allocators do not round up.
const _: () = assert!(size_of::<Near>() == 48);

/// The place of a task in its tree; that of a task without a parent is the default.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Place {
    parent: u32,
    root: u32,
    index: u32,
}

/// How a task ended, and what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct End {
    epoch: u16,
    has_children: bool,
    state: TaskState,
}

/// Most tasks end like this.
impl Default for End {
    fn default() -> Self {
        Self { epoch: 0, has_children: false, state: TaskState::Succeeded }
    }
}

fn lower(number: u64) -> u32 {
    number as u32
}

fn upper(number: u64) -> u32 {
    (number >> 32) as u32
}

fn joined(upper: u32, lower: u32) -> u64 {
    u64::from(upper) << 32 | u64::from(lower)
}

/// Returns the numbers of a row beyond an origin.
fn beyond(row: &Archived, origin: Numbers) -> Numbers {
    let numbers = [row.seq, row.record, row.revision, row.expires_at];
    std::array::from_fn(|n| numbers[n].wrapping_sub(origin[n]))
}

impl Near {
    fn of(row: &Archived, beyond: Numbers) -> Self {
        let Archived { id: [first, second], input, checksum, bytes, passed, .. } = *row;
        let id = [upper(first), lower(first), upper(second), lower(second)];
        Self { numbers: beyond.map(lower), id, input, checksum, bytes, passed }
    }
}

impl Place {
    fn of(row: &Archived) -> Self {
        Self { parent: row.parent, root: row.root, index: row.index }
    }
}

impl End {
    fn of(row: &Archived) -> Self {
        Self { epoch: row.epoch, has_children: row.has_children, state: row.state }
    }
}

/// A column of values that nearly always are the default: while all are, none is kept.
#[derive(Clone, Debug)]
struct Rare<T>(Vec<T>);

impl<T: Copy + Default + PartialEq> Rare<T> {
    /// Returns the column of these rows.
    fn of(rows: &[Archived], value: impl Fn(&Archived) -> T) -> Self {
        let is_needed = rows.iter().any(|row| value(row) != T::default());
        Self(if is_needed { rows.iter().map(value).collect() } else { Vec::new() })
    }

    fn get(&self, place: usize) -> T {
        self.0.get(place).copied().unwrap_or_default()
    }

    /// Adds a value to the column of so many rows.
    fn insert(&mut self, place: usize, value: T, rows: usize) {
        if self.0.is_empty() {
            if value == T::default() {
                return;
            }
            self.0 = vec![T::default(); rows];
        }
        put(&mut self.0, place, value);
    }

    fn remove(&mut self, place: usize) {
        if !self.0.is_empty() {
            self.0.remove(place);
        }
    }
}

/// The rows of a block.
#[derive(Clone, Debug)]
pub(super) struct Block {
    origin: Numbers,
    near: Vec<Near>,
    /// The upper halves of the numbers beyond the origin.
    far: Rare<[u32; 4]>,
    places: Rare<Place>,
    ends: Rare<End>,
}

impl Block {
    /// Returns a block of these sorted rows, which takes as much memory as they need.
    pub(super) fn of(rows: &[Archived]) -> Self {
        let origin = rows.first().map_or([0; 4], |row| beyond(row, [BELOW; 4]));
        Self {
            origin,
            near: rows.iter().map(|row| Near::of(row, beyond(row, origin))).collect(),
            far: Rare::of(rows, |row| beyond(row, origin).map(upper)),
            places: Rare::of(rows, Place::of),
            ends: Rare::of(rows, End::of),
        }
    }

    /// Returns the number of rows.
    pub(super) fn len(&self) -> usize {
        self.near.len()
    }

    /// Returns one of the numbers of the row at this place.
    fn number(&self, place: usize, n: usize) -> u64 {
        let kept = joined(self.far.get(place)[n], self.near[place].numbers[n]);
        self.origin[n].wrapping_add(kept)
    }

    fn seq(&self, place: usize) -> u64 {
        self.number(place, 0)
    }

    /// Returns the row at this place, which there must be.
    fn row(&self, place: usize) -> Archived {
        let [seq, record, revision, expires_at]: Numbers = std::array::from_fn(|n| self.number(place, n));
        let Near { id: [a, b, c, d], input, checksum, bytes, passed, .. } = self.near[place];
        let Place { parent, root, index } = self.places.get(place);
        let End { epoch, has_children, state } = self.ends.get(place);
        Archived {
            seq,
            record,
            revision,
            expires_at,
            id: [joined(a, b), joined(c, d)],
            input,
            checksum,
            bytes,
            passed,
            parent,
            root,
            index,
            epoch,
            has_children,
            state,
        }
    }

    /// Returns the place of the row of the task with this number, or else, as an error, the place that it would have.
    pub(super) fn find(&self, seq: u64) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            let found = self.seq(middle);
            if found == seq {
                return Ok(middle);
            }
            if found < seq {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Err(low)
    }

    /// Returns the row of the task with this number.
    pub(super) fn get(&self, seq: u64) -> Option<Archived> {
        self.find(seq).ok().map(|place| self.row(place))
    }

    /// Returns all rows.
    pub(super) fn iter(&self) -> impl Iterator<Item = Archived> {
        (0..self.len()).map(move |place| self.row(place))
    }

    /// Returns the rows of the tasks whose numbers are not lower than this one.
    pub(super) fn starting_at(&self, seq: u64) -> impl Iterator<Item = Archived> {
        let first = self.find(seq).unwrap_or_else(|place| place);
        (first..self.len()).map(move |place| self.row(place))
    }

    /// Returns the row of the task with the highest number.
    pub(super) fn last(&self) -> Option<Archived> {
        self.len().checked_sub(1).map(|place| self.row(place))
    }

    /// Adds a row to a block of fewer than [`BLOCK`](super::packed::BLOCK), at the place that [`Block::find`] returned
    /// for it.
    pub(super) fn insert(&mut self, place: usize, row: &Archived) {
        let (rows, beyond) = (self.len(), beyond(row, self.origin));
        self.far.insert(place, beyond.map(upper), rows);
        self.places.insert(place, Place::of(row), rows);
        self.ends.insert(place, End::of(row), rows);
        put(&mut self.near, place, Near::of(row, beyond));
    }

    /// Removes and returns the row at this place, which there must be.
    pub(super) fn remove(&mut self, place: usize) -> Archived {
        let row = self.row(place);
        self.near.remove(place);
        self.far.remove(place);
        self.places.remove(place);
        self.ends.remove(place);
        row
    }

    /// Moves the rows to memory of their size if there is room for more than so many. To shrink the columns would not
    /// be enough: see [`move_if_larger`](super::packed::move_if_larger).
    pub(super) fn move_if_larger(&mut self, most: usize) {
        if self.near.capacity() > most {
            *self = Self::of(&self.iter().collect::<Vec<_>>());
        }
    }

    /// Returns for how many rows each column has room.
    #[cfg(test)]
    pub(super) fn room(&self) -> [usize; 4] {
        [self.near.capacity(), self.far.0.capacity(), self.places.0.capacity(), self.ends.0.capacity()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_the_columns_that_they_need() {
        let rows = [Archived::plain(1), Archived::plain(2)];
        assert_eq!(Block::of(&rows).room(), [2, 0, 0, 0]);
        let plain = rows[1];
        let changes: [(Archived, [bool; 3]); 7] = [
            (Archived { record: 1 << 40, ..plain }, [true, false, false]),
            (Archived { parent: 1, ..plain }, [false, true, false]),
            (Archived { root: 1, ..plain }, [false, true, false]),
            (Archived { index: 1, ..plain }, [false, true, false]),
            (Archived { epoch: 1, ..plain }, [false, false, true]),
            (Archived { has_children: true, ..plain }, [false, false, true]),
            (Archived { state: TaskState::Failed, parent: 7, ..plain }, [false, true, true]),
        ];
        for (changed, columns) in changes {
            let mut block = Block::of(&rows);
            assert_eq!(block.remove(1), plain);
            block.insert(1, &changed);
            for block in [&block, &Block::of(&[rows[0], changed])] {
                assert!(block.iter().eq([rows[0], changed]));
                assert_eq!(block.room()[1..].iter().map(|room| *room > 0).collect::<Vec<_>>(), columns, "{changed:?}");
            }
            block.remove(1);
            block.move_if_larger(1);
            assert_eq!(block.room(), [1, 0, 0, 0], "none of them is needed any more");
        }
    }

    #[test]
    fn numbers_up_to_a_distance_take_half_and_no_number_is_too_far() {
        let near = |number: u64| [(number - BELOW, true), (number + BELOW - 1, true)];
        let far = |number: u64| [(number - BELOW - 1, false), (number + BELOW, false), (0, false), (u64::MAX, false)];
        let middle = 1_u64 << 40;
        let of_middle = near(middle).into_iter().chain(far(middle)).map(|(other, is_near)| (middle, other, is_near));
        for (number, other, is_near) in of_middle.chain([(0, u64::MAX, true), (0, BELOW, false), (u64::MAX, 1, true)]) {
            let set: [fn(&mut Archived, u64); 3] = [
                |row, number| row.record = number,
                |row, number| row.revision = number,
                |row, number| row.expires_at = number,
            ];
            for set in set {
                let (mut first, mut second) = (Archived::plain(1), Archived::plain(2));
                set(&mut first, number);
                set(&mut second, other);
                let mut block = Block::of(&[first]);
                block.insert(1, &second);
                for block in [block, Block::of(&[first, second])] {
                    assert!(block.iter().eq([first, second]));
                    assert_eq!(block.room()[1] == 0, is_near, "{number} {other}");
                }
            }
        }
    }

    #[test]
    fn tasks_with_any_numbers_are_found() {
        let middle = 1_u64 << 40;
        let seqs = [0, 1, middle - BELOW - 1, middle - BELOW, middle, middle + BELOW, u64::MAX - 1];
        let mut block = Block::of(&[Archived::plain(middle)]);
        for seq in seqs.into_iter().filter(|seq| *seq != middle) {
            let place = block.find(seq).expect_err("it is not there");
            block.insert(place, &Archived::plain(seq));
        }
        assert!(block.iter().map(|row| row.seq).eq(seqs));
        for (place, seq) in seqs.into_iter().enumerate() {
            assert_eq!((block.find(seq), block.get(seq)), (Ok(place), Some(Archived::plain(seq))));
            assert_eq!(block.starting_at(seq).count(), seqs.len() - place);
        }
        assert_eq!((block.find(2), block.get(2)), (Err(2), None));
        assert_eq!((block.find(u64::MAX), block.last()), (Err(7), Some(Archived::plain(u64::MAX - 1))));
    }
}
