//! The voting keys that have been proven to be those of members. Processes vote with one key as long as they have the same
//! certificate, so the certificate and the binding of the key are verified once, and not with each vote.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ring::digest::{Context, SHA256};
use robeing_identity::TrustBundle;
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_votes::ProvenKey;

/// Maximum number of voting keys that one coordinator remembers. The one that was proven first is forgotten for another.
pub const MAX_KNOWN_KEYS: usize = 4_096;
/// Separates the ids of keys from other uses of the digest.
const KEY: &[u8] = b"robeing voting key\0";

/// What a key is remembered by: the digest of everything that proves whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyId([u8; 32]);

impl KeyId {
    /// Returns the id of the key that a binding and a certificate, DER, prove.
    pub fn new(binding: &[u8], certificate: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(KEY);
        context.update(&(binding.len() as u64).to_be_bytes());
        context.update(binding);
        context.update(certificate);
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        Self(digest)
    }
}

#[derive(Default)]
struct Known {
    keys: BTreeMap<KeyId, Arc<ProvenKey>>,
    /// The ids of all keys, the one that was proven first in front.
    order: VecDeque<KeyId>,
}

/// The keys that are remembered. Nothing is decided by them alone: whether the authority is trusted, and the certificates
/// are valid, is checked with each vote.
#[derive(Default)]
pub struct KnownKeys(Mutex<Known>);

impl KnownKeys {
    /// Returns a key whose proof was verified before, if its authority is one of the bundle, and the certificates are
    /// valid at the time `now` and last until the time `until`, both in Unix milliseconds.
    pub fn get(&self, id: KeyId, bundle: &TrustBundle, now: u64, until: u64) -> Option<Arc<ProvenKey>> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = known.keys.get(&id)?;
        let is_trusted = bundle.authorities().iter().any(|authority| authority[..] == key.authority()[..]);
        (is_trusted && key.is_valid(now, until)).then(|| Arc::clone(key))
    }

    /// Remembers a key whose proof was verified.
    pub fn insert(&self, id: KeyId, key: ProvenKey) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.keys.insert(id, Arc::new(key)).is_some() {
            return;
        }
        known.order.push_back(id);
        if known.order.len() > MAX_KNOWN_KEYS
            && let Some(first) = known.order.pop_front()
        {
            known.keys.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, SigningRequest};
    use robeing_votes::{BoundKey, Evidence, Expect, Signatures, VoteStatement, VotingKey};

    use super::*;
    use crate::identity::fixture::{NOW, realm};

    const ID: KeyId = KeyId([7; 32]);

    fn bundle(authorities: &[&Authority]) -> TrustBundle {
        let pem: String = authorities.iter().map(|authority| authority.certificate_pem()).collect();
        TrustBundle::from_pem(&pem).expect("a bundle")
    }

    /// The key of a member whose certificate this authority has issued.
    fn proven(authority: &Authority) -> ProvenKey {
        let signer = PrivateKey::generate().expect("it is made");
        let request = SigningRequest::from_der(&signer.request().expect("it is signed")).expect("it is one");
        let id = realm().member(PeerRole::Worker, "b").expect("it is a name");
        let issued = authority.issue(&request, &id, &[], NOW, LEAF_LIFETIME).expect("it is issued");
        let (fleet, key) = (realm().to_string(), BoundKey::new(VotingKey::generate().expect("it is made")));
        let (binding, certificate) = key.binding(&fleet, "b", &issued.certificate, &signer).expect("it is bound");
        let statement = VoteStatement {
            fleet: fleet.clone(),
            ballot: [1; 16],
            digest: [2; 32],
            member: "b".to_owned(),
            choice: 1,
            option: 0,
            reason: String::new(),
        };
        let envelope = key.key().sign(&statement).to_bytes();
        let authority = Bytes::copy_from_slice(authority.certificate());
        let expect = Expect {
            fleet: &fleet,
            member: "b",
            ballot: u128::from_be_bytes([1; 16]),
            digest: [2; 32],
            choice: 1,
            option: 0,
            reason: "",
            at_unix_ms: NOW,
        };
        let evidence = Evidence { envelope, binding, certificate, authority };
        ProvenKey::prove(&evidence, &expect, &mut Signatures::default()).expect("it is proven")
    }

    #[test]
    fn a_key_is_known_while_its_authority_is_trusted_and_its_certificate_is_valid() {
        let [old, new] = [(); 2].map(|()| Authority::create(&realm(), NOW).expect("it is made"));
        let known = KnownKeys::default();
        let end = NOW + LEAF_LIFETIME.as_millis() as u64;
        assert!(known.get(ID, &bundle(&[&old]), NOW, NOW).is_none(), "nothing is known yet");
        known.insert(ID, proven(&old));
        assert!(known.get(ID, &bundle(&[&old]), NOW, end).is_some());
        assert!(known.get(ID, &bundle(&[&new, &old]), NOW, end).is_some(), "the authority is being rotated");
        assert!(known.get(ID, &bundle(&[&new]), NOW, end).is_none(), "it is not trusted any more");
        assert!(known.get(ID, &bundle(&[&old]), NOW, end + 1).is_none(), "it expires before that");
        assert!(known.get(KeyId([8; 32]), &bundle(&[&old]), NOW, end).is_none());
    }

    #[test]
    fn so_many_keys_are_known_and_the_first_is_forgotten() {
        let authority = Authority::create(&realm(), NOW).expect("it is made");
        let (known, key, bundle) = (KnownKeys::default(), proven(&authority), bundle(&[&authority]));
        let id = |n: usize| KeyId::new(b"binding", &n.to_be_bytes());
        let is_known = |n: usize| known.get(id(n), &bundle, NOW, NOW).is_some();
        for n in (0..MAX_KNOWN_KEYS).chain([0]) {
            known.insert(id(n), key.clone());
        }
        assert!(is_known(0) && is_known(MAX_KNOWN_KEYS - 1), "one that is proven again takes no room");
        known.insert(id(MAX_KNOWN_KEYS), key.clone());
        assert!(!is_known(0) && is_known(1) && is_known(MAX_KNOWN_KEYS));
    }

    #[test]
    fn the_id_is_of_the_binding_and_the_certificate() {
        let ids = [KeyId::new(b"a", b"bc"), KeyId::new(b"ab", b"c"), KeyId::new(b"a", b"b"), KeyId::new(b"", b"abc")];
        for (n, id) in ids.iter().enumerate() {
            assert!(!ids[..n].contains(id), "{n}");
        }
        assert_eq!(ids[0], KeyId::new(b"a", b"bc"));
    }
}
