//! What is remembered of a limited number of messages, the newest ones.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    sync::Arc,
};

use crate::messaging::packet::PacketId;

/// Maximum number of messages of which something is remembered.
pub const MAX_FIRSTS: usize = 16_384;

/// A message: the name of its sender, or of the peer that stands for that, and its id.
pub(super) type Key = (Arc<str>, PacketId);

/// Something about each of at most [`MAX_FIRSTS`] messages.
pub(super) struct Firsts<K, T> {
    /// With the number under which it is in the order.
    known: HashMap<K, (u64, T)>,
    /// The oldest first. Some may be taken out already.
    order: VecDeque<(u64, K)>,
    latest: u64,
}

impl<K, T> Default for Firsts<K, T> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new(), latest: 0 }
    }
}

impl<K: Clone + Eq + Hash, T> Firsts<K, T> {
    /// Remembers something about a message, in the place of what was known of it. The oldest message is forgotten if there
    /// are too many.
    pub fn note(&mut self, key: &K, what: T) {
        if let Some((_, known)) = self.known.get_mut(key) {
            *known = what;
            return;
        }
        self.latest += 1;
        self.known.insert(key.clone(), (self.latest, what));
        self.order.push_back((self.latest, key.clone()));
        if self.order.len() > MAX_FIRSTS
            && let Some((number, oldest)) = self.order.pop_front()
            && self.known.get(&oldest).is_some_and(|(known, _)| *known == number)
        {
            self.known.remove(&oldest);
        }
    }

    /// Returns what is remembered about a message.
    pub fn get(&self, key: &K) -> Option<&T> {
        self.known.get(key).map(|(_, what)| what)
    }

    /// Forgets a message. Returns what was remembered about it.
    pub fn take(&mut self, key: &K) -> Option<T> {
        self.known.remove(key).map(|(_, what)| what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: usize) -> Key {
        ("client:x".into(), PacketId(id as u128))
    }

    #[test]
    fn of_so_many_messages_something_is_remembered_and_of_each_the_latest() {
        let mut firsts = Firsts::default();
        for id in 0..MAX_FIRSTS {
            firsts.note(&key(id), Some(1));
            firsts.note(&key(id), Some(2));
        }
        assert_eq!((firsts.known.len(), firsts.order.len()), (MAX_FIRSTS, MAX_FIRSTS));
        assert_eq!(firsts.get(&key(0)), Some(&Some(2)));
        firsts.note(&key(MAX_FIRSTS), None);
        assert_eq!((firsts.known.len(), firsts.order.len()), (MAX_FIRSTS, MAX_FIRSTS));
        assert_eq!(firsts.get(&key(0)), None);
        assert_eq!(firsts.get(&key(MAX_FIRSTS)), Some(&None));
    }

    #[test]
    fn what_was_taken_out_takes_up_no_room_and_is_remembered_anew() {
        let mut firsts = Firsts::default();
        firsts.note(&key(0), 1);
        assert_eq!((firsts.take(&key(0)), firsts.take(&key(0)), firsts.get(&key(0))), (Some(1), None, None));
        firsts.note(&key(0), 2);
        (1..MAX_FIRSTS).for_each(|id| firsts.note(&key(id), 3));
        assert_eq!((firsts.get(&key(0)), firsts.order.len()), (Some(&2), MAX_FIRSTS), "the first note is dropped");
        firsts.note(&key(MAX_FIRSTS), 3);
        assert_eq!((firsts.get(&key(0)), firsts.order.len()), (None, MAX_FIRSTS));
    }
}
