//! Items that are taken out in about the order in which they came. Each has a number, by which it is found wherever it is.

use std::collections::VecDeque;

/// So many places of items that were taken out between others are kept in any case, and beyond it no more than there are
/// items.
const KEPT_GAPS: usize = 32;

/// Items by their numbers, which grow and are never used again.
#[derive(Debug)]
pub(super) struct Numbered<T> {
    /// In the order of the numbers. `None` was taken out between others; neither the first nor the last is `None`.
    items: VecDeque<(u64, Option<T>)>,
    /// How many are `None`.
    gaps: usize,
    next: u64,
}

impl<T> Numbered<T> {
    pub fn new() -> Self {
        Self { items: VecDeque::new(), gaps: 0, next: 0 }
    }

    /// Returns the number of the item that is added next.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// Adds an item, and returns its number.
    pub fn push(&mut self, item: T) -> u64 {
        let number = self.next;
        self.next += 1;
        self.items.push_back((number, Some(item)));
        number
    }

    /// Takes out the item with a number, if it is still there.
    pub fn remove(&mut self, number: u64) -> Option<T> {
        let place = match self.first() {
            Some(first) if first == number => 0,
            _ => self.items.binary_search_by_key(&number, |(of, _)| *of).ok()?,
        };
        let item = self.items.get_mut(place)?.1.take()?;
        self.gaps += 1;
        self.close_gaps();
        Some(item)
    }

    /// Takes out the first item.
    pub fn pop_first(&mut self) -> Option<T> {
        let first = self.first()?;
        self.remove(first)
    }

    /// Returns the number of the first item.
    pub fn first(&self) -> Option<u64> {
        self.items.front().map(|(number, _)| *number)
    }

    /// Returns the number of the last item.
    pub fn last(&self) -> Option<u64> {
        self.items.back().map(|(number, _)| *number)
    }

    /// Returns the items from a number on, with their numbers.
    pub fn since(&self, number: u64) -> impl Iterator<Item = (u64, &T)> {
        let place = self.items.partition_point(|(of, _)| *of < number);
        self.items.range(place..).filter_map(|(number, item)| item.as_ref().map(|item| (*number, item)))
    }

    /// Returns how many items there are.
    pub fn len(&self) -> usize {
        self.items.len() - self.gaps
    }

    fn close_gaps(&mut self) {
        while self.items.front().is_some_and(|(_, item)| item.is_none()) {
            self.items.pop_front();
            self.gaps -= 1;
        }
        while self.items.back().is_some_and(|(_, item)| item.is_none()) {
            self.items.pop_back();
            self.gaps -= 1;
        }
        if self.gaps > self.len() + KEPT_GAPS {
            self.items.retain(|(_, item)| item.is_some());
            self.gaps = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(items: &Numbered<u64>) -> Vec<u64> {
        items.since(0).map(|(number, _)| number).collect()
    }

    #[test]
    fn an_item_is_found_by_its_number_whatever_was_taken_out() {
        let mut items = Numbered::new();
        assert_eq!((items.pop_first(), items.first(), items.last()), (None, None, None));
        for n in 0..6 {
            assert_eq!(items.push(n), n);
        }
        assert_eq!((items.remove(3), items.remove(3), items.remove(9)), (Some(3), None, None));
        assert_eq!(
            (items.remove(5), items.last(), items.remove(4), items.last()),
            (Some(5), Some(4), Some(4), Some(2))
        );
        assert_eq!((items.pop_first(), items.first(), items.len()), (Some(0), Some(1), 2));
        assert_eq!(items.push(6), 6);
        assert_eq!(numbers(&items), [1, 2, 6]);
        assert_eq!(items.since(2).map(|(_, item)| *item).collect::<Vec<_>>(), [2, 6]);
        assert_eq!(items.since(7).count(), 0);
        while items.pop_first().is_some() {}
        assert_eq!((items.push(7), items.len()), (7, 1), "no number is used twice");
    }

    #[test]
    fn what_was_taken_out_takes_little_room_while_the_first_stays() {
        let mut items = Numbered::new();
        items.push(0);
        let mut last = items.push(0);
        for n in 1..10_000 {
            let next = items.push(n);
            assert!(items.remove(last).is_some());
            last = next;
            assert!(items.items.len() <= 2 * items.len() + KEPT_GAPS);
            assert_eq!(items.gaps, items.items.iter().filter(|(_, item)| item.is_none()).count());
        }
        assert_eq!(numbers(&items), [0, last]);
    }
}
