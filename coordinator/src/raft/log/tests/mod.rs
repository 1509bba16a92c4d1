//! Tests of the log on a failing disk: acknowledged entries survive any crash, and removed ones never come back.

mod crashes;
mod damage;
mod histories;
mod limits;
mod suite;

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use openraft::{
    EntryPayload, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
    type_config::{TypeConfigExt, alias::OneshotReceiverOf},
    vote::{RaftLeaderId, leader_id_adv::LeaderId},
};
use robeing_platform::{Disk, simulated::SimulatedDisk};

use super::{Log, RecoveryError, promise::TERMS_AHEAD};
use crate::raft::{Batch, Entry, LogId, TypeConfig, Vote};

const DIR: &str = "/data/log";
const SALT: u64 = 0x5eed;

fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term, 1).to_committed(), index)
}

/// An entry whose content is derived from its id, so that a mix-up is detected.
fn entry(term: u64, index: u64, len: usize) -> Entry {
    let pattern = (term * 31 + index) as u8;
    Entry { log_id: id(term, index), payload: EntryPayload::Normal(Batch(Bytes::from(vec![pattern; len]))) }
}

pub async fn new_disk() -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    disk.create_dir_all(Path::new(DIR)).await.unwrap();
    disk
}

/// The log's content as reported by the log.
#[derive(Clone, PartialEq, Debug, Default)]
struct Content {
    vote: Option<Vote>,
    purged: Option<LogId>,
    entries: Vec<Entry>,
}

impl Content {
    /// Whether a log that was closed with the content `self` may be reopened with `found`, whose vote may be ahead of
    /// the one granted.
    fn may_be_found_as(&self, found: &Self) -> bool {
        let ahead = match (self.vote, found.vote) {
            (Some(given), Some(held)) => {
                let furthest = Vote::new(given.leader_id.term + TERMS_AHEAD, given.leader_id.node_id);
                (given..=furthest).contains(&held)
            }
            (given, held) => given == held,
        };
        ahead && self.purged == found.purged && self.entries == found.entries
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.log_id).or(self.purged)
    }

    fn next_index(&self) -> u64 {
        self.last().map_or(0, |id| id.index + 1)
    }
}

/// An open log and its disk.
pub struct Rig {
    pub disk: SimulatedDisk,
    pub log: Log,
    writer: tokio::task::JoinHandle<()>,
    segment_bytes: usize,
}

type Flushed = OneshotReceiverOf<TypeConfig, std::io::Result<()>>;

impl Rig {
    async fn try_open(disk: &SimulatedDisk, segment_bytes: usize) -> Result<Self, RecoveryError> {
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        let opened = Log::open_sized(shared, Path::new(DIR), SALT, segment_bytes).await?;
        Ok(Self { disk: disk.clone(), log: opened.log, writer: opened.writer, segment_bytes })
    }

    pub async fn open(disk: &SimulatedDisk, segment_bytes: usize) -> Self {
        Self::try_open(disk, segment_bytes).await.unwrap()
    }

    /// Closes the log like a process that exits.
    async fn close(self) -> SimulatedDisk {
        drop(self.log);
        self.writer.await.unwrap();
        self.disk
    }

    async fn reopen(self) -> Self {
        let segment_bytes = self.segment_bytes;
        let disk = self.close().await;
        Self::open(&disk, segment_bytes).await
    }

    pub async fn crash(self, seed: u64) -> Self {
        let segment_bytes = self.segment_bytes;
        let disk = self.close().await;
        disk.crash(seed);
        Self::open(&disk, segment_bytes).await
    }

    /// Enqueues entries without waiting for them.
    async fn begin_append(&mut self, entries: Vec<Entry>) -> std::io::Result<Flushed> {
        let (flushed, answer) = TypeConfig::oneshot();
        self.log.append(entries, IOFlushed::signal(flushed)).await?;
        Ok(answer)
    }

    async fn append(&mut self, entries: Vec<Entry>) -> std::io::Result<()> {
        self.begin_append(entries).await?.await.unwrap()
    }

    /// Purges, and waits until that is durable.
    async fn purge(&mut self, upto: LogId) -> std::io::Result<()> {
        self.log.purge(upto).await?;
        self.log.wait_for_writes().await
    }

    async fn content(&mut self) -> Content {
        let state = self.log.get_log_state().await.unwrap();
        let content = Content {
            vote: self.log.read_vote().await.unwrap(),
            purged: state.last_purged_log_id,
            entries: self.log.try_get_log_entries(..).await.unwrap(),
        };
        assert_eq!(content.last(), state.last_log_id, "the entries end where the log says it ends");
        let first = content.purged.map_or(0, |id| id.index + 1);
        for (entry, index) in content.entries.iter().zip(first..) {
            assert_eq!(entry.log_id.index, index, "no hole");
        }
        content
    }
}

/// A log with `count` entries of term 1 from index 0, each acknowledged before the next.
async fn filled(segment_bytes: usize, count: u64, len: usize) -> Rig {
    let mut rig = Rig::open(&new_disk().await, segment_bytes).await;
    for index in 0..count {
        rig.append(vec![entry(1, index, len)]).await.unwrap();
    }
    rig
}

fn indexes(content: &Content) -> Vec<u64> {
    content.entries.iter().map(|entry| entry.log_id.index).collect()
}
