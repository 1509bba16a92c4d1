//! The key with which a process votes.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use ring::signature::{Ed25519KeyPair, KeyPair};
use robeing_identity::{PrivateKey, random_bytes};
use zeroize::Zeroizing;

use crate::{
    Envelope, KeyBinding, MAX_SIGNED_TOGETHER, PAYLOAD_TYPE, VoteError, VoteStatement, dsse, hex,
    together::{TOGETHER_TYPE, Tree, leaf},
};

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
        let signature = self.signature(&dsse::encoding(PAYLOAD_TYPE, &payload));
        Envelope { payload, signature, key: self.public, path: Bytes::new(), place: 0 }
    }

    /// Signs votes, and returns their envelopes in the same order. At most
    /// [`MAX_SIGNED_TOGETHER`](crate::MAX_SIGNED_TOGETHER) of them have one signature, which takes as long as that of a
    /// single vote. Each envelope proves its vote without the others.
    pub fn sign_all(&self, statements: &[VoteStatement]) -> Vec<Envelope> {
        statements.chunks(MAX_SIGNED_TOGETHER).flat_map(|together| self.sign_together(together)).collect()
    }

    fn sign_together(&self, statements: &[VoteStatement]) -> Vec<Envelope> {
        if let [alone] = statements {
            return vec![self.sign(alone)];
        }
        let payloads: Vec<Bytes> = statements.iter().map(VoteStatement::to_bytes).collect();
        let tree = Tree::new(payloads.iter().map(|payload| leaf(payload)).collect());
        let signature = self.signature(&dsse::encoding(TOGETHER_TYPE, &tree.root()));
        let envelope = |(place, payload): (u32, Bytes)| {
            let path = tree.path(place as usize).into();
            Envelope { payload, signature, key: self.public, path, place }
        };
        (0..).zip(payloads).map(envelope).collect()
    }

    fn signature(&self, signed: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(signed).as_ref());
        signature
    }
}

/// The voting key of a process, with its binding to the certificate that the process had last.
#[derive(Debug)]
pub struct BoundKey {
    key: VotingKey,
    last: Mutex<Option<Bound>>,
}

/// What a key is bound to, and by what.
#[derive(Debug)]
struct Bound {
    fleet: String,
    member: String,
    /// DER.
    certificate: Bytes,
    binding: Bytes,
}

impl BoundKey {
    /// Returns a key that is bound to nothing yet.
    pub fn new(key: VotingKey) -> Self {
        Self { key, last: Mutex::default() }
    }

    /// Returns the key.
    pub fn key(&self) -> &VotingKey {
        &self.key
    }

    /// Returns the binding to a member's certificate, DER, which is of the key `signer`, and the certificate. The binding
    /// is made once for each certificate: so it has to be verified only once.
    ///
    /// # Errors
    /// See [`KeyBinding::make`].
    pub fn binding(
        &self,
        fleet: &str,
        member: &str,
        certificate: &[u8],
        signer: &PrivateKey,
    ) -> Result<(Bytes, Bytes), VoteError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_bound =
            |bound: &&Bound| bound.fleet == fleet && bound.member == member && bound.certificate == *certificate;
        if let Some(bound) = last.as_ref().filter(is_bound) {
            return Ok((bound.binding.clone(), bound.certificate.clone()));
        }
        let binding = KeyBinding::make(fleet, member, &self.key, signer)?.to_bytes();
        let certificate = Bytes::copy_from_slice(certificate);
        let (fleet, member) = (fleet.to_owned(), member.to_owned());
        *last = Some(Bound { fleet, member, certificate: certificate.clone(), binding: binding.clone() });
        Ok((binding, certificate))
    }
}
