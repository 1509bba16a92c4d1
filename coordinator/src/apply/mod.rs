//! Handles the effects of applied commands.

pub mod observer;
pub mod result_stream;
pub mod waiters;

use ahash::HashMap;

/// An empty map that has room for more items than this gives it back.
const KEPT_ROOM: usize = 8_192;

/// Gives the room of a map back if it is empty and was large.
pub fn give_back_room<K, V>(map: &mut HashMap<K, V>) {
    if map.is_empty() && map.capacity() > KEPT_ROOM {
        *map = HashMap::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_of_a_map_is_given_back_once_it_is_empty_if_it_is_large() {
        let mut map: HashMap<usize, ()> = (0..10 * KEPT_ROOM).map(|n| (n, ())).collect();
        map.retain(|n, ()| *n == 0);
        give_back_room(&mut map);
        assert!(map.capacity() > KEPT_ROOM, "it is in use");
        map.clear();
        give_back_room(&mut map);
        assert_eq!(map.capacity(), 0);
        map.reserve(KEPT_ROOM / 2);
        give_back_room(&mut map);
        assert!(map.capacity() >= KEPT_ROOM / 2, "that much is kept");
    }
}
