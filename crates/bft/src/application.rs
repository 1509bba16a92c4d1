//! What executes the requests.

use bytes::Bytes;

use crate::{certificate::Seq, crypto::PublicKey};

/// A deterministic state machine. The same calls in the same order must give the same results and snapshots at every
/// member.
pub trait Application {
    /// Executes a call of a client at a sequence number, and returns its result, of which at most
    /// [`MAX_RESULT_BYTES`](crate::limits::MAX_RESULT_BYTES) are kept.
    fn execute(&mut self, seq: Seq, client: &PublicKey, call: &Bytes) -> Bytes;

    /// Returns the whole state, at most [`MAX_SNAPSHOT_BYTES`](crate::limits::MAX_SNAPSHOT_BYTES). A replica whose
    /// snapshot is larger halts.
    fn snapshot(&self) -> Bytes;

    /// Replaces the state by a snapshot that a quorum vouches for.
    ///
    /// # Errors
    /// If this version cannot read it; the replica then halts.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), String>;
}
