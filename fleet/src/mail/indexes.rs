//! Indexes of letters, so that no operation has to search them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use super::Letter;
use crate::{FleetMillis, LetterCursor, LetterId, fixed_map::FixedMap};

/// The indexes of letters. They refer to letters by their numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct MailIndexes {
    pub ids: FixedMap<LetterId, u64>,
    /// The letters that wait for each receiver, in their order. No set is empty.
    pub waiting: BTreeMap<Arc<str>, BTreeSet<LetterCursor>>,
    /// Number of letters that wait.
    pub waits: usize,
    /// The bytes that letters store, without replies.
    pub bytes: u64,
    /// The settled letters with a kept reply, oldest first.
    pub replies: BTreeSet<(FleetMillis, u64)>,
    /// The bytes that kept replies count for.
    pub reply_bytes: u64,
}

impl MailIndexes {
    /// Indexes a letter, or its new state after a change.
    pub(crate) fn enter(&mut self, letter: &Letter) {
        self.ids.insert(letter.id, letter.seq);
        self.bytes += letter.stored_bytes();
        if let Some((charge, place)) = letter.kept_reply() {
            self.reply_bytes += charge;
            self.replies.insert(place);
        }
        if letter.is_waiting() {
            self.waits += 1;
            self.waiting.entry(Arc::clone(&letter.receiver)).or_default().insert(letter.cursor());
        }
    }

    /// Removes a letter, or its old state before a change.
    pub(crate) fn leave(&mut self, letter: &Letter) {
        self.ids.remove(&letter.id);
        self.bytes -= letter.stored_bytes();
        if let Some((charge, place)) = letter.kept_reply() {
            self.reply_bytes -= charge;
            self.replies.remove(&place);
        }
        if letter.is_waiting() {
            self.waits -= 1;
            if let Entry::Occupied(mut waiting) = self.waiting.entry(Arc::clone(&letter.receiver)) {
                waiting.get_mut().remove(&letter.cursor());
                if waiting.get().is_empty() {
                    waiting.remove();
                }
            }
        }
    }
}
