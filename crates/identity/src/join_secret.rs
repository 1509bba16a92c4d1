//! The join secret of a pool: all agents of the pool know it, and coordinators know its digest.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::hmac;

use crate::{IdentityError, digest, random_bytes};

/// Length of a join secret, bytes.
pub const JOIN_SECRET_BYTES: usize = 32;

/// A pool's join secret. Its `Debug` form does not reveal it.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinSecret([u8; JOIN_SECRET_BYTES]);

impl std::fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinSecret")
    }
}

impl JoinSecret {
    /// Makes a new secret.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn generate() -> Result<Self, IdentityError> {
        random_bytes().map(Self)
    }

    /// Reads a secret as [`JoinSecret::to_text`] writes it. Space around it is ignored.
    ///
    /// # Errors
    /// If it is none.
    pub fn from_text(text: &str) -> Result<Self, IdentityError> {
        let unreadable = || IdentityError::unreadable("join secret", "it is not base64url of 32 bytes");
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| unreadable())?;
        Ok(Self(bytes.try_into().map_err(|_| unreadable())?))
    }

    /// Writes the secret as text.
    pub fn to_text(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Returns the secret's digest, which coordinators compare.
    pub fn digest(&self) -> [u8; 32] {
        digest(&self.0)
    }

    /// Returns the bytes, as an agent sends them over TLS to a coordinator that it has authenticated.
    pub fn bytes(&self) -> &[u8; JOIN_SECRET_BYTES] {
        &self.0
    }

    /// Returns whether these bytes are a secret with one of these digests, in constant time for each.
    pub fn is_one_of(bytes: &[u8], digests: &[[u8; 32]]) -> bool {
        // With a random key for each comparison, an attacker who measures its time can't predict what is compared.
        let Ok(blind) = random_bytes::<32>() else { return false };
        let key = hmac::Key::new(hmac::HMAC_SHA256, &blind);
        let given = digest(bytes);
        digests
            .iter()
            .fold(false, |found, known| found | hmac::verify(&key, &given, hmac::sign(&key, known).as_ref()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_known_by_its_digest() {
        let (one, two) = (JoinSecret::generate().unwrap(), JoinSecret::generate().unwrap());
        assert_eq!(JoinSecret::from_text(&format!("{}\n", one.to_text())).unwrap(), one);
        assert!(JoinSecret::is_one_of(one.bytes(), &[two.digest(), one.digest()]));
        assert!(!JoinSecret::is_one_of(one.bytes(), &[two.digest()]));
        assert!(!JoinSecret::is_one_of(one.bytes(), &[]));
        assert!(!JoinSecret::is_one_of(b"", &[one.digest()]));
        assert_eq!(format!("{one:?}"), "JoinSecret");
        assert!(JoinSecret::from_text("short").is_err());
    }
}
