//! Bytes of commands, replies and the whole fleet.
//!
//! Each starts with a format byte; what follows is postcard. Old logs and snapshots must stay readable, so within a format
//! an enum only grows at its end and a struct never changes: a new field is a new variant, or a new format.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::fleet::State;
use crate::{Command, FLEET_VERSION, Fleet, Reply, audit};

/// Of commands and replies.
const MESSAGE_FORMAT: u8 = 2;
/// Of snapshots: the state.
const SNAPSHOT_FORMAT: u8 = 7;
/// Of snapshots of a fleet in which pools are set: the state and their names. Without such pools the first format is
/// written, so that equal states give equal bytes.
const SNAPSHOT_FORMAT_POOLS: u8 = 8;

/// Why bytes can't be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// Another version wrote them, or they are none of ours.
    #[error("unknown format {0} of a {1}; the version of this program that wrote it can read it")]
    Format(u8, &'static str),
    /// They break off, or say nothing sensible.
    #[error("malformed {0}: {1}")]
    Malformed(&'static str, postcard::Error),
    /// Something follows.
    #[error("{0} bytes follow the end of a {1}")]
    Trailing(usize, &'static str),
    /// The state was changed by rules that this binary does not know.
    #[error("the snapshot is of fleet version {found}, this program knows up to {known}; use a newer one")]
    Version {
        /// Of the snapshot.
        found: u32,
        /// The newest that is known.
        known: u32,
    },
    /// Well-formed, but not the state of any fleet.
    #[error("the snapshot contradicts itself: {0}")]
    Inconsistent(String),
}

fn encode(format: u8, value: &impl Serialize, out: &mut Vec<u8>) {
    out.push(format);
    append(value, out);
}

/// Appends a value as it is within a message.
pub(crate) fn append(value: &impl Serialize, out: &mut Vec<u8>) {
    let written = postcard::to_extend(value, std::mem::take(out));
    *out = written.expect("a vector takes any bytes, and no type here has an unknown length");
}

/// Appends the length that goes before the entries of a map.
pub(crate) fn append_len(len: usize, out: &mut Vec<u8>) {
    // The lengths of maps are written as numbers of 64 bits are.
    append(&(len as u64), out);
}

/// Whose size is set, as it follows the state; and of which format the whole is.
fn set_pools(state: &State) -> (u8, BTreeSet<&String>) {
    let set: BTreeSet<&String> = state.pools.iter().filter(|(_, pool)| pool.set).map(|(name, _)| name).collect();
    (if set.is_empty() { SNAPSHOT_FORMAT } else { SNAPSHOT_FORMAT_POOLS }, set)
}

/// The bytes of a state up to its agents, whose number is included, and those that follow its tasks.
pub(crate) fn begin_state(state: &State) -> (Vec<u8>, Vec<u8>) {
    // Without `..`: what is added to the state must be added here.
    let State {
        version,
        config,
        now,
        revision,
        next_seq,
        next_agent,
        next_session,
        totals,
        kinds,
        pools,
        agents,
        tasks: _,
        recoveries,
    } = state;
    let (format, set) = set_pools(state);
    let mut head = vec![format];
    append(&(version, config, now, revision, next_seq, next_agent, next_session, totals, kinds, pools), &mut head);
    append_len(agents.len(), &mut head);
    let mut tail = Vec::new();
    append(recoveries, &mut tail);
    if !set.is_empty() {
        append(&set, &mut tail);
    }
    (head, tail)
}

fn take<'a, T: Deserialize<'a>>(format: u8, what: &'static str, bytes: &'a [u8]) -> Result<(T, &'a [u8]), CodecError> {
    let Some((first, rest)) = bytes.split_first() else {
        let end = postcard::Error::DeserializeUnexpectedEnd;
        return Err(CodecError::Malformed(what, end));
    };
    if *first != format {
        return Err(CodecError::Format(*first, what));
    }
    postcard::take_from_bytes(rest).map_err(|e| CodecError::Malformed(what, e))
}

fn decode<'a, T: Deserialize<'a>>(format: u8, what: &'static str, bytes: &'a [u8]) -> Result<T, CodecError> {
    let (value, rest) = take(format, what, bytes)?;
    match rest.len() {
        0 => Ok(value),
        more => Err(CodecError::Trailing(more, what)),
    }
}

/// Appends a command.
pub fn encode_command(command: &Command, out: &mut Vec<u8>) {
    encode(MESSAGE_FORMAT, command, out);
}

/// Reads a command that fills `bytes`.
pub fn decode_command(bytes: &[u8]) -> Result<Command, CodecError> {
    decode(MESSAGE_FORMAT, "command", bytes)
}

/// Reads the command at the start of `bytes`, and gives what follows it.
pub fn take_command(bytes: &[u8]) -> Result<(Command, &[u8]), CodecError> {
    take(MESSAGE_FORMAT, "command", bytes)
}

/// Appends a reply.
pub fn encode_reply(reply: &Reply, out: &mut Vec<u8>) {
    encode(MESSAGE_FORMAT, reply, out);
}

/// Reads a reply that fills `bytes`.
pub fn decode_reply(bytes: &[u8]) -> Result<Reply, CodecError> {
    decode(MESSAGE_FORMAT, "reply", bytes)
}

/// Reads the reply at the start of `bytes`, and gives what follows it.
pub fn take_reply(bytes: &[u8]) -> Result<(Reply, &[u8]), CodecError> {
    take(MESSAGE_FORMAT, "reply", bytes)
}

fn decode_with_pools(bytes: &[u8]) -> Result<State, CodecError> {
    let (mut state, set): (State, BTreeSet<String>) = decode(SNAPSHOT_FORMAT_POOLS, "snapshot", bytes)?;
    let wrong = |problem: String| Err(CodecError::Inconsistent(problem));
    if set.is_empty() {
        return wrong("it is of the form with set pools and has none".to_owned());
    }
    for name in set {
        match state.pools.get_mut(&name) {
            Some(pool) => pool.set = true,
            None => return wrong(format!("pool {name} is set and not there")),
        }
    }
    Ok(state)
}

impl Fleet {
    /// The whole state in canonical form: equal states give equal bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024 + self.stored_bytes() as usize);
        match set_pools(&self.state) {
            (SNAPSHOT_FORMAT, _) => encode(SNAPSHOT_FORMAT, &self.state, &mut out),
            (format, set) => encode(format, &(&self.state, set), &mut out),
        }
        out
    }

    /// Reads what [`Fleet::encode`] gave. Anything else is refused, whatever it is.
    pub fn decode(bytes: &[u8]) -> Result<Fleet, CodecError> {
        let state = match bytes.first() {
            Some(&SNAPSHOT_FORMAT_POOLS) => decode_with_pools(bytes)?,
            _ => decode(SNAPSHOT_FORMAT, "snapshot", bytes)?,
        };
        if state.version > FLEET_VERSION {
            return Err(CodecError::Version { found: state.version, known: FLEET_VERSION });
        }
        audit::check_state(&state).map_err(CodecError::Inconsistent)?;
        Ok(Fleet::from_state(state))
    }

    /// CRC-32C of the canonical form.
    pub fn checksum(&self) -> u32 {
        crc32c::crc32c(&self.encode())
    }
}
