//! The secret of an agent's stay in the fleet, and the number that stands for it.
//!
//! An agent draws a secret for each stay, and its incarnation, which everybody may know, is a digest of it. Whoever shows the
//! secret has it from the agent itself: its guard. So every coordinator can check a guard's report by what the fleet's state
//! holds, also a leader that never spoke to the agent.

use robeing_platform::Random;
use sha2::{Digest, Sha256};

/// Bytes of a secret.
pub const SECRET_BYTES: usize = 16;

/// The secret of one stay.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret([u8; SECRET_BYTES]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new one.
    pub fn draw(random: &dyn Random) -> Self {
        let mut bytes = [0; SECRET_BYTES];
        for half in bytes.chunks_exact_mut(8) {
            half.copy_from_slice(&random.next_u64().to_le_bytes());
        }
        Self(bytes)
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The incarnation that it stands behind.
    pub fn incarnation(&self) -> u64 {
        incarnation_of(&self.0)
    }
}

/// The incarnation that a secret stands behind.
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
