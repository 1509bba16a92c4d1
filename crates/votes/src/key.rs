//! The key with which a process votes.

use std::fmt;

use ring::signature::{Ed25519KeyPair, KeyPair};
use robeing_identity::random_bytes;
use zeroize::Zeroizing;

use crate::{Envelope, PAYLOAD_TYPE, VoteError, VoteStatement, dsse, hex};

/// The ed25519 key with which a process votes. It is kept in memory only, and its `Debug` form does not reveal it.
pub struct VotingKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl fmt::Debug for VotingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VotingKey({})", hex(&self.public))
    }
}

impl VotingKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`VoteError::NoKey`] if the operating system has no random numbers.
    pub fn generate() -> Result<Self, VoteError> {
        let seed = random_bytes::<32>().map(Zeroizing::new).map_err(|error| VoteError::NoKey(error.to_string()))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed[..]);
        let pair = pair.map_err(|error| VoteError::NoKey(error.to_string()))?;
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Ok(Self { pair, public })
    }

    /// Returns the public key.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    /// Signs a vote.
    pub fn sign(&self, statement: &VoteStatement) -> Envelope {
        let payload = statement.to_bytes();
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(&dsse::encoding(PAYLOAD_TYPE, &payload)).as_ref());
        Envelope { payload, signature, key: self.public }
    }
}
