//! The log's content in memory: every entry's place on disk, and the newest entries themselves.

use std::collections::VecDeque;

use openraft::entry::RaftEntry;

use super::{
    record::{Record, entry_len},
    segment,
};
use crate::raft::{Entry, LogId, Vote};

/// Maximum bytes of entries kept in memory; older ones are read from disk on request.
pub const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// The place of the frame that contains an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Number of the segment.
    pub segment: u64,
    /// Offset of the frame.
    pub offset: u64,
    /// Length of the frame.
    pub len: usize,
}

struct Slot {
    id: LogId,
    bytes: usize,
    /// `None` until written.
    place: Option<Place>,
    /// `None` once evicted.
    entry: Option<Entry>,
}

/// An entry as found in the index.
pub enum Found {
    /// In memory.
    Here(Entry),
    /// On disk.
    At(LogId, Place),
}

/// The content of the log.
#[derive(Default)]
pub struct Index {
    /// The newest vote.
    pub vote: Option<Vote>,
    /// The newest entry that the library has reported as committed.
    pub committed: Option<LogId>,
    /// The newest entry that was purged.
    pub purged: Option<LogId>,
    slots: VecDeque<Slot>,
    cached: usize,
    /// The entries of the slots before this position are evicted from memory.
    evicted: usize,
}

/// A record that does not follow from those before it.
#[derive(Debug, thiserror::Error)]
pub enum Misfit {
    /// An entry is missing.
    #[error("entry {found} follows entry {after:?}: the entries between are missing")]
    Hole {
        /// The last entry before it.
        after: Option<u64>,
        /// The entry itself.
        found: u64,
    },
}

impl Index {
    /// Returns the newest entry, purged or not.
    pub fn last(&self) -> Option<LogId> {
        self.slots.back().map(|slot| slot.id).or(self.purged)
    }

    /// Returns the number of entries in the log.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Returns the index of the first entry in the log.
    fn first(&self) -> u64 {
        match self.slots.front() {
            Some(slot) => slot.id.index(),
            None => self.purged.map_or(0, |id| id.index() + 1),
        }
    }

    fn position(&self, index: u64) -> Option<usize> {
        let position = usize::try_from(index.checked_sub(self.first())?).ok()?;
        (position < self.slots.len()).then_some(position)
    }

    /// Returns the id of the entry at `index`, if the log has it or if it is the newest purged one.
    pub fn id_at(&self, index: u64) -> Option<LogId> {
        let held = self.position(index).map(|position| self.slots[position].id);
        held.or(self.purged.filter(|purged| purged.index() == index))
    }

    /// Adds an entry, which must follow the last one. An empty log accepts any index, except that an entry replayed
    /// from a segment other than the first must have index 0. `place` is its place on disk, if it is already written.
    pub fn push(&mut self, entry: Entry, place: Option<Place>) -> Result<(), Misfit> {
        let id = entry.log_id();
        let last = self.last().map(|id| id.index());
        let nothing_before = id.index() == 0 || place.is_none_or(|place| place.segment == segment::FIRST);
        let fits = last.map_or(nothing_before, |last| last.checked_add(1) == Some(id.index()));
        if !fits {
            return Err(Misfit::Hole { after: last, found: id.index() });
        }
        let bytes = entry_len(&entry);
        self.cached += bytes;
        self.slots.push_back(Slot { id, bytes, place, entry: Some(entry) });
        self.evict();
        Ok(())
    }

    /// Records where an entry was written. Ignores an entry that was removed or replaced meanwhile.
    pub fn placed(&mut self, id: LogId, place: Place) {
        if let Some(position) = self.position(id.index())
            && self.slots[position].id == id
        {
            self.slots[position].place = Some(place);
        }
    }

    /// Drops the oldest written entries from memory while they exceed [`CACHE_BYTES`].
    pub fn evict(&mut self) {
        while self.cached > CACHE_BYTES && self.evicted < self.slots.len() {
            let slot = &mut self.slots[self.evicted];
            if slot.place.is_none() {
                break;
            }
            if slot.entry.take().is_some() {
                self.cached -= slot.bytes;
            }
            self.evicted += 1;
        }
    }

    /// Removes the entries after `last`.
    pub fn truncate_after(&mut self, last: Option<LogId>) {
        let keep = last.map_or(0, |id| (id.index() + 1).saturating_sub(self.first()) as usize);
        for slot in self.slots.drain(keep.min(self.slots.len())..) {
            if slot.entry.is_some() {
                self.cached -= slot.bytes;
            }
        }
        self.evicted = self.evicted.min(self.slots.len());
    }

    /// Removes the entries up to `upto`, which may be beyond the last (after a snapshot was installed).
    pub fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged.index() >= upto.index()) {
            return;
        }
        let gone = (upto.index() + 1).saturating_sub(self.first()).min(self.slots.len() as u64) as usize;
        for slot in self.slots.drain(..gone) {
            if slot.entry.is_some() {
                self.cached -= slot.bytes;
            }
        }
        self.evicted = self.evicted.saturating_sub(gone);
        self.purged = Some(upto);
    }

    /// Replays a record that was read from disk.
    pub fn replay(&mut self, record: Record, place: Place) -> Result<(), Misfit> {
        match record {
            Record::Start(_) => Ok(()),
            Record::Vote(vote) => {
                self.vote = Some(vote);
                Ok(())
            }
            Record::Committed(id) => {
                self.committed = id;
                Ok(())
            }
            Record::Purged(id) => {
                self.purge(id);
                Ok(())
            }
            Record::TruncatedAfter(id) => {
                self.truncate_after(id);
                Ok(())
            }
            // Entries that were purged before the segment with their successors was started are still in older
            // segments.
            Record::Entry(entry) if self.purged.is_some_and(|p| p.index() >= entry.index()) => Ok(()),
            Record::Entry(entry) => self.push(entry, Some(place)),
        }
    }

    /// Returns the entries from `from` up to but not including `to`, as far as the log has them.
    pub fn range(&self, from: u64, to: u64) -> Vec<Found> {
        let first = self.first();
        let start = from.max(first) - first;
        let end = to.saturating_sub(first).min(self.slots.len() as u64);
        if start >= end {
            return Vec::new();
        }
        self.slots
            .range(start as usize..end as usize)
            .filter_map(|slot| match (&slot.entry, slot.place) {
                (Some(entry), _) => Some(Found::Here(entry.clone())),
                (None, Some(place)) => Some(Found::At(slot.id, place)),
                (None, None) => None,
            })
            .collect()
    }
}
