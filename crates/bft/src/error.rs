//! Errors: input that is refused, and starts that are.

use thiserror::Error;

use crate::{
    certificate::{Seq, View},
    epoch::ReplicaId,
    limits::{
        MAX_BATCH_BYTES, MAX_BATCH_REQUESTS, MAX_CHECKPOINT_INTERVAL, MAX_CLIENTS, MAX_IN_FLIGHT, MAX_MEMBERS,
        MAX_NAME_BYTES, MAX_REQUEST_BYTES, MAX_TIMEOUT_MS, MAX_WINDOW, MIN_MEMBERS,
    },
};

/// Why bytes are not the encoding of a value.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end too early.
    #[error("the bytes end in the middle of a value; drop them, and ask the sender again")]
    Truncated,
    /// Something follows the value.
    #[error("{0} bytes follow the value; drop it: it has no other encoding")]
    Trailing(usize),
    /// A list or byte string is too long.
    #[error("a length is {length}, which is more than {max}; drop the value")]
    TooLong {
        /// The length.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A text is not UTF-8.
    #[error("a name is not UTF-8; drop the value")]
    NotUtf8,
    /// A tag is unknown.
    #[error("{tag} is not the tag of {what} that this version knows; run a newer version to read it")]
    UnknownTag {
        /// What the tag is of.
        what: &'static str,
        /// The tag.
        tag: u8,
    },
    /// The version of the encoding is unknown.
    #[error("version {0} of the encoding is unknown; run a newer version to read it")]
    UnknownVersion(u8),
}

/// Why a membership is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EpochError {
    /// There are too few or too many members.
    #[error("there are {0} members; between {MIN_MEMBERS} and {MAX_MEMBERS} can agree")]
    Members(usize),
    /// There are too many clients.
    #[error("there are {0} clients besides the members, which is more than {MAX_CLIENTS}; remove some")]
    Clients(usize),
    /// A name is empty or too long.
    #[error("the name {0:?} is empty or has more than {MAX_NAME_BYTES} bytes; change it")]
    Name(String),
    /// Two members share a name, a key or an incarnation.
    #[error("two members have the same {0}; each needs its own")]
    Duplicate(&'static str),
    /// The clients' keys are not in order, or one is a member's.
    #[error("the clients' keys must increase, and none may be a member's, since members are clients anyway")]
    ClientOrder,
    /// A parameter is out of bounds.
    #[error(
        "the parameter {0} is out of bounds: checkpoint_interval 1 to {MAX_CHECKPOINT_INTERVAL}, window two intervals \
         to {MAX_WINDOW}, batch_requests 1 to {MAX_BATCH_REQUESTS}, in_flight 1 to {MAX_IN_FLIGHT}, times 1 to \
         {MAX_TIMEOUT_MS} ms"
    )]
    Parameter(&'static str),
    /// The epoch is not the successor.
    #[error("it is not the next epoch of this group: fleet and group must be the same, and the number one higher")]
    NotNext,
}

/// Why a message is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Invalid {
    /// The sender is no member.
    #[error("{0:?} is no member of this epoch; drop the message")]
    NotAMember(ReplicaId),
    /// The client is not allowed to make requests.
    #[error("the key of the request is no client's of this epoch; have the group admit it in its next epoch")]
    NotAClient,
    /// A signature is wrong.
    #[error("the signature of {0} does not verify; drop the message, and suspect its sender")]
    Signature(&'static str),
    /// A request is too large.
    #[error("a request has {0} bytes, which is more than {MAX_REQUEST_BYTES}; split it")]
    RequestTooLarge(usize),
    /// A request's id is zero.
    #[error("a request has the id 0; ids begin at 1")]
    RequestId,
    /// A batch is too large.
    #[error("a batch has {requests} requests of {bytes} bytes; {MAX_BATCH_REQUESTS} and {MAX_BATCH_BYTES} are allowed")]
    BatchTooLarge {
        /// The number of requests.
        requests: usize,
        /// The encoded size.
        bytes: usize,
    },
    /// A change of members is not alone in its batch.
    #[error("a change of members is not alone in its batch; drop the message, and suspect the primary")]
    MixedBatch,
    /// The batch is not the one of the proposal.
    #[error("the batch at {0:?} does not have the digest or kind that is proposed; drop the message")]
    WrongBatch(Seq),
    /// A message comes from a member that has no right to send it.
    #[error("{from:?} sent {what} for {view:?}, whose primary it is or is not; drop the message")]
    WrongRole {
        /// The sender.
        from: ReplicaId,
        /// What it sent.
        what: &'static str,
        /// The view.
        view: View,
    },
    /// The number of signatures is not that of a certificate.
    #[error("{what} has {have} signatures instead of {need}; drop the message")]
    Quorum {
        /// What is to be proven.
        what: &'static str,
        /// The number of signatures.
        have: usize,
        /// The necessary number.
        need: usize,
    },
    /// Entries are not in order, so one may be there twice.
    #[error("{0} are not in strictly increasing order; drop the message")]
    Order(&'static str),
    /// A number is outside of what the rest of the message allows.
    #[error("{0} is outside of what the message itself allows; drop the message")]
    Range(&'static str),
    /// A new view does not propose what its view changes demand.
    #[error("the new view {0:?} does not propose what its view changes demand; drop it, and suspect its primary")]
    NotDerived(View),
    /// A membership is not allowed.
    #[error("a change of members is refused: {0}")]
    Epoch(#[from] EpochError),
    /// A handover's parts do not belong together.
    #[error("the handover is refused: its {0} does not belong to the rest; get it from another member")]
    Handover(&'static str),
}

/// Why a replica does not start.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StartError {
    /// There is no identity on the disk.
    #[error(
        "the records contain no identity: the disk is new or was lost; enrol with a new identity and have the group \
         admit it in its next epoch"
    )]
    NoIdentity,
    /// The identity on the disk is no member's.
    #[error(
        "the identity on this disk is no member's of epoch {0}; have the group admit it in its next epoch instead of \
         restoring another disk"
    )]
    NotAMember(u64),
    /// The signer has another key than the member.
    #[error("the key is not that of this member; give the key that belongs to the identity on this disk")]
    WrongKey,
    /// The records are of another epoch.
    #[error("the records are of another epoch; keep the records of each epoch apart")]
    OtherEpoch,
    /// The initial state is not the one of the epoch.
    #[error("the initial state is not the one with which the epoch starts; take it from the handover")]
    WrongState,
    /// The application refuses its snapshot.
    #[error("the application cannot read its snapshot: {0}; run the version of it that made the snapshot")]
    Snapshot(String),
    /// Records contradict each other.
    #[error("the record number {0} does not follow from those before; the disk is damaged, so enrol anew")]
    Damaged(usize),
}
