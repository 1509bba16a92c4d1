//! A vote with its signature.

use bilrost::Message;
use bytes::Bytes;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::{MAX_ENVELOPE_BYTES, VoteError, VoteStatement, dsse};

/// The type of a vote, which is signed with it.
pub const PAYLOAD_TYPE: &str = "application/vnd.robeing.vote.v1+bilrost";

/// A vote with its signature.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Envelope {
    /// The bytes of the [`VoteStatement`].
    #[bilrost(1)]
    pub payload: Bytes,
    /// The ed25519 signature of the payload and its type.
    #[bilrost(tag(2), encoding(plainbytes))]
    pub signature: [u8; 64],
    /// The public key.
    #[bilrost(tag(3), encoding(plainbytes))]
    pub key: [u8; 32],
}

impl Envelope {
    /// Returns the envelope's bytes.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_bytes()
    }

    /// Reads an envelope of at most [`MAX_ENVELOPE_BYTES`]. This verifies nothing.
    ///
    /// # Errors
    /// [`VoteError`] if it is too large, malformed or not canonical.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VoteError> {
        dsse::read("envelope of the vote", MAX_ENVELOPE_BYTES, bytes)
    }

    /// Returns what the vote says. This verifies nothing.
    ///
    /// # Errors
    /// [`VoteError`] if it is malformed or not canonical.
    pub fn statement(&self) -> Result<VoteStatement, VoteError> {
        VoteStatement::from_bytes(&self.payload)
    }

    /// Verifies the signature with the key in the envelope. Whose key that is, a [`KeyBinding`](crate::KeyBinding)
    /// proves.
    ///
    /// # Errors
    /// [`VoteError::WrongSignature`] if it is wrong.
    pub fn verify_signature(&self) -> Result<(), VoteError> {
        let signed = dsse::encoding(PAYLOAD_TYPE, &self.payload);
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        key.verify(&signed, &self.signature).map_err(|_| VoteError::WrongSignature)
    }
}
