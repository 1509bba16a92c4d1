//! The replicated state at a checkpoint, and how it is cut into chunks for its transfer (2002, section 5.3.2, with one
//! level of partitions).

use bytes::Bytes;

use crate::{
    application::Application,
    certificate::{Checkpoint, Seq},
    clients::ClientTable,
    crypto::Digest,
    epoch::Membership,
    error::DecodeError,
    limits::{MAX_SNAPSHOT_BYTES, MAX_STATE_BYTES, MAX_STATE_CHUNKS, STATE_CHUNK_BYTES},
    wire::{Reader, Wire, wire_struct},
};

/// The content of a state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Content {
    /// The last executed sequence number.
    pub seq: Seq,
    /// The digest of all decisions up to it.
    pub history: Digest,
    /// The next epoch, if it is decided.
    pub next_epoch: Option<Box<Membership>>,
    /// What was executed for each client.
    pub clients: ClientTable,
    /// The application's snapshot.
    pub snapshot: Bytes,
}

wire_struct!(Content { seq, history, next_epoch, clients, snapshot });

/// The digests of a state's chunks. Its own digest is the one in checkpoints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// The checkpoint's sequence number.
    pub seq: Seq,
    /// The state's encoded size, in bytes.
    pub size: u32,
    /// The digests of its chunks.
    pub chunks: Vec<Digest>,
}

wire_struct!(Manifest { seq, size, chunks });

impl Manifest {
    fn of(seq: Seq, bytes: &[u8]) -> Self {
        let chunks = bytes.chunks(STATE_CHUNK_BYTES).map(Digest::of_bytes).collect();
        Self { seq, size: u32::try_from(bytes.len()).unwrap_or(u32::MAX), chunks }
    }

    /// The checkpoint that this describes.
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint { seq: self.seq, digest: Digest::of("robeing.bft.v1.state", self) }
    }

    /// Returns whether size and number of chunks fit together and are within the limits.
    pub(crate) fn is_consistent(&self) -> bool {
        let size = self.size as usize;
        size <= MAX_STATE_BYTES
            && self.chunks.len() == size.div_ceil(STATE_CHUNK_BYTES)
            && self.chunks.len() <= MAX_STATE_CHUNKS
    }
}

/// The replicated state at a checkpoint: the application's snapshot, what was executed for each client, the digest
/// of all decisions so far.
#[derive(Clone, Debug)]
pub struct State {
    content: Content,
    bytes: Bytes,
    manifest: Manifest,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for State {}

impl Wire for State {
    fn put(&self, out: &mut Vec<u8>) {
        self.bytes.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Self::from_bytes(Bytes::take(input)?)
    }
}

impl State {
    /// Returns the state in which a group's first epoch starts, or nothing if the snapshot is too large.
    pub fn genesis<A: Application>(application: &A) -> Option<Self> {
        let snapshot = application.snapshot();
        let clients = ClientTable::default();
        Self::new(Content { seq: Seq(0), history: Digest::default(), next_epoch: None, clients, snapshot })
    }

    /// Encodes a state, unless it is too large.
    pub(crate) fn new(content: Content) -> Option<Self> {
        if content.snapshot.len() > MAX_SNAPSHOT_BYTES {
            return None;
        }
        let bytes = Bytes::from(content.encoded());
        let manifest = Manifest::of(content.seq, &bytes);
        manifest.is_consistent().then_some(Self { content, bytes, manifest })
    }

    /// Decodes a state.
    pub(crate) fn from_bytes(bytes: Bytes) -> Result<Self, DecodeError> {
        let content = Content::decoded(&bytes)?;
        let manifest = Manifest::of(content.seq, &bytes);
        Ok(Self { content, bytes, manifest })
    }

    /// The checkpoint of this state.
    pub fn checkpoint(&self) -> Checkpoint {
        self.manifest.checkpoint()
    }

    /// The next epoch's membership, if it is decided.
    pub fn next_epoch(&self) -> Option<&Membership> {
        self.content.next_epoch.as_deref()
    }

    /// The application's snapshot.
    pub fn snapshot(&self) -> &Bytes {
        &self.content.snapshot
    }

    pub(crate) fn content(&self) -> &Content {
        &self.content
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns a chunk, or nothing if there is none of this index.
    pub(crate) fn chunk(&self, index: u16) -> Option<Bytes> {
        let from = usize::from(index).checked_mul(STATE_CHUNK_BYTES)?;
        let to = from.saturating_add(STATE_CHUNK_BYTES).min(self.bytes.len());
        (from < to).then(|| self.bytes.slice(from..to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(snapshot: usize) -> Option<State> {
        let snapshot = Bytes::from(vec![7; snapshot]);
        let clients = ClientTable::default();
        State::new(Content { seq: Seq(3), history: Digest::default(), next_epoch: None, clients, snapshot })
    }

    #[test]
    fn a_state_is_the_sum_of_its_chunks() {
        let state = state(2 * STATE_CHUNK_BYTES).unwrap();
        let chunks: Vec<Bytes> = (0..).map_while(|index| state.chunk(index)).collect();
        assert_eq!(chunks.len(), state.manifest().chunks.len());
        assert!(chunks.iter().zip(&state.manifest().chunks).all(|(chunk, digest)| Digest::of_bytes(chunk) == *digest));
        let again = State::from_bytes(chunks.concat().into()).unwrap();
        assert_eq!(again, state);
        assert_eq!(again.checkpoint(), state.checkpoint());
    }

    #[test]
    fn a_snapshot_has_a_limit() {
        assert!(state(MAX_SNAPSHOT_BYTES).is_some());
        assert!(state(MAX_SNAPSHOT_BYTES + 1).is_none());
    }
}
