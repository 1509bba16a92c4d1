//! Clients that vote, for tests.

use robeing_identity::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, certificate_pem};
use robeing_proto::v1::{Ballot, CastVoteRequest, VoteChoice, ballot::Member};
use uuid::Uuid;

use crate::{ClientIdentity, FleetClient, Security, Settings, ballots::digest};

pub fn realm() -> Realm {
    Realm::new("robeing.local", "default", "tested").expect("a realm")
}

pub fn now() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    now.as_millis() as u64
}

pub fn client(authority: &Authority, role: PeerRole) -> FleetClient {
    let key = PrivateKey::generate().expect("a key");
    let request = SigningRequest::from_der(&key.request().expect("a request")).expect("it is right");
    let id = realm().member(role, "ada").expect("an id");
    let issued = authority.issue(&request, &id, &[], now(), LEAF_LIFETIME).expect("a certificate");
    let identity = ClientIdentity {
        cluster: "tested".into(),
        trust: authority.certificate_pem().to_owned(),
        certificate: Some((certificate_pem(&issued.certificate), key.to_pem())),
        token: None,
    };
    let security = Security::with_identity(&identity).expect("it is right");
    let settings = Settings { security, ..Settings::default() };
    FleetClient::new(&["127.0.0.1:1"], settings).expect("the endpoint is good")
}

pub fn ballot() -> Ballot {
    let member = Member { name: "client:ada".into(), weight: 1, ..Member::default() };
    let mut ballot = Ballot {
        id: Uuid::from_u128(7).to_string(),
        fleet: realm().to_string(),
        question: "deploy?".into(),
        electorate: vec![member],
        threshold: "2/3".into(),
        ttl_ms: 30_000,
        ..Ballot::default()
    };
    ballot.digest = digest(&ballot).expect("it is right").to_vec().into();
    ballot
}

pub fn vote() -> CastVoteRequest {
    let choice = VoteChoice::Approve.into();
    CastVoteRequest { ballot: Uuid::from_u128(7).to_string(), choice, ..CastVoteRequest::default() }
}
