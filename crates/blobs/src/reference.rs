//! References to objects.

use std::fmt;

use ring::digest::{SHA256, digest};

/// The folder of all objects in a store.
const FOLDER: &str = "sha256";

/// What an object contains, by which it is found in a store and checked.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BlobRef {
    /// The SHA-256 of its content.
    pub sha256: [u8; 32],
    /// The length of its content, bytes.
    pub bytes: u64,
}

impl BlobRef {
    /// Returns the reference to this content.
    pub fn of(content: &[u8]) -> Self {
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(digest(&SHA256, content).as_ref());
        Self { sha256, bytes: content.len() as u64 }
    }

    /// Returns the reference with this hash and length; `None` if the hash has another length than 32 bytes.
    pub fn from_parts(sha256: &[u8], bytes: u64) -> Option<Self> {
        Some(Self { sha256: sha256.try_into().ok()?, bytes })
    }

    /// Returns the parts of the object's key in a store.
    pub(crate) fn key(&self) -> (&'static str, String) {
        (FOLDER, self.hex())
    }

    fn hex(&self) -> String {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |of: u8| char::from(DIGITS[usize::from(of & 15)]);
        self.sha256.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
    }
}

/// Writes the object's key in a store, below its prefix: `sha256/` and the hash in hexadecimal digits.
impl fmt::Display for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FOLDER}/{}", self.hex())
    }
}
