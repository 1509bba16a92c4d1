//! Replies that pass a messenger. They are sealed for the sender of the message, and no messenger can read them.
//!
//! The reply to the copy of a message that the handler gets is sealed by the secret that the receiver shares with whoever
//! sealed that copy ([`ReplyKey`]). Any other copy says nothing about its sender: a messenger that knows the id of a message
//! can seal something of its own under it. So what a copy gets that comes again, or that comes by a messenger when another
//! one came directly, is sealed for the key of the message's sender that the directory knows.

use std::sync::Arc;

use bytes::Bytes;

use super::{firsts::Key, letters::is_letters, shared::Shared};
use crate::messaging::{
    outcome::Outcome,
    packet::{MAX_PAYLOAD, Packet, PacketId},
    routing::Entry,
    sealing::{self, About, OVERHEAD, OpeningKey, ReplyKey, SealingError, WRAP_BYTES},
};

/// Returns whether the packets of this sender that come from this peer have passed a messenger.
pub(super) fn by_messenger(peer: &Arc<str>, sender: &Arc<str>) -> bool {
    peer != sender && !is_letters(peer)
}

/// A copy of a packet that has come by way of a messenger.
pub(super) struct Passed {
    sender: Arc<str>,
    id: PacketId,
    kind: Arc<str>,
    /// If its sender can open sealed replies: the id of this agent's key, and the content's key, wrapped for it.
    wrapped: Option<(Arc<str>, Box<[u8]>)>,
}

impl Passed {
    /// Returns the copy that this packet of a peer is. `None`: it has not passed a messenger.
    pub fn of(peer: &Arc<str>, packet: &Packet) -> Option<Arc<Self>> {
        if !by_messenger(peer, &packet.sender) {
            return None;
        }
        let key_id = packet.key_id.as_ref().filter(|id| sealing::seals_replies(id));
        let wrap = packet.payload.get(..WRAP_BYTES).unwrap_or_default();
        let (sender, kind) = (Arc::clone(&packet.sender), Arc::clone(&packet.kind));
        let wrapped = key_id.map(|id| (Arc::clone(id), Box::from(wrap)));
        Some(Arc::new(Self { sender, id: packet.id, kind, wrapped }))
    }
}

/// The receiver's side.
impl Shared {
    /// Notes that a messenger has brought a copy of a packet that waits or is being handled, if its sender can open sealed
    /// replies.
    pub fn note_repetition(&self, copy: &Passed) {
        if copy.wrapped.is_some() {
            self.repeated().note(&(Arc::clone(&copy.sender), copy.id), Arc::clone(&copy.kind));
        }
    }

    /// Returns the outcome of a packet, which its sender and id tell, as a messenger gets it. `handled`: the copy that was
    /// handled, if that has passed a messenger.
    pub fn for_messenger(&self, key: &Key, handled: Option<&Passed>, outcome: Outcome) -> Outcome {
        if let Some(copy) = handled {
            return self.sealed_for_copy(copy, outcome);
        }
        let kind = self.repeated().get(key).cloned();
        self.sealed_for_sender(key, kind.as_deref(), outcome)
    }

    /// Returns the outcome of a packet that was handled before, as a messenger gets it for this copy.
    pub fn for_messenger_again(&self, copy: &Passed, outcome: Outcome) -> Outcome {
        let kind = copy.wrapped.as_ref().map(|_| &*copy.kind);
        self.sealed_for_sender(&(Arc::clone(&copy.sender), copy.id), kind, outcome)
    }

    fn about<'a>(&'a self, sender: &'a str, id: PacketId, kind: &'a str) -> About<'a> {
        About { id: id.0, sender, agent: &self.me, kind }
    }

    /// Seals a reply for whoever sealed this copy. To one that was sealed as agents of earlier versions do, or not at all,
    /// the reply is in the clear.
    fn sealed_for_copy(&self, copy: &Passed, outcome: Outcome) -> Outcome {
        let Outcome::Accepted { reply: Some(reply), .. } = &outcome else { return outcome };
        let Some((key_id, wrap)) = &copy.wrapped else { return outcome };
        // Without the key the handler has opened the message, and seals what it replies.
        let Some(key) = self.keys.iter().find(|key| key.is_of(key_id)) else { return outcome };
        let about = self.about(&copy.sender, copy.id, &copy.kind);
        sealed(reply, || key.reply_key(wrap)?.seal(&about, reply, &*self.random))
    }

    /// Seals a reply for the sender of the packet, whose key the directory knows. `kind`: the packet's, if its sender can
    /// open sealed replies.
    fn sealed_for_sender(&self, (sender, id): &Key, kind: Option<&str>, outcome: Outcome) -> Outcome {
        let Outcome::Accepted { reply: Some(reply), .. } = &outcome else { return outcome };
        let snapshot = self.directory.snapshot();
        let key = snapshot.get(sender).and_then(|entry| entry.sealing_key.as_ref());
        match (kind, key) {
            (Some(kind), Some(key)) => {
                let about = self.about(sender, *id, kind);
                sealed(reply, || key.seal(&about, reply, &*self.random))
            }
            _ if self.connect.must_seal() => Outcome::reply_forgotten(),
            _ => outcome,
        }
    }
}

/// Returns the acceptance with a reply that this seals. It is dropped if it is too large once it is sealed, for messengers
/// report replies of the size of a payload.
fn sealed(reply: &[u8], seal: impl FnOnce() -> Result<Bytes, SealingError>) -> Outcome {
    if reply.len() + OVERHEAD > MAX_PAYLOAD {
        return Outcome::reply_forgotten();
    }
    seal().map_or_else(|_| Outcome::reply_forgotten(), |reply| Outcome::sealed_reply(Some(reply)))
}

/// The sender's side: a packet as messengers may see it.
pub(super) struct ForMessengers {
    pub packet: Packet,
    /// Opens its reply; `None`: it is not sealed, or by whoever sends it.
    secret: Option<ReplyKey>,
}

impl ForMessengers {
    /// Seals a packet for its receiver, if that has a key; leaves it as it is if plaintext is spoken in the fleet. `None`: no
    /// messenger may see it.
    pub fn new(shared: &Shared, to: &Entry, packet: &Packet) -> Option<Self> {
        let (mut packet, mut secret) = (packet.clone(), None);
        match (&to.sealing_key, &packet.key_id) {
            (Some(key), None) => {
                secret = Some(sealing::seal_with_reply(&mut packet, key, &*shared.random).ok()?);
            }
            (None, None) if shared.connect.must_seal() => return None,
            (_, Some(_)) | (None, None) => {}
        }
        Some(Self { packet, secret })
    }

    /// Opens the reply in what a messenger has reported; `keys` are those of this agent. Receivers of earlier versions reply
    /// in the clear, and messengers of earlier versions don't say that a reply is sealed: what can't be opened, and is not
    /// said to be sealed, is taken as it is.
    pub fn opened(&self, keys: &[OpeningKey], outcome: Outcome) -> Outcome {
        let Outcome::Accepted { reply: Some(reply), reply_is_sealed, .. } = &outcome else { return outcome };
        if self.secret.is_none() && !reply_is_sealed {
            return outcome;
        }
        let about = sealing::about(&self.packet);
        let by_secret = self.secret.as_ref().and_then(|secret| secret.open(&about, reply).ok());
        let by_key = || keys.iter().find_map(|key| key.open(&key.public().id(), &about, reply).ok());
        match by_secret.or_else(by_key) {
            Some(reply) => Outcome::accepted(Some(reply)),
            None if *reply_is_sealed => Outcome::sealed_reply(None),
            None => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::OsRandom;

    use super::*;
    use crate::messaging::{
        driver::fixture::shared_of,
        routing::{Role, Snapshot},
        tests::fixture::{entry, packet},
    };

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    fn replied(reply: &'static [u8]) -> Outcome {
        Outcome::accepted(Some(Bytes::from_static(reply)))
    }

    /// Returns a packet of `a` as messengers see it, sealed for this key of `b`.
    fn for_messengers(key: &OpeningKey) -> ForMessengers {
        let mut packet = packet(1);
        let secret = sealing::seal_with_reply(&mut packet, key.public(), &OsRandom).expect("it is sealed");
        ForMessengers { packet, secret: Some(secret) }
    }

    /// Returns the outcome as a messenger of an earlier version reports it.
    fn without_mark(outcome: &Outcome) -> Outcome {
        match outcome {
            Outcome::Accepted { reply, .. } => Outcome::accepted(reply.clone()),
            other => other.clone(),
        }
    }

    #[test]
    fn the_sender_opens_what_is_sealed_for_it_and_takes_what_a_receiver_of_an_earlier_version_replies() {
        let (mine, theirs) = (OpeningKey::generate(&OsRandom), OpeningKey::generate(&OsRandom));
        let sent = for_messengers(&theirs);
        let about = sealing::about(&sent.packet);
        let secret = theirs.reply_key(&sent.packet.payload).expect("it is a content");
        let by_secret = secret.seal(&about, b"yes", &OsRandom).expect("it is sealed");
        let by_key = mine.public().seal(&about, b"yes", &OsRandom).expect("it is sealed");
        let keys = [OpeningKey::generate(&OsRandom), mine];
        for sealed in [by_secret, by_key] {
            let outcome = Outcome::sealed_reply(Some(sealed));
            assert_eq!(sent.opened(&keys, outcome.clone()), replied(b"yes"));
            assert_eq!(sent.opened(&keys, without_mark(&outcome)), replied(b"yes"));
        }
        let other = for_messengers(&theirs);
        let foreign = theirs.reply_key(&other.packet.payload).and_then(|secret| secret.seal(&about, b"yes", &OsRandom));
        let foreign = Outcome::sealed_reply(foreign.ok());
        assert_eq!(sent.opened(&keys, foreign), Outcome::sealed_reply(None), "it is told that there is one");
        for outcome in [replied(b"in the clear"), replied(b""), Outcome::accepted(None), Outcome::refused("no")] {
            assert_eq!(sent.opened(&keys, outcome.clone()), outcome);
        }
    }

    #[test]
    fn a_copy_that_comes_again_gets_a_reply_for_the_key_of_its_sender_or_none() {
        let (mine, theirs) = (OpeningKey::generate(&OsRandom), OpeningKey::generate(&OsRandom));
        let sender = Entry { sealing_key: Some(mine.public().clone()), ..entry("a", 0.5) };
        let shared = shared_of(Role::Worker, Snapshot::from_iter([sender]));
        let (sent, messenger) = (for_messengers(&theirs), name("m"));
        let copy = Passed::of(&messenger, &sent.packet).expect("it has passed a messenger");
        assert!(Passed::of(&sent.packet.sender, &sent.packet).is_none());
        let sealed = shared.for_messenger_again(&copy, replied(b"yes"));
        assert!(matches!(sealed, Outcome::Accepted { reply_is_sealed: true, .. }));
        let opened = sent.opened(&[], sealed.clone());
        assert_eq!(opened, Outcome::sealed_reply(None), "whoever sealed the copy can't read it");
        assert_eq!(sent.opened(&[mine], sealed), replied(b"yes"));
        // One of a sender that does not open replies is in the clear where plaintext is spoken, as here.
        let plain = Passed::of(&messenger, &packet(1)).expect("it has passed a messenger");
        assert_eq!(shared.for_messenger_again(&plain, replied(b"yes")), replied(b"yes"));
        for outcome in [Outcome::accepted(None), Outcome::refused("no"), Outcome::reply_forgotten()] {
            assert_eq!(shared.for_messenger_again(&copy, outcome.clone()), outcome);
        }
    }

    #[test]
    fn what_was_handled_directly_is_sealed_for_a_messenger_once_it_has_brought_a_copy_that_is_sealed_so() {
        let (mine, theirs) = (OpeningKey::generate(&OsRandom), OpeningKey::generate(&OsRandom));
        let sender = Entry { sealing_key: Some(mine.public().clone()), ..entry("a", 0.5) };
        let shared = shared_of(Role::Worker, Snapshot::from_iter([sender]));
        let sent = for_messengers(&theirs);
        let (copy, key) = (Passed::of(&name("m"), &sent.packet).expect("a copy"), (name("a"), sent.packet.id));
        assert_eq!(shared.for_messenger(&key, None, replied(b"yes")), replied(b"yes"));
        shared.note_repetition(&copy);
        let sealed = shared.for_messenger(&key, None, replied(b"yes"));
        assert_eq!(sent.opened(&[mine], sealed), replied(b"yes"));
    }

    #[test]
    fn a_sealed_reply_has_at_most_the_size_of_a_payload() {
        let mine = OpeningKey::generate(&OsRandom);
        let about = About { id: 1, sender: "a", agent: "b", kind: "test" };
        for (len, fits) in [(MAX_PAYLOAD - OVERHEAD, true), (MAX_PAYLOAD - OVERHEAD + 1, false)] {
            let reply = vec![0; len];
            let outcome = sealed(&reply, || mine.public().seal(&about, &reply, &OsRandom));
            match outcome {
                Outcome::Accepted { reply: Some(sealed), .. } => assert!(fits && sealed.len() == MAX_PAYLOAD),
                other => assert!(!fits && other == Outcome::reply_forgotten()),
            }
        }
    }
}
