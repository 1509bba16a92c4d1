//! How far peers had got of which nothing else is left here.

use std::{collections::VecDeque, sync::Arc};

use crate::messaging::packet::LANES;

/// Maximum number of peers without a stream of which it is remembered how far they had got. Of others, a packet that was put
/// off may be handled after later ones.
pub const MAX_DEPARTED: usize = 1_024;

struct Link {
    peer: Arc<str>,
    incarnation: u64,
    handed: [u64; LANES],
}

/// The highest numbers that were handed out of the lanes of links, the one that ended last at the end.
#[derive(Default)]
pub struct Departed {
    links: VecDeque<Link>,
}

impl Departed {
    /// Remembers how far a peer has got, which is not among these.
    pub fn note(&mut self, peer: &Arc<str>, incarnation: u64, handed: [u64; LANES]) {
        if handed == [0; LANES] {
            return;
        }
        if self.links.len() >= MAX_DEPARTED {
            self.links.pop_front();
        }
        self.links.push_back(Link { peer: Arc::clone(peer), incarnation, handed });
    }

    /// Forgets a peer. Returns how far it had got with this link: not at all if that is a new one.
    pub fn take(&mut self, peer: &str, incarnation: u64) -> [u64; LANES] {
        let found = self.links.iter().position(|link| *link.peer == *peer);
        let link = found.and_then(|index| self.links.remove(index)).filter(|link| link.incarnation == incarnation);
        link.map_or([0; LANES], |link| link.handed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_so_many_peers_it_is_remembered_how_far_they_had_got_and_of_the_latest_ones() {
        let mut departed = Departed::default();
        let name = |number: u64| Arc::<str>::from(number.to_string());
        departed.note(&name(0), 7, [0; LANES]);
        for number in 1..=MAX_DEPARTED as u64 + 1 {
            departed.note(&name(number), 7, [number; LANES]);
        }
        assert_eq!(departed.links.len(), MAX_DEPARTED);
        assert_eq!(departed.take("1", 7), [0; LANES]);
        assert_eq!(departed.take("2", 7), [2; LANES]);
        assert_eq!(departed.take("2", 7), [0; LANES], "it is forgotten");
        assert_eq!((departed.take("3", 8), departed.take("3", 7)), ([0; LANES], [0; LANES]), "another link");
        assert_eq!(departed.links.len(), MAX_DEPARTED - 2);
    }
}
