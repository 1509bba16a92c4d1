//! The process's source of random numbers, for cryptography.

use std::convert::Infallible;

use hpke::rand_core::{TryCryptoRng, TryRng};
use robeing_platform::Random;
use zeroize::Zeroizing;

/// The source of random numbers, for HPKE. In a real process it is the operating system's generator.
pub(crate) struct Source<'a>(pub &'a dyn Random);

impl TryRng for Source<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u64() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next_u64().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Source<'_> {}

/// Returns 32 random bytes.
pub(crate) fn random_bytes(random: &dyn Random) -> [u8; 32] {
    let mut bytes = [0; 32];
    let Ok(()) = Source(random).try_fill_bytes(&mut bytes);
    bytes
}

/// Returns 32 random bytes that are erased when dropped.
pub(crate) fn random_secret(random: &dyn Random) -> Zeroizing<[u8; 32]> {
    let mut bytes = Zeroizing::new([0_u8; 32]);
    let Ok(()) = Source(random).try_fill_bytes(&mut bytes[..]);
    bytes
}
