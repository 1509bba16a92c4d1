//! Bytes of commands, replies and the whole state: in the log, in snapshots and between coordinators.
//!
//! A header says what follows, and of which fleet version it is (see [`crate::Feature`]):
//!
//! ```text
//! kind u8 | codec u8 | fleet version u16 LE | message …
//! ```
//!
//! A message is tagged: each field and each variant has a number of its own, and a field that is empty takes no bytes. So a
//! field or a variant can be added, and what does not use it has the bytes it always had. A number is never used for anything
//! else, and a type never changed. A message with an unknown number is refused: a coordinator that skipped the number would
//! have another state than those that know it.
//!
//! Messages are canonical: equal values have equal bytes, and other bytes are refused.

mod address;
mod command;
mod ids;
mod state;

use bilrost::{DecodeError, DecodeErrorKind, DistinguishedOwnedMessage, encoding::RawMessage};

pub(crate) use self::{
    address::Endpoint,
    state::{StateWriter, encode_state},
};
use crate::{Command, FIRST_VERSION, Feature, Fleet, Reply, audit, known_version};

/// Bytes before a message.
const HEADER: usize = 4;
/// The only codec so far: bilrost.
const BILROST: u8 = 1;

/// What a message is. Never zero to 8, with which messages began that were not tagged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Command = b'C' as isize,
    Reply = b'R' as isize,
    State = b'S' as isize,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Command => "command",
            Kind::Reply => "reply",
            Kind::State => "snapshot",
        }
    }
}

/// Why bytes can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// They have no header of this kind: an earlier version wrote them, or they are none of ours.
    #[error("this is no {0} that this program can read; a version before fleet version 1 may have written it")]
    Header(&'static str),
    /// It is of a fleet version that this program does not know.
    #[error("a {what} is of fleet version {found}, and this program knows versions up to {known}; run a newer one")]
    Version {
        /// Command, reply or snapshot.
        what: &'static str,
        /// Its version.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// Something in it is unknown, though its version is not.
    #[error("a {what} has a part that this program does not know (in number {number}); run the version that wrote it")]
    Unknown {
        /// Command, reply or snapshot.
        what: &'static str,
        /// The number of its first part. Of a command, which one it is.
        number: u64,
    },
    /// Its header says that it needs another version than it does.
    #[error("a {what} says that it is of fleet version {found}, and is of {wanted}")]
    OtherVersion {
        /// Command, reply or snapshot.
        what: &'static str,
        /// What its header says.
        found: u32,
        /// What it needs.
        wanted: u32,
    },
    /// It is in a codec that this program does not know.
    #[error("a {0} is in codec {1}, which this program does not know; run the version that wrote it")]
    Codec(&'static str, u8),
    /// It breaks off, or says nothing sensible.
    #[error("malformed {0}: {1}")]
    Malformed(&'static str, DecodeError),
    /// Well-formed, but not the state of any fleet.
    #[error("the snapshot contradicts itself: {0}")]
    Inconsistent(String),
}

fn begin(kind: Kind, version: u32, out: &mut Vec<u8>) {
    // Versions count up by one; there won't be that many.
    let [low, high] = u16::try_from(version).unwrap_or(u16::MAX).to_le_bytes();
    out.extend([kind as u8, BILROST, low, high]);
}

/// The version that a header says, and the message behind it.
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
    // Without a look at how much it will be: a vector takes any bytes.
    message.raw_encode(out);
}

/// Reads a message, whose header must have the version that it needs.
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
        // A field or a variant, and a value of an enumeration.
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

/// The number of a message's first part.
fn first_number(mut message: &[u8]) -> u64 {
    // Two bits of a part's key are the type of what follows.
    bilrost::encoding::decode_varint(&mut message).map_or(0, |key| key >> 2)
}

/// Appends a command.
pub fn encode_command(command: &Command, out: &mut Vec<u8>) {
    begin(Kind::Command, Feature::version_of(command.feature()), out);
    command::write(command, out);
}

/// Reads a command that fills `bytes`.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    decode_by(command::read, Kind::Command, bytes, |command| Feature::version_of(command.feature()))
}

/// The fleet version that an encoded command needs; the first if it has no header.
pub fn command_version(bytes: &[u8]) -> u32 {
    match bytes {
        [_, _, low, high, ..] => u32::from(u16::from_le_bytes([*low, *high])),
        _ => FIRST_VERSION,
    }
}

/// Appends a reply.
pub fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    encode(Kind::Reply, Feature::version_of(None), reply, out);
}

/// Reads a reply that fills `bytes`.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, CodecError> {
    decode(Kind::Reply, bytes, |_| Feature::version_of(None))
}

impl Fleet {
    /// The whole state in canonical form: equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        encode_state(&self.state, Vec::with_capacity(1024 + self.stored_bytes() as usize))
    }

    /// Reads what [`Fleet::encode`] gave. Anything else is refused, whatever it is.
    pub fn decode(bytes: &[u8]) -> Result<Fleet, CodecError> {
        let state = state::decode_state(bytes)?;
        audit::check_state(&state).map_err(CodecError::Inconsistent)?;
        Ok(Fleet::from_state(state))
    }

    /// CRC-32C of the canonical form.
    pub fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.encode())
    }
}
