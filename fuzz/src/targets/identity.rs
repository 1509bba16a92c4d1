//! What proves who somebody is.

use std::{sync::LazyLock, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use robeing_coordinator::fuzz::Trust;
use robeing_identity::{
    Authority, Certificate, JoinKey, JoinSecret, MAX_AUTHORITIES, PeerRole, PrivateKey, Realm, SigningRequest,
    SpiffeId, TrustBundle, certificate_pem,
    jwt::{KeySet, LEEWAY_MS, MAX_TOKEN_ID_BYTES, TokenIssuer, claimed_expiry, verify},
};

use super::check_sentence;

/// The time at which inputs are read, Unix milliseconds.
pub const NOW: u64 = 1_800_000_000_000;
/// The cluster that the inputs are for.
pub const CLUSTER: &str = "test";
/// The issuer of service-account tokens.
pub const ISSUER: &str = "https://issuer";
/// The secret with which join tokens are signed.
const JOIN_KEY: &[u8] = b"the join key of the seeds";
/// The join secret of the pool `data`.
const JOIN_SECRET: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";
/// The private key of the issuer: made for this, and used nowhere else.
const ISSUER_KEY: &[u8] = include_bytes!("../keys/issuer.der");

static SIGNER: LazyLock<EcdsaKeyPair> = LazyLock::new(|| {
    EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ISSUER_KEY, &SystemRandom::new()).expect("it is a key")
});
static ISSUERS: LazyLock<Vec<TokenIssuer>> = LazyLock::new(|| {
    let keys = KeySet::from_json(jwks().as_bytes()).expect("it is a key set");
    vec![TokenIssuer { issuer: ISSUER.into(), audience: "robeing".into(), keys }]
});
static TRUST: LazyLock<Trust> = LazyLock::new(|| Trust {
    issuers: ISSUERS.clone(),
    service_account: "default/s".to_owned(),
    join_key: join_key(),
    join_secret: join_secret(),
});
static AUTHORITY: LazyLock<Authority> = LazyLock::new(|| Authority::create(&realm(), NOW).expect("it is made"));

/// Returns the realm of the inputs.
pub fn realm() -> Realm {
    Realm::new("robeing.local", "default", CLUSTER).expect("it is a realm")
}

/// Returns the key with which join tokens are signed.
pub fn join_key() -> JoinKey {
    JoinKey::new(JOIN_KEY)
}

/// Returns the join secret of the pool `data`.
pub fn join_secret() -> JoinSecret {
    JoinSecret::from_text(JOIN_SECRET).expect("it is a secret")
}

/// Returns the key set of the issuer: its key, called `one`, and one for RSA that nobody has.
pub fn jwks() -> String {
    let (x, y) = SIGNER.public_key().as_ref()[1..].split_at(32);
    let [x, y] = [x, y].map(|number| URL_SAFE_NO_PAD.encode(number));
    let modulus = format!("{}w", "_".repeat(341));
    format!(
        r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"one","alg":"ES256","x":"{x}","y":"{y}"}},{{"kty":"RSA","kid":"two","n":"{modulus}","e":"AQAB"}}]}}"#
    )
}

/// Returns a token with this header and these claims, signed with the issuer's key.
pub fn signed(header: &[u8], claims: &[u8]) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let signature = SIGNER.sign(&SystemRandom::new(), signed.as_bytes()).expect("it signs");
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A service-account token that nobody signed is refused, whatever its parts say; one that the issuer signed is accepted only
/// if its claims are right. A key set is read or refused. The input is a token, a key set, or the parts of a token, one a
/// line.
pub fn service_account_token(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Err(refused) = verify(&text, &ISSUERS, NOW) {
        check_sentence(refused);
    }
    let parts: Vec<String> = bytes.split(|byte| *byte == b'\n').map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
    let forged = parts.join(".");
    assert!(verify(&forged, &ISSUERS, NOW).is_err(), "nobody signed it");
    let _ = claimed_expiry(&forged);
    let mut lines = bytes.splitn(2, |byte| *byte == b'\n');
    let token = signed(lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    match verify(&token, &ISSUERS, NOW) {
        Ok(claims) => {
            assert!(claims.expires.saturating_add(LEEWAY_MS) > NOW && claims.issuer == ISSUER);
            assert_eq!(claimed_expiry(&token), Some(claims.expires));
            assert!((1..=MAX_TOKEN_ID_BYTES).contains(&claims.token_id.len()));
            let names = [&claims.namespace, &claims.service_account];
            assert!(names.into_iter().all(|name| !name.is_empty() && !name.contains([':', '/'])));
        }
        Err(refused) => check_sentence(refused),
    }
    match KeySet::from_json(bytes) {
        Ok(keys) => assert!(keys.len() > 0),
        Err(refused) => check_sentence(refused),
    }
}

/// A join token that was not signed with the join key is refused; one that was permits what it states. A join secret is read
/// from its text. The input is a token, a secret, or the claims of a token.
pub fn join_token(bytes: &[u8]) {
    let key = join_key();
    let claims = URL_SAFE_NO_PAD.encode(bytes);
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, JOIN_KEY), claims.as_bytes());
    let token = format!("robeing-join-1.{claims}.{}", URL_SAFE_NO_PAD.encode(tag));
    match key.verify(&token, CLUSTER, NOW) {
        Ok(claims) => {
            assert!(claims.cluster == CLUSTER && claims.expires > NOW);
            assert_eq!(key.verify(&key.sign(&claims), CLUSTER, NOW), Ok(claims));
        }
        Err(refused) => check_sentence(refused),
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match key.verify(text, CLUSTER, NOW) {
        Ok(claims) => assert!(claims.expires > NOW),
        Err(refused) => check_sentence(refused),
    }
    assert!(JoinKey::new(b"another").verify(text, CLUSTER, NOW).is_err());
    match JoinSecret::from_text(text) {
        Ok(secret) => assert_eq!(secret.to_text(), text.trim()),
        Err(refused) => check_sentence(refused),
    }
}

/// A request to enrol with any proof.
pub fn enrolment(bytes: &[u8]) {
    robeing_coordinator::fuzz::enrolment(bytes, &TRUST);
}

/// A request to certify a key is refused, or becomes a certificate of that key for whom it is issued, whatever it says.
pub fn signing_request(bytes: &[u8]) {
    let request = match SigningRequest::from_der(bytes) {
        Ok(request) => request,
        Err(refused) => return check_sentence(refused),
    };
    let id = realm().member(PeerRole::Worker, "w-0").expect("a name");
    let hosts = ["localhost".to_owned(), "::1".to_owned(), String::from_utf8_lossy(bytes).into_owned()];
    let issued = AUTHORITY.issue(&request, &id, &hosts, NOW, Duration::from_secs(60)).expect("it is issued");
    let certificate = Certificate::from_der(&issued.certificate).expect("it is a certificate");
    assert_eq!((certificate.id, certificate.key), (id, request.public_digest()));
    assert_eq!((certificate.not_before, certificate.not_after), (issued.not_before, issued.not_after));
}

/// A certificate states who it is of, or is refused; so is a file of certificates, or with a key, or with an authority's
/// certificate and key.
pub fn certificate(bytes: &[u8]) {
    match Certificate::from_der(bytes) {
        Ok(certificate) => assert_eq!(certificate.id.to_string().parse(), Ok(certificate.id)),
        Err(refused) => check_sentence(refused),
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return bundle(&certificate_pem(bytes)) };
    bundle(text);
    match PrivateKey::from_pem(text) {
        Ok(key) => {
            let again = PrivateKey::from_pem(&key.to_pem()).expect("it was written");
            assert_eq!(again.public_digest(), key.public_digest());
        }
        Err(refused) => check_sentence(refused),
    }
    match Authority::from_pem(text, text) {
        Ok(authority) => assert_eq!(authority.certificate_pem(), text),
        Err(refused) => check_sentence(refused),
    }
}

fn bundle(pem: &str) {
    match TrustBundle::from_pem(pem) {
        Ok(bundle) => {
            let ders: Vec<Vec<u8>> = bundle.authorities().iter().map(|authority| authority.to_vec()).collect();
            assert!((1..=MAX_AUTHORITIES).contains(&ders.len()) && bundle.pem() == pem);
            assert_eq!(TrustBundle::from_der(&ders).expect("they were read").digest(), bundle.digest());
        }
        Err(refused) => check_sentence(refused),
    }
}

/// Any text is either the id of a member, which is written the same, or refused.
pub fn spiffe_id(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match text.parse::<SpiffeId>() {
        Ok(id) => {
            assert_eq!(id.to_string(), text);
            assert_eq!(id.realm().member(id.role(), id.name()), Ok(id));
        }
        Err(refused) => check_sentence(refused),
    }
}
