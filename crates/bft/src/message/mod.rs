//! What replicas and clients send to each other.

mod batch;
mod view_change;

use bytes::Bytes;

use crate::{
    certificate::{Checkpoint, Decision, Proposal, Seq, Stable, View},
    crypto::{Context, Digest, Signature, Signer},
    epoch::ReplicaId,
    error::DecodeError,
    limits::MAX_MESSAGE_BYTES,
    state::Manifest,
    wire::{Reader, Wire, wire_enum, wire_struct},
};
pub use batch::{Batch, Operation, Request};
pub use view_change::{NewView, Reproposal, ViewChange};

/// The version of the encoding of messages.
const VERSION: u8 = 1;

/// A primary's assignment of a sequence number to a batch (1999, section 4.2; batching: 2002, section 5.1.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrePrepare {
    /// What is proposed.
    pub proposal: Proposal,
    /// The primary's signature of it.
    pub signature: Signature,
    /// The batch.
    pub batch: Batch,
}

wire_struct!(PrePrepare { proposal, signature, batch });

impl PrePrepare {
    /// Proposes a batch.
    pub fn sign(domain: &Digest, (view, seq): (View, Seq), batch: Batch, signer: &dyn Signer) -> Self {
        let proposal = Proposal { view, seq, kind: batch.kind(), digest: batch.digest() };
        Self { signature: Context::PrePrepare.sign(domain, &proposal, signer), proposal, batch }
    }
}

/// A prepare or a commit (1999, section 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    /// Who votes.
    pub replica: ReplicaId,
    /// What for.
    pub proposal: Proposal,
    /// The replica's signature of the proposal.
    pub signature: Signature,
}

wire_struct!(Vote { replica, proposal, signature });

impl Vote {
    /// Votes for a proposal, in the context of prepares or of commits.
    pub fn sign(
        context: Context,
        domain: &Digest,
        replica: ReplicaId,
        proposal: Proposal,
        signer: &dyn Signer,
    ) -> Self {
        Self { replica, proposal, signature: context.sign(domain, &proposal, signer) }
    }
}

/// A checkpoint message (1999, section 4.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointVote {
    /// Whose checkpoint.
    pub replica: ReplicaId,
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The replica's signature of the checkpoint.
    pub signature: Signature,
}

wire_struct!(CheckpointVote { replica, checkpoint, signature });

/// What a replica has, so that others send what it lacks (2002, section 5.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StatusBody {
    /// The replica's view.
    pub view: View,
    /// Whether it accepted the view, or still waits for its new view.
    pub active: bool,
    /// The last stable checkpoint.
    pub stable: Seq,
    /// The last executed sequence number.
    pub executed: Seq,
}

wire_struct!(StatusBody { view, active, stable, executed });

/// A value that a replica signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signed<T> {
    /// Who signed.
    pub replica: ReplicaId,
    /// What.
    pub body: T,
    /// The signature.
    pub signature: Signature,
}

impl<T: Wire> Signed<T> {
    /// Signs a value.
    pub fn sign(context: Context, domain: &Digest, replica: ReplicaId, body: T, signer: &dyn Signer) -> Self {
        Self { replica, signature: context.sign(domain, &body, signer), body }
    }
}

impl<T: Wire> Wire for Signed<T> {
    fn put(&self, out: &mut Vec<u8>) {
        self.replica.put(out);
        self.body.put(out);
        self.signature.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { replica: Wire::take(input)?, body: Wire::take(input)?, signature: Wire::take(input)? })
    }
}

/// Missing data that a replica asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The manifest of the state at a stable checkpoint.
    Manifest(Seq),
    /// A chunk of the state at a stable checkpoint.
    Chunk(ChunkId),
    /// The batch at a sequence number with a digest.
    Body(BodyId),
}

wire_enum!(Wanted, "wanted data" { 1 = Manifest, 2 = Chunk, 3 = Body });

/// Which chunk of which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChunkId {
    /// The checkpoint.
    pub seq: Seq,
    /// The chunk's index in the manifest.
    pub index: u16,
}

wire_struct!(ChunkId { seq, index });

/// Which batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BodyId {
    /// The sequence number.
    pub seq: Seq,
    /// The batch's digest.
    pub digest: Digest,
}

wire_struct!(BodyId { seq, digest });

/// A chunk of a state. It is believed if the manifest contains its digest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// Which one.
    pub id: ChunkId,
    /// Its content.
    pub data: Bytes,
}

wire_struct!(Chunk { id, data });

/// A batch that a replica lacked. It is believed if it has the digest that was decided or prepared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body {
    /// The sequence number.
    pub seq: Seq,
    /// The batch.
    pub batch: Batch,
}

wire_struct!(Body { seq, batch });

/// The result of a request at one replica (1999, section 4.1). A client believes it when f + 1 replicas say the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// The client's key.
    pub client: crate::crypto::PublicKey,
    /// The request's id.
    pub id: u64,
    /// The result.
    pub result: Bytes,
}

wire_struct!(Reply { client, id, result });

/// A message between replicas, or from a client to them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// A client's request.
    Request(Request),
    /// A primary's proposal.
    PrePrepare(PrePrepare),
    /// A backup's agreement to the order.
    Prepare(Vote),
    /// A replica's commitment.
    Commit(Vote),
    /// A replica's checkpoint.
    Checkpoint(CheckpointVote),
    /// A replica wants another primary.
    ViewChange(Box<ViewChange>),
    /// A primary begins its view.
    NewView(Box<NewView>),
    /// What a replica has.
    Status(Signed<StatusBody>),
    /// A proven decision, for a replica that lacks it.
    Decision(Box<Decision>),
    /// A proven checkpoint, for a replica that lacks it.
    Stable(Stable),
    /// A question for missing data.
    Query(Signed<Wanted>),
    /// An answer.
    Manifest(Manifest),
    /// An answer.
    Chunk(Chunk),
    /// An answer.
    Body(Body),
}

wire_enum!(Message, "a message" {
    1 = Request, 2 = PrePrepare, 3 = Prepare, 4 = Commit, 5 = Checkpoint, 6 = ViewChange, 7 = NewView, 8 = Status,
    9 = Decision, 10 = Stable, 11 = Query, 12 = Manifest, 13 = Chunk, 14 = Body,
});

impl Message {
    /// Encodes the message.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        self.put(&mut out);
        out
    }

    /// Decodes a message of at most [`MAX_MESSAGE_BYTES`].
    ///
    /// # Errors
    /// If the bytes are not the encoding of a message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_MESSAGE_BYTES {
            return Err(DecodeError::TooLong { length: bytes.len(), max: MAX_MESSAGE_BYTES });
        }
        match bytes.split_first() {
            Some((&VERSION, rest)) => Self::decoded(rest),
            Some((version, _)) => Err(DecodeError::UnknownVersion(*version)),
            None => Err(DecodeError::Truncated),
        }
    }
}
