//! Members of a fleet that vote.

mod evidence;
mod file;
mod together;

use bytes::Bytes;
use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest};

use super::*;

/// When the certificates were issued, Unix milliseconds.
const NOW: u64 = 1_800_000_000_000;
/// The id of the ballots.
const ID: u128 = 0x0196_0000_0000_7000_8000_0000_0000_0001;

fn realm() -> Realm {
    Realm::new("robeing.local", "default", "one").unwrap()
}

fn authority() -> Authority {
    Authority::create(&realm(), NOW).unwrap()
}

/// A member of the fleet, with its keys.
struct Member {
    name: String,
    signer: PrivateKey,
    key: VotingKey,
    certificate: Bytes,
    authority: Bytes,
}

impl Member {
    fn new(authority: &Authority, role: PeerRole, name: &str) -> Self {
        let signer = PrivateKey::generate().unwrap();
        let request = SigningRequest::from_der(&signer.request().unwrap()).unwrap();
        let id = realm().member(role, name).unwrap();
        let issued = authority.issue(&request, &id, &[], NOW, LEAF_LIFETIME).unwrap();
        Self {
            name: member_name(&id).unwrap_or_else(|| format!("{role}:{name}")),
            signer,
            key: VotingKey::generate().unwrap(),
            certificate: Bytes::copy_from_slice(&issued.certificate),
            authority: Bytes::copy_from_slice(authority.certificate()),
        }
    }

    fn binding(&self) -> KeyBinding {
        KeyBinding::make(&realm().to_string(), &self.name, &self.key, &self.signer).unwrap()
    }

    /// Casts the expected vote.
    fn cast(&self, expect: &Expect<'_>) -> Evidence {
        let statement = VoteStatement {
            fleet: expect.fleet.to_owned(),
            ballot: expect.ballot.to_be_bytes(),
            digest: expect.digest,
            member: expect.member.to_owned(),
            choice: expect.choice,
            option: expect.option,
            reason: expect.reason.to_owned(),
        };
        Evidence {
            envelope: self.key.sign(&statement).to_bytes(),
            binding: self.binding().to_bytes(),
            certificate: self.certificate.clone(),
            authority: self.authority.clone(),
        }
    }
}
