//! The vote of a member.

use bytes::Bytes;
use robeing_bft::{
    crypto::Digest,
    error::DecodeError,
    wire::{Reader, Wire},
};
use robeing_votes::{Choice, MAX_REASON_BYTES};

use super::opening::text_of;

/// The vote of a member of a group. The member's request, in which it is, is signed by its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberVote {
    /// The ballot's id.
    pub ballot: Digest,
    /// What the member votes.
    pub choice: Choice,
    /// The number of the approved option, from 1; 0: none.
    pub option: u32,
    /// Why, at most [`MAX_REASON_BYTES`].
    pub reason: String,
}

pub(super) fn take_choice(input: &mut Reader<'_>) -> Result<Choice, DecodeError> {
    let tag = u8::take(input)?;
    Choice::from_number(tag).ok_or(DecodeError::UnknownTag { what: "a vote", tag })
}

pub(super) fn take_reason(input: &mut Reader<'_>) -> Result<String, DecodeError> {
    let bytes = Bytes::take(input)?;
    if bytes.len() > MAX_REASON_BYTES {
        return Err(DecodeError::TooLong { length: bytes.len(), max: MAX_REASON_BYTES });
    }
    text_of(&bytes)
}

pub(super) fn put_reason(reason: &str, out: &mut Vec<u8>) {
    Bytes::copy_from_slice(reason.as_bytes()).put(out);
}

impl Wire for MemberVote {
    fn put(&self, out: &mut Vec<u8>) {
        self.ballot.put(out);
        self.choice.number().put(out);
        self.option.put(out);
        put_reason(&self.reason, out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            ballot: Wire::take(input)?,
            choice: take_choice(input)?,
            option: Wire::take(input)?,
            reason: take_reason(input)?,
        })
    }
}
