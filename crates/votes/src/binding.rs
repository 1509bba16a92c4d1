//! Whose a voting key is.

use bilrost::Message;
use bytes::Bytes;
use robeing_identity::{Certificate, PrivateKey};

use crate::{MAX_BINDING_BYTES, VoteError, VotingKey, dsse};

/// The type of a binding, which is signed with it.
pub const BINDING_TYPE: &str = "application/vnd.robeing.vote-key.v1+bilrost";

/// "This key votes for this member of this fleet."
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct BindingStatement {
    /// The fleet: how the SPIFFE ids of its members begin.
    #[bilrost(1)]
    pub fleet: String,
    /// The member: an agent's name, or `client:NAME`.
    #[bilrost(2)]
    pub member: String,
    /// The public key with which the member votes.
    #[bilrost(tag(3), encoding(plainbytes))]
    pub key: [u8; 32],
}

/// Binds a voting key to a member: a [`BindingStatement`] that is signed with the private key of the member's
/// certificate. It holds as long as the certificate: with a new one, it is made again.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct KeyBinding {
    /// The bytes of the [`BindingStatement`].
    #[bilrost(1)]
    pub payload: Bytes,
    /// The signature of the payload and its type.
    #[bilrost(2)]
    pub signature: Bytes,
}

impl KeyBinding {
    /// Binds a voting key to a member, whose certificate is of the key `signer`.
    ///
    /// # Errors
    /// [`VoteError`] if it can't be signed, or would be too large.
    pub fn make(fleet: &str, member: &str, key: &VotingKey, signer: &PrivateKey) -> Result<Self, VoteError> {
        let statement = BindingStatement { fleet: fleet.to_owned(), member: member.to_owned(), key: key.public() };
        let payload = statement.encode_to_bytes();
        let signature = signer.sign(&dsse::encoding(BINDING_TYPE, &payload));
        let signature = signature.map_err(|error| VoteError::NotBound(error.to_string()))?.into();
        let binding = Self { payload, signature };
        VoteError::if_larger("binding of the voting key", binding.encoded_len(), MAX_BINDING_BYTES)?;
        Ok(binding)
    }

    /// Returns the binding's bytes.
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_bytes()
    }

    /// Reads a binding of at most [`MAX_BINDING_BYTES`]. This verifies nothing.
    ///
    /// # Errors
    /// [`VoteError`] if it is too large, malformed or not canonical.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, VoteError> {
        dsse::read("binding of the voting key", MAX_BINDING_BYTES, bytes)
    }

    /// Returns what the binding says. This verifies nothing.
    ///
    /// # Errors
    /// [`VoteError`] if it is malformed or not canonical.
    pub fn statement(&self) -> Result<BindingStatement, VoteError> {
        dsse::read("statement of the voting key", MAX_BINDING_BYTES, &self.payload)
    }

    /// Verifies the signature with the key of a certificate, DER. The certificate itself is not verified.
    ///
    /// # Errors
    /// [`VoteError::WrongBinding`] if the certificate is malformed, or the signature is wrong.
    pub fn verify_signature(&self, certificate: &[u8]) -> Result<(), VoteError> {
        let signed = dsse::encoding(BINDING_TYPE, &self.payload);
        let verified = Certificate::verify_signature(certificate, &signed, &self.signature);
        verified.map_err(|error| VoteError::WrongBinding(error.to_string()))
    }
}
