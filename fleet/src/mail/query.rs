//! Queries about durable messages.

use std::{ops::Bound, sync::Arc};

use super::Letter;
use crate::{Fleet, LetterId};

/// A place among the letters of a receiver: the most urgent ones first, then by posting. Those of one sender come so.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LetterCursor {
    /// How far the priority is below the highest one.
    pub(crate) rank: u8,
    /// The letter's number.
    pub(crate) seq: u64,
}

/// Number of letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MailCounts {
    /// Letters that wait for their receivers.
    pub waiting: u32,
    /// Letters whose outcome is still kept.
    pub settled: u32,
    /// The bytes that count against [`MAX_MAIL_BYTES`](crate::limits::MAX_MAIL_BYTES).
    pub bytes: u64,
    /// The bytes that count against [`MAX_REPLIES_BYTES`](crate::limits::MAX_REPLIES_BYTES).
    pub reply_bytes: u64,
}

impl Fleet {
    /// Returns a letter, or `None` if it never existed or was forgotten. A clone of the `Arc` keeps it as it is now.
    pub fn letter(&self, id: LetterId) -> Option<&Arc<Letter>> {
        self.state.mail.letters.get(*self.indexes.mail.ids.get(&id)?)
    }

    /// Returns the first letter of each sender that waits for a receiver, in the receiver's order. There may be
    /// [`MAX_WAITING_FOR_ONE`](crate::limits::MAX_WAITING_FOR_ONE) of them, so take few.
    pub fn first_letters_for(&self, receiver: &str) -> impl Iterator<Item = &Arc<Letter>> {
        let waiting = self.indexes.mail.waiting.get(receiver);
        let firsts = waiting.into_iter().flat_map(|waiting| &waiting.firsts);
        firsts.filter_map(move |cursor| self.state.mail.letters.get(cursor.seq))
    }

    /// Returns the letters of one sender that wait for a receiver, in the receiver's order, after the letter with the
    /// cursor `after`, which may be settled meanwhile. Take few, as of [`Fleet::first_letters_for`].
    pub fn letters_from(
        &self,
        sender: &str,
        receiver: &str,
        after: Option<LetterCursor>,
    ) -> impl Iterator<Item = &Arc<Letter>> {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let of_sender = self.indexes.mail.waiting.get(receiver).and_then(|waiting| waiting.senders.get(sender));
        let cursors = of_sender.into_iter().flat_map(move |of_sender| of_sender.range((start, Bound::Unbounded)));
        cursors.filter_map(move |cursor| self.state.mail.letters.get(cursor.seq))
    }

    /// Returns how many letters wait for a receiver.
    pub fn letters_waiting_for(&self, receiver: &str) -> usize {
        self.indexes.mail.waiting.get(receiver).map_or(0, |waiting| waiting.count)
    }

    /// Returns the numbers of letters.
    pub fn mail_counts(&self) -> MailCounts {
        let (all, waits) = (self.state.mail.letters.len(), self.indexes.mail.waits);
        let (bytes, reply_bytes) = (self.indexes.mail.bytes, self.indexes.mail.reply_bytes);
        MailCounts { waiting: waits as u32, settled: (all - waits) as u32, bytes, reply_bytes }
    }
}
