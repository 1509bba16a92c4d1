//! Copies of packets that have come by way of messengers: what is known of those who sealed them.

use std::sync::Arc;

use super::{
    firsts::{Firsts, Key},
    letters::is_letters,
};
use crate::messaging::{
    packet::{Packet, PacketId},
    sealing::{self, WRAP_BYTES},
};

/// Returns whether the packets of this sender that come from this peer have passed a messenger.
pub(super) fn by_messenger(peer: &Arc<str>, sender: &Arc<str>) -> bool {
    peer != sender && !is_letters(peer)
}

/// A copy of a packet that has come by way of a messenger.
pub(super) struct Passed {
    /// The messenger; this agent, if it has passed the packet on to itself.
    pub peer: Arc<str>,
    pub sender: Arc<str>,
    pub id: PacketId,
    pub kind: Arc<str>,
    /// How it is sealed, if the one that sealed it can open sealed replies.
    pub wrapped: Option<Wrapped>,
}

/// A content's key, wrapped for this agent.
#[derive(PartialEq, Eq)]
pub(super) struct Wrapped {
    /// The id of the key of this agent for which it is wrapped.
    pub key_id: Arc<str>,
    pub wrap: [u8; WRAP_BYTES],
}

impl Passed {
    /// Returns the copy that this packet of a peer is. `None`: it has not passed a messenger. Nothing is allocated.
    pub fn of(peer: &Arc<str>, packet: &Packet) -> Option<Self> {
        if !by_messenger(peer, &packet.sender) {
            return None;
        }
        let key_id = packet.key_id.as_ref().filter(|id| sealing::seals_replies(id));
        // What is shorter than a wrap was sealed by nobody.
        let wrap = packet.payload.first_chunk::<WRAP_BYTES>();
        let wrapped = key_id.zip(wrap).map(|(id, wrap)| Wrapped { key_id: Arc::clone(id), wrap: *wrap });
        let (peer, sender, kind) = (Arc::clone(peer), Arc::clone(&packet.sender), Arc::clone(&packet.kind));
        Some(Self { peer, sender, id: packet.id, kind, wrapped })
    }

    pub fn key(&self) -> Key {
        (Arc::clone(&self.sender), self.id)
    }

    /// Returns whether the same one sealed both, in the same moment.
    pub fn is_sealed_as(&self, other: &Self) -> bool {
        self.wrapped.is_some() && self.wrapped == other.wrapped
    }
}

/// The copies that are remembered, each with a wrap.
#[derive(Default)]
pub(super) struct Copies {
    /// The latest one of each messenger that was brought while the packet waited or was being handled.
    again: Firsts<(Arc<str>, Key), Arc<Passed>>,
    /// Those that were handled, each with the number of the packet among those that were handled.
    handled: Firsts<Key, (u64, Arc<Passed>)>,
}

impl Copies {
    /// Remembers a copy of a packet that waits or is being handled, until [`Copies::take_again`].
    pub fn note_again(&mut self, copy: Passed) {
        if copy.wrapped.is_some() {
            self.again.note(&(Arc::clone(&copy.peer), copy.key()), Arc::new(copy));
        }
    }

    /// Returns the latest copy that this messenger has brought of a packet while it waited or was being handled.
    pub fn take_again(&mut self, peer: &Arc<str>, key: &Key) -> Option<Arc<Passed>> {
        self.again.take(&(Arc::clone(peer), key.clone()))
    }

    /// Remembers the copy of a packet that was handled.
    pub fn note_handled(&mut self, number: u64, copy: &Arc<Passed>) {
        if copy.wrapped.is_some() {
            self.handled.note(&copy.key(), (number, Arc::clone(copy)));
        }
    }

    /// Returns the copy that was handled of the packet with this number. It is none of an earlier packet with the same id.
    pub fn handled(&self, key: &Key, number: u64) -> Option<Arc<Passed>> {
        self.handled.get(key).filter(|(known, _)| *known == number).map(|(_, copy)| Arc::clone(copy))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::tests::fixture::packet;

    /// Returns a packet of `a` that looks like one with a wrap.
    fn wrapped(payload: usize) -> Packet {
        Packet { key_id: Some("w.0123456789abcdef".into()), payload: vec![7; payload].into(), ..packet(1) }
    }

    #[test]
    fn a_copy_has_a_whole_wrap_or_none() {
        let messenger: Arc<str> = "m".into();
        assert!(Passed::of(&"a".into(), &wrapped(WRAP_BYTES)).is_none(), "it has come directly");
        let has_wrap = |packet: &Packet| Passed::of(&messenger, packet).expect("it has passed one").wrapped.is_some();
        assert!(has_wrap(&wrapped(WRAP_BYTES)));
        assert!(!has_wrap(&wrapped(WRAP_BYTES - 1)));
        assert!(!has_wrap(&Packet { key_id: Some("0123456789abcdef".into()), ..wrapped(WRAP_BYTES) }));
        assert!(!has_wrap(&packet(1)));
    }

    #[test]
    fn the_copy_that_was_handled_is_not_that_of_a_later_packet_with_its_id() {
        let mut copies = Copies::default();
        let copy = Arc::new(Passed::of(&"m".into(), &wrapped(WRAP_BYTES)).expect("a copy"));
        copies.note_handled(3, &copy);
        assert!(copies.handled(&copy.key(), 3).is_some_and(|known| known.is_sealed_as(&copy)));
        assert!(copies.handled(&copy.key(), 4).is_none());
    }

    #[test]
    fn of_each_messenger_the_latest_copy_is_remembered_once() {
        let mut copies = Copies::default();
        let (first, second): (Arc<str>, Arc<str>) = ("m".into(), "n".into());
        let of = |peer: &Arc<str>, kind: &str| {
            Passed::of(peer, &Packet { kind: kind.into(), ..wrapped(WRAP_BYTES) }).expect("a copy")
        };
        for (peer, kind) in [(&first, "one"), (&first, "two"), (&second, "three")] {
            copies.note_again(of(peer, kind));
        }
        copies.note_again(Passed::of(&second, &packet(1)).expect("a copy without a wrap"));
        let key = of(&first, "one").key();
        let mut kind_of = |peer: &Arc<str>| copies.take_again(peer, &key).map(|copy| Arc::clone(&copy.kind));
        assert_eq!((kind_of(&first).as_deref(), kind_of(&first)), (Some("two"), None));
        assert_eq!(kind_of(&second).as_deref(), Some("three"));
    }
}
