//! The commands for durable messages.

use std::{slice, sync::Arc};

use bilrost::{Message, Oneof};
use bytes::Bytes;

use super::{Letter, LetterOutcome, LetterState};
use crate::{
    Effect, Fleet, LetterId, Refusal, Reply, UnixMillis,
    config::{check_length, check_name, invalid},
    limits::{
        MAX_KEY_ID_BYTES, MAX_LETTER_ADDRESS_BYTES, MAX_LETTER_BYTES, MAX_LETTER_REASON_BYTES, MAX_LETTER_REPLY_BYTES,
        MAX_LETTER_TTL_MS, MAX_LETTERS, MAX_MAIL_BYTES, MAX_PRIORITY, MAX_REPLIES_BYTES, MAX_SENDER_BYTES,
        MAX_WAITING_FOR_ONE, MAX_WAITING_LETTERS,
    },
    tasks::attempts::cut,
};

/// A command for a durable message. All need [`Feature::Mail`](crate::Feature::Mail). All domains share one range of
/// field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum MailCommand {
    /// Posts a letter. Its receiver need not be known.
    #[bilrost(18)]
    Post(PostLetter),
    /// A letter's receiver has accepted or refused it. A settled letter does not change; the reply names its outcome.
    #[bilrost(tag(19), message)]
    Settle {
        /// The letter.
        #[bilrost(1)]
        id: LetterId,
        /// The name of the agent that answers.
        #[bilrost(2)]
        receiver: String,
        /// Its answer.
        #[bilrost(3)]
        answer: LetterAnswer,
    },
}

/// A letter as it is posted.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct PostLetter {
    /// The letter's id, drawn by its sender: a second letter with the same id and content is the same letter.
    #[bilrost(1)]
    pub id: LetterId,
    /// Who sends the letter; at most [`MAX_SENDER_BYTES`].
    #[bilrost(2)]
    pub sender: String,
    /// The name of the agent that gets the letter.
    #[bilrost(3)]
    pub receiver: String,
    /// The type of the message.
    #[bilrost(4)]
    pub kind: String,
    /// The content; at most [`MAX_LETTER_BYTES`].
    #[bilrost(5)]
    pub payload: Bytes,
    /// The id of the receiver's key that the payload is sealed for; empty if it is not sealed. At most
    /// [`MAX_KEY_ID_BYTES`].
    #[bilrost(6)]
    pub key_id: String,
    /// The priority, 1 (last) to 10 (first).
    #[bilrost(tag(7), encoding(varint))]
    pub priority: u8,
    /// When the letter was sent, by the sender's wall clock; only shown.
    #[bilrost(8)]
    pub sent: UnixMillis,
    /// The SHA-256 of what [`PostLetter::hash_content`] passes. The coordinator that proposes the letter computes it,
    /// because nothing that takes long may be done while the state is locked. It is all that is kept of the content
    /// once the letter is settled.
    #[bilrost(tag(9), encoding(plainbytes))]
    pub digest: [u8; 32],
    /// How long the letter waits before it expires, ms of fleet time; 1 to [`MAX_LETTER_TTL_MS`].
    #[bilrost(10)]
    pub ttl: u64,
    /// The address as the sender wrote it, which stood for the receiver; at most [`MAX_LETTER_ADDRESS_BYTES`].
    #[bilrost(11)]
    pub to: String,
}

/// The answer of a letter's receiver.
#[derive(Clone, PartialEq, Eq, Debug, Oneof, Message)]
#[bilrost(distinguished)]
pub enum LetterAnswer {
    /// The receiver accepts the letter, without a reply.
    #[bilrost(empty)]
    Accepted,
    /// The receiver refuses the letter.
    #[bilrost(tag(1), message)]
    Refused {
        /// The reason as text; cut to [`MAX_LETTER_REASON_BYTES`].
        #[bilrost(1)]
        reason: String,
    },
    /// The receiver accepts the letter and replies.
    #[bilrost(tag(2), message)]
    Replied {
        /// The reply; dropped if it is larger than [`MAX_LETTER_REPLY_BYTES`].
        #[bilrost(1)]
        reply: Bytes,
    },
    /// The receiver accepts the letter, and does not have its reply any more, or the reply is too large.
    #[bilrost(tag(3), message)]
    ReplyDropped,
}

impl LetterAnswer {
    /// Cuts a reason that is too long, and drops a reply that is too large. Coordinators do this before an answer enters
    /// the log, so that what is cut is not replicated.
    #[must_use]
    pub fn within_limits(mut self) -> Self {
        match &mut self {
            LetterAnswer::Refused { reason } => cut(reason, MAX_LETTER_REASON_BYTES, false),
            LetterAnswer::Replied { reply } if reply.len() > MAX_LETTER_REPLY_BYTES => {
                return LetterAnswer::ReplyDropped;
            }
            LetterAnswer::Accepted | LetterAnswer::Replied { .. } | LetterAnswer::ReplyDropped => {}
        }
        self
    }
}

impl PostLetter {
    /// Refuses a letter that is out of bounds, whatever the fleet's state.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.sender.is_empty() {
            return Err(invalid("sender", "must not be empty"));
        }
        check_length("sender", &self.sender, MAX_SENDER_BYTES)?;
        if self.to.is_empty() {
            return Err(invalid("to", "must not be empty"));
        }
        check_length("to", &self.to, MAX_LETTER_ADDRESS_BYTES)?;
        check_length("key_id", &self.key_id, MAX_KEY_ID_BYTES)?;
        check_name("receiver", &self.receiver)?;
        check_name("kind", &self.kind)?;
        if self.payload.len() > MAX_LETTER_BYTES {
            let problem = format!(
                "has {} bytes, the most is {MAX_LETTER_BYTES}; store it elsewhere and send a reference",
                self.payload.len()
            );
            return Err(invalid("payload", problem));
        }
        if !(1..=MAX_PRIORITY).contains(&self.priority) {
            return Err(invalid("priority", format!("is {}, must be 1 to {MAX_PRIORITY}", self.priority)));
        }
        if !(1..=MAX_LETTER_TTL_MS).contains(&self.ttl) {
            let problem = format!("is {} ms, must be 1 to {MAX_LETTER_TTL_MS} ms (7 days)", self.ttl);
            return Err(invalid("ttl", problem));
        }
        Ok(())
    }

    /// Passes to `update` what makes two letters the same: sender, address, type, key, priority and payload, so that no
    /// two different contents pass the same bytes. When the letter was sent, how long it waits and which agent its
    /// address stood for don't count: a letter that is sent again stays with the receiver of the first time. Of a sealed
    /// letter address, key and payload don't count either: its sender seals it anew when it sends it again, so that the
    /// same content has other bytes, and is for one agent of those that the address stood for.
    pub fn hash_content(&self, mut update: impl FnMut(&[u8])) {
        // No letter has an empty address, so none that is not sealed passes the same bytes as a sealed one.
        let (to, payload) = if self.key_id.is_empty() { (&*self.to, &*self.payload) } else { ("", &b""[..]) };
        for part in [self.sender.as_bytes(), to.as_bytes(), self.kind.as_bytes(), payload] {
            update(&(part.len() as u64).to_le_bytes());
            update(part);
        }
        update(&[self.priority]);
    }

    fn stored_bytes(&self) -> u64 {
        let texts = self.sender.len() + self.to.len() + self.receiver.len() + self.kind.len() + self.key_id.len();
        (self.payload.len() + texts) as u64
    }
}

impl Fleet {
    pub(crate) fn run_mail(&mut self, command: MailCommand, effects: &mut Vec<Effect>) -> Reply {
        match command {
            MailCommand::Post(letter) => self.post(letter, effects),
            MailCommand::Settle { id, receiver, answer } => self.settle(id, &receiver, answer, effects),
        }
    }

    /// Returns the refusal that this letter would get now, if it is out of bounds or the state has no room for it. A
    /// letter whose id is known needs no room.
    pub fn refusal_of_letter(&self, letter: &PostLetter) -> Option<Refusal> {
        if let Err(refusal) = letter.check() {
            return Some(refusal);
        }
        let refusal = self.check_mail_room(slice::from_ref(letter)).err()?;
        self.posted_before(letter).is_none().then_some(refusal)
    }

    fn post(&mut self, letter: PostLetter, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = letter.check() {
            return Reply::Refused(refusal);
        }
        if let Some(reply) = self.posted_before(&letter) {
            return reply;
        }
        if let Err(refusal) = self.check_mail_room(slice::from_ref(&letter)) {
            return Reply::Refused(refusal);
        }
        self.post_new(letter, effects);
        Reply::Posted { existing: false }
    }

    /// Posts a letter that is within its bounds, whose id is not known, and for which there is room.
    pub(crate) fn post_new(&mut self, letter: PostLetter, effects: &mut Vec<Effect>) {
        self.count_team_letter(&letter.to, &letter.receiver);
        let now = self.state.now;
        let PostLetter { id, sender, receiver, kind, payload, key_id, priority, sent, digest, ttl, to } = letter;
        let receiver: Arc<str> = receiver.into();
        let posted = self.state.mail.letters.add(|seq| Letter {
            seq,
            id,
            sender,
            receiver: Arc::clone(&receiver),
            kind,
            payload,
            key_id,
            priority,
            sent,
            digest,
            posted: now,
            expires: now.fleet.saturating_add(ttl),
            to,
            state: LetterState::Waiting,
        });
        self.indexes.enter_letter(posted);
        effects.push(Effect::Mail { receiver, id });
    }

    /// Returns the reply to a letter whose id is known; `None` if it is new.
    fn posted_before(&self, letter: &PostLetter) -> Option<Reply> {
        let known = self.letter(letter.id)?;
        Some(match known.digest == letter.digest {
            true => Reply::Posted { existing: true },
            false => Reply::Refused(Refusal::LetterConflict { letter: letter.id }),
        })
    }

    /// Refuses letters, each for another receiver, for all of which together there is no room.
    pub(crate) fn check_mail_room(&self, letters: &[PostLetter]) -> Result<(), Refusal> {
        let full = |what: String, limit: u64, remedy: &str| Refusal::Full { what, limit, remedy: remedy.to_owned() };
        let mail = &self.indexes.mail;
        let is_full = |letter: &&PostLetter| self.letters_waiting_for(&letter.receiver) >= MAX_WAITING_FOR_ONE;
        if let Some(letter) = letters.iter().find(is_full) {
            let what = format!("letters that wait for {}", letter.receiver);
            return Err(full(what, MAX_WAITING_FOR_ONE as u64, "post again when it has taken some"));
        }
        if mail.waits + letters.len() > MAX_WAITING_LETTERS {
            let remedy = "post again when some are delivered or have expired";
            return Err(full("letters that wait".to_owned(), MAX_WAITING_LETTERS as u64, remedy));
        }
        if self.state.mail.letters.len() + letters.len() > MAX_LETTERS {
            let remedy = "post again when outcomes of earlier ones are forgotten";
            return Err(full("letters and outcomes of letters".to_owned(), MAX_LETTERS as u64, remedy));
        }
        let bytes: u64 = letters.iter().map(PostLetter::stored_bytes).sum();
        if mail.bytes.saturating_add(bytes) > MAX_MAIL_BYTES {
            let remedy = "post again when some are delivered or have expired, or store the content elsewhere";
            return Err(full("bytes of letters".to_owned(), MAX_MAIL_BYTES, remedy));
        }
        Ok(())
    }

    fn settle(&mut self, id: LetterId, receiver: &str, answer: LetterAnswer, effects: &mut Vec<Effect>) -> Reply {
        let Some(letter) = self.letter(id) else {
            return Reply::Refused(Refusal::UnknownLetter { letter: id });
        };
        if *letter.receiver != *receiver {
            return Reply::Refused(Refusal::OtherReceiver { letter: id, by: receiver.to_owned() });
        }
        if let Some(outcome) = letter.outcome() {
            return Reply::Settled(outcome.clone());
        }
        let seq = letter.seq;
        let outcome = match answer.within_limits() {
            LetterAnswer::Accepted => LetterOutcome::Accepted,
            LetterAnswer::Refused { reason } => LetterOutcome::Refused { reason },
            LetterAnswer::Replied { reply } => LetterOutcome::Replied { reply },
            LetterAnswer::ReplyDropped => LetterOutcome::ReplyDropped,
        };
        self.make_room_for_reply(&outcome);
        self.settle_as(seq, outcome.clone(), effects);
        Reply::Settled(outcome)
    }

    /// Drops the oldest replies, as many as it takes to keep this one too. Each counts for at least
    /// [`LEAST_REPLY_BYTES`](crate::limits::LEAST_REPLY_BYTES), so these are few.
    fn make_room_for_reply(&mut self, outcome: &LetterOutcome) {
        let Some(charge) = outcome.reply_charge() else { return };
        while self.indexes.mail.reply_bytes + charge > MAX_REPLIES_BYTES
            && let Some((_, seq)) = self.indexes.mail.replies.first().copied()
        {
            let indexes = &mut self.indexes;
            self.state.mail.letters.change(seq, &self.snapshots, |letter| {
                indexes.leave_letter(letter);
                if let LetterState::Settled { outcome, .. } = &mut letter.state {
                    *outcome = LetterOutcome::ReplyDropped;
                }
                indexes.enter_letter(letter);
            });
        }
    }

    /// Settles a letter that waits.
    fn settle_as(&mut self, seq: u64, outcome: LetterOutcome, effects: &mut Vec<Effect>) {
        let at = self.state.now;
        let indexes = &mut self.indexes;
        let id = self.state.mail.letters.change(seq, &self.snapshots, |letter| {
            indexes.leave_letter(letter);
            letter.state = LetterState::Settled { outcome, at };
            letter.payload = Bytes::new();
            indexes.enter_letter(letter);
            letter.id
        });
        effects.extend(id.map(|id| Effect::LetterSettled { id }));
    }

    /// Expires a letter that waits, or forgets a settled one.
    pub(crate) fn letter_due(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(letter) = self.state.mail.letters.get(seq) else { return };
        // The timer that fires is no longer among the timers. It is set again with the letter's new state.
        if letter.is_waiting() {
            self.settle_as(seq, LetterOutcome::Expired, effects);
        } else if let Some(letter) = self.state.mail.letters.remove(seq, &self.snapshots) {
            self.indexes.leave_letter(&letter);
        }
    }
}
