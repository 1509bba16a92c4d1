//! The archived tasks that a snapshot has still to take.

use std::collections::BTreeMap;

use super::{Archive, Archived, packed::Packed};

/// The rows from the number `next` on, of records up to `end`, exclusive: those of later records were made after the
/// beginning of the snapshot, and their tasks are among the tasks that it takes.
#[derive(Debug)]
pub(crate) struct UntakenRows {
    next: u64,
    end: u64,
    /// Those that were forgotten since.
    saved: BTreeMap<u64, Archived>,
}

impl UntakenRows {
    /// Returns that all rows are to be taken.
    pub(crate) fn all(archive: &Archive) -> Self {
        Self { next: 0, end: archive.records, saved: BTreeMap::new() }
    }

    /// Saves a row that was forgotten.
    pub(crate) fn save(&mut self, row: &Archived) {
        if self.next <= row.seq && row.record < self.end {
            self.saved.insert(row.seq, *row);
        }
    }

    /// Takes up to `limit` further rows; fewer mean that these are the last.
    pub(crate) fn take(&mut self, current: &Packed, limit: usize) -> Vec<Archived> {
        let (next, end) = (self.next, self.end);
        let mut current = current.starting_at(next).filter(|row| row.record < end).peekable();
        let mut taken = Vec::with_capacity(limit);
        while taken.len() < limit {
            let kept = current.peek().map(|row| row.seq);
            let is_saved = match self.saved.first_key_value() {
                Some((saved, _)) => kept.is_none_or(|kept| *saved < kept),
                None => false,
            };
            let row = if is_saved { self.saved.pop_first().map(|(_, row)| row) } else { current.next() };
            let Some(row) = row else { break };
            self.next = row.seq + 1;
            taken.push(row);
        }
        taken
    }
}
