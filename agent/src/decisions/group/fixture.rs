//! Groups whose members have real certificates, for tests.

use std::sync::Arc;

use robeing_bft::{
    crypto::{Ed25519Signer, Signer},
    epoch::Incarnation,
};
use robeing_groups::{Enrolment, Group, GroupFile, Own, Signed};
use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, TrustBundle};
use robeing_platform::{
    Platform,
    simulated::{SeededRandom, SimulatedDisk},
};

use super::storage::Identity;

/// The time of the tests, Unix milliseconds.
pub const NOW: u64 = 1_800_000_000_000;
/// The name of the tests' group.
pub const GROUP: &str = "council";

/// A fleet's authority.
pub struct Fleet(pub Authority);

impl Fleet {
    pub fn new() -> Self {
        Self(Authority::create(&realm(), NOW).expect("an authority"))
    }

    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der(&[self.0.certificate().to_vec()]).expect("a bundle")
    }

    pub fn certify(&self, role: PeerRole, name: &str) -> Somebody {
        let key = PrivateKey::generate().expect("a key");
        let request = SigningRequest::from_der(&key.request().expect("a request")).expect("it is right");
        let id = realm().member(role, name).expect("a name");
        let issued = self.0.issue(&request, &id, &[], NOW, LEAF_LIFETIME).expect("a certificate");
        Somebody { key, certificate: issued.certificate.to_vec(), authority: self.0.certificate().to_vec() }
    }

    /// Returns the group of the agents `a` to `d`, and its members' identities.
    pub fn group(&self) -> (Group, Vec<Identity>) {
        let identities: Vec<Identity> = (1..=4).map(identity).collect();
        let members = names().into_iter().zip(&identities);
        let signed = members.map(|(name, identity)| self.enrolment(&name, identity)).collect();
        let group = GroupFile::of(signed).and_then(GroupFile::verify).expect("a group");
        (group, identities)
    }

    pub fn enrolment(&self, name: &str, identity: &Identity) -> Signed {
        let own = self.certify(PeerRole::Worker, name);
        Self::statement(name, identity).sign(&own.own()).expect("an enrolment")
    }

    /// Returns the enrolments of the agents `a` to `d` for a later epoch.
    pub fn next_enrolments(&self) -> Vec<Signed> {
        let sign = |(name, number): (String, u8)| {
            let own = self.certify(PeerRole::Worker, &name);
            Self::statement(&name, &identity(number)).sign_next(&own.own()).expect("an enrolment")
        };
        names().into_iter().zip(1..).map(sign).collect()
    }

    fn statement(name: &str, identity: &Identity) -> Enrolment {
        Enrolment {
            fleet: realm().to_string(),
            group: GROUP.into(),
            members: names(),
            name: name.into(),
            incarnation: identity.incarnation,
            key: signer(identity).public_key(),
            at_ms: NOW,
        }
    }
}

/// Somebody with a certificate.
pub struct Somebody {
    key: PrivateKey,
    certificate: Vec<u8>,
    authority: Vec<u8>,
}

impl Somebody {
    pub fn own(&self) -> Own<'_> {
        Own { certificate: &self.certificate, authority: &self.authority, key: &self.key }
    }
}

pub fn realm() -> Realm {
    Realm::new("robeing.local", "default", "one").expect("a realm")
}

pub fn names() -> Vec<String> {
    ["a", "b", "c", "d"].map(str::to_owned).to_vec()
}

pub fn identity(number: u8) -> Identity {
    Identity { incarnation: Incarnation([number; 16]), seed: [number; 32] }
}

pub fn signer(identity: &Identity) -> Ed25519Signer {
    Ed25519Signer::from_seed(&identity.seed).expect("a key")
}

/// Returns a platform with this disk.
pub fn platform(disk: &SimulatedDisk, seed: u64) -> Platform {
    Platform { disk: Arc::new(disk.clone()), random: Arc::new(SeededRandom::new(seed)), ..Platform::real() }
}
