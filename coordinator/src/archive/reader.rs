//! Reads of archived tasks, from this coordinator's archive, or from another one's if a record is damaged here.

use std::sync::Arc;

use robeing_fleet::{Archived, Task};
use tracing::warn;

use super::{Archive, transfer};
use crate::{members::Members, outside::Outside, peers::Peers, raft::NodeId};

/// Reads archived tasks. Cheap to clone.
#[derive(Clone)]
pub struct RecordReader {
    /// This coordinator's archive.
    pub archive: Archive,
    /// The connections to the others.
    pub peers: Arc<Peers>,
    own: NodeId,
    members: Members,
}

impl RecordReader {
    /// Creates a reader for the coordinator with this id.
    pub fn new(archive: Archive, own: NodeId, members: Members, outside: &Outside) -> Self {
        Self { archive, peers: Arc::clone(&outside.peers), own, members }
    }

    /// Returns the archived task of a row, as it is here. `None`: it is not here, or is damaged.
    pub async fn here(&self, row: &Archived) -> Option<Arc<Task>> {
        self.archive.get(row.record).await.filter(|task| row.is_of(task))
    }

    /// Returns the archived task of a row, which is not here although it should be, from any other coordinator that has
    /// it.
    pub async fn elsewhere(&self, row: &Archived) -> Option<Arc<Task>> {
        self.archive.note_missing();
        let (record, id) = (row.record, row.id());
        for (_, peer, _) in self.members.all().into_iter().filter(|(id, ..)| *id != self.own) {
            if let Some(task) = transfer::ask(&self.peers, &peer.address, row).await {
                warn!(record, task = %id, from = peer.name, "a result is missing in the archive here");
                return Some(task);
            }
        }
        warn!(record, task = %id, "a result is missing in the archive here, and no coordinator that answers has it");
        None
    }
}
