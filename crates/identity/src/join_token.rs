//! Join tokens: with one, an agent enrols once. Tokens are signed with the fleet's join key and verified by the
//! coordinators, which have that key, so nothing needs to be stored before a token is used.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::{IdentityError, PeerRole, digest, random_bytes};

/// Maximum size of a join token, bytes.
pub const MAX_JOIN_TOKEN_BYTES: usize = 4_096;
/// The beginning of every token: it tells secret scanners and people what it is.
const PREFIX: &str = "robeing-join-1.";

/// The key with which a fleet's join tokens are signed. Its `Debug` form does not reveal it.
#[derive(Clone)]
pub struct JoinKey(hmac::Key);

impl std::fmt::Debug for JoinKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinKey")
    }
}

/// What a join token permits: that one process enrols, as described, until it expires.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinClaims {
    /// A number that no other token has.
    pub id: String,
    /// The cluster.
    pub cluster: String,
    /// The role of the agent.
    pub role: String,
    /// The pool of the agent; empty for none.
    pub pool: String,
    /// The name of the agent. Any, if unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Time until which the token can be used, Unix milliseconds.
    pub expires: u64,
}

/// Why a join token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    /// It is no join token.
    #[error("this is no join token")]
    Malformed,
    /// It was made with another key.
    #[error("the join token is not of this fleet, or the fleet's join key has changed since it was made")]
    Signature,
    /// It is for another cluster.
    #[error("the join token is for another cluster")]
    Cluster,
    /// It has expired.
    #[error("the join token has expired: make another one")]
    Expired,
}

impl JoinClaims {
    /// Creates the claims of a new token.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn new(
        cluster: &str,
        role: PeerRole,
        pool: &str,
        name: Option<&str>,
        expires: u64,
    ) -> Result<Self, IdentityError> {
        let id: [u8; 16] = random_bytes()?;
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(id),
            cluster: cluster.to_owned(),
            role: role.as_str().to_owned(),
            pool: pool.to_owned(),
            name: name.map(str::to_owned),
            expires,
        })
    }

    /// Returns the digest by which a fleet remembers that the token was used.
    pub fn digest(&self) -> [u8; 32] {
        digest(self.id.as_bytes())
    }
}

impl JoinKey {
    /// Creates the key from a secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// Signs a token.
    pub fn sign(&self, claims: &JoinClaims) -> String {
        let claims = serde_json::to_vec(claims).unwrap_or_else(|error| unreachable!("strings and a number: {error}"));
        let payload = URL_SAFE_NO_PAD.encode(claims);
        let tag = hmac::sign(&self.0, payload.as_bytes());
        format!("{PREFIX}{payload}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// Verifies a token of this cluster, at the time `now`, Unix milliseconds. Whether it was used before, only the
    /// fleet knows.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn verify(&self, token: &str, cluster: &str, now: u64) -> Result<JoinClaims, JoinTokenError> {
        let token = token.trim();
        if token.len() > MAX_JOIN_TOKEN_BYTES {
            return Err(JoinTokenError::Malformed);
        }
        let rest = token.strip_prefix(PREFIX).ok_or(JoinTokenError::Malformed)?;
        let (payload, tag) = rest.split_once('.').ok_or(JoinTokenError::Malformed)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).map_err(|_| JoinTokenError::Malformed)?;
        hmac::verify(&self.0, payload.as_bytes(), &tag).map_err(|_| JoinTokenError::Signature)?;
        let claims = URL_SAFE_NO_PAD.decode(payload).map_err(|_| JoinTokenError::Malformed)?;
        let claims: JoinClaims = serde_json::from_slice(&claims).map_err(|_| JoinTokenError::Malformed)?;
        if claims.cluster != cluster {
            return Err(JoinTokenError::Cluster);
        }
        if claims.expires <= now {
            return Err(JoinTokenError::Expired);
        }
        Ok(claims)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claims() -> JoinClaims {
        JoinClaims::new("one", PeerRole::Worker, "data", Some("data-0"), 1_000).unwrap()
    }

    #[test]
    fn a_token_permits_what_was_signed_until_it_expires() {
        let (key, claims) = (JoinKey::new(b"secret"), claims());
        let token = key.sign(&claims);
        assert_eq!(key.verify(&token, "one", 999), Ok(claims.clone()));
        assert_eq!(key.verify(&format!(" {token}\n"), "one", 999), Ok(claims));
        assert_eq!(key.verify(&token, "one", 1_000), Err(JoinTokenError::Expired));
        assert_eq!(key.verify(&token, "two", 999), Err(JoinTokenError::Cluster));
        assert_eq!(JoinKey::new(b"other").verify(&token, "one", 999), Err(JoinTokenError::Signature));
        assert_eq!(format!("{key:?}"), "JoinKey");
    }

    #[test]
    fn two_tokens_never_have_one_digest() {
        assert_ne!(claims().digest(), claims().digest());
    }

    #[test]
    fn other_texts_are_no_tokens() {
        let key = JoinKey::new(b"secret");
        let long = "x".repeat(MAX_JOIN_TOKEN_BYTES + 1);
        for text in ["", "x", PREFIX, "robeing-join-1.x", "robeing-join-1.x.%", &long] {
            assert_eq!(key.verify(text, "one", 0), Err(JoinTokenError::Malformed), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_changed_token_is_refused(at in 0_usize..200, bit in 0_u8..7) {
            let key = JoinKey::new(b"secret");
            let token = key.sign(&claims());
            let mut bytes = token.clone().into_bytes();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            if let Ok(changed) = String::from_utf8(bytes) {
                // The last character of unpadded base64 has bits that mean nothing; the decoder refuses other values.
                prop_assert!(changed.trim() == token || key.verify(&changed, "one", 0).is_err());
            }
        }
    }
}
