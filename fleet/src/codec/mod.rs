//! Encoding of commands, replies and the whole state: in the log, in snapshots and between coordinators.
//!
//! A header states the kind of the message and the fleet version it needs (see [`crate::Feature`]):
//!
//! ```text
//! kind u8 | codec u8 | fleet version u16 LE | message …
//! ```
//!
//! A message is tagged: each field and each variant has its own number, and an empty field takes no bytes. So a field
//! or a variant can be added, and messages that don't use it keep their bytes. A number is never reused for anything
//! else, and the type of a field never changes. A message with an unknown number is refused: a coordinator that skipped
//! the number would have another state than the coordinators that know it.
//!
//! Messages are canonical: equal values have equal bytes, and other bytes are refused.

mod address;
mod archive;
mod command;
mod ids;
mod queues;
mod resources;
mod state;

use bilrost::{DecodeError, DecodeErrorKind, DistinguishedOwnedMessage, encoding::RawMessage};

pub(crate) use self::{
    address::Endpoint,
    state::{StateWriter, encode_state},
};
use crate::{Archived, Command, FIRST_VERSION, Feature, Fleet, Reply, Task, audit, known_version};

/// Length of the header, bytes.
const HEADER: usize = 4;
/// The only codec so far: bilrost.
const BILROST: u8 = 1;

/// The kind of a message. The numbers 0 to 8 are not used: earlier, untagged messages began with them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Command = b'C' as isize,
    Reply = b'R' as isize,
    State = b'S' as isize,
    Task = b'T' as isize,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Command => "command",
            Kind::Reply => "reply",
            Kind::State => "snapshot",
            Kind::Task => "record of an archived task",
        }
    }
}

/// Why bytes can't be decoded.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// The bytes have no header of this kind: they were written by an earlier version, or by another program.
    #[error("this is not a {0} that this program can read; a version before fleet version 1 may have written it")]
    Header(&'static str),
    /// The message has a fleet version that this program does not know.
    #[error("a {what} has fleet version {found}, but this program knows versions up to {known}; run a newer one")]
    Version {
        /// Command, reply or snapshot.
        what: &'static str,
        /// The message's fleet version.
        found: u32,
        /// The newest version that this program knows.
        known: u32,
    },
    /// The message has a known fleet version, but an unknown field, variant or value.
    #[error("a {what} has a part that this program does not know (in field {number}); run the version that wrote it")]
    Unknown {
        /// Command, reply or snapshot.
        what: &'static str,
        /// The number of the message's first field. For a command, this identifies the command.
        number: u64,
    },
    /// The fleet version in the header is not the one that the message needs.
    #[error("a {what} has fleet version {found} in its header, but needs {wanted}")]
    OtherVersion {
        /// Command, reply or snapshot.
        what: &'static str,
        /// The version in the header.
        found: u32,
        /// The version that the message needs.
        wanted: u32,
    },
    /// The message uses a codec that this program does not know.
    #[error("a {0} uses codec {1}, which this program does not know; run the version that wrote it")]
    Codec(&'static str, u8),
    /// The message is truncated or invalid.
    #[error("malformed {0}: {1}")]
    Malformed(&'static str, DecodeError),
    /// The snapshot is well-formed, but no fleet can have this state.
    #[error("the snapshot contradicts itself: {0}")]
    Inconsistent(String),
}

fn begin(kind: Kind, version: u32, out: &mut Vec<u8>) {
    // Versions count up by one, so u16 is large enough.
    let [low, high] = u16::try_from(version).unwrap_or(u16::MAX).to_le_bytes();
    out.extend([kind as u8, BILROST, low, high]);
}

/// Returns the fleet version in the header and the message after it.
fn open(kind: Kind, bytes: &[u8]) -> Result<(u32, &[u8]), CodecError> {
    let what = kind.name();
    let Some(([found, codec, low, high], message)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(CodecError::Header(what));
    };
    if *found != kind as u8 {
        return Err(CodecError::Header(what));
    }
    let version = u32::from(u16::from_le_bytes([*low, *high]));
    if version > known_version() {
        return Err(CodecError::Version { what, found: version, known: known_version() });
    }
    match *codec {
        BILROST => Ok((version, message)),
        codec => Err(CodecError::Codec(what, codec)),
    }
}

fn encode(kind: Kind, version: u32, message: &impl RawMessage, out: &mut Vec<u8>) {
    begin(kind, version, out);
    // The size needs no check beforehand: a vector grows as needed.
    message.raw_encode(out);
}

/// Decodes a message, whose header must have the version that the message needs.
fn decode<T: DistinguishedOwnedMessage>(
    kind: Kind,
    bytes: &[u8],
    version: impl FnOnce(&T) -> u32,
) -> Result<T, CodecError> {
    decode_by(|message| T::decode_canonical(message), kind, bytes, version)
}

fn decode_by<T>(
    read: impl FnOnce(&[u8]) -> Result<T, DecodeError>,
    kind: Kind,
    bytes: &[u8],
    version: impl FnOnce(&T) -> u32,
) -> Result<T, CodecError> {
    let (found, message) = open(kind, bytes)?;
    let what = kind.name();
    let value = read(message).map_err(|error| match error.kind() {
        // An unknown field or variant, or an unknown value of an enumeration.
        DecodeErrorKind::UnknownField | DecodeErrorKind::OutOfDomainValue => {
            CodecError::Unknown { what, number: first_number(message) }
        }
        _ => CodecError::Malformed(what, error),
    })?;
    match version(&value) {
        wanted if wanted == found => Ok(value),
        wanted => Err(CodecError::OtherVersion { what, found, wanted }),
    }
}

/// Returns the number of a message's first field.
fn first_number(mut message: &[u8]) -> u64 {
    // The lowest two bits of a field's key are its wire type.
    bilrost::encoding::decode_varint(&mut message).map_or(0, |key| key >> 2)
}

/// Appends an encoded command to `out`.
pub fn encode_command(command: &Command, out: &mut Vec<u8>) {
    begin(Kind::Command, Feature::version_of(command.feature()), out);
    command::write(command, out);
}

/// Decodes a command. Refuses `bytes` that contain anything after it.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    decode_by(command::read, Kind::Command, bytes, |command| Feature::version_of(command.feature()))
}

/// Returns the fleet version in the header of an encoded command; the first version if there is no header.
pub fn command_version(bytes: &[u8]) -> u32 {
    match bytes {
        [_, _, low, high, ..] => u32::from(u16::from_le_bytes([*low, *high])),
        _ => FIRST_VERSION,
    }
}

/// Appends an encoded reply to `out`.
pub fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    encode(Kind::Reply, Feature::version_of(reply.feature()), reply, out);
}

/// Decodes a reply. Refuses `bytes` that contain anything after it.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, CodecError> {
    decode(Kind::Reply, bytes, |reply: &Reply| Feature::version_of(reply.feature()))
}

/// Appends a task as a record of the archive. The same task has the same bytes everywhere.
pub fn encode_task(task: &Task, out: &mut Vec<u8>) {
    encode(Kind::Task, Feature::Archive.since(), task, out);
}

/// Decodes a record of the archive. Refuses `bytes` that contain anything after it.
pub fn decode_task(bytes: &[u8]) -> Result<Task, CodecError> {
    decode(Kind::Task, bytes, |_: &Task| Feature::Archive.since())
}

/// Returns the rows of archived tasks in an encoded state, and the number of its next record, without reading the rest.
/// Doesn't check that a fleet can have this state.
pub fn archived_in(state: &[u8]) -> Result<(Vec<Archived>, u64), CodecError> {
    let (_, message) = open(Kind::State, state)?;
    state::archived_in(message)
}

impl Fleet {
    /// Encodes the whole state in canonical form: equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_state(&self.state, Vec::with_capacity(1024 + self.bytes_in_memory() as usize))
    }

    /// Decodes the output of [`Fleet::encode`]. Any other bytes are refused.
    pub fn decode(bytes: &[u8]) -> Result<Fleet, CodecError> {
        let state = state::decode_state(bytes)?;
        audit::check_state(&state).map_err(CodecError::Inconsistent)?;
        Ok(Fleet::from_state(state))
    }

    /// Returns the CRC-32C of the canonical form.
    pub fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.encode())
    }
}
