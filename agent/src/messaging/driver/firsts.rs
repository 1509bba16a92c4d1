//! What is remembered of a limited number of messages, the newest ones.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use crate::messaging::packet::PacketId;

/// Maximum number of messages of which something is remembered.
pub const MAX_FIRSTS: usize = 16_384;

/// A message: the name of its sender, or of the peer that stands for that, and its id.
pub(super) type Key = (Arc<str>, PacketId);

/// Something about each of at most [`MAX_FIRSTS`] messages.
pub(super) struct Firsts<T> {
    known: HashMap<Key, T>,
    /// The oldest first.
    order: VecDeque<Key>,
}

impl<T> Default for Firsts<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T> Firsts<T> {
    /// Remembers something about a message, in the place of what was known of it. The oldest message is forgotten if there
    /// are too many.
    pub fn note(&mut self, key: &Key, what: T) {
        if self.known.insert(key.clone(), what).is_some() {
            return;
        }
        self.order.push_back(key.clone());
        if self.order.len() > MAX_FIRSTS
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Returns what is remembered about a message.
    pub fn get(&self, key: &Key) -> Option<&T> {
        self.known.get(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_so_many_messages_something_is_remembered_and_of_each_the_latest() {
        let mut firsts = Firsts::default();
        let key = |id: usize| (Arc::<str>::from("client:x"), PacketId(id as u128));
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
}
