//! Messages that arrive through the coordinators instead of a stream of their sender: letters.
//!
//! They go through the same inbox as others, so they are handled once also if they arrive both ways. Each sender is a
//! peer of its own there, under a name that no agent has, so that a slow message of one sender holds up no other's. The
//! notices of ballots are divided among several: ballots have nothing to do with each other, and votes that are decided at
//! once are cast together. They are so few that ballots leave half of what is handled at once to other messages.

use std::{collections::HashMap, sync::Arc};

use robeing_fleet::{NOTICE_KIND, NOTICE_SENDER};
use tokio::sync::oneshot;

use super::{
    Messenger,
    firsts::{Firsts, Key},
    shared::Shared,
};
use crate::messaging::{
    inbox::Received,
    outcome::Outcome,
    packet::{MAX_PAYLOAD, Packet, PacketError, PacketId, RELAY_TYPE},
    sealing::{self, OVERHEAD, WRAP_BYTES},
};

/// Begins the name of the peer that stands for the letters of a sender. No name of an agent has this character.
const LETTERS: char = '\0';
/// Maximum number of letters whose outcome is waited for: more than a mailbox ever holds.
pub const MAX_LETTERS: usize = 1_024;

/// The wrap of a letter whose replies are sealed; the secret that seals them is its sender's alone. `None`: they are not.
type SealedFor = Option<Box<[u8]>>;

/// Returns for whom the reply to a letter is sealed.
fn sealed_for(letter: &Packet) -> SealedFor {
    let is_sealed = letter.key_id.as_deref().is_some_and(sealing::seals_replies);
    is_sealed.then(|| letter.payload.get(..WRAP_BYTES).unwrap_or_default().into())
}

/// Returns the peer that stands for the letters of a sender, where `max_handling` packets are handled at once. For the
/// notices of ballots it is one of half as many.
fn peer_of(letter: &Packet, max_handling: usize) -> Arc<str> {
    let sender = &letter.sender;
    if letter.is_ballot_notice() {
        let number = letter.id.0 % (max_handling as u128 / 2).max(1);
        return format!("{LETTERS}{sender}{LETTERS}{number}").into();
    }
    format!("{LETTERS}{sender}").into()
}

impl Packet {
    /// Returns whether this is the notice of a ballot, as coordinators send it. Such letters need not wait for each other.
    pub(crate) fn is_ballot_notice(&self) -> bool {
        *self.sender == *NOTICE_SENDER && *self.kind == *NOTICE_KIND
    }
}

/// Returns whether a peer of the inbox stands for letters.
pub(super) fn is_letters(peer: &str) -> bool {
    peer.starts_with(LETTERS)
}

/// Who waits for the outcomes of letters.
#[derive(Default)]
pub(super) struct Letters {
    /// The number of the latest letter.
    seq: u64,
    waiting: HashMap<Key, Vec<oneshot::Sender<Outcome>>>,
    /// For whom the replies to letters are sealed, by the delivery that was handed to the handler. Its repetitions say
    /// nothing: anyone who passes a letter on can seal something for the receiver under the same id. A reply to a letter of
    /// which this is forgotten is dropped if that comes again.
    firsts: Firsts<Key, SealedFor>,
}

impl Letters {
    /// Passes outcomes to those who wait for them.
    pub fn report(&mut self, peer: &Arc<str>, outcomes: impl IntoIterator<Item = (PacketId, Outcome)>) {
        for (id, outcome) in outcomes {
            for waiting in self.waiting.remove(&(Arc::clone(peer), id)).unwrap_or_default() {
                // It may have stopped waiting.
                let _ = waiting.send(outcome.clone());
            }
        }
    }

    /// Forgets those who have stopped waiting. Returns whether there is room for one more.
    fn has_room(&mut self) -> bool {
        if self.waiting.len() >= MAX_LETTERS {
            self.waiting.retain(|_, waiting| {
                waiting.retain(|waiting| !waiting.is_closed());
                !waiting.is_empty()
            });
        }
        self.waiting.len() < MAX_LETTERS
    }
}

impl Shared {
    fn peer_of(&self, letter: &Packet) -> Arc<str> {
        peer_of(letter, self.inbox().max_handling())
    }

    /// Gives a letter to the inbox. Returns what will receive its outcome, or the outcome at once.
    fn post_letter(&self, mut packet: Packet) -> Result<oneshot::Receiver<Outcome>, Outcome> {
        let (peer, sealed_for) = (self.peer_of(&packet), sealed_for(&packet));
        let (outcome, awaited) = oneshot::channel();
        let mut letters = self.letters();
        if !letters.has_room() {
            return Err(Outcome::overloaded(format!(
                "{MAX_LETTERS} letters wait to be handled here; send more slowly"
            )));
        }
        letters.seq += 1;
        (packet.seq, packet.requires_ack) = (letters.seq, true);
        let key = (Arc::clone(&peer), packet.id);
        let mut inbox = self.inbox();
        inbox.connect(&peer);
        let received = inbox.receive(self.now(), &peer, packet);
        // What has arrived is handled nevertheless.
        inbox.disconnect(&peer);
        drop(inbox);
        match received {
            Err(_) => {
                return Err(Outcome::overloaded("this agent's handler is behind with the messages of the sender"));
            }
            Ok(Received::Repeated(outcome)) => return Err(outcome),
            Ok(Received::Queued) => {
                letters.firsts.note(&key, sealed_for);
                letters.waiting.entry(key).or_default().push(outcome);
            }
            Ok(Received::Pending) => letters.waiting.entry(key).or_default().push(outcome),
        }
        drop(letters);
        self.work.notify_one();
        Ok(awaited)
    }
}

impl Shared {
    /// Returns whether the reply to a letter may be given to this delivery of it: it is sealed for the same one as the
    /// delivery that was handled, or neither is. Of one that is no longer known, it may have been sealed where all are.
    fn may_have_reply(&self, letter: &Packet) -> bool {
        let (key, sealed_for) = ((self.peer_of(letter), letter.id), sealed_for(letter));
        match self.letters().firsts.get(&key) {
            Some(first) => *first == sealed_for,
            None => sealed_for.is_none() && !self.connect.must_seal(),
        }
    }

    /// Seals the reply to a letter whose sender expects that. What is remembered of it here is not sealed, so a repetition
    /// gets it only if it is sealed as the delivery was that was handled. A reply that is too large once it is sealed is
    /// dropped.
    fn with_sealed_reply(&self, letter: &Packet, outcome: Outcome) -> Outcome {
        let Outcome::Accepted { reply: Some(reply), .. } = &outcome else { return outcome };
        if !self.may_have_reply(letter) {
            return Outcome::reply_forgotten();
        }
        let Some(id) = letter.key_id.as_deref().filter(|id| sealing::seals_replies(id)) else { return outcome };
        // Without the key the handler has opened the message, and seals what it replies.
        let Some(key) = self.keys.iter().find(|key| key.is_of(id)) else { return outcome };
        // Coordinators take replies of the size of a payload.
        if reply.len() + OVERHEAD > MAX_PAYLOAD {
            return Outcome::reply_forgotten();
        }
        let sealed = key.reply_key(&letter.payload);
        let sealed = sealed.and_then(|secret| secret.seal(&sealing::about(letter), reply, &*self.random));
        sealed.map_or_else(|_| Outcome::reply_forgotten(), |reply| Outcome::accepted(Some(reply)))
    }
}

impl Messenger {
    /// Hands a message to the handler that has come through the coordinators, and waits for what becomes of it.
    /// `Accepted` and `Refused` are the handler's decision, also of an earlier delivery of the same message; a repetition
    /// that is sealed otherwise, or after a restart, gets no reply. After any
    /// other outcome the message may be delivered again. A reply to a sealed message is sealed for its sender. If the
    /// future is dropped, the message is handled nevertheless.
    pub async fn deliver_letter(&self, packet: Packet) -> Outcome {
        let packet = Packet { agent: Arc::clone(&self.shared.me), ..packet };
        if let Err(error) = packet.validate() {
            return Outcome::refused(error);
        }
        if *packet.kind == *RELAY_TYPE {
            return Outcome::refused(PacketError::Reserved);
        }
        let away = || Outcome::away("this agent is shutting down");
        // Cheap: the payload is shared.
        let letter = packet.clone();
        let outcome = match self.shared.post_letter(packet) {
            Err(outcome) => outcome,
            Ok(awaited) => tokio::select! {
                outcome = awaited => outcome.unwrap_or_else(|_| away()),
                () = self.shared.stop.cancelled() => away(),
            },
        };
        self.shared.with_sealed_reply(&letter, outcome)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::messaging::tests::fixture::packet;

    #[test]
    fn letters_of_one_sender_stay_in_order_and_ballots_wait_for_few_others() {
        let of = |id: u128, sender: &str, kind: &str, max_handling: usize| {
            peer_of(&Packet { sender: sender.into(), kind: kind.into(), ..packet(id) }, max_handling)
        };
        assert_eq!(of(1, "client:x", "note", 8), of(2, "client:x", NOTICE_KIND, 8));
        assert_ne!(of(1, "client:x", "note", 8), of(1, "client:y", "note", 8));
        assert_eq!(of(1, NOTICE_SENDER, "note", 8), of(2, NOTICE_SENDER, "note", 8));
        for (max_handling, expected) in [(1, 1), (3, 1), (8, 4), (64, 32)] {
            let peers = (0..1_000).map(|id| of(id, NOTICE_SENDER, NOTICE_KIND, max_handling));
            assert_eq!(peers.collect::<BTreeSet<_>>().len(), expected, "of {max_handling} at once");
        }
        assert_eq!(of(7, NOTICE_SENDER, NOTICE_KIND, 8), of(7, NOTICE_SENDER, NOTICE_KIND, 8), "it comes again");
        assert!(is_letters(&of(1, NOTICE_SENDER, NOTICE_KIND, 8)));
    }
}
