//! What a voter signs.

use bilrost::Message;
use bytes::Bytes;

use crate::{MAX_ENVELOPE_BYTES, MAX_REASON_BYTES, VoteError, dsse};

/// What a vote says, and of which ballot it is.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct VoteStatement {
    /// The fleet: how the SPIFFE ids of its members begin.
    #[bilrost(1)]
    pub fleet: String,
    /// The ballot's id, big-endian.
    #[bilrost(tag(2), encoding(plainbytes))]
    pub ballot: [u8; 16],
    /// The digest of the ballot's content; see [`BallotContent::digest`](crate::BallotContent::digest).
    #[bilrost(tag(3), encoding(plainbytes))]
    pub digest: [u8; 32],
    /// Who votes: an agent's name, or `client:NAME`.
    #[bilrost(4)]
    pub member: String,
    /// What the member votes, as the number of a [`Choice`](crate::Choice).
    #[bilrost(tag(5), encoding(varint))]
    pub choice: u8,
    /// The number of the approved option, from 1; 0: none.
    #[bilrost(6)]
    pub option: u32,
    /// Why; at most [`MAX_REASON_BYTES`].
    #[bilrost(7)]
    pub reason: String,
}

impl VoteStatement {
    /// Returns the statement's bytes.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_bytes()
    }

    /// Reads a statement.
    ///
    /// # Errors
    /// [`VoteError`] if it is too large, malformed or not canonical, or its reason is too long.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VoteError> {
        let statement: Self = dsse::read("vote", MAX_ENVELOPE_BYTES, bytes)?;
        VoteError::if_larger("reason of the vote", statement.reason.len(), MAX_REASON_BYTES)?;
        Ok(statement)
    }
}

/// Returns the longest beginning of a reason that has at most [`MAX_REASON_BYTES`]. A reason is cut before it is
/// signed.
pub fn cut_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(MAX_REASON_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(reason: &str) -> VoteStatement {
        VoteStatement {
            fleet: "spiffe://a/ns/b/cluster/c".into(),
            ballot: 7_u128.to_be_bytes(),
            digest: [3; 32],
            member: "w-0".into(),
            choice: 1,
            option: 2,
            reason: reason.into(),
        }
    }

    #[test]
    fn a_statement_is_read_as_it_was_written() {
        let written = statement("because");
        assert_eq!(VoteStatement::from_bytes(&written.to_bytes()), Ok(written));
        assert!(VoteStatement::from_bytes(b"x").is_err());
        // A field that is empty, but written, is not canonical: here the reason, with its tag and its length.
        let longer = [&statement("").to_bytes()[..], &[0b101, 0]].concat();
        assert!(matches!(VoteStatement::from_bytes(&longer), Err(VoteError::Malformed { what: "vote", .. })));
    }

    #[test]
    fn a_reason_is_cut_between_characters_and_no_longer_one_is_read() {
        for (reason, cut) in [("ä".repeat(512), 1_024), (format!("x{}", "ä".repeat(512)), 1_023), ("x".into(), 1)] {
            assert_eq!(cut_reason(&reason).len(), cut);
        }
        let most = "x".repeat(MAX_REASON_BYTES);
        assert!(VoteStatement::from_bytes(&statement(&most).to_bytes()).is_ok());
        let refused = VoteStatement::from_bytes(&statement(&format!("{most}x")).to_bytes());
        assert!(matches!(refused, Err(VoteError::TooLarge { bytes: 1_025, most: 1_024, .. })), "{refused:?}");
    }
}
