//! What a replica writes to disk, in order. Records are synced before the messages that depend on them are sent.
//!
//! The first record is the disk's identity. It is written when a member enrols, before a group admits it; its
//! incarnation is random and is part of the membership. A member that lost its disk has lost it, cannot write it
//! again, and so cannot start: it could otherwise contradict votes that it does not remember. A host must never
//! restore an older copy of the records, for the same reason; it has to detect damage (by checksums), and to treat it as
//! a lost disk, except for a torn last record, which was never synced.

use crate::{
    certificate::{Decision, Prepared, Seq, Stable, View},
    crypto::Digest,
    epoch::Incarnation,
    error::DecodeError,
    limits::MAX_RECORD_BYTES,
    message::{Batch, NewView, Reproposal},
    state::State,
    wire::{Wire, wire_enum, wire_struct},
};

/// The version of the encoding of records.
const VERSION: u8 = 1;

/// A stable checkpoint with its state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StableState {
    /// The proof; nothing for the state with which the epoch starts.
    pub certificate: Option<Stable>,
    /// The state.
    pub state: State,
}

wire_struct!(StableState { certificate, state });

/// A batch that this replica may have to send to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptBody {
    /// The sequence number.
    pub seq: Seq,
    /// The view in which it was accepted.
    pub view: View,
    /// The batch.
    pub batch: Batch,
}

wire_struct!(KeptBody { seq, view, batch });

/// A record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// The identity of this disk. The first record.
    Identity(Incarnation),
    /// The replica started in the epoch with this domain. The second record.
    Started(Digest),
    /// The checkpoint from which everything else goes on.
    Stable(Box<StableState>),
    /// The replica left all lower views: it votes in none of them any more.
    ViewChange(View),
    /// The replica accepted a new view and all that it proposes.
    NewView(Box<NewView>),
    /// The replica accepted, or made, a pre-prepare in its view.
    Accepted(Reproposal),
    /// The replica has this batch.
    Body(KeptBody),
    /// The replica has a prepared certificate.
    Prepared(Prepared),
    /// The replica executed a decision.
    Decided(Box<Decision>),
}

wire_enum!(Record, "a record" {
    1 = Identity, 2 = Started, 3 = Stable, 4 = ViewChange, 5 = NewView, 6 = Accepted, 7 = Body, 8 = Prepared,
    9 = Decided,
});

impl Record {
    /// Encodes the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        self.put(&mut out);
        out
    }

    /// Decodes a record of at most [`MAX_RECORD_BYTES`].
    ///
    /// # Errors
    /// If the bytes are not the encoding of a record.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(DecodeError::TooLong { length: bytes.len(), max: MAX_RECORD_BYTES });
        }
        match bytes.split_first() {
            Some((&VERSION, rest)) => Self::decoded(rest),
            Some((version, _)) => Err(DecodeError::UnknownVersion(*version)),
            None => Err(DecodeError::Truncated),
        }
    }
}
