//! What unit tests of identities have in common.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use robeing_fleet::{EnrolmentMode, IdentityConfig, TokenIssuer};
use robeing_identity::{Authority, PeerRole, Realm};
use robeing_net::{gate::Caller, security::PeerIdentity};
use robeing_platform::Clock;
use robeing_settings::Enrolment;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    authority::{Authorities, Certifier},
    client_rights::ClientRights,
    rights::ClientRights as Rights,
    rights_file::CurrentRights,
    trust::FleetTrust,
};
use crate::policies::CallerRights;

/// The time at which authorities are made, Unix milliseconds.
pub const NOW: u64 = 1_800_000_000_000;
/// The secret with which join tokens are signed.
pub const JOIN_KEY: &str = "the join key of the tests";

/// The fleet of the tests.
pub fn realm() -> Realm {
    Realm::new("robeing.local", "default", "test").expect("it is a realm")
}

/// A caller with a certificate of this name.
pub fn member(role: PeerRole, name: &str) -> Caller {
    let id = realm().member(role, name).expect("it is a name");
    Caller::Member(Arc::new(PeerIdentity { id, key: [7; 32] }))
}

/// A new authority that trusts itself alone.
pub fn certifier() -> Certifier {
    let authority = Authority::create(&realm(), NOW).expect("it is made");
    let trust = authority.certificate_pem().to_owned();
    Certifier::new(authority, &trust, JOIN_KEY).expect("it is trusted")
}

/// A configuration without any trust.
pub fn config() -> IdentityConfig {
    IdentityConfig { bundle: String::new(), enrolment: EnrolmentMode::Proof, issuers: vec![], pools: vec![] }
}

/// The certificates of authorities, PEM.
pub fn bundle_of(authorities: &[Authority]) -> String {
    authorities.iter().map(Authority::certificate_pem).collect()
}

/// The trust in an authority that the sender replaces.
pub fn trust(certifier: Arc<Certifier>, enrolment: Enrolment) -> (watch::Sender<Arc<Certifier>>, FleetTrust) {
    let (sender, current) = watch::channel(certifier);
    (sender, FleetTrust::new(Authorities::of(current), enrolment, watch::channel(None).1))
}

/// What callers may do where TLS is on, and ann alone is an administrator.
pub fn ann_administers() -> CallerRights {
    let rights = Rights::parse(b"clients: [{name: ann, rights: [admin]}]").expect("they are rights");
    let rights = ClientRights::File(CurrentRights::fixed(rights));
    CallerRights(Some((rights, trust(Arc::new(certifier()), Enrolment::Proof).1)))
}

/// An API server that signs tokens of service accounts.
pub struct Signer(EcdsaKeyPair);

impl Signer {
    /// A signer with a new key.
    pub fn new() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("it is made");
        Self(EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).expect("it was made"))
    }

    /// What a fleet must know to take its tokens. The key has this id.
    pub fn issuer(&self, id: &str) -> TokenIssuer {
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let key = json!({"kty": "EC", "crv": "P-256", "kid": id, "alg": "ES256", "x": encode(x), "y": encode(y)});
        let jwks = json!({"keys": [key]}).to_string();
        TokenIssuer { issuer: "https://issuer".into(), audience: "robeing".into(), jwks }
    }

    /// A token of the service account `default/s` for an hour from `now`, Unix milliseconds, bound to a pod if one is given,
    /// signed with the key `one`.
    pub fn token(&self, now: u64, pod: Option<&str>) -> String {
        let mut kubernetes = json!({"namespace": "default", "serviceaccount": {"name": "s", "uid": "1"}});
        if let Some(name) = pod {
            kubernetes["pod"] = json!({"name": name, "uid": "2"});
        }
        let (from, to) = (now / 1_000, now / 1_000 + 3_600);
        let claims = json!({
            "iss": "https://issuer", "sub": "system:serviceaccount:default:s", "aud": ["robeing"], "jti": "id",
            "iat": from, "nbf": from, "exp": to, "kubernetes.io": kubernetes,
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({"alg": "ES256", "kid": "one"})), part(&claims));
        let signature = self.0.sign(&SystemRandom::new(), signed.as_bytes()).expect("it signs");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A machine's clock that a test sets.
#[derive(Default)]
pub struct Hands(AtomicU64);

impl Hands {
    /// Lets time pass, milliseconds.
    pub fn pass(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn unix_millis(&self) -> u64 {
        NOW + self.elapsed_millis()
    }
    fn elapsed_millis(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
