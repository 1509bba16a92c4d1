//! Which letters are delivered at once. Pure.
//!
//! The letters of one sender in one priority are a row: they are handled in order. The agent's inbox takes a limited
//! cost of a row, and a letter beyond it would be put off, and handled behind letters that were sent after it. So no more
//! of a row is delivered at once than the inbox takes, and the rest waits here.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use crate::messaging::{Packet, Priority, inbox::LANE_WINDOW};

/// The letters of a row that are delivered at once have at most this cost together, in bytes: what the inbox takes.
pub const ROW_COST: u64 = LANE_WINDOW;

/// A letter, and when it expires.
pub type Due = (Packet, Instant);

/// The place of a letter that is being delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    row: (Arc<str>, Priority),
    cost: u64,
}

impl Place {
    /// Returns the place of a letter.
    pub fn of(letter: &Packet) -> Self {
        Self { row: (Arc::clone(&letter.sender), letter.priority), cost: letter.cost() }
    }
}

#[derive(Debug, Default)]
struct Row {
    /// The cost of the letters that are being delivered.
    cost: u64,
    waiting: VecDeque<Due>,
}

impl Row {
    /// Takes the next letter, if it may be delivered now.
    fn next(&mut self) -> Option<Due> {
        let cost = self.waiting.front()?.0.cost();
        if self.cost > 0 && self.cost + cost > ROW_COST {
            return None;
        }
        self.cost += cost;
        self.waiting.pop_front()
    }
}

/// The rows of the letters that are held.
#[derive(Debug, Default)]
pub struct Rows(HashMap<(Arc<str>, Priority), Row>);

impl Rows {
    /// Adds a letter. Returns it if it may be delivered now.
    pub fn add(&mut self, letter: Due) -> Option<Due> {
        let row = self.0.entry(Place::of(&letter.0).row).or_default();
        row.waiting.push_back(letter);
        row.next()
    }

    /// Records that the delivery at this place has ended. Returns the letters that may be delivered now.
    pub fn ended(&mut self, place: &Place) -> Vec<Due> {
        let Some(row) = self.0.get_mut(&place.row) else { return Vec::new() };
        row.cost = row.cost.saturating_sub(place.cost);
        let next = std::iter::from_fn(|| row.next()).collect();
        if row.cost == 0 && row.waiting.is_empty() {
            self.0.remove(&place.row);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::{packet::MAX_PAYLOAD, tests::fixture::packet};

    fn letter(id: u128, sender: &str, payload: usize) -> Due {
        let payload = vec![0; payload].into();
        (Packet { sender: sender.into(), payload, ..packet(id) }, Instant::now())
    }

    fn ids(letters: impl IntoIterator<Item = Due>) -> Vec<u128> {
        letters.into_iter().map(|(letter, _)| letter.id.0).collect()
    }

    #[test]
    fn letters_that_fit_are_delivered_at_once_and_the_others_of_their_row_in_order() {
        let mut rows = Rows::default();
        let large = |id| letter(id, "a", MAX_PAYLOAD);
        assert_eq!(ids(rows.add(large(1))), [1]);
        assert_eq!(ids(rows.add(large(2))), [0; 0], "the inbox would not take it");
        assert_eq!(ids(rows.add(letter(3, "a", 1))), [0; 0], "it would overtake another one");
        assert_eq!(ids(rows.add(letter(4, "b", 1))), [4], "another row");
        assert_eq!(ids(rows.ended(&Place::of(&large(1).0))), [2, 3]);
        rows.ended(&Place::of(&large(2).0));
        rows.ended(&Place::of(&letter(3, "a", 1).0));
        rows.ended(&Place::of(&letter(4, "b", 1).0));
        assert!(rows.0.is_empty());
    }

    #[test]
    fn a_row_is_full_at_its_limit() {
        let cost = letter(1, "a", 0).0.cost();
        for (room, fits) in [(cost, true), (cost - 1, false)] {
            let mut rows = Rows::default();
            let first = (ROW_COST - room - cost) as usize;
            assert!(rows.add(letter(1, "a", first)).is_some());
            assert_eq!(rows.add(letter(2, "a", 0)).is_some(), fits, "{room} bytes are left");
        }
    }
}
