//! The letters that an agent has received from the coordinators, and its answers to them. Pure.

use std::collections::{HashMap, HashSet, VecDeque};

use robeing_proto::{
    budget::{MAX_UNANSWERED_LETTER_BYTES, MAX_UNANSWERED_LETTERS, MessageBudget},
    internal::v1::LetterAnswer,
};

use crate::messaging::PacketId;

/// Maximum number of letters that are held: those of an earlier stream, those of the present one, and some that the
/// coordinator has seen expire before this agent has.
pub const MAX_HELD: usize = 4 * MAX_UNANSWERED_LETTERS;
/// Maximum size of the letters that are held, in bytes.
pub const MAX_HELD_BYTES: usize = 4 * MAX_UNANSWERED_LETTER_BYTES;
/// Maximum number of answers that are not written yet. A coordinator that takes none gets no further letters.
pub const MAX_ANSWERS: usize = 2 * MAX_HELD;
/// Maximum size of the answers that are not written yet, in bytes: 16 MiB. Replies beyond it are dropped.
pub const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Bytes that an answer counts for besides its texts.
const ANSWER_BYTES: usize = 64;

/// What an agent does with a letter that has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is new: it has to be delivered.
    New,
    /// It is held already, or its answer is not written yet.
    Known,
    /// The coordinator has sent more than it may, or takes no answers.
    TooMany,
}

/// The letters that are held, and the answers that are not written yet.
#[derive(Debug, Default)]
pub struct Held {
    /// The letters that are not answered, with their sizes.
    letters: HashMap<PacketId, usize>,
    bytes: usize,
    answers: VecDeque<(PacketId, LetterAnswer)>,
    answered: HashSet<PacketId>,
    answer_bytes: usize,
}

impl Held {
    /// Takes a letter of this size, in bytes.
    pub fn take(&mut self, id: PacketId, size: usize) -> Taken {
        if self.letters.contains_key(&id) || self.answered.contains(&id) {
            return Taken::Known;
        }
        let fits = self.letters.is_empty() || self.bytes + size <= MAX_HELD_BYTES;
        if self.letters.len() >= MAX_HELD || self.answered.len() >= MAX_ANSWERS || !fits {
            return Taken::TooMany;
        }
        self.letters.insert(id, size);
        self.bytes += size;
        Taken::New
    }

    /// Adds the answer to a letter, which is kept until it is written.
    pub fn answer(&mut self, id: PacketId, mut answer: LetterAnswer) {
        self.drop(id);
        if self.answer_bytes + size(&answer) > MAX_ANSWER_BYTES && answer.reply.take().is_some() {
            answer.reply_dropped = true;
        }
        self.answer_bytes += size(&answer);
        self.answered.insert(id);
        self.answers.push_back((id, answer));
    }

    /// Drops a letter that has expired.
    pub fn drop(&mut self, id: PacketId) {
        self.bytes -= self.letters.remove(&id).unwrap_or(0);
    }

    /// Returns whether there is an answer to write.
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Takes the answers of the next message, as many as fit. Their letters may come again.
    pub fn next_answers(&mut self) -> Vec<LetterAnswer> {
        let (mut next, mut budget) = (Vec::new(), MessageBudget::default());
        while let Some((id, answer)) = self.answers.pop_front() {
            if !budget.take(size(&answer)) {
                self.answers.push_front((id, answer));
                break;
            }
            self.answered.remove(&id);
            self.answer_bytes -= size(&answer);
            next.push(answer);
        }
        next
    }

    /// Returns whether a stream may be opened: it may bring as many letters as there may be without answer.
    pub fn may_open(&self) -> bool {
        self.letters.len() <= MAX_UNANSWERED_LETTERS && self.bytes <= MAX_UNANSWERED_LETTER_BYTES.max(self.largest())
    }

    /// Returns the number of letters that are not answered.
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// Returns whether all letters are answered.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }

    fn largest(&self) -> usize {
        if self.letters.len() == 1 { self.bytes } else { 0 }
    }
}

fn size(answer: &LetterAnswer) -> usize {
    let texts = answer.refused.as_ref().map_or(0, String::len) + answer.reply.as_ref().map_or(0, |reply| reply.len());
    ANSWER_BYTES + texts
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_proto::budget::MESSAGE_BUDGET_BYTES;

    use super::*;

    fn answer(reply: usize) -> LetterAnswer {
        LetterAnswer { reply: Some(Bytes::from(vec![0; reply])), ..LetterAnswer::default() }
    }

    #[test]
    fn a_letter_is_held_until_its_answer_is_written() {
        let mut held = Held::default();
        assert_eq!([held.take(PacketId(1), 9), held.take(PacketId(1), 9)], [Taken::New, Taken::Known]);
        held.answer(PacketId(1), answer(1));
        assert_eq!((held.take(PacketId(1), 9), held.has_answers(), held.is_empty()), (Taken::Known, true, true));
        assert_eq!((held.next_answers().len(), held.has_answers(), held.answer_bytes), (1, false, 0));
        assert_eq!(held.take(PacketId(1), 9), Taken::New, "it may come again");
        held.drop(PacketId(1));
        held.drop(PacketId(1));
        assert_eq!((held.len(), held.bytes), (0, 0));
    }

    #[test]
    fn so_many_letters_are_held_and_one_more_is_too_many() {
        let mut held = Held::default();
        for id in 0..MAX_HELD as u128 {
            assert_eq!(held.may_open(), id <= MAX_UNANSWERED_LETTERS as u128);
            assert_eq!(held.take(PacketId(id), 1), Taken::New);
        }
        assert_eq!(held.take(PacketId(u128::MAX), 1), Taken::TooMany);
        let mut held = Held::default();
        assert_eq!(held.take(PacketId(1), 2 * MAX_HELD_BYTES), Taken::New, "a single one is taken whatever its size");
        assert_eq!(held.take(PacketId(2), 1), Taken::TooMany);
        assert!(held.may_open());
        let mut held = Held::default();
        assert_eq!(held.take(PacketId(1), MAX_UNANSWERED_LETTER_BYTES), Taken::New);
        assert!(held.may_open());
        assert_eq!(held.take(PacketId(2), 1), Taken::New);
        assert!(!held.may_open());
    }

    #[test]
    fn so_many_answers_are_kept_and_of_so_many_bytes() {
        let mut held = Held::default();
        let largest = MAX_ANSWER_BYTES - ANSWER_BYTES;
        for (id, reply) in [(1, largest), (2, 1)] {
            held.answer(PacketId(id), answer(reply));
        }
        let kept: Vec<LetterAnswer> = [held.next_answers(), held.next_answers()].concat();
        let replies: Vec<Option<usize>> = kept.iter().map(|of| of.reply.as_ref().map(|reply| reply.len())).collect();
        assert_eq!((replies, kept[1].reply_dropped), (vec![Some(largest), None], true));
        for id in 0..MAX_ANSWERS as u128 {
            assert_eq!(held.take(PacketId(id), 1), Taken::New);
            held.answer(PacketId(id), answer(0));
        }
        assert!(held.may_open(), "answers wait for a stream");
        assert_eq!(held.take(PacketId(u128::MAX), 1), Taken::TooMany);
    }

    #[test]
    fn answers_go_in_order_in_messages_that_fit() {
        let mut held = Held::default();
        for (id, reply) in [(1, MESSAGE_BUDGET_BYTES / 2), (2, MESSAGE_BUDGET_BYTES / 2), (3, 0)] {
            held.answer(PacketId(id), answer(reply));
        }
        assert_eq!([held.next_answers().len(), held.next_answers().len(), held.next_answers().len()], [1, 2, 0]);
    }
}
