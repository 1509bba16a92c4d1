//! Durable messages, which wait in the state for a receiver that is away. A letter waits until its receiver has
//! accepted or refused it, or until it expires. Then it is settled: its payload is dropped, and its outcome is kept for
//! a while, so that its sender learns it.

pub(crate) mod audit;
pub(crate) mod command;
pub(crate) mod indexes;
pub(crate) mod query;
pub(crate) mod state;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bilrost::{Message, Oneof};
use bytes::Bytes;

use crate::{
    FleetMillis, LetterCursor, LetterId, Stamp, UnixMillis,
    limits::{LEAST_REPLY_BYTES, LETTER_OUTCOME_TTL_MS, MAX_PRIORITY},
    numbered::Entry,
    snapshot::{Rest, Untaken},
};

/// What became of a letter.
#[derive(Clone, PartialEq, Eq, Debug, Oneof, Message)]
#[bilrost(distinguished)]
pub enum LetterOutcome {
    /// Its receiver accepted it, without a reply.
    #[bilrost(empty)]
    Accepted,
    /// Its receiver refused it.
    #[bilrost(tag(1), message)]
    Refused {
        /// The reason as text; at most [`MAX_LETTER_REASON_BYTES`](crate::limits::MAX_LETTER_REASON_BYTES).
        #[bilrost(1)]
        reason: String,
    },
    /// Its receiver did not settle it in time.
    #[bilrost(tag(2), message)]
    Expired,
    /// Its receiver accepted it and replied.
    #[bilrost(tag(3), message)]
    Replied {
        /// The reply; at most [`MAX_LETTER_REPLY_BYTES`](crate::limits::MAX_LETTER_REPLY_BYTES).
        #[bilrost(1)]
        reply: Bytes,
    },
    /// Its receiver accepted it and replied, but the reply is not kept: it was too large, or newer ones took its room.
    #[bilrost(tag(4), message)]
    ReplyDropped,
}

impl LetterOutcome {
    /// Returns the bytes that a kept reply counts for against
    /// [`MAX_REPLIES_BYTES`](crate::limits::MAX_REPLIES_BYTES); `None` if there is none.
    pub(crate) fn reply_charge(&self) -> Option<u64> {
        match self {
            Self::Replied { reply } => Some(reply.len().max(LEAST_REPLY_BYTES) as u64),
            Self::Accepted | Self::Refused { .. } | Self::Expired | Self::ReplyDropped => None,
        }
    }
}

/// The state of a letter.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum LetterState {
    /// The letter waits for its receiver.
    #[bilrost(empty)]
    Waiting,
    /// Final: the outcome is known.
    #[bilrost(tag(14), message)]
    Settled {
        /// What became of the letter.
        #[bilrost(1)]
        outcome: LetterOutcome,
        /// When it was settled.
        #[bilrost(2)]
        at: Stamp,
    },
}

/// A durable message.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Letter {
    /// The letter's number in the order of posting.
    #[bilrost(1)]
    pub seq: u64,
    /// The letter's id, drawn by its sender.
    #[bilrost(2)]
    pub id: LetterId,
    /// Who sent the letter.
    #[bilrost(3)]
    pub sender: String,
    /// The name of the agent that gets the letter.
    #[bilrost(4)]
    pub receiver: Arc<str>,
    /// The type of the message.
    #[bilrost(5)]
    pub kind: String,
    /// The content; empty once the letter is settled.
    #[bilrost(6)]
    pub payload: Bytes,
    /// The id of the receiver's key that the payload is sealed for; empty if it is not sealed.
    #[bilrost(7)]
    pub key_id: String,
    /// The priority, 1 (last) to 10 (first).
    #[bilrost(tag(8), encoding(varint))]
    pub priority: u8,
    /// When the letter was sent, by the sender's wall clock.
    #[bilrost(9)]
    pub sent: UnixMillis,
    /// The digest of the content; see [`PostLetter::digest`](crate::PostLetter::digest).
    #[bilrost(tag(10), encoding(plainbytes))]
    pub digest: [u8; 32],
    /// When the letter was posted.
    #[bilrost(11)]
    pub posted: Stamp,
    /// When the letter expires, if it still waits.
    #[bilrost(12)]
    pub expires: FleetMillis,
    /// The address as the sender wrote it, which stood for the receiver.
    #[bilrost(13)]
    pub to: String,
    /// Whether the letter waits, or what became of it.
    #[bilrost(oneof(14))]
    pub state: LetterState,
}

impl Letter {
    /// Returns whether the letter waits for its receiver.
    pub fn is_waiting(&self) -> bool {
        self.state == LetterState::Waiting
    }

    /// Returns what became of the letter; `None` if it waits.
    pub fn outcome(&self) -> Option<&LetterOutcome> {
        match &self.state {
            LetterState::Waiting => None,
            LetterState::Settled { outcome, .. } => Some(outcome),
        }
    }

    /// Returns the letter's place among the letters of its receiver.
    pub fn cursor(&self) -> LetterCursor {
        LetterCursor { rank: MAX_PRIORITY.saturating_sub(self.priority), seq: self.seq }
    }

    /// Returns the bytes that count against [`MAX_MAIL_BYTES`](crate::limits::MAX_MAIL_BYTES).
    pub(crate) fn stored_bytes(&self) -> u64 {
        let texts = self.sender.len() + self.to.len() + self.receiver.len() + self.kind.len() + self.key_id.len();
        (self.payload.len() + texts) as u64
    }

    /// Returns the bytes that the letter's reply counts for, and its place among the letters with kept replies, oldest
    /// first; `None` if no reply is kept.
    pub(crate) fn kept_reply(&self) -> Option<(u64, (FleetMillis, u64))> {
        match &self.state {
            LetterState::Waiting => None,
            LetterState::Settled { outcome, at } => Some((outcome.reply_charge()?, (at.fleet, self.seq))),
        }
    }

    /// Returns when the letter expires, or is forgotten if it is settled.
    pub(crate) fn due(&self) -> FleetMillis {
        match &self.state {
            LetterState::Waiting => self.expires,
            LetterState::Settled { at, .. } => at.fleet.saturating_add(LETTER_OUTCOME_TTL_MS),
        }
    }
}

impl Entry for Letter {
    const FIELD: u32 = 10;
    const NAME: &str = "letters";

    fn number(&self) -> u64 {
        self.seq
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.letters
    }
}
