//! Decisions that are read while the member continues.

use bytes::Bytes;

use super::decision_log::Stored;

/// A decision that was found.
pub(super) enum Found {
    Here(Bytes),
    Stored(Stored),
}

impl Found {
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Here(bytes) => bytes.len() as u64,
            Self::Stored(stored) => stored.size(),
        }
    }
}

/// Decisions that are to be read.
pub struct Reading(pub(super) Vec<Found>);

impl Reading {
    /// Returns the encoded decisions, in order. Those that the disk can't read are left out.
    pub async fn read(self) -> Vec<Bytes> {
        let mut read = Vec::with_capacity(self.0.len());
        for found in self.0 {
            match found {
                Found::Here(bytes) => read.push(bytes),
                Found::Stored(stored) => read.extend(stored.read().await),
            }
        }
        read
    }
}
