//! Digests and signatures. A signature covers a context string for its kind of message, the digest of the epoch's
//! membership (and so fleet, group, epoch and all keys), and the canonical encoding of what is signed. So none can be
//! used for another kind, group or epoch.

use std::fmt;

use ring::{
    digest::{SHA256, digest as hash},
    signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey},
};

use crate::wire::{Wire, put_length, wire_newtype};

wire_newtype! {
    /// A SHA-256 digest.
    Digest([u8; 32])
}

wire_newtype! {
    /// An ed25519 public key.
    PublicKey([u8; 32])
}

/// An ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl Wire for Signature {
    fn put(&self, out: &mut Vec<u8>) {
        self.0.put(out);
    }

    fn take(input: &mut crate::wire::Reader<'_>) -> Result<Self, crate::error::DecodeError> {
        Wire::take(input).map(Self)
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex(f, &self.0)
    }
}

impl Digest {
    /// Returns the digest of a value's encoding, in a context of its own.
    pub fn of<T: Wire>(context: &str, value: &T) -> Self {
        let mut bytes = Vec::with_capacity(128);
        put_length(context.len(), &mut bytes);
        bytes.extend_from_slice(context.as_bytes());
        value.put(&mut bytes);
        Self::of_bytes(&bytes)
    }

    /// Returns the digest of bytes.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let digest = hash(&SHA256, bytes);
        Self(digest.as_ref().first_chunk().copied().unwrap_or_default())
    }
}

/// What a signature is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Context {
    /// A client's request.
    Request,
    /// A primary's pre-prepare.
    PrePrepare,
    /// A backup's prepare.
    Prepare,
    /// A replica's commit.
    Commit,
    /// A replica's checkpoint.
    Checkpoint,
    /// A replica's view change.
    ViewChange,
    /// A primary's new view.
    NewView,
    /// A replica's status.
    Status,
    /// A replica's request for missing data.
    Query,
    /// A replica's reply to a client.
    Reply,
    /// A member's approval of the next epoch's membership.
    Approval,
    /// A member's statement of what its application has come to, for those who have no copy of it.
    Attestation,
}

impl Context {
    /// Returns the string that is signed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "robeing.bft.v1.request",
            Self::PrePrepare => "robeing.bft.v1.pre-prepare",
            Self::Prepare => "robeing.bft.v1.prepare",
            Self::Commit => "robeing.bft.v1.commit",
            Self::Checkpoint => "robeing.bft.v1.checkpoint",
            Self::ViewChange => "robeing.bft.v1.view-change",
            Self::NewView => "robeing.bft.v1.new-view",
            Self::Status => "robeing.bft.v1.status",
            Self::Query => "robeing.bft.v1.query",
            Self::Reply => "robeing.bft.v1.reply",
            Self::Approval => "robeing.bft.v1.approval",
            Self::Attestation => "robeing.bft.v1.attestation",
        }
    }

    /// Returns the bytes that are signed: this context, the epoch's domain, and the value.
    pub fn statement<T: Wire>(self, domain: &Digest, value: &T) -> Vec<u8> {
        let name = self.name();
        let mut bytes = Vec::with_capacity(160);
        put_length(name.len(), &mut bytes);
        bytes.extend_from_slice(name.as_bytes());
        domain.put(&mut bytes);
        value.put(&mut bytes);
        bytes
    }

    /// Signs a value in this context.
    pub fn sign<T: Wire>(self, domain: &Digest, value: &T, signer: &dyn Signer) -> Signature {
        signer.sign(&self.statement(domain, value))
    }

    /// Returns whether a signature of a value in this context is valid.
    pub fn verify<T: Wire>(
        self,
        domain: &Digest,
        value: &T,
        key: &PublicKey,
        signature: &Signature,
        verifier: &dyn Verifier,
    ) -> bool {
        verifier.verify(key, &self.statement(domain, value), signature)
    }
}

/// Signs with the private key of one member or client. The same message must give the same signature.
pub trait Signer {
    /// Returns the public key.
    fn public_key(&self) -> PublicKey;

    /// Signs a message.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Verifies signatures.
pub trait Verifier {
    /// Returns whether this key signed this message.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
}

/// Signs with an ed25519 key. Its `Debug` form does not reveal it.
pub struct Ed25519Signer(Ed25519KeyPair);

impl fmt::Debug for Ed25519Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519Signer")
    }
}

impl Ed25519Signer {
    /// Makes the key that belongs to a seed of 32 random bytes, which must be kept secret. Returns nothing if the
    /// seed has another length.
    pub fn from_seed(seed: &[u8]) -> Option<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed).ok().map(Self)
    }

    /// Reads a key in PKCS #8 form. Returns nothing if it is none.
    pub fn from_pkcs8(der: &[u8]) -> Option<Self> {
        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(Self)
    }
}

impl Signer for Ed25519Signer {
    fn public_key(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().first_chunk().copied().unwrap_or_default())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).as_ref().first_chunk().copied().unwrap_or([0; 64]))
    }
}

/// Verifies ed25519 signatures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ed25519;

impl Verifier for Ed25519 {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key.0).verify(message, &signature.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_good_for_one_context_domain_value_and_key() {
        let signer = Ed25519Signer::from_seed(&[7; 32]).unwrap();
        let other = Ed25519Signer::from_seed(&[8; 32]).unwrap();
        let (domain, key) = (Digest([1; 32]), signer.public_key());
        let signature = Context::Prepare.sign(&domain, &5_u64, &signer);
        assert!(Context::Prepare.verify(&domain, &5_u64, &key, &signature, &Ed25519));
        assert!(!Context::Commit.verify(&domain, &5_u64, &key, &signature, &Ed25519));
        assert!(!Context::Prepare.verify(&Digest([2; 32]), &5_u64, &key, &signature, &Ed25519));
        assert!(!Context::Prepare.verify(&domain, &6_u64, &key, &signature, &Ed25519));
        assert!(!Context::Prepare.verify(&domain, &5_u64, &other.public_key(), &signature, &Ed25519));
        assert!(Ed25519Signer::from_seed(&[7; 31]).is_none());
    }
}
