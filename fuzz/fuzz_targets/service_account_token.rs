//! A service-account token that nobody signed is refused, whatever its parts say; a key set is read or refused.
#![no_main]

use std::sync::LazyLock;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use robeing_identity::jwt::{KeySet, TokenIssuer, claimed_expiry, verify};

static ISSUERS: LazyLock<Vec<TokenIssuer>> = LazyLock::new(|| {
    let modulus = format!("{}w", "_".repeat(341));
    let jwks = format!(r#"{{"keys":[{{"kty":"RSA","kid":"one","n":"{modulus}","e":"AQAB"}}]}}"#);
    let keys = KeySet::from_json(jwks.as_bytes()).expect("a number of 2,048 bits may be a modulus");
    vec![TokenIssuer { issuer: "https://issuer".into(), audience: "robeing".into(), keys }]
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    assert!(verify(&text, &ISSUERS, 0).is_err());
    // The parts of a token, one a line.
    let parts: Vec<String> = bytes.split(|byte| *byte == b'\n').map(|part| URL_SAFE_NO_PAD.encode(part)).collect();
    let token = parts.join(".");
    assert!(verify(&token, &ISSUERS, 0).is_err());
    let _ = (claimed_expiry(&token), KeySet::from_json(bytes));
});
