//! Verifies the service-account tokens of Kubernetes without asking the API server: the tokens are JWTs ([RFC 7519]),
//! signed ([RFC 7515]) with a key from the set that the API server publishes ([RFC 7517]).
//!
//! Only RS256 and ES256 are taken, which are all that the API server signs with, and only with a key that is made for
//! the algorithm. A token's times are compared with a time that is passed in.
//!
//! [RFC 7515]: https://www.rfc-editor.org/rfc/rfc7515
//! [RFC 7517]: https://www.rfc-editor.org/rfc/rfc7517
//! [RFC 7519]: https://www.rfc-editor.org/rfc/rfc7519

mod claims;
mod keys;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, de::DeserializeOwned};

use self::{
    claims::Claims,
    keys::{Algorithm, Match},
};
pub use self::{
    claims::{LEEWAY_MS, MAX_TOKEN_ID_BYTES, ServiceAccountClaims, claimed_expiry},
    keys::{KeySet, KeySetError, MAX_KEY_SET_BYTES, MAX_KEYS},
};

/// Maximum size of a service-account token, bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Maximum number of characters of a token's claim that an error shows.
const MAX_SHOWN: usize = 128;

/// An API server whose tokens are taken.
#[derive(Clone, Debug)]
pub struct TokenIssuer {
    /// The issuer, as in the tokens' `iss`, such as `https://kubernetes.default.svc.cluster.local`.
    pub issuer: String,
    /// The audience that the tokens must be made for.
    pub audience: String,
    /// The keys with which the issuer signs.
    pub keys: KeySet,
}

/// Why a service-account token is refused. No message contains the token; what it shows of a claim is cut to 128
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is too large.
    #[error("the token has {bytes} bytes, the most is {MAX_TOKEN_BYTES}")]
    TooLarge {
        /// Its size, bytes.
        bytes: usize,
    },
    /// It is no signed JWT, or a part of it can't be read.
    #[error("this is no service-account token: its {part} can't be read")]
    Malformed {
        /// Which part.
        part: &'static str,
    },
    /// It is signed with an algorithm that is not taken.
    #[error("the token is signed with {algorithm:?}; only RS256 and ES256 are taken")]
    Algorithm {
        /// The algorithm, as the token names it.
        algorithm: String,
    },
    /// Its header has extensions that a verifier must understand.
    #[error("the token has critical extensions in its header, which are not taken")]
    CriticalExtensions,
    /// No issuer of this name is known.
    #[error("the token is from the issuer {issuer:?}, whose tokens are not taken here")]
    Issuer {
        /// The issuer, as the token names it.
        issuer: String,
    },
    /// The issuer's key set does not have the key.
    #[error(
        "the token is signed with the key {key:?}, which is not among the keys of its issuer; if the issuer has new keys, \
         read them again"
    )]
    UnknownKey {
        /// The id of the key, as the token names it; empty if it names none.
        key: String,
    },
    /// The key that the token names is made for another algorithm.
    #[error("the key that the token names is not made for the algorithm that the token names")]
    KeyAlgorithm,
    /// The signature is wrong.
    #[error("the signature of the token is wrong")]
    Signature,
    /// It is for another audience.
    #[error("the token is not made for the audience {expected:?}: request one for it")]
    Audience {
        /// The audience that it must be made for.
        expected: String,
    },
    /// A claim is missing.
    #[error("the token has no claim {claim}; a projected service-account token has it")]
    Missing {
        /// The claim.
        claim: &'static str,
    },
    /// It has expired.
    #[error("the token expired {} s ago: request another one", .ms_ago / 1_000)]
    Expired {
        /// How long ago, milliseconds.
        ms_ago: u64,
    },
    /// It is not valid yet.
    #[error("the {claim} of the token is {} s in the future: are the clocks right?", .ms_ahead / 1_000)]
    NotYet {
        /// The claim, `nbf` or `iat`.
        claim: &'static str,
        /// How far in the future, milliseconds.
        ms_ahead: u64,
    },
    /// Its subject is not a service account.
    #[error("the subject of the token, {subject:?}, is not a service account: system:serviceaccount:NAMESPACE:NAME")]
    Subject {
        /// The subject, as the token names it.
        subject: String,
    },
    /// Its subject and its claims about the service account disagree.
    #[error("the subject of the token is another service account than in its kubernetes.io claim")]
    Disagreement,
}

impl TokenError {
    /// Returns whether the token may be valid by keys that the issuer has published since the key set was read.
    pub fn may_be_a_new_key(&self) -> bool {
        matches!(self, Self::UnknownKey { .. })
    }
}

/// The header of a token, as far as it matters. Unknown fields are ignored (RFC 7515, 4.2); a field that is there twice
/// is refused.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

/// A token that was taken apart. Nothing in it is verified.
struct Parts<'a> {
    header: Header,
    claims: Claims,
    /// What is signed.
    signed: &'a str,
    signature: Vec<u8>,
}

/// Returns a claim as an error may show it.
fn shown(claim: &str) -> String {
    claim.chars().take(MAX_SHOWN).collect()
}

fn decode(text: &str, part: &'static str) -> Result<Vec<u8>, TokenError> {
    URL_SAFE_NO_PAD.decode(text).map_err(|_| TokenError::Malformed { part })
}

/// Reads a part of a token, which must be a JSON object.
fn object<T: DeserializeOwned>(text: &str, part: &'static str) -> Result<T, TokenError> {
    let json = decode(text, part)?;
    // An array, too, can be read as a struct.
    if json.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
        return Err(TokenError::Malformed { part });
    }
    serde_json::from_slice(&json).map_err(|_| TokenError::Malformed { part })
}

fn take_apart(token: &str) -> Result<Parts<'_>, TokenError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(TokenError::TooLarge { bytes: token.len() });
    }
    let malformed = TokenError::Malformed { part: "form HEADER.CLAIMS.SIGNATURE" };
    let Some((signed, signature)) = token.rsplit_once('.') else { return Err(malformed) };
    let Some((header, claims)) = signed.split_once('.') else { return Err(malformed) };
    if claims.contains('.') {
        return Err(malformed);
    }
    Ok(Parts {
        header: object(header, "header")?,
        claims: object(claims, "claims")?,
        signed,
        signature: decode(signature, "signature")?,
    })
}

/// Verifies a service-account token at the time `now_ms`, Unix milliseconds. White space around it is ignored, because
/// files end with a line break.
///
/// Several issuers may have the same name, since the API servers of most clusters do: the token is valid if it is by
/// one of them.
///
/// # Errors
/// Why it is refused.
pub fn verify(token: &str, issuers: &[TokenIssuer], now_ms: u64) -> Result<ServiceAccountClaims, TokenError> {
    let parts = take_apart(token.trim())?;
    let algorithm = Algorithm::parse(&parts.header.alg)
        .ok_or_else(|| TokenError::Algorithm { algorithm: shown(&parts.header.alg) })?;
    if parts.header.crit.is_some() {
        return Err(TokenError::CriticalExtensions);
    }
    let said = parts.claims.issuer().ok_or(TokenError::Missing { claim: "iss" })?;
    let mut best = None;
    for issuer in issuers.iter().filter(|issuer| issuer.issuer == said) {
        let matched = issuer.keys.verify(algorithm, parts.header.kid.as_deref(), parts.signed, &parts.signature);
        if matched == Match::Verified {
            return parts.claims.check(issuer, parts.signed, now_ms);
        }
        best = best.max(Some(matched));
    }
    Err(match best {
        None => TokenError::Issuer { issuer: shown(said) },
        Some(Match::NoKey) => TokenError::UnknownKey { key: shown(parts.header.kid.as_deref().unwrap_or_default()) },
        Some(Match::OtherAlgorithm) => TokenError::KeyAlgorithm,
        Some(Match::Wrong | Match::Verified) => TokenError::Signature,
    })
}

#[cfg(test)]
mod tests;
