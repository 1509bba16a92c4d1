//! A vote with its signature.

use std::collections::BTreeSet;

use bilrost::Message;
use bytes::Bytes;
use ring::signature::{ED25519, UnparsedPublicKey};

use crate::{
    MAX_ENVELOPE_BYTES, VoteError, VoteStatement, dsse,
    together::{self, Hash, TOGETHER_TYPE},
};

/// The type of a vote, which is signed with it.
pub const PAYLOAD_TYPE: &str = "application/vnd.robeing.vote.v1+bilrost";

/// A vote with its signature.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Envelope {
    /// The bytes of the [`VoteStatement`].
    #[bilrost(1)]
    pub payload: Bytes,
    /// The ed25519 signature of the payload and its type; of votes that are signed together, of the root of all of them
    /// and [`TOGETHER_TYPE`].
    #[bilrost(tag(2), encoding(plainbytes))]
    pub signature: [u8; 64],
    /// The public key.
    #[bilrost(tag(3), encoding(plainbytes))]
    pub key: [u8; 32],
    /// The hashes that lead from the vote to the root, at most [`MAX_PATH_HASHES`](crate::MAX_PATH_HASHES) of 32 bytes
    /// each, the lowest first; empty: the vote is signed alone.
    #[bilrost(4)]
    pub path: Bytes,
    /// The place of the vote among those that are signed together, from 0; 0 if it is signed alone.
    #[bilrost(5)]
    pub place: u32,
}

/// Signatures of votes that were signed together and are known to be right: each is verified once for all of them. It has
/// one entry for each that was verified with it, so its owner limits how many those are.
#[derive(Clone, Debug, Default)]
pub struct Signatures(BTreeSet<(Hash, [u8; 32], [u8; 64])>);

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
    /// [`VoteError::WrongSignature`] if it is wrong, and [`VoteError::Malformed`] if the path is.
    pub fn verify_signature(&self) -> Result<(), VoteError> {
        self.verify_signature_among(&mut Signatures::default())
    }

    /// Same as [`Envelope::verify_signature`], but verifies a signature only once that is of several votes.
    ///
    /// # Errors
    /// See [`Envelope::verify_signature`].
    pub fn verify_signature_among(&self, known: &mut Signatures) -> Result<(), VoteError> {
        if self.path.is_empty() && self.place == 0 {
            return self.check_signature(&dsse::encoding(PAYLOAD_TYPE, &self.payload));
        }
        let root = together::root_of(together::leaf(&self.payload), self.place, &self.path)?;
        let entry = (root, self.key, self.signature);
        if known.0.contains(&entry) {
            return Ok(());
        }
        self.check_signature(&dsse::encoding(TOGETHER_TYPE, &root))?;
        known.0.insert(entry);
        Ok(())
    }

    fn check_signature(&self, signed: &[u8]) -> Result<(), VoteError> {
        let key = UnparsedPublicKey::new(&ED25519, &self.key);
        key.verify(signed, &self.signature).map_err(|_| VoteError::WrongSignature)
    }
}
