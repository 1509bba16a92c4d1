//! Reads of archived tasks, from this coordinator's archive, or from another one's if a record is damaged here.

use std::sync::Arc;

use futures::{StreamExt, stream::FuturesUnordered};
use robeing_fleet::{Archived, Task, TaskId};
use tracing::warn;

use super::{
    Archive,
    transfer::{self, Answer},
};
use crate::{members::Members, outside::Outside, peers::Peers, raft::NodeId};

/// Why an archived task can't be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unread {
    /// Another coordinator may have it.
    #[error(
        "the result of task {0} can't be read on this coordinator's disk, and no other coordinator that answers has it; \
         ask again when all of them are up"
    )]
    Unanswered(TaskId),
    /// All coordinators should have it, and none does.
    #[error(
        "the result of task {0} can't be read on the disk of any coordinator; submit the task again under another id"
    )]
    Lost(TaskId),
}

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
    /// it. All are asked at once, so that one that does not answer delays nobody.
    ///
    /// # Errors
    /// No coordinator that answers has it.
    pub async fn elsewhere(&self, row: &Archived) -> Result<Arc<Task>, Unread> {
        self.archive.note_missing();
        let (record, id) = (row.record, row.id());
        let others = self.members.all().into_iter().filter(|(id, ..)| *id != self.own);
        let mut asked: FuturesUnordered<_> = others
            .map(|(_, peer, _)| async move { (transfer::ask(&self.peers, &peer.address, row).await, peer.name) })
            .collect();
        let mut unread = Unread::Lost(id);
        while let Some((answer, from)) = asked.next().await {
            match answer {
                Answer::Has(task) => {
                    warn!(record, task = %id, from, "a result is missing in the archive here");
                    return Ok(task);
                }
                Answer::Lost => {}
                Answer::Unknown => unread = Unread::Unanswered(id),
            }
        }
        warn!(record, task = %id, "a result is missing in the archive here, and no coordinator that answers has it");
        Err(unread)
    }
}
