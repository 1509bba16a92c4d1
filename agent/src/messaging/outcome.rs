//! What became of a message.

use std::fmt;

use bytes::Bytes;
use robeing_proto::message::v1::{self as proto, packet_outcome::Outcome as Wire};

use super::packet::{MAX_ENVELOPE, MAX_PAYLOAD, PacketError, PacketId};

/// Maximum length of a reason, in bytes; the rest is cut.
pub const MAX_REASON: usize = 512;
/// Maximum size of a handler's reply, in bytes: that of a payload, with room for a report of a messenger.
pub const MAX_REPLY: usize = MAX_PAYLOAD + MAX_ENVELOPE;

/// Number of names of outcomes.
pub(super) const OUTCOMES: usize = 7;

/// What became of a message. Every send ends in exactly one outcome. Reasons are human-readable sentences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver's handler accepted it.
    Accepted {
        /// The handler's reply, if it gave one.
        reply: Option<Bytes>,
        /// The handler replied, but the reply is not kept any more, or can't be given.
        reply_forgotten: bool,
        /// The reply is sealed for the packet's sender, because a messenger passes it on. Without a reply: there was one,
        /// which this agent could not open.
        reply_is_sealed: bool,
    },
    /// The message, which requires no acknowledgement, was written to the stream. It may still be lost.
    Sent,
    /// The receiver refused it, or it can't be sent.
    Refused {
        /// Why.
        reason: String,
    },
    /// The address stands for no agent.
    NoSuchAgent {
        /// Which one, and what to do.
        reason: String,
    },
    /// The agent can't be reached now. The message was not handled.
    Away {
        /// Why.
        reason: String,
    },
    /// The deadline passed without an acknowledgement.
    DeadlinePassed {
        /// Whether the message may have been handled nevertheless.
        maybe_handled: bool,
    },
    /// The queue for the agent is full. The message was not sent.
    Overloaded {
        /// Which queue, and what to do.
        reason: String,
    },
}

impl Outcome {
    /// Returns the acceptance with this reply.
    pub fn accepted(reply: Option<Bytes>) -> Self {
        Self::Accepted { reply, reply_forgotten: false, reply_is_sealed: false }
    }

    /// Returns the acceptance with a reply that is not kept any more, or can't be given.
    pub const fn reply_forgotten() -> Self {
        Self::Accepted { reply: None, reply_forgotten: true, reply_is_sealed: false }
    }

    /// Returns the acceptance with a reply that is sealed; `None`: with one that can't be opened.
    pub fn sealed_reply(reply: Option<Bytes>) -> Self {
        Self::Accepted { reply, reply_forgotten: false, reply_is_sealed: true }
    }

    /// Returns the refusal for this reason, cut to [`MAX_REASON`] bytes.
    pub fn refused(reason: impl fmt::Display) -> Self {
        Self::Refused { reason: reason_of(reason) }
    }

    /// Returns the absence for this reason, cut to [`MAX_REASON`] bytes.
    pub fn away(reason: impl fmt::Display) -> Self {
        Self::Away { reason: reason_of(reason) }
    }

    /// Returns that the address stands for no agent, for this reason, cut to [`MAX_REASON`] bytes.
    pub fn no_such_agent(reason: impl fmt::Display) -> Self {
        Self::NoSuchAgent { reason: reason_of(reason) }
    }

    /// Returns the overload of this queue.
    pub fn overloaded(reason: impl fmt::Display) -> Self {
        Self::Overloaded { reason: reason_of(reason) }
    }

    /// Returns whether the receiver's handler accepted the message.
    pub fn is_accepted(&self) -> bool {
        matches!(self, Self::Accepted { .. })
    }

    /// Returns the outcome's name, for metrics and command lines.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Accepted { .. } => "accepted",
            Self::Sent => "sent",
            Self::Refused { .. } => "refused",
            Self::NoSuchAgent { .. } => "no_such_agent",
            Self::Away { .. } => "away",
            Self::DeadlinePassed { .. } => "deadline_passed",
            Self::Overloaded { .. } => "overloaded",
        }
    }

    /// Returns the number of the outcome's name, 0 to 6.
    pub(super) fn index(&self) -> usize {
        match self {
            Self::Accepted { .. } => 0,
            Self::Sent => 1,
            Self::Refused { .. } => 2,
            Self::NoSuchAgent { .. } => 3,
            Self::Away { .. } => 4,
            Self::DeadlinePassed { .. } => 5,
            Self::Overloaded { .. } => 6,
        }
    }

    /// Returns the outcome's form on the wire. `Sent` is never sent; it becomes an acceptance, which a receiver that
    /// does not wait ignores.
    pub fn to_wire(&self, id: PacketId) -> proto::PacketOutcome {
        let outcome = match self.clone() {
            Self::Accepted { reply, reply_forgotten, reply_is_sealed } => {
                Wire::Accepted(proto::Accepted { reply, reply_forgotten, reply_is_sealed })
            }
            Self::Sent => Wire::Accepted(proto::Accepted::default()),
            Self::Refused { reason } => Wire::Refused(proto::Refused { reason }),
            Self::NoSuchAgent { reason } => Wire::NoSuchAgent(proto::NoSuchAgent { reason }),
            Self::Away { reason } => Wire::Away(proto::Away { reason }),
            Self::DeadlinePassed { maybe_handled } => Wire::DeadlinePassed(proto::DeadlinePassed { maybe_handled }),
            Self::Overloaded { reason } => Wire::Overloaded(proto::Overloaded { reason }),
        };
        proto::PacketOutcome { id: id.to_bytes(), outcome: Some(outcome) }
    }

    /// Reads an outcome from the wire. One that this build does not know is a refusal. A reply that is too large is
    /// dropped.
    ///
    /// # Errors
    /// [`PacketError::Id`] if the id is malformed.
    pub fn from_wire(wire: proto::PacketOutcome) -> Result<(PacketId, Self), PacketError> {
        let id = PacketId::from_bytes(&wire.id)?;
        let outcome = match wire.outcome {
            Some(Wire::Accepted(proto::Accepted { reply: Some(reply), .. })) if reply.len() > MAX_REPLY => {
                Self::reply_forgotten()
            }
            Some(Wire::Accepted(proto::Accepted { reply, reply_forgotten, reply_is_sealed })) => {
                Self::Accepted { reply, reply_forgotten, reply_is_sealed }
            }
            Some(Wire::Refused(refused)) => Self::refused(refused.reason),
            Some(Wire::DeadlinePassed(passed)) => Self::DeadlinePassed { maybe_handled: passed.maybe_handled },
            Some(Wire::Overloaded(overloaded)) => Self::overloaded(overloaded.reason),
            Some(Wire::NoSuchAgent(none)) => Self::no_such_agent(none.reason),
            Some(Wire::Away(away)) => Self::away(away.reason),
            None => Self::refused("the receiver sent an outcome that this agent does not know; upgrade this agent"),
        };
        Ok((id, outcome))
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted { .. } => f.write_str("accepted"),
            Self::Sent => f.write_str("sent, without an acknowledgement"),
            Self::Refused { reason } => write!(f, "refused: {reason}"),
            Self::NoSuchAgent { reason } => write!(f, "no such agent: {reason}"),
            Self::Away { reason } => write!(f, "away: {reason}"),
            Self::DeadlinePassed { maybe_handled: true } => {
                f.write_str("the deadline passed without an acknowledgement; the message may have been handled")
            }
            Self::DeadlinePassed { maybe_handled: false } => {
                f.write_str("the deadline passed before the message was handled")
            }
            Self::Overloaded { reason } => write!(f, "overloaded: {reason}"),
        }
    }
}

/// Cuts a reason to [`MAX_REASON`] bytes, and replaces its control characters.
pub(super) fn reason_of(reason: impl fmt::Display) -> String {
    let reason = reason.to_string();
    let cut = &reason[..reason.floor_char_boundary(MAX_REASON)];
    cut.replace(|c: char| c.is_control() && c != '\n', "\u{fffd}").chars().scan(0, within_limit).collect()
}

/// Ends a text before it exceeds the limit, because a replacement is longer than what it replaces.
fn within_limit(len: &mut usize, c: char) -> Option<char> {
    *len += c.len_utf8();
    (*len <= MAX_REASON).then_some(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_is_read_back_from_the_wire() {
        let reason = || "why".to_owned();
        for outcome in [
            Outcome::accepted(None),
            Outcome::accepted(Some(Bytes::new())),
            Outcome::reply_forgotten(),
            Outcome::sealed_reply(Some(Bytes::from_static(b"sealed"))),
            Outcome::sealed_reply(None),
            Outcome::Refused { reason: reason() },
            Outcome::NoSuchAgent { reason: reason() },
            Outcome::Away { reason: reason() },
            Outcome::DeadlinePassed { maybe_handled: true },
            Outcome::DeadlinePassed { maybe_handled: false },
            Outcome::Overloaded { reason: reason() },
        ] {
            assert_eq!(Outcome::from_wire(outcome.to_wire(PacketId(3))), Ok((PacketId(3), outcome)));
        }
        let unknown = Outcome::from_wire(proto::PacketOutcome { id: PacketId(3).to_bytes(), outcome: None });
        assert!(matches!(unknown, Ok((_, Outcome::Refused { reason })) if reason.contains("upgrade this agent")));
    }

    #[test]
    fn reasons_and_replies_have_limits() {
        for len in [MAX_REASON, MAX_REASON + 1] {
            let Outcome::Refused { reason } = Outcome::refused("x".repeat(len)) else { panic!("a refusal") };
            assert_eq!(reason.len(), MAX_REASON);
        }
        assert!(reason_of("\u{1b}".repeat(MAX_REASON)).len() <= MAX_REASON);
        assert_eq!(reason_of("a\u{1b}[31mb"), "a\u{fffd}[31mb");
        for (len, kept) in [(MAX_REPLY, true), (MAX_REPLY + 1, false)] {
            let wire = Outcome::accepted(Some(vec![0; len].into())).to_wire(PacketId(1));
            let Ok((_, Outcome::Accepted { reply, reply_forgotten, .. })) = Outcome::from_wire(wire) else {
                panic!("accepted")
            };
            assert_eq!((reply.is_some(), reply_forgotten), (kept, !kept));
        }
    }
}
