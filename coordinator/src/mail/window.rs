//! Which letters are sent to an agent next. Pure.
//!
//! So many are sent and not settled at once, which bounds what an agent has to keep. The most urgent ones go first; among
//! those of one priority, those of senders that have the fewest under way; then by posting. So a sender's letters of one
//! priority stay in order. A part of the window is kept free for urgent letters, so that they overtake a backlog that the
//! agent is slow to handle, and a part for senders that have few letters under way, so that one sender's backlog does not
//! hold up the others.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::Peekable,
    sync::Arc,
};

use robeing_fleet::{
    Fleet, Letter, LetterId,
    limits::{DEFAULT_PRIORITY, MAX_PRIORITY},
};
use robeing_proto::budget::{MAX_UNANSWERED_LETTER_BYTES, MAX_UNANSWERED_LETTERS, MessageBudget, URGENT_LETTERS_SHARE};

/// Bytes that a letter counts for besides its payload.
const LETTER_BYTES: usize = 1024;
/// Letters of one sender that may be under way at once, urgent ones and others apart. It may have more while less than
/// half of the window is taken.
pub const SENDER_SHARE: usize = 8;

/// A letter that was sent and is not settled.
struct Sent {
    sender: Arc<str>,
    size: usize,
    is_urgent: bool,
}

/// The letters that are on their way to one agent.
#[derive(Default)]
pub struct Window {
    unanswered: BTreeMap<LetterId, Sent>,
    senders: BTreeMap<Arc<str>, Share>,
    bytes: usize,
}

/// What one sender has under way.
#[derive(Default)]
struct Share {
    urgent: usize,
    others: usize,
    bytes: usize,
}

impl Share {
    fn count(&self) -> usize {
        self.urgent + self.others
    }

    /// Returns the number of letters like one that is urgent or not.
    fn of(&mut self, is_urgent: bool) -> &mut usize {
        if is_urgent { &mut self.urgent } else { &mut self.others }
    }
}

fn size(letter: &Letter) -> usize {
    letter.payload.len() + LETTER_BYTES
}

fn is_urgent(letter: &Letter) -> bool {
    letter.priority > DEFAULT_PRIORITY
}

/// Returns what of a window, of `all` letters or bytes, letters may take.
fn room(all: usize, is_urgent: bool) -> usize {
    if is_urgent { all } else { all - all / URGENT_LETTERS_SHARE }
}

/// The place of a letter among those that could be sent next: how far its priority is below the highest, how many letters
/// its sender has under way, and its number.
type Turn = (u8, usize, u64);

fn turn(letter: &Letter, under_way: usize) -> Turn {
    (MAX_PRIORITY.saturating_sub(letter.priority), under_way, letter.seq)
}

/// The letters that could be sent next: of each sender the first one that is not under way.
struct Candidates<'a, I: Iterator<Item = &'a Arc<Letter>>> {
    /// Those of senders that had nothing under way, which may be many.
    idle: Peekable<I>,
    /// Those of the others, of which there are no more than letters under way.
    busy: BTreeMap<Turn, &'a Arc<Letter>>,
}

impl<'a, I: Iterator<Item = &'a Arc<Letter>>> Candidates<'a, I> {
    fn next(&mut self) -> Option<&'a Arc<Letter>> {
        let idle = self.idle.peek().map(|letter| turn(letter, 0));
        match (idle, self.busy.first_key_value().map(|(turn, _)| *turn)) {
            (Some(idle), busy) if busy.is_none_or(|busy| idle < busy) => self.idle.next(),
            _ => self.busy.pop_first().map(|(_, letter)| letter),
        }
    }
}

impl Window {
    /// Returns the next letters for an agent that fit one message, which are on their way from now on. The work is
    /// bounded by the window, however many letters and senders wait.
    pub fn next(&mut self, fleet: &Fleet, agent: &str) -> Vec<Arc<Letter>> {
        self.forget_settled(fleet);
        // As it is before anything is added.
        let known: BTreeSet<Arc<str>> = self.senders.keys().cloned().collect();
        let idle = fleet.first_letters_for(agent).filter(|letter| !known.contains(letter.sender.as_str()));
        let mut candidates = Candidates { idle: idle.peekable(), busy: BTreeMap::new() };
        for sender in &known {
            candidates.busy.extend(self.after(fleet, agent, sender, None));
        }
        let (mut next, mut budget) = (Vec::new(), MessageBudget::default());
        while let Some(letter) = candidates.next() {
            // Those after it wait with it, so that a large one gets its turn.
            if !self.has_room(letter) {
                break;
            }
            // Those of its sender wait with it, so that they stay in order.
            if self.is_at_its_share(letter) {
                continue;
            }
            if !budget.take(size(letter)) {
                break;
            }
            self.add(letter);
            next.push(Arc::clone(letter));
            candidates.busy.extend(self.after(fleet, agent, &letter.sender, Some(letter)));
        }
        next
    }

    /// Returns the number of letters that are on their way.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.unanswered.len()
    }

    /// Returns the first letter of a sender that is not under way, after the given one, with its place.
    fn after<'a>(
        &self,
        fleet: &'a Fleet,
        agent: &'a str,
        sender: &'a str,
        letter: Option<&Letter>,
    ) -> Option<(Turn, &'a Arc<Letter>)> {
        let mut waiting = fleet.letters_from(sender, agent, letter.map(Letter::cursor));
        let next = waiting.find(|letter| !self.unanswered.contains_key(&letter.id))?;
        Some((turn(next, self.senders.get(sender).map_or(0, Share::count)), next))
    }

    fn add(&mut self, letter: &Letter) {
        let (sender, is_urgent): (Arc<str>, _) = (letter.sender.as_str().into(), is_urgent(letter));
        let share = self.senders.entry(Arc::clone(&sender)).or_default();
        *share.of(is_urgent) += 1;
        share.bytes += size(letter);
        self.bytes += size(letter);
        self.unanswered.insert(letter.id, Sent { sender, size: size(letter), is_urgent });
    }

    fn forget_settled(&mut self, fleet: &Fleet) {
        let Self { unanswered, senders, bytes } = self;
        unanswered.retain(|id, sent| {
            let waits = fleet.letter(*id).is_some_and(|letter| letter.is_waiting());
            if !waits && let Some(share) = senders.get_mut(&sent.sender) {
                *share.of(sent.is_urgent) -= 1;
                share.bytes -= sent.size;
                *bytes -= sent.size;
            }
            waits
        });
        senders.retain(|_, share| share.count() > 0);
    }

    fn has_room(&self, letter: &Letter) -> bool {
        let urgent = is_urgent(letter);
        let fits = self.bytes + size(letter) <= room(MAX_UNANSWERED_LETTER_BYTES, urgent);
        self.unanswered.len() < room(MAX_UNANSWERED_LETTERS, urgent) && (fits || self.unanswered.is_empty())
    }

    /// Returns whether a letter's sender has as much under way as one sender may have. What it may have in bytes leaves a
    /// quarter of the room to others.
    fn is_at_its_share(&self, letter: &Letter) -> bool {
        let urgent = is_urgent(letter);
        let Some(share) = self.senders.get(letter.sender.as_str()) else { return false };
        let count = if urgent { share.urgent } else { share.others };
        let is_half_taken = self.unanswered.len() >= room(MAX_UNANSWERED_LETTERS, urgent) / 2;
        let most_bytes = room(MAX_UNANSWERED_LETTER_BYTES, urgent) / 4 * 3;
        (count >= SENDER_SHARE && is_half_taken) || share.bytes + size(letter) > most_bytes
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::{Command, LetterAnswer, MailCommand, PostLetter, Stamp, limits::MAX_LETTER_BYTES};

    use super::*;
    use crate::fixture::{fleet_with_letters, post_letter};

    const SHARED: usize = MAX_UNANSWERED_LETTERS - MAX_UNANSWERED_LETTERS / URGENT_LETTERS_SHARE;
    /// What a sender may have under way if nobody else has anything.
    const ALONE: usize = SHARED / 2;

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
        assert_eq!(ids(&window.next(&fleet, "b")), (1..=ALONE as u128).collect::<Vec<_>>());
        assert_eq!(ids(&window.next(&fleet, "b")), [0; 0], "each is sent once");
        settle(&mut fleet, 7);
        assert_eq!(ids(&window.next(&fleet, "b")), [ALONE as u128 + 1]);
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
        let share = SENDER_SHARE as u128;
        assert_eq!(ids(&window.next(&fleet, "b")), (201..201 + share).collect::<Vec<_>>());
        assert_eq!(window.len(), MAX_UNANSWERED_LETTERS / 2);
        settle(&mut fleet, 1);
        assert_eq!(ids(&window.next(&fleet, "b")), [201 + share], "the most urgent one of those that wait");
    }

    #[test]
    fn urgent_letters_of_many_senders_take_what_is_kept_free_for_them() {
        let of = |id: u128, priority| PostLetter { sender: format!("s-{}", id % 20), priority, ..post_letter(id) };
        let mut fleet = fleet_with_letters((1..=200).map(|id| of(id, DEFAULT_PRIORITY)));
        let mut window = Window::default();
        assert_eq!(window.next(&fleet, "b").len(), SHARED);
        for id in 201..=400 {
            fleet.apply(Stamp::at(1), Command::Mail(MailCommand::Post(of(id, DEFAULT_PRIORITY + 1))), &mut Vec::new());
        }
        let urgent = window.next(&fleet, "b");
        assert!(urgent.iter().all(|letter| letter.priority > DEFAULT_PRIORITY));
        assert_eq!((urgent.len(), window.len()), (MAX_UNANSWERED_LETTERS - SHARED, MAX_UNANSWERED_LETTERS));
    }

    fn from(sender: &str, id: u128) -> PostLetter {
        PostLetter { sender: sender.to_owned(), ..post_letter(id) }
    }

    fn post(fleet: &mut Fleet, letter: PostLetter) {
        fleet.apply(Stamp::at(1), Command::Mail(MailCommand::Post(letter)), &mut Vec::new());
    }

    #[test]
    fn the_backlog_of_one_sender_holds_up_no_other_and_each_stays_in_order() {
        let mut fleet = fleet_with_letters((1..=5_000).map(post_letter));
        let mut window = Window::default();
        assert_eq!(window.next(&fleet, "b").len(), ALONE);
        for id in 1..=3 {
            post(&mut fleet, from("c", 10_000 + id));
            assert_eq!(ids(&window.next(&fleet, "b")), [10_000 + id], "at once");
        }
        // The first one gets no more than its share while others need the room.
        for id in 1..=2_000 {
            post(&mut fleet, from(&format!("s-{}", id % 100), 20_000 + id));
        }
        let others = ids(&window.next(&fleet, "b"));
        assert_eq!(others, (20_001..20_001 + (SHARED - ALONE - 3) as u128).collect::<Vec<_>>(), "one of each");
        for settled in 1..ALONE as u128 {
            settle(&mut fleet, settled);
            let next = ids(&window.next(&fleet, "b"));
            assert!(next.len() == 1 && next[0] > 20_000, "after {settled}: {next:?}");
        }
        settle(&mut fleet, ALONE as u128);
        assert_eq!(ids(&window.next(&fleet, "b")), [ALONE as u128 + 1], "it has no less than others, either");
    }

    #[test]
    fn the_large_letters_of_one_sender_leave_room_for_those_of_others_and_take_turns_with_them() {
        let large = |sender, id| PostLetter { payload: Bytes::from(vec![0; MAX_LETTER_BYTES]), ..from(sender, id) };
        let mut fleet = fleet_with_letters((1..=6).map(|id| large("a", id)));
        let mut window = Window::default();
        let mut next = |fleet: &Fleet| ids(&window.next(fleet, "b"));
        assert_eq!((next(&fleet), next(&fleet), next(&fleet)), (vec![1], vec![2], vec![]));
        post(&mut fleet, from("c", 7));
        assert_eq!(next(&fleet), [7]);
        post(&mut fleet, large("d", 8));
        assert_eq!(next(&fleet), [0; 0], "there is no room for it yet");
        settle(&mut fleet, 1);
        assert_eq!(next(&fleet), [8], "it goes before the third one of the first sender");
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
