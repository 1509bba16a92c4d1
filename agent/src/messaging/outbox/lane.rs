//! The messages of one lane, in the order of their numbers.

use std::{collections::VecDeque, sync::Arc};

use crate::messaging::packet::Packet;

/// Places of messages that have their outcome are cleared once there are this many more of them than of others.
pub const SPARE: usize = 64;

/// A message without outcome.
pub struct Entry<T> {
    /// Shared with the frame that it is written to.
    pub packet: Arc<Packet>,
    pub cost: u64,
    pub deadline: u64,
    pub was_sent: bool,
    /// What the caller keeps with the message.
    pub kept: T,
}

/// The messages of one priority.
pub struct Lane<T> {
    /// The messages by their numbers, in ascending order. Those that have their outcome are empty.
    pub places: VecDeque<(u64, Option<Entry<T>>)>,
    /// Number of messages without outcome.
    pub len: usize,
    pub bytes: u64,
    /// The number of the latest message.
    pub latest: u64,
    /// Messages up to this number were written to the current stream.
    pub written: u64,
    /// Cost written to the current stream, and the receiver's limit for it.
    pub spent: u64,
    pub limit: u64,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { places: VecDeque::new(), len: 0, bytes: 0, latest: 0, written: 0, spent: 0, limit: 0 }
    }
}

impl<T> Lane<T> {
    /// Returns the index of the first place whose number is not less.
    fn index(&self, seq: u64) -> usize {
        let Some((first, _)) = self.places.front() else { return 0 };
        // Mostly no number is missing.
        let likely = usize::try_from(seq.saturating_sub(*first)).unwrap_or(usize::MAX);
        match self.places.get(likely) {
            Some((found, _)) if *found == seq => likely,
            _ => self.places.partition_point(|(found, _)| *found < seq),
        }
    }

    pub fn get(&self, seq: u64) -> Option<&Entry<T>> {
        self.places.get(self.index(seq)).filter(|(found, _)| *found == seq)?.1.as_ref()
    }

    pub fn get_mut(&mut self, seq: u64) -> Option<&mut Entry<T>> {
        let index = self.index(seq);
        self.places.get_mut(index).filter(|(found, _)| *found == seq)?.1.as_mut()
    }

    /// Removes a message. Its place is cleared if it is the first, or too many are empty.
    pub fn remove(&mut self, seq: u64) -> Option<Entry<T>> {
        let index = self.index(seq);
        let entry = self.places.get_mut(index).filter(|(found, _)| *found == seq)?.1.take()?;
        self.len -= 1;
        self.bytes -= entry.cost;
        while self.places.front().is_some_and(|(_, entry)| entry.is_none()) {
            self.places.pop_front();
        }
        if self.places.len() > 2 * self.len + SPARE {
            self.places.retain(|(_, entry)| entry.is_some());
        }
        Some(entry)
    }

    /// Returns the number of the next message to write, if the receiver has granted enough for it.
    pub fn next(&self) -> Option<u64> {
        if self.len == 0 || self.written == self.latest {
            return None;
        }
        let mut places = self.places.range(self.index(self.written + 1)..);
        let (seq, entry) = places.find_map(|(seq, entry)| Some((*seq, entry.as_ref()?)))?;
        (self.spent + entry.cost <= self.limit).then_some(seq)
    }
}
