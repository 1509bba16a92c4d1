use proptest::prelude::*;
use ring::{
    rand::SystemRandom,
    rsa::{KeyPair as RsaKeyPair, PublicKeyComponents},
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384},
};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject};
use serde_json::{Value, json};

use super::*;

/// Made for these tests; ring can't make RSA keys.
const RSA_KEY: &str = include_str!("test_rsa_key.pem");
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Unix seconds.
const NOW: u64 = 1_790_000_000;

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// An API server that signs.
enum Signer {
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
}

impl Signer {
    fn rsa() -> Self {
        let der = PrivatePkcs8KeyDer::from_pem_slice(RSA_KEY.as_bytes()).unwrap();
        Self::Rsa(RsaKeyPair::from_pkcs8(der.secret_pkcs8_der()).unwrap())
    }

    fn ec() -> Self {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        Self::Ec(EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap())
    }

    fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "RS256",
            Self::Ec(_) => "ES256",
        }
    }

    fn jwk(&self, id: &str) -> Value {
        match self {
            Self::Rsa(key) => {
                let public = PublicKeyComponents::<Vec<u8>>::from(key.public());
                json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": encode(public.n), "e": encode(public.e)})
            }
            Self::Ec(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"use": "sig", "kty": "EC", "crv": "P-256", "kid": id, "alg": "ES256", "x": encode(x), "y": encode(y)})
            }
        }
    }

    fn sign_text(&self, signed: &str) -> String {
        let signature = match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
                signature
            }
            Self::Ec(key) => key.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(signature))
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        self.sign_text(&format!("{}.{}", encode(header.to_string()), encode(claims.to_string())))
    }

    fn token(&self, claims: &Value) -> String {
        self.sign(&json!({"alg": self.algorithm(), "kid": "one"}), claims)
    }

    fn keys(&self, id: &str) -> KeySet {
        key_set(&[self.jwk(id)]).unwrap()
    }

    fn issuer(&self) -> TokenIssuer {
        TokenIssuer { issuer: ISSUER.into(), audience: "robeing".into(), keys: self.keys("one") }
    }
}

fn key_set(keys: &[Value]) -> Result<KeySet, KeySetError> {
    KeySet::from_json(json!({"keys": keys}).to_string().as_bytes())
}

/// The claims of a token as the API server of Kubernetes 1.34 makes it.
fn claims() -> Value {
    json!({
        "aud": ["robeing"],
        "exp": NOW + 3_600,
        "iat": NOW,
        "iss": ISSUER,
        "jti": "0f4d6b0c-2f4e-4a5c-9df0-7a1d3a0c9f1e",
        "kubernetes.io": {
            "namespace": "default",
            "node": {"name": "node-1", "uid": "4b5c"},
            "pod": {"name": "p", "uid": "u"},
            "serviceaccount": {"name": "s", "uid": "1a2b"},
        },
        "nbf": NOW,
        "sub": "system:serviceaccount:default:s",
    })
}

fn with(changes: &[(&str, Value)]) -> Value {
    let mut claims = claims();
    for (pointer, value) in changes {
        match claims.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => panic!("{pointer} is not there"),
        }
    }
    claims
}

fn without(claim: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(claim).unwrap();
    claims
}

fn verified(signer: &Signer, claims: &Value) -> Result<ServiceAccountClaims, TokenError> {
    verify(&signer.token(claims), &[signer.issuer()], NOW * 1_000)
}

#[test]
fn a_token_of_the_api_server_says_who_its_pod_is() {
    for signer in [Signer::rsa(), Signer::ec()] {
        let token = signer.token(&claims());
        let expected = ServiceAccountClaims {
            issuer: ISSUER.into(),
            namespace: "default".into(),
            service_account: "s".into(),
            pod: Some(("p".into(), "u".into())),
            token_id: "0f4d6b0c-2f4e-4a5c-9df0-7a1d3a0c9f1e".into(),
            expires: (NOW + 3_600) * 1_000,
        };
        assert_eq!(verify(&format!("{token}\n"), &[signer.issuer()], NOW * 1_000), Ok(expected));
        assert_eq!(claimed_expiry(&token), Some((NOW + 3_600) * 1_000));
    }
    assert_eq!(claimed_expiry("a.b.c"), None);
}

#[test]
fn a_token_need_not_be_bound_to_a_pod_and_may_name_its_audience_without_a_list() {
    let signer = Signer::ec();
    let mut unbound = with(&[("/aud", json!("robeing")), ("/sub", json!("system:serviceaccount:default:a.b"))]);
    unbound["kubernetes.io"] = json!({"namespace": "default", "serviceaccount": {"name": "a.b"}});
    let read = verified(&signer, &unbound).unwrap();
    assert_eq!((read.pod, &*read.service_account), (None, "a.b"));
}

#[test]
fn a_token_without_an_id_is_identified_by_what_was_signed() {
    let signer = Signer::ec();
    let longest = "x".repeat(MAX_TOKEN_ID_BYTES);
    assert_eq!(verified(&signer, &with(&[("/jti", json!(longest))])).unwrap().token_id, longest);
    let too_long = with(&[("/jti", json!("x".repeat(MAX_TOKEN_ID_BYTES + 1)))]);
    for claims in [without("jti"), with(&[("/jti", json!(""))]), too_long] {
        // Each time it is signed, the signature is another one.
        let ids = [(); 2].map(|()| verified(&signer, &claims).unwrap().token_id);
        assert_eq!(ids[0], ids[1]);
        assert_eq!(ids[0].len(), 43);
    }
    let other = without("jti");
    let mut another = other.clone();
    another["exp"] = json!(NOW + 3_601);
    assert_ne!(verified(&signer, &other).unwrap().token_id, verified(&signer, &another).unwrap().token_id);
}

#[test]
fn every_wrong_claim_is_refused_and_said() {
    let signer = Signer::ec();
    let audience = || TokenError::Audience { expected: "robeing".into() };
    let subject = |subject: &str| TokenError::Subject { subject: subject.into() };
    let name = |text: &str| [("/sub", json!(text))];
    for (claims, expected) in [
        (with(&[("/iss", json!("https://other"))]), TokenError::Issuer { issuer: "https://other".into() }),
        (with(&[("/aud", json!(["https://kubernetes.default.svc", "robeing2"]))]), audience()),
        (with(&[("/aud", json!([]))]), audience()),
        (with(&[("/aud", json!("robein"))]), audience()),
        (with(&name("system:serviceaccount:default:other")), TokenError::Disagreement),
        (with(&name("system:serviceaccount:other:s")), TokenError::Disagreement),
        (with(&[("/kubernetes.io/namespace", json!("other"))]), TokenError::Disagreement),
        (with(&[("/kubernetes.io/serviceaccount/name", json!("other"))]), TokenError::Disagreement),
        (with(&name("ann")), subject("ann")),
        (with(&name("system:serviceaccount:default")), subject("system:serviceaccount:default")),
        (with(&name("system:serviceaccount:default:s:s")), subject("system:serviceaccount:default:s:s")),
        (with(&name("system:serviceaccount:de.fault:s")), subject("system:serviceaccount:de.fault:s")),
        (with(&name("system:serviceaccount:default:-s")), subject("system:serviceaccount:default:-s")),
        (with(&name("system:serviceaccount:default:S")), subject("system:serviceaccount:default:S")),
        (with(&name("system:serviceaccount::s")), subject("system:serviceaccount::s")),
        (with(&name(&"é".repeat(200))), subject(&"é".repeat(MAX_SHOWN))),
        (with(&[("/kubernetes.io/pod", json!({"name": "p"}))]), TokenError::Missing { claim: "kubernetes.io/pod/uid" }),
        (
            with(&[("/kubernetes.io/pod", json!({"name": "P", "uid": "u"}))]),
            TokenError::Malformed { part: "claim about the pod" },
        ),
        (without("iss"), TokenError::Missing { claim: "iss" }),
        (without("aud"), TokenError::Missing { claim: "aud" }),
        (without("exp"), TokenError::Missing { claim: "exp" }),
        (without("sub"), TokenError::Missing { claim: "sub" }),
        (without("kubernetes.io"), TokenError::Missing { claim: "kubernetes.io" }),
        (with(&[("/exp", json!("soon"))]), TokenError::Malformed { part: "claims" }),
        (json!([1, 2]), TokenError::Malformed { part: "claims" }),
    ] {
        assert_eq!(verified(&signer, &claims), Err(expected), "{claims}");
    }
}

#[test]
fn a_token_is_valid_from_its_first_to_its_last_moment_give_or_take_the_leeway() {
    let signer = Signer::ec();
    let (token, issuers) = (signer.token(&claims()), [signer.issuer()]);
    let (begins, ends) = (NOW * 1_000, (NOW + 3_600) * 1_000);
    let at = |now| verify(&token, &issuers, now).map(drop);
    assert_eq!(at(begins - LEEWAY_MS), Ok(()));
    assert_eq!(at(begins - LEEWAY_MS - 1), Err(TokenError::NotYet { claim: "nbf", ms_ahead: LEEWAY_MS + 1 }));
    assert_eq!(at(ends + LEEWAY_MS - 1), Ok(()));
    assert_eq!(at(ends + LEEWAY_MS), Err(TokenError::Expired { ms_ago: LEEWAY_MS }));
    assert_eq!(at(u64::MAX), Err(TokenError::Expired { ms_ago: u64::MAX - ends }));
    let issued_later = with(&[("/iat", json!(NOW + 61))]);
    assert_eq!(verified(&signer, &issued_later), Err(TokenError::NotYet { claim: "iat", ms_ahead: 61_000 }));
    assert_eq!(verified(&signer, &with(&[("/iat", json!(NOW + 60))])).map(drop), Ok(()));
    let endless = verified(&signer, &with(&[("/exp", json!(1e300))])).unwrap();
    assert_eq!(endless.expires, u64::MAX);
    assert!(matches!(verified(&signer, &with(&[("/exp", json!(-5))])), Err(TokenError::Expired { .. })));
    assert_eq!(verified(&signer, &with(&[("/exp", json!(NOW as f64 + 0.5))])).unwrap().expires, begins + 500);
}

#[test]
fn every_flipped_bit_of_a_signature_is_noticed() {
    for signer in [Signer::rsa(), Signer::ec()] {
        let (token, issuers) = (signer.token(&claims()), [signer.issuer()]);
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        for bit in 0..signature.len() * 8 {
            let mut flipped = signature.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let token = format!("{signed}.{}", encode(flipped));
            assert_eq!(verify(&token, &issuers, NOW * 1_000), Err(TokenError::Signature), "bit {bit}");
        }
        for other in [&signature[1..], &[], &[&signature[..], &[0]].concat()] {
            let token = format!("{signed}.{}", encode(other));
            assert_eq!(verify(&token, &issuers, NOW * 1_000), Err(TokenError::Signature));
        }
    }
}

#[test]
fn other_algorithms_are_refused_whatever_the_key() {
    let signer = Signer::rsa();
    for algorithm in ["none", "None", "", "HS256", "HS384", "RS384", "RS512", "PS256", "ES384", "EdDSA", "rs256"] {
        let token = signer.sign(&json!({"alg": algorithm, "kid": "one"}), &claims());
        let expected = TokenError::Algorithm { algorithm: algorithm.into() };
        assert_eq!(verify(&token, &[signer.issuer()], NOW * 1_000), Err(expected));
    }
    // An unsigned token, as "none" has it.
    let unsigned = format!("{}.{}.", encode(r#"{"alg":"RS256","kid":"one"}"#), encode(claims().to_string()));
    assert_eq!(verify(&unsigned, &[signer.issuer()], NOW * 1_000), Err(TokenError::Signature));
    // Signed with another digest than the header says.
    let Signer::Rsa(key) = &signer else { unreachable!("it is RSA") };
    let (signed, _) = unsigned.rsplit_once('.').unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA384, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    let token = format!("{signed}.{}", encode(signature));
    assert_eq!(verify(&token, &[signer.issuer()], NOW * 1_000), Err(TokenError::Signature));
}

#[test]
fn the_algorithm_must_fit_the_key_that_the_token_names() {
    let (rsa, ec) = (Signer::rsa(), Signer::ec());
    for (signer, other) in [(&rsa, "ES256"), (&ec, "RS256")] {
        let token = signer.sign(&json!({"alg": other, "kid": "one"}), &claims());
        assert_eq!(verify(&token, &[signer.issuer()], NOW * 1_000), Err(TokenError::KeyAlgorithm));
    }
    let mut for_another = rsa.jwk("one");
    for_another["alg"] = json!("RS512");
    assert_eq!(key_set(&[for_another]), Err(KeySetError::NoneUsable { keys: 1 }));
}

#[test]
fn the_key_is_found_by_its_id_and_without_one_among_all() {
    let (old, new) = (Signer::rsa(), Signer::ec());
    let keys = key_set(&[old.jwk("old"), new.jwk("new")]).unwrap();
    let issuers = [TokenIssuer { keys, ..old.issuer() }];
    let at = |header: Value| verify(&new.sign(&header, &claims()), &issuers, NOW * 1_000).map(drop);
    assert_eq!(at(json!({"alg": "ES256", "kid": "new"})), Ok(()));
    assert_eq!(at(json!({"alg": "ES256"})), Ok(()));
    assert_eq!(at(json!({"alg": "ES256", "typ": "JWT", "more": [1]})), Ok(()));
    assert_eq!(at(json!({"alg": "ES256", "kid": "old"})), Err(TokenError::KeyAlgorithm));
    let unknown = at(json!({"alg": "ES256", "kid": "newer"})).unwrap_err();
    assert_eq!(unknown, TokenError::UnknownKey { key: "newer".into() });
    assert!(unknown.may_be_a_new_key() && !TokenError::Signature.may_be_a_new_key());
    assert_eq!(at(json!({"alg": "ES256", "kid": "new", "crit": ["b64"]})), Err(TokenError::CriticalExtensions));
    assert_eq!(at(json!({"kid": "new"})), Err(TokenError::Malformed { part: "header" }));
    let stranger = verify(&Signer::ec().token(&claims()), &[new.issuer()], NOW * 1_000);
    assert_eq!(stranger, Err(TokenError::Signature));
}

#[test]
fn two_clusters_may_have_issuers_of_one_name() {
    let (one, two) = (Signer::ec(), Signer::ec());
    let second = TokenIssuer { keys: two.keys("two"), audience: "other".into(), ..two.issuer() };
    let issuers = [one.issuer(), second];
    let token = two.sign(&json!({"alg": "ES256", "kid": "two"}), &with(&[("/aud", json!(["other"]))]));
    assert_eq!(verify(&token, &issuers, NOW * 1_000).map(drop), Ok(()));
    assert!(verify(&one.token(&claims()), &issuers, NOW * 1_000).is_ok());
    // Each issuer's tokens must be for the audience that is set for it.
    let token = two.sign(&json!({"alg": "ES256", "kid": "two"}), &claims());
    assert_eq!(verify(&token, &issuers, NOW * 1_000), Err(TokenError::Audience { expected: "other".into() }));
    assert_eq!(verify(&token, &[], NOW * 1_000), Err(TokenError::Issuer { issuer: ISSUER.into() }));
}

#[test]
fn a_claim_that_is_there_twice_is_refused() {
    let signer = Signer::ec();
    let header = encode(r#"{"alg":"ES256","kid":"one"}"#);
    let twice = claims().to_string().replacen('{', r#"{"sub":"system:serviceaccount:default:admin","#, 1);
    let token = signer.sign_text(&format!("{header}.{}", encode(twice)));
    assert_eq!(verify(&token, &[signer.issuer()], NOW * 1_000), Err(TokenError::Malformed { part: "claims" }));
}

#[test]
fn a_token_may_have_as_many_bytes_as_the_limit_and_no_more() {
    let signer = Signer::ec();
    let token = |filling: usize| {
        let mut claims = claims();
        claims["filling"] = json!("x".repeat(filling));
        signer.token(&claims)
    };
    let filling = (0..MAX_TOKEN_BYTES).rev().find(|filling| token(*filling).len() <= MAX_TOKEN_BYTES);
    let largest = token(filling.unwrap());
    // Base64 makes four characters of three bytes.
    assert!(largest.len() > MAX_TOKEN_BYTES - 4, "{}", largest.len());
    assert!(verify(&largest, &[signer.issuer()], NOW * 1_000).is_ok());
    let larger = token(filling.unwrap() + 1);
    let refused = verify(&larger, &[signer.issuer()], NOW * 1_000);
    assert_eq!(refused, Err(TokenError::TooLarge { bytes: larger.len() }));
}

#[test]
fn no_error_shows_the_token() {
    let signer = Signer::ec();
    let token = signer.token(&with(&[("/sub", json!("someone"))]));
    let said = verify(&token, &[signer.issuer()], NOW * 1_000).unwrap_err().to_string();
    for part in token.split('.') {
        assert!(!said.contains(part), "{said}");
    }
    assert!(said.contains("someone"), "{said}");
}

#[test]
fn keys_that_can_not_be_used_are_left_out_of_a_set() {
    let (rsa, ec) = (Signer::rsa(), Signer::ec());
    let changed = |signer: &Signer, field: &str, value: Value| {
        let mut jwk = signer.jwk("one");
        jwk[field] = value;
        jwk
    };
    let modulus = |bytes: usize, first: u8| {
        let mut n = vec![0xff; bytes];
        n[0] = first;
        json!(encode(n))
    };
    for unusable in [
        json!({"kty": "oct", "k": "c2VjcmV0", "alg": "HS256", "kid": "one"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
        json!("text"),
        json!({}),
        changed(&rsa, "use", json!("enc")),
        changed(&rsa, "key_ops", json!(["sign"])),
        changed(&rsa, "n", modulus(256, 0x7f)),
        changed(&rsa, "n", modulus(1_025, 0x01)),
        changed(&rsa, "n", json!(encode([0xfe; 256]))),
        changed(&rsa, "n", json!("")),
        changed(&rsa, "n", json!("%")),
        changed(&rsa, "e", json!("AQ")),
        changed(&rsa, "e", json!("AA")),
        changed(&rsa, "e", json!(encode([1, 0, 0, 0, 1]))),
        changed(&ec, "crv", json!("P-384")),
        changed(&ec, "x", json!(encode([1; 31]))),
        changed(&ec, "y", json!(encode([1; 33]))),
    ] {
        assert_eq!(key_set(std::slice::from_ref(&unusable)), Err(KeySetError::NoneUsable { keys: 1 }), "{unusable}");
        assert_eq!(key_set(&[unusable, ec.jwk("two")]).unwrap().len(), 1);
    }
    for usable in [
        changed(&rsa, "n", modulus(256, 0x80)),
        changed(&rsa, "n", modulus(257, 0x00)),
        changed(&rsa, "n", modulus(1_024, 0xff)),
        changed(&rsa, "e", json!("Aw")),
        changed(&rsa, "key_ops", json!(["verify"])),
        json!({"kty": "RSA", "n": rsa.jwk("")["n"], "e": "AQAB"}),
    ] {
        assert_eq!(key_set(std::slice::from_ref(&usable)).unwrap().len(), 1, "{usable}");
    }
    // A point that is not on the curve verifies nothing.
    let off_curve = key_set(&[changed(&ec, "y", json!(encode([1; 32])))]).unwrap();
    let issuers = [TokenIssuer { keys: off_curve, ..ec.issuer() }];
    assert_eq!(verify(&ec.token(&claims()), &issuers, NOW * 1_000), Err(TokenError::Signature));
}

#[test]
fn a_key_set_may_have_as_many_keys_and_bytes_as_the_limits_and_no_more() {
    let ec = Signer::ec();
    let many = |keys: usize| vec![ec.jwk("one"); keys];
    assert_eq!(key_set(&many(MAX_KEYS)).unwrap().len(), MAX_KEYS);
    assert_eq!(key_set(&many(MAX_KEYS + 1)), Err(KeySetError::TooMany { keys: MAX_KEYS + 1 }));
    let mut text = json!({"keys": many(1)}).to_string();
    text.push_str(&" ".repeat(MAX_KEY_SET_BYTES - text.len()));
    assert_eq!(KeySet::from_json(text.as_bytes()).unwrap().len(), 1);
    text.push(' ');
    let bytes = MAX_KEY_SET_BYTES + 1;
    assert_eq!(KeySet::from_json(text.as_bytes()), Err(KeySetError::TooLarge { bytes }));
    for text in ["", "{}", "[]", "{\"keys\": 1}", "\u{0}"] {
        assert!(matches!(KeySet::from_json(text.as_bytes()), Err(KeySetError::Malformed(_))), "{text}");
    }
}

#[test]
fn other_texts_are_no_tokens() {
    let signer = Signer::ec();
    let token = signer.token(&claims());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let padded = format!("{signed}.{signature}==");
    let more = format!("{signed}.{signature}.x");
    for text in ["", ".", "..", "...", "a.b", "a.b.c", signed, &padded, &more, "e30.e30.e30", "W10.e30.e30"] {
        let refused = verify(text, &[signer.issuer()], NOW * 1_000);
        assert!(matches!(refused, Err(TokenError::Malformed { .. })), "{text}: {refused:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,400}", header in ".{0,60}", claims in ".{0,200}", now in any::<u64>()) {
        let issuers = [Signer::rsa().issuer()];
        prop_assert!(verify(&text, &issuers, now).is_err());
        let token = format!("{}.{}.{}", encode(header), encode(claims), encode(&text));
        prop_assert!(verify(&token, &issuers, now).is_err());
        let _ = (claimed_expiry(&text), claimed_expiry(&token), KeySet::from_json(text.as_bytes()));
    }

    #[test]
    fn a_changed_token_is_refused(at in any::<prop::sample::Index>(), bit in 0_u8..7) {
        let signer = Signer::rsa();
        let token = signer.token(&claims());
        let mut bytes = token.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(changed.trim() == token || verify(&changed, &[signer.issuer()], NOW * 1_000).is_err());
    }

    #[test]
    fn any_claims_that_are_signed_are_taken_or_refused(
        exp in any::<f64>(), nbf in any::<f64>(), sub in ".{0,80}", now in any::<u64>(),
    ) {
        let signer = Signer::ec();
        let claims = with(&[("/exp", json!(exp)), ("/nbf", json!(nbf)), ("/sub", json!(sub))]);
        let _ = verify(&signer.token(&claims), &[signer.issuer()], now);
    }
}
