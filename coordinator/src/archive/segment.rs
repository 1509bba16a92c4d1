//! A segment of the archive: a file of frames, one for each record, and what is known of them in memory.
//!
//! A segment is named after the first record that it may have: `0000000000002a00.rec`. A sealed segment has an index
//! beside it: `0000000000002a00.idx`.

use std::path::{Path, PathBuf};

/// The salt of the frames. No file is used for another segment, so it may be the same for all.
pub const SALT: u64 = 0x7265_636f_7264_7331;
const RECORDS: &str = ".rec";
const INDEX: &str = ".idx";
/// What a file that replaces a segment is called before it does.
pub const ASIDE: &str = ".tmp";

/// Returns the path of a segment.
pub fn path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}{RECORDS}"))
}

/// Returns the path of a segment's index.
pub fn index_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}{INDEX}"))
}

/// Returns the path of the file that is to replace a segment.
pub fn aside_path(dir: &Path, first: u64) -> PathBuf {
    dir.join(format!("{first:016x}{RECORDS}{ASIDE}"))
}

/// Returns the first record in the name of a segment.
pub fn first_of(name: &str) -> Option<u64> {
    number(name.strip_suffix(RECORDS)?)
}

/// Returns the first record of its segment in the name of an index.
pub fn first_of_index(name: &str) -> Option<u64> {
    number(name.strip_suffix(INDEX)?)
}

fn number(digits: &str) -> Option<u64> {
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// Where a frame is in its segment, bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    pub offset: u64,
    pub len: usize,
}

/// A record in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its number, from the segment's first one on.
    pub record: u32,
    pub offset: u32,
    /// The length of its frame; 0 if it is not needed any more.
    pub len: u32,
}

/// A segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The records, in ascending order.
    entries: Vec<Entry>,
    /// Bytes of the frames of needed records.
    live: u64,
    /// Where the last frame ends.
    pub end: u64,
    /// Nothing is added any more.
    pub is_sealed: bool,
    /// It could not be written again.
    pub is_given_up: bool,
}

impl Segment {
    /// Adds the next record, which may not be needed any more. Its number, from the first one on, and its place must
    /// fit 32 bits each.
    pub fn push(&mut self, record: u64, place: Place, is_needed: bool) {
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let len = if is_needed { short(place.len as u64) } else { 0 };
        self.entries.push(Entry { record: short(record), offset: short(place.offset), len });
        self.live += u64::from(len);
        self.end = place.offset + place.len as u64;
    }

    /// Takes note that nothing is added any more.
    pub fn seal(&mut self) {
        self.is_sealed = true;
        // Allocators leave what shrinks to half where it is, and its other half is lost.
        self.entries = self.entries.as_slice().to_vec();
    }

    /// Returns how many records there may be in it, with those that were left out.
    pub fn records(&self) -> u64 {
        self.entries.last().map_or(0, |last| u64::from(last.record) + 1)
    }

    /// Returns the needed records.
    pub fn needed(&self) -> impl Iterator<Item = Entry> + '_ {
        self.entries.iter().copied().filter(|entry| entry.len > 0)
    }

    fn find(&self, record: u64) -> Option<usize> {
        let record = u32::try_from(record).ok()?;
        self.entries.binary_search_by_key(&record, |entry| entry.record).ok()
    }

    /// Returns the place of a record that is needed.
    pub fn place(&self, record: u64) -> Option<Place> {
        let entry = self.entries[self.find(record)?];
        (entry.len > 0).then_some(Place { offset: entry.offset.into(), len: entry.len as usize })
    }

    /// Takes note that a record is not needed any more.
    pub fn forget(&mut self, record: u64) {
        if let Some(place) = self.find(record) {
            let entry = &mut self.entries[place];
            self.live -= u64::from(entry.len);
            entry.len = 0;
        }
    }

    /// Takes note of which records are needed of those below a number, which are in ascending order. Returns how many of
    /// these there are. `first` is this segment's first record.
    pub fn keep_only(&mut self, first: u64, needed: &[u64], below: u64) -> usize {
        let mut found = 0;
        // Both are in order, and there may be a million.
        let mut needed = &needed[needed.partition_point(|record| *record < first)..];
        for entry in self.entries.iter_mut().filter(|entry| entry.len > 0) {
            let record = first + u64::from(entry.record);
            let passed = needed.iter().take_while(|needed| **needed < record).count();
            needed = &needed[passed..];
            if needed.first() == Some(&record) {
                found += 1;
            } else if record < below {
                self.live -= u64::from(entry.len);
                entry.len = 0;
            }
        }
        found
    }

    /// Returns whether no record is needed any more.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Returns whether it can be removed.
    pub fn is_unneeded(&self) -> bool {
        self.is_sealed && self.is_empty()
    }

    /// Returns whether it is worth to write it again without the records that are not needed any more, or to remove it.
    pub fn is_sparse(&self) -> bool {
        self.is_unneeded() || self.is_sealed && !self.is_given_up && self.live * 2 < self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_records_of_a_segment_those_that_are_needed_are_kept_whatever_others_are() {
        let mut segment = Segment::default();
        for (place, record) in [0, 2, 3, 7, 9].into_iter().enumerate() {
            segment.push(record, Place { offset: place as u64 * 40, len: 40 }, true);
        }
        // Before the segment, in it, between its records, in a gap of it and after it.
        assert_eq!(segment.keep_only(100, &[5, 100, 101, 103, 104, 106, 200], 108), 2);
        let kept: Vec<u32> = segment.needed().map(|entry| entry.record).collect();
        assert_eq!(kept, [0, 3, 9], "the last one is not below the number");
        assert_eq!(segment.keep_only(100, &[], 108), 0);
        let kept: Vec<u32> = segment.needed().map(|entry| entry.record).collect();
        assert_eq!(kept, [9]);
    }
}
