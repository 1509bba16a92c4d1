//! The secret behind an agent's incarnation number.
//!
//! An agent draws a secret when it starts, and again whenever it starts over without its earlier session. Its
//! incarnation, which is public, is a digest of that secret. Only the agent's guard gets the secret, from the agent
//! itself. So every coordinator, even a leader that never had a connection to the agent, can verify a guard's report
//! against the replicated state.

use robeing_platform::Random;
use sha2::{Digest, Sha256};

/// Length of a secret, in bytes.
pub const SECRET_BYTES: usize = 16;

/// The secret of one incarnation. Its `Debug` form does not reveal it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// Draws a new secret.
    pub fn draw(random: &dyn Random) -> Self {
        let mut bytes = [0; SECRET_BYTES];
        for half in bytes.chunks_exact_mut(8) {
            half.copy_from_slice(&random.next_u64().to_le_bytes());
        }
        Self(bytes)
    }

    /// The bytes of the secret, as sent in a guard's report.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The incarnation of this secret.
    pub fn incarnation(&self) -> u64 {
        incarnation_of(&self.0)
    }
}

/// Returns the incarnation of a secret: the first 8 bytes of its SHA-256 digest, little-endian.
pub fn incarnation_of(secret: &[u8]) -> u64 {
    let digest: [u8; 32] = Sha256::digest(secret).into();
    let [a, b, c, d, e, f, g, h, ..] = digest;
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use robeing_platform::OsRandom;

    use super::*;

    #[test]
    fn a_secret_is_told_by_its_incarnation_and_does_not_show() {
        let (one, other) = (Secret::draw(&OsRandom), Secret::draw(&OsRandom));
        assert_ne!(one, other);
        assert_eq!(one.incarnation(), incarnation_of(one.bytes()));
        assert_ne!(one.incarnation(), other.incarnation());
        assert_eq!(format!("{one:?}"), "Secret");
    }
}
