//! Who a member is, as its disk has it.

use bytes::Bytes;
use robeing_bft::epoch::Incarnation;

const IDENTITY_MAGIC: &[u8; 8] = b"RBGRPID1";

/// Who a member is in its group: the identity of its disk, and the seed of its key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The identity of the disk.
    pub incarnation: Incarnation,
    /// The seed of the ed25519 key: a secret.
    pub seed: [u8; 32],
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({:?})", self.incarnation)
    }
}

impl Identity {
    pub(super) fn to_bytes(self) -> Bytes {
        let mut out = IDENTITY_MAGIC.to_vec();
        out.extend_from_slice(&self.incarnation.0);
        out.extend_from_slice(&self.seed);
        out.extend_from_slice(&crc32c::crc32c(&out).to_le_bytes());
        out.into()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (body, sum) = bytes.split_last_chunk::<4>()?;
        let rest = body.strip_prefix(&IDENTITY_MAGIC[..])?;
        let (incarnation, seed) = rest.split_first_chunk::<16>()?;
        let seed = seed.try_into().ok()?;
        let is_whole = crc32c::crc32c(body).to_le_bytes() == *sum;
        is_whole.then_some(Self { incarnation: Incarnation(*incarnation), seed })
    }
}
