//! Replies that pass a messenger. They are sealed for the sender of the message, and no messenger can read them.
//!
//! The reply to the copy of a message that the handler gets is sealed by the secret that the receiver shares with whoever
//! sealed that copy ([`ReplyKey`]), also for the same copy when it comes again. Any other copy says nothing about its
//! sender: a messenger that knows the id of a message can seal something of its own under it. So what such a copy gets, or
//! one of a message that came directly, is sealed for the key of the message's sender that the directory knows.
//!
//! A reply is sealed when it is written ([`Report`]), so that none takes up memory of its own while it waits, however many
//! copies have come.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    copies::{Passed, Wrapped},
    firsts::Key,
    shared::Shared,
};
use crate::messaging::{
    inbox::Inbox,
    outcome::Outcome,
    packet::{MAX_PAYLOAD, Packet},
    routing::Entry,
    sealing::{self, About, OpeningKey, PASSED_OVERHEAD, REPLY_MARK, ReplyKey, SealingError},
};

/// What a peer is told about a packet. A reply in it is still in the clear.
pub(super) struct Report {
    pub outcome: Outcome,
    /// For whom the reply is sealed before it leaves this agent; `None`: it is not.
    pub seal: Option<Seal>,
}

impl From<Outcome> for Report {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, seal: None }
    }
}

/// For whom a reply is sealed.
pub(super) enum Seal {
    /// For the one that sealed this copy, which was handled.
    Copy(Arc<Passed>),
    /// For the sender of the packet that this is a copy of, whose key the directory knows.
    Sender(Arc<Passed>),
}

fn has_reply(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Accepted { reply: Some(_), .. })
}

/// The receiver's side.
impl Shared {
    /// Notes the copy of a packet that was handled with this outcome, if it has passed a messenger.
    pub fn note_handled(&self, inbox: &Inbox, copy: Option<&Arc<Passed>>, outcome: &Outcome) {
        if let Some(copy) = copy.filter(|_| has_reply(outcome))
            && let Some(number) = inbox.memory().number(&copy.sender, copy.id)
        {
            self.copies().note_handled(number, copy);
        }
    }

    /// Returns what a messenger is told that waits for the outcome of a packet. `handled`: the copy that was handled, if
    /// that has passed a messenger.
    pub fn concluded_for(
        &self,
        messenger: &Arc<str>,
        key: &Key,
        handled: Option<&Arc<Passed>>,
        outcome: Outcome,
    ) -> Report {
        let again = self.copies().take_again(messenger, key);
        let own = handled.filter(|copy| copy.peer == *messenger);
        match (again, own) {
            // It has the packet from a sender that does not open replies. It gets nothing that it could not get before.
            (None, Some(copy)) if copy.wrapped.is_none() => outcome.into(),
            (again, own) => self.for_copy(again.or_else(|| own.cloned()), handled, outcome),
        }
    }

    /// Returns what a messenger is told for its copy of a packet that was handled before. `copy` is `None`: that came
    /// directly.
    pub fn repeated(&self, inbox: &Inbox, copy: Option<Passed>, outcome: Outcome) -> Report {
        let Some(copy) = copy.filter(|_| has_reply(&outcome)) else { return outcome.into() };
        let number = inbox.memory().number(&copy.sender, copy.id);
        let handled = number.and_then(|number| self.copies().handled(&copy.key(), number));
        let copy = copy.wrapped.is_some().then(|| Arc::new(copy));
        self.for_copy(copy, handled.as_ref(), outcome)
    }

    /// Returns what a messenger is told that has brought this copy; `None`: one that is sealed as agents of earlier versions
    /// do, or not at all.
    fn for_copy(&self, copy: Option<Arc<Passed>>, handled: Option<&Arc<Passed>>, outcome: Outcome) -> Report {
        let handled = handled.filter(|handled| handled.wrapped.is_some());
        match (copy, handled) {
            _ if !has_reply(&outcome) => outcome.into(),
            (Some(copy), Some(handled)) if copy.is_sealed_as(handled) => {
                Report { outcome, seal: Some(Seal::Copy(Arc::clone(handled))) }
            }
            (Some(copy), _) => Report { outcome, seal: Some(Seal::Sender(copy)) },
            // Whose it is nobody knows.
            (None, handled) if handled.is_some() || self.connect.must_seal() => Outcome::reply_forgotten().into(),
            (None, _) => outcome.into(),
        }
    }

    /// Seals the reply in an outcome. Takes about 100 µs, and longer if the reply is large.
    pub fn sealed(&self, outcome: Outcome, seal: &Seal) -> Outcome {
        let Outcome::Accepted { reply: Some(reply), .. } = &outcome else { return outcome };
        match seal {
            Seal::Copy(copy) => {
                let Some(Wrapped { key_id, wrap }) = &copy.wrapped else { return outcome };
                // Without the key the handler has opened the message, and seals what it replies.
                let Some(key) = self.keys.iter().find(|key| key.is_of(key_id)) else { return outcome };
                sealed(reply, || key.reply_key(wrap)?.seal(&self.about(copy), reply, &*self.random))
            }
            Seal::Sender(copy) => {
                let snapshot = self.directory.snapshot();
                match snapshot.get(&copy.sender).and_then(|entry| entry.sealing_key.as_ref()) {
                    Some(key) => sealed(reply, || key.seal(&self.about(copy), reply, &*self.random)),
                    None if self.knows_fleet() => Outcome::reply_forgotten(),
                    // The message was handled, so nothing may say that it was not; and the reply is kept, so that another
                    // messenger that is asked, or the direct way, brings it once the fleet is known.
                    None => Outcome::DeadlinePassed { maybe_handled: true },
                }
            }
        }
    }

    fn about<'a>(&'a self, copy: &'a Passed) -> About<'a> {
        About { id: copy.id.0, sender: &copy.sender, agent: &self.me, kind: &copy.kind }
    }
}

/// Returns the acceptance with a reply that this seals. It is dropped if it is too large once it is sealed, for messengers
/// report replies of the size of a payload.
fn sealed(reply: &[u8], seal: impl FnOnce() -> Result<Bytes, SealingError>) -> Outcome {
    if reply.len() + PASSED_OVERHEAD > MAX_PAYLOAD {
        return Outcome::reply_forgotten();
    }
    match seal() {
        Ok(sealed) => Outcome::sealed_reply(Some([&REPLY_MARK[..], &sealed].concat().into())),
        Err(_) => Outcome::reply_forgotten(),
    }
}

/// The sender's side: a packet as messengers may see it.
pub(super) struct ForMessengers {
    pub packet: Packet,
    /// Opens its reply; `None`: it is not sealed, or its sender has sealed it itself.
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
    /// in the clear, which the mark tells apart: messengers of earlier versions don't say that a reply is sealed.
    pub fn opened(&self, keys: &[OpeningKey], outcome: Outcome) -> Outcome {
        let Outcome::Accepted { reply: Some(reply), reply_is_sealed, .. } = &outcome else { return outcome };
        let Some(sealed) = reply.strip_prefix(REPLY_MARK) else {
            return if *reply_is_sealed { Outcome::sealed_reply(None) } else { outcome };
        };
        let about = sealing::about(&self.packet);
        let by_secret = self.secret.as_ref().and_then(|secret| secret.open(&about, sealed).ok());
        let by_key = || keys.iter().find_map(|key| key.open(&key.public().id(), &about, sealed).ok());
        match by_secret.or_else(by_key) {
            Some(reply) => Outcome::accepted(Some(reply)),
            None => Outcome::sealed_reply(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::OsRandom;
    use tokio::sync::watch;

    use super::*;
    use crate::messaging::{
        driver::{fixture::parts, shared::Parts},
        packet::PacketId,
        routing::{Directory, Role, Snapshot},
        tests::fixture::{entry, packet},
    };

    fn name(name: &str) -> Arc<str> {
        name.into()
    }

    fn replied(reply: &'static [u8]) -> Outcome {
        Outcome::accepted(Some(Bytes::from_static(reply)))
    }

    /// Returns a packet of `a` as messengers see it, sealed for this key of `b`.
    fn for_messengers(key: &OpeningKey, mut packet: Packet) -> ForMessengers {
        let secret = sealing::seal_with_reply(&mut packet, key.public(), &OsRandom).expect("it is sealed");
        ForMessengers { packet, secret: Some(secret) }
    }

    /// Returns a reply with the mark of one that is sealed.
    fn marked(sealed: &[u8]) -> Bytes {
        [&REPLY_MARK[..], sealed].concat().into()
    }

    /// Returns the outcome as a messenger of an earlier version reports it.
    fn without_flag(outcome: &Outcome) -> Outcome {
        match outcome {
            Outcome::Accepted { reply, .. } => Outcome::accepted(reply.clone()),
            other => other.clone(),
        }
    }

    /// The agent `b` with this key, which knows the key of `a`, if there is one.
    fn receiver(key: &OpeningKey, of_a: Option<&OpeningKey>) -> Shared {
        let sender = Entry { sealing_key: of_a.map(|key| key.public().clone()), ..entry("a", 0.5) };
        let key = OpeningKey::from_bytes(&key.to_secret_bytes()).expect("a key");
        Shared::new(Parts { keys: vec![key], ..parts(Role::Worker, Snapshot::from_iter([sender])) })
    }

    /// Returns the copy of a packet that this messenger brings.
    fn copy(messenger: &str, packet: &Packet) -> Arc<Passed> {
        Arc::new(Passed::of(&name(messenger), packet).expect("it has passed a messenger"))
    }

    /// Remembers that `a`'s packet was handled; `handled`: the copy that was, if it has passed a messenger.
    fn handle(shared: &Shared, handled: Option<&Arc<Passed>>, outcome: &Outcome) {
        let mut inbox = shared.inbox();
        inbox.conclude(0, &name("a"), PacketId(1), outcome);
        shared.note_handled(&inbox, handled, outcome);
    }

    /// Returns what the messenger gets for a copy that it brings of a packet that was handled before.
    fn again(shared: &Shared, messenger: &str, packet: &Packet, outcome: Outcome) -> Outcome {
        written(shared, shared.repeated(&shared.inbox(), Passed::of(&name(messenger), packet), outcome))
    }

    /// Returns what the messenger gets once the packet for which it waits was handled.
    fn concluded(shared: &Shared, messenger: &str, handled: Option<&Arc<Passed>>) -> Outcome {
        let key = (name("a"), PacketId(1));
        written(shared, shared.concluded_for(&name(messenger), &key, handled, replied(b"yes")))
    }

    fn written(shared: &Shared, report: Report) -> Outcome {
        match report.seal {
            Some(seal) => shared.sealed(report.outcome, &seal),
            None => report.outcome,
        }
    }

    #[test]
    fn the_sender_opens_what_is_sealed_for_it_and_takes_what_a_receiver_of_an_earlier_version_replies() {
        let (mine, theirs) = (OpeningKey::generate(&OsRandom), OpeningKey::generate(&OsRandom));
        let sent = for_messengers(&theirs, packet(1));
        let about = sealing::about(&sent.packet);
        let secret = theirs.reply_key(&sent.packet.payload).expect("it is a content");
        let by_secret = secret.seal(&about, b"yes", &OsRandom).expect("it is sealed");
        let by_key = mine.public().seal(&about, b"yes", &OsRandom).expect("it is sealed");
        let keys = [OpeningKey::generate(&OsRandom), mine];
        for sealed in [&by_secret, &by_key] {
            let outcome = Outcome::sealed_reply(Some(marked(sealed)));
            assert_eq!(sent.opened(&keys, outcome.clone()), replied(b"yes"));
            assert_eq!(sent.opened(&keys, without_flag(&outcome)), replied(b"yes"));
        }
        let other = for_messengers(&theirs, packet(1));
        let foreign = theirs.reply_key(&other.packet.payload).and_then(|secret| secret.seal(&about, b"yes", &OsRandom));
        let foreign = Outcome::sealed_reply(Some(marked(&foreign.expect("it is sealed"))));
        let unmarked = Outcome::sealed_reply(Some(by_secret));
        for unopened in [foreign.clone(), without_flag(&foreign), unmarked] {
            assert_eq!(sent.opened(&keys, unopened), Outcome::sealed_reply(None), "it is told that there is one");
        }
        for outcome in [replied(b"in the clear"), replied(b""), Outcome::accepted(None), Outcome::refused("no")] {
            assert_eq!(sent.opened(&keys, outcome.clone()), outcome);
        }
    }

    #[test]
    fn a_copy_that_comes_again_gets_a_reply_by_its_secret_and_any_other_one_for_the_key_of_the_sender() {
        let (mine, theirs) = (OpeningKey::generate(&OsRandom), OpeningKey::generate(&OsRandom));
        let sent = for_messengers(&theirs, packet(1));
        let other = for_messengers(&theirs, packet(1));
        for key in [Some(&mine), None] {
            let shared = receiver(&theirs, key);
            handle(&shared, Some(&copy("m", &sent.packet)), &replied(b"yes"));
            for messenger in ["m", "n"] {
                let same = again(&shared, messenger, &sent.packet, replied(b"yes"));
                assert_eq!(sent.opened(&[], same), replied(b"yes"));
                // It is in the clear to nobody, also where plaintext is spoken, as here.
                let unsealed = again(&shared, messenger, &packet(1), replied(b"yes"));
                assert_eq!(unsealed, Outcome::reply_forgotten());
            }
            let sealed = again(&shared, "m", &other.packet, replied(b"yes"));
            if key.is_none() {
                assert_eq!(sealed, Outcome::reply_forgotten());
                continue;
            }
            assert_eq!(other.opened(&[], sealed.clone()), Outcome::sealed_reply(None), "who sealed it can't read it");
            assert_eq!(other.opened(std::slice::from_ref(&mine), sealed), replied(b"yes"));
            for outcome in [Outcome::accepted(None), Outcome::refused("no"), Outcome::reply_forgotten()] {
                assert_eq!(again(&shared, "m", &sent.packet, outcome.clone()), outcome);
            }
        }
        // Of a message that came directly no copy proves who has sealed it.
        let shared = receiver(&theirs, Some(&mine));
        handle(&shared, None, &replied(b"yes"));
        let sealed = again(&shared, "m", &sent.packet, replied(b"yes"));
        assert_eq!(sent.opened(&[], sealed.clone()), Outcome::sealed_reply(None));
        assert_eq!(sent.opened(&[mine], sealed), replied(b"yes"));
        assert_eq!(again(&shared, "m", &packet(1), replied(b"yes")), replied(b"yes"), "plaintext is spoken");
    }

    #[test]
    fn each_messenger_that_waits_gets_a_reply_for_its_own_copy() {
        let (mine, theirs) = (OpeningKey::generate(&OsRandom), OpeningKey::generate(&OsRandom));
        let of_type = |kind: &str| for_messengers(&theirs, Packet { kind: kind.into(), ..packet(1) });
        let (sent, other, liar) = (of_type("test"), of_type("test"), of_type("another"));
        let shared = receiver(&theirs, Some(&mine));
        let handled = copy("m", &sent.packet);
        let bring = |messenger: &str, packet: &Packet| {
            shared.copies().note_again(Passed::of(&name(messenger), packet).expect("a copy"));
        };
        bring("n", &other.packet);
        bring("o", &sent.packet);
        bring("p", &liar.packet);
        let keys = std::slice::from_ref(&mine);
        assert_eq!(sent.opened(&[], concluded(&shared, "m", Some(&handled))), replied(b"yes"));
        assert_eq!(other.opened(keys, concluded(&shared, "n", Some(&handled))), replied(b"yes"));
        assert_eq!(sent.opened(&[], concluded(&shared, "o", Some(&handled))), replied(b"yes"));
        let for_liar = concluded(&shared, "p", Some(&handled));
        assert_eq!(liar.opened(&[], for_liar.clone()), Outcome::sealed_reply(None));
        assert_eq!(sent.opened(keys, for_liar), Outcome::sealed_reply(None), "another type's");
        assert_eq!(concluded(&shared, "q", Some(&handled)), Outcome::reply_forgotten(), "its copy is not sealed so");
        // A messenger that has brought another copy since does not wait for the first one any more.
        bring("m", &other.packet);
        assert_eq!(other.opened(keys, concluded(&shared, "m", Some(&handled))), replied(b"yes"));
    }

    #[test]
    fn the_copy_of_another_messenger_does_not_change_what_a_sender_of_an_earlier_version_gets() {
        let (mine, theirs) = (OpeningKey::generate(&OsRandom), OpeningKey::generate(&OsRandom));
        let shared = receiver(&theirs, Some(&mine));
        let mut earlier = packet(1);
        sealing::seal(&mut earlier, theirs.public(), &OsRandom).expect("it is sealed");
        let handled = copy("m", &earlier);
        let liar = for_messengers(&theirs, packet(1));
        for messenger in ["n", "o"] {
            shared.copies().note_again(Passed::of(&name(messenger), &liar.packet).expect("a copy"));
        }
        assert_eq!(concluded(&shared, "m", Some(&handled)), replied(b"yes"));
        assert_eq!(liar.opened(&[], concluded(&shared, "n", Some(&handled))), Outcome::sealed_reply(None));
        // Nor does it if the message came directly.
        assert_eq!(liar.opened(&[mine], concluded(&shared, "o", None)), replied(b"yes"));
        assert_eq!(concluded(&shared, "p", None), replied(b"yes"), "plaintext is spoken");
    }

    /// Knows nobody yet.
    struct Early;

    impl Directory for Early {
        fn snapshot(&self) -> Arc<Snapshot> {
            Arc::default()
        }

        fn changes(&self) -> Option<watch::Receiver<u64>> {
            Some(watch::Sender::new(0).subscribe())
        }
    }

    #[test]
    fn while_the_fleet_is_not_known_a_reply_is_put_off_and_not_dropped() {
        let theirs = OpeningKey::generate(&OsRandom);
        let sent = for_messengers(&theirs, packet(1));
        let mut shared = receiver(&theirs, None);
        shared.directory = Arc::new(Early);
        // As after a restart: how the copy was sealed is forgotten.
        handle(&shared, None, &replied(b"yes"));
        let put_off = again(&shared, "m", &sent.packet, replied(b"yes"));
        assert_eq!(put_off, Outcome::DeadlinePassed { maybe_handled: true }, "nothing says that it was not handled");
        assert_eq!(again(&shared, "m", &sent.packet, Outcome::accepted(None)), Outcome::accepted(None));
    }

    #[test]
    fn a_sealed_reply_has_at_most_the_size_of_a_payload() {
        let mine = OpeningKey::generate(&OsRandom);
        let about = About { id: 1, sender: "a", agent: "b", kind: "test" };
        for (len, fits) in [(MAX_PAYLOAD - PASSED_OVERHEAD, true), (MAX_PAYLOAD - PASSED_OVERHEAD + 1, false)] {
            let reply = vec![0; len];
            let outcome = sealed(&reply, || mine.public().seal(&about, &reply, &OsRandom));
            match outcome {
                Outcome::Accepted { reply: Some(sealed), .. } => assert!(fits && sealed.len() == MAX_PAYLOAD),
                other => assert!(!fits && other == Outcome::reply_forgotten()),
            }
        }
    }
}
