//! The types that the consensus library is instantiated with.

use std::{fmt, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft_rt::deterministic_rng::DeterministicRng;
use robeing_fleet::{Reply, Stamp};
use serde::{Deserialize, Serialize};

/// Identifies a data directory. It is drawn once and never reused, so that no node id ever votes twice in one term.
pub type NodeId = u64;

/// The async runtime: tokio, with random numbers derived from one seed, so that the simulator can replay a run.
pub type Runtime = DeterministicRng<openraft::impls::TokioRuntime>;

openraft::declare_raft_types!(
    /// Consensus over batches of fleet commands.
    pub TypeConfig:
        D = Batch,
        R = Replies,
        NodeId = NodeId,
        Node = Peer,
        AsyncRuntime = Runtime,
);

/// A log entry.
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
/// Identifies a log entry: the leader that proposed it, and its index.
pub type LogId = openraft::type_config::alias::LogIdOf<TypeConfig>;
/// A committed leadership: the term and the leader.
pub type CommittedLeaderId = openraft::type_config::alias::CommittedLeaderIdOf<TypeConfig>;
/// A vote, or the leadership that resulted from it.
pub type Vote = openraft::type_config::alias::VoteOf<TypeConfig>;
/// The members as of some log entry.
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
/// Metadata of a snapshot: what it covers.
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// A coordinator's name and address, as known to the other coordinators.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// host:port.
    pub address: String,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

/// The payload of a log entry: the commands gathered while the previous entry was written, and the time by the leader's
/// clocks. It is kept encoded, so that an entry is encoded once and decoded once on each coordinator: `format: u8`,
/// `fleet time: u64 LE`, `wall time: u64 LE`, then for each command `length: u32 LE` and its bytes.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch(pub Bytes);

/// The only batch format so far.
const FORMAT: u8 = 1;
/// Bytes of the header before the commands.
const HEADER: usize = 1 + 8 + 8;

/// Reasons why bytes are not a valid batch.
#[derive(Debug, thiserror::Error)]
pub enum BadBatch {
    /// It is truncated.
    #[error("a log entry's batch of {0} bytes is cut short")]
    CutShort(usize),
    /// It has a format that this version does not know.
    #[error("a log entry's batch is of format {0}, and this program knows format {FORMAT}")]
    Format(u8),
}

impl Batch {
    /// Creates a batch of these encoded commands, stamped with `now`.
    pub fn new<'a>(now: Stamp, commands: impl IntoIterator<Item = &'a [u8]>) -> Self {
        // Allocated with its exact size, because it stays in memory as long as the log keeps it.
        let commands: Vec<&[u8]> = commands.into_iter().collect();
        let len = HEADER + commands.iter().map(|command| 4 + command.len()).sum::<usize>();
        let mut bytes = BytesMut::with_capacity(len);
        bytes.put_u8(FORMAT);
        bytes.put_u64_le(now.fleet);
        bytes.put_u64_le(now.wall);
        for command in commands {
            bytes.put_u32_le(command.len() as u32);
            bytes.put_slice(command);
        }
        Self(bytes.freeze())
    }

    /// Decodes the stamp and splits the batch into its encoded commands.
    pub fn open(&self) -> Result<(Stamp, Vec<Bytes>), BadBatch> {
        let bad = || BadBatch::CutShort(self.0.len());
        let mut rest = self.0.clone();
        match rest.try_get_u8().map_err(|_| bad())? {
            FORMAT => {}
            format => return Err(BadBatch::Format(format)),
        }
        let fleet = rest.try_get_u64_le().map_err(|_| bad())?;
        let wall = rest.try_get_u64_le().map_err(|_| bad())?;
        let mut commands = Vec::new();
        while rest.has_remaining() {
            let len = rest.try_get_u32_le().map_err(|_| bad())? as usize;
            if rest.remaining() < len {
                return Err(bad());
            }
            commands.push(rest.split_to(len));
        }
        Ok((Stamp { fleet, wall }, commands))
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.0.len())
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The replies to a batch's commands, in order.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Replies {
    /// One reply per command. The library requires this type to be serializable, but only passes it to the waiting
    /// caller in this process.
    #[serde(skip)]
    pub all: Arc<Vec<Reply>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_its_time_and_commands() {
        let stamp = Stamp { fleet: 7, wall: 9 };
        let batch = Batch::new(stamp, [b"one".as_slice(), b"", b"three"]);
        let (now, commands) = batch.open().unwrap();
        assert_eq!(now, stamp);
        assert_eq!(commands, vec![Bytes::from("one"), Bytes::new(), Bytes::from("three")]);
    }

    #[test]
    fn a_batch_cut_anywhere_within_a_command_is_refused() {
        let whole = Batch::new(Stamp::at(7), [b"one".as_slice(), b"three"]).0;
        let at_boundaries = [HEADER, HEADER + 4 + 3, whole.len()];
        for cut in 0..=whole.len() {
            let opened = Batch(whole.slice(..cut)).open();
            assert_eq!(opened.is_ok(), at_boundaries.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn a_batch_of_another_format_is_refused_and_named() {
        let mut bytes = Batch::new(Stamp::at(7), [b"one".as_slice()]).0.to_vec();
        bytes[0] = 9;
        let refused = Batch(bytes.into()).open().expect_err("it is of another format");
        assert!(refused.to_string().contains("format 9"), "{refused}");
    }
}
