//! Messages that arrive through the coordinators instead of a stream of their sender: letters.
//!
//! They go through the same inbox as others, so they are handled once also if they arrive both ways. Each sender is a
//! peer of its own there, under a name that no agent has, so that a slow message of one sender holds up no other's.

use std::{collections::HashMap, sync::Arc};

use tokio::sync::oneshot;

use super::{Messenger, shared::Shared};
use crate::messaging::{
    inbox::Received,
    outcome::Outcome,
    packet::{MAX_PAYLOAD, Packet, PacketError, PacketId, RELAY_TYPE},
    sealing::{self, OVERHEAD},
};

/// Begins the name of the peer that stands for the letters of a sender. No name of an agent has this character.
const LETTERS: char = '\0';
/// Maximum number of letters whose outcome is waited for: more than a mailbox ever holds.
pub const MAX_LETTERS: usize = 1_024;

/// Returns whether a peer of the inbox stands for letters.
pub(super) fn is_letters(peer: &str) -> bool {
    peer.starts_with(LETTERS)
}

/// Who waits for the outcomes of letters.
#[derive(Default)]
pub(super) struct Letters {
    /// The number of the latest letter.
    seq: u64,
    waiting: HashMap<(Arc<str>, PacketId), Vec<oneshot::Sender<Outcome>>>,
}

impl Letters {
    /// Passes outcomes to those who wait for them.
    pub fn report(&mut self, peer: &Arc<str>, outcomes: Vec<(PacketId, Outcome)>) {
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
    /// Gives a letter to the inbox. Returns what will receive its outcome, or the outcome at once.
    fn post_letter(&self, mut packet: Packet) -> Result<oneshot::Receiver<Outcome>, Outcome> {
        let peer: Arc<str> = format!("{LETTERS}{}", packet.sender).into();
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
            Ok(Received::Queued | Received::Pending) => letters.waiting.entry(key).or_default().push(outcome),
        }
        drop(letters);
        self.work.notify_one();
        Ok(awaited)
    }
}

impl Shared {
    /// Seals the reply to a letter whose sender expects that. What is remembered of it here is not sealed, so that each
    /// delivery of the letter is answered for its own sealing. A reply that is too large once it is sealed is dropped.
    fn with_sealed_reply(&self, letter: &Packet, outcome: Outcome) -> Outcome {
        let Outcome::Accepted { reply: Some(reply), .. } = &outcome else { return outcome };
        let Some(id) = letter.key_id.as_deref().filter(|id| sealing::seals_replies(id)) else { return outcome };
        // Without the key the handler has opened the message, and seals what it replies.
        let Some(key) = self.keys.iter().find(|key| key.is_of(id)) else { return outcome };
        // Coordinators take replies of the size of a payload.
        if reply.len() + OVERHEAD > MAX_PAYLOAD {
            return Outcome::Accepted { reply: None, reply_forgotten: true };
        }
        let sealed = key.reply_key(&letter.payload);
        let sealed = sealed.and_then(|secret| secret.seal(&sealing::about(letter), reply, &*self.random));
        Outcome::Accepted { reply_forgotten: sealed.is_err(), reply: sealed.ok() }
    }
}

impl Messenger {
    /// Hands a message to the handler that has come through the coordinators, and waits for what becomes of it.
    /// `Accepted` and `Refused` are the handler's decision, also of an earlier delivery of the same message. After any
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
