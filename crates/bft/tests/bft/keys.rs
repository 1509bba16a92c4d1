//! Keys for tests: fast, deterministic, and unforgeable for whoever only has a signer. Real signatures are tested with
//! the same scenarios once.

use std::{collections::BTreeMap, fmt};

use robeing_bft::crypto::{Digest, PublicKey, Signature, Signer, Verifier};

#[derive(Clone)]
pub struct TestSigner {
    secret: [u8; 32],
}

impl fmt::Debug for TestSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestSigner")
    }
}

fn sign(secret: &[u8; 32], message: &[u8]) -> Signature {
    let digest = Digest::of_bytes(&[&secret[..], message].concat());
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&digest.0);
    Signature(signature)
}

impl TestSigner {
    pub fn new(number: u64) -> Self {
        Self { secret: Digest::of("test secret", &number).0 }
    }
}

impl Signer for TestSigner {
    fn public_key(&self) -> PublicKey {
        PublicKey(Digest::of("test key", &self.secret).0)
    }

    fn sign(&self, message: &[u8]) -> Signature {
        sign(&self.secret, message)
    }
}

/// Knows all secrets, and uses them to verify only.
#[derive(Clone, Default, Debug)]
pub struct TestVerifier {
    signers: BTreeMap<PublicKey, TestSigner>,
}

impl TestVerifier {
    pub fn add(&mut self, signer: &TestSigner) {
        self.signers.insert(signer.public_key(), signer.clone());
    }
}

impl Verifier for TestVerifier {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        self.signers.get(key).is_some_and(|signer| sign(&signer.secret, message) == *signature)
    }
}
