//! Indexes of letters, so that no operation has to search them.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use super::Letter;
use crate::{FleetMillis, LetterCursor, LetterId, fixed_map::FixedMap};

/// The letters that wait for one receiver, each by its place in the receiver's order.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct WaitingLetters {
    /// Number of letters.
    pub count: usize,
    /// Those of each sender. No set is empty.
    pub senders: BTreeMap<Arc<str>, BTreeSet<LetterCursor>>,
    /// The first one of each sender.
    pub firsts: BTreeSet<LetterCursor>,
}

impl WaitingLetters {
    fn add(&mut self, letter: &Letter) {
        let cursor = letter.cursor();
        self.count += 1;
        match self.senders.get_mut(letter.sender.as_str()) {
            Some(of_sender) => {
                let first = of_sender.first().copied();
                of_sender.insert(cursor);
                if let Some(first) = first.filter(|first| cursor < *first) {
                    self.firsts.remove(&first);
                    self.firsts.insert(cursor);
                }
            }
            None => {
                self.senders.insert(letter.sender.as_str().into(), BTreeSet::from([cursor]));
                self.firsts.insert(cursor);
            }
        }
    }

    fn remove(&mut self, letter: &Letter) {
        let cursor = letter.cursor();
        self.count -= 1;
        let Some(of_sender) = self.senders.get_mut(letter.sender.as_str()) else { return };
        of_sender.remove(&cursor);
        let next = of_sender.first().copied();
        if self.firsts.remove(&cursor) {
            self.firsts.extend(next);
        }
        if next.is_none() {
            self.senders.remove(letter.sender.as_str());
        }
    }
}

/// The indexes of letters. They refer to letters by their numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct MailIndexes {
    pub ids: FixedMap<LetterId, u64>,
    /// The letters that wait for each receiver. There are some for each that is here.
    pub waiting: BTreeMap<Arc<str>, WaitingLetters>,
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
            self.waiting.entry(Arc::clone(&letter.receiver)).or_default().add(letter);
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
                waiting.get_mut().remove(letter);
                if waiting.get().count == 0 {
                    waiting.remove();
                }
            }
        }
    }
}
