//! Which letters are sent to an agent next. Pure.
//!
//! So many are sent and not settled at once, which bounds what an agent has to keep. They go in the order in which the
//! state has them: the most urgent ones first, then by posting. A part of the window is kept free for urgent letters, so
//! that they overtake a backlog that the agent is slow to handle.

use std::{collections::BTreeMap, sync::Arc};

use robeing_fleet::{Fleet, Letter, LetterId, limits::DEFAULT_PRIORITY};
use robeing_proto::budget::{MAX_UNANSWERED_LETTER_BYTES, MAX_UNANSWERED_LETTERS, MessageBudget, URGENT_LETTERS_SHARE};

/// Bytes that a letter counts for besides its payload.
const LETTER_BYTES: usize = 1024;

/// The letters that are on their way to one agent.
#[derive(Default)]
pub struct Window {
    /// The letters that were sent and are not settled, with their sizes.
    unanswered: BTreeMap<LetterId, usize>,
    bytes: usize,
}

fn size(letter: &Letter) -> usize {
    letter.payload.len() + LETTER_BYTES
}

impl Window {
    /// Returns the next letters for an agent that fit one message, which are on their way from now on. The work is
    /// bounded by the window.
    pub fn next(&mut self, fleet: &Fleet, agent: &str) -> Vec<Arc<Letter>> {
        self.forget_settled(fleet);
        let (mut next, mut budget) = (Vec::new(), MessageBudget::default());
        for letter in fleet.letters_for(agent, None, 2 * MAX_UNANSWERED_LETTERS) {
            if self.unanswered.contains_key(&letter.id) {
                continue;
            }
            // Those after it wait with it, so that they stay in order.
            if !self.has_room(letter) || !budget.take(size(letter)) {
                break;
            }
            self.unanswered.insert(letter.id, size(letter));
            self.bytes += size(letter);
            next.push(Arc::clone(letter));
        }
        next
    }

    /// Returns the number of letters that are on their way.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.unanswered.len()
    }

    fn forget_settled(&mut self, fleet: &Fleet) {
        self.unanswered.retain(|id, _| fleet.letter(*id).is_some_and(|letter| letter.is_waiting()));
        self.bytes = self.unanswered.values().sum();
    }

    fn has_room(&self, letter: &Letter) -> bool {
        let share = if letter.priority > DEFAULT_PRIORITY { 0 } else { 1 };
        let room = |all: usize| all - share * (all / URGENT_LETTERS_SHARE);
        let fits = self.bytes + size(letter) <= room(MAX_UNANSWERED_LETTER_BYTES);
        self.unanswered.len() < room(MAX_UNANSWERED_LETTERS) && (fits || self.unanswered.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::{Command, LetterAnswer, MailCommand, PostLetter, Stamp, limits::MAX_LETTER_BYTES};

    use super::*;
    use crate::fixture::{fleet_with_letters, post_letter};

    const SHARED: usize = MAX_UNANSWERED_LETTERS - MAX_UNANSWERED_LETTERS / URGENT_LETTERS_SHARE;

    fn settle(fleet: &mut Fleet, id: u128) {
        let settle = MailCommand::Settle { id: LetterId(id), receiver: "b".to_owned(), answer: LetterAnswer::Accepted };
        fleet.apply(Stamp::at(1), Command::Mail(settle), &mut Vec::new());
    }

    fn ids(letters: &[Arc<Letter>]) -> Vec<u128> {
        letters.iter().map(|letter| letter.id.0).collect()
    }

    #[test]
    fn so_many_letters_are_on_their_way_and_the_next_one_follows_when_one_is_settled() {
        let many = (1..=100).map(post_letter);
        let mut fleet = fleet_with_letters(many);
        let mut window = Window::default();
        assert_eq!(ids(&window.next(&fleet, "b")), (1..=SHARED as u128).collect::<Vec<_>>());
        assert_eq!(ids(&window.next(&fleet, "b")), [0; 0], "each is sent once");
        settle(&mut fleet, 7);
        assert_eq!(ids(&window.next(&fleet, "b")), [SHARED as u128 + 1]);
        assert_eq!(ids(&Window::default().next(&fleet, "c")), [0; 0]);
    }

    #[test]
    fn urgent_letters_overtake_a_backlog() {
        let urgent = |id| PostLetter { priority: DEFAULT_PRIORITY + 1, ..post_letter(id) };
        let mut fleet = fleet_with_letters((1..=100).map(post_letter));
        let mut window = Window::default();
        window.next(&fleet, "b");
        for id in 201..=300 {
            fleet.apply(Stamp::at(1), Command::Mail(MailCommand::Post(urgent(id))), &mut Vec::new());
        }
        let kept_free = (MAX_UNANSWERED_LETTERS - SHARED) as u128;
        assert_eq!(ids(&window.next(&fleet, "b")), (201..201 + kept_free).collect::<Vec<_>>());
        assert_eq!(window.len(), MAX_UNANSWERED_LETTERS);
        settle(&mut fleet, 1);
        assert_eq!(ids(&window.next(&fleet, "b")), [201 + kept_free], "the most urgent one of those that wait");
    }

    #[test]
    fn large_letters_go_one_by_one_and_only_so_many_bytes_are_on_their_way() {
        let large = |id| PostLetter { payload: Bytes::from(vec![0; MAX_LETTER_BYTES]), ..post_letter(id) };
        let mut fleet = fleet_with_letters((1..=6).map(large));
        let mut window = Window::default();
        assert_eq!(ids(&window.next(&fleet, "b")), [1]);
        assert_eq!(ids(&window.next(&fleet, "b")), [2]);
        assert_eq!(ids(&window.next(&fleet, "b")), [0; 0], "a third one would exceed three quarters of 4 MiB");
        settle(&mut fleet, 1);
        assert_eq!(ids(&window.next(&fleet, "b")), [3]);
    }
}
