//! Reads of the state: as it is on this node, or once it includes everything that was accepted before the read.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use robeing_fleet::{Agent, AgentId, Archived, Fleet, Kept, Task};
use robeing_proto::{
    internal::v1::{self as internal, raft_client::RaftClient},
    v1,
};
use tokio::time::timeout;
use tonic::Status;
use tracing::warn;

use crate::{
    apply::observer::ApplyObserver,
    archive::{RecordReader, Unread},
    leader::{role::RaftRole, standing::Standing},
    raft::SharedFleet,
};

/// How long a read waits for a leader, and then until the entries that it must include are applied.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a read tries again to find a leader.
const READ_RETRY: Duration = Duration::from_millis(10);

/// Archived tasks that are read from the disk at once for one listing or watch.
pub const READ_AT_ONCE: usize = 8;

/// Number of agents read from the state at once.
const MAX_AGENTS_READ: usize = 256;

/// Returns a task without its input, and without its output unless that is needed.
pub fn shortened(mut task: Arc<Task>, with_output: bool) -> Arc<Task> {
    let short = Arc::make_mut(&mut task);
    short.input = Bytes::new();
    if !with_output {
        short.output = short.output.as_ref().map(|_| Bytes::new());
    }
    task
}

/// Reads the state. Cheap to clone.
#[derive(Clone)]
pub struct StateReader {
    fleet: SharedFleet,
    observer: Arc<ApplyObserver>,
    standing: Standing,
    records: RecordReader,
}

impl StateReader {
    /// Creates a reader of this fleet, whose observer knows what is applied, and of the tasks that it has archived. The
    /// reader asks the leader which entries a read must include.
    pub fn new(fleet: SharedFleet, observer: Arc<ApplyObserver>, standing: Standing, records: RecordReader) -> Self {
        Self { fleet, observer, standing, records }
    }

    /// Reads the state with `look`, whose work must be short and bounded, because no command is applied meanwhile.
    pub fn look<T>(&self, look: impl FnOnce(&Fleet) -> T) -> T {
        look(&self.fleet.read())
    }

    /// Returns what reads the tasks that the fleet has archived.
    pub fn records(&self) -> &RecordReader {
        &self.records
    }

    /// Returns a kept task; `None` if it was forgotten meanwhile.
    ///
    /// # Errors
    /// It is archived, and no coordinator that answers can read it.
    pub async fn read(&self, kept: Kept) -> Result<Option<Arc<Task>>, Unread> {
        let row = match kept {
            Kept::Here(task) => return Ok(Some(task)),
            Kept::Archived(row) => row,
        };
        if let Some(task) = self.records.here(&row).await {
            return Ok(Some(task));
        }
        if !self.look(|fleet| fleet.needs_record(&row)) {
            return Ok(None);
        }
        self.records.elsewhere(&row).await.map(Some)
    }

    /// Reads archived tasks, at most [`READ_AT_ONCE`], as [`StateReader::read`] does.
    pub async fn read_rows(&self, rows: &[Archived]) -> Vec<Result<Option<Arc<Task>>, Unread>> {
        join_all(rows.iter().map(|row| self.read(Kept::Archived(*row)))).await
    }

    /// Returns kept tasks, in order, but for those that were forgotten meanwhile. One that can't be read is left out: one
    /// result must not keep all others from being listed.
    pub async fn read_all(&self, all: impl IntoIterator<Item = Kept>) -> Vec<Arc<Task>> {
        self.read_each(all, |task| task).await
    }

    /// Same as [`StateReader::read_all`], but archived tasks are without their inputs and outputs, so that a thousand large
    /// ones are not in memory at once.
    pub async fn read_briefly(&self, all: impl IntoIterator<Item = Kept>) -> Vec<Arc<Task>> {
        self.read_each(all, |task| shortened(task, false)).await
    }

    async fn read_each(
        &self,
        all: impl IntoIterator<Item = Kept>,
        of_archived: fn(Arc<Task>) -> Arc<Task>,
    ) -> Vec<Arc<Task>> {
        let (mut all, mut tasks) = (all.into_iter(), Vec::new());
        loop {
            let next: Vec<Kept> = all.by_ref().take(READ_AT_ONCE).collect();
            if next.is_empty() {
                return tasks;
            }
            let reads = next.into_iter().map(|kept| async move {
                let is_archived = matches!(kept, Kept::Archived(_));
                (is_archived, self.read(kept).await)
            });
            for (is_archived, found) in join_all(reads).await {
                match found {
                    Ok(task) if is_archived => tasks.extend(task.map(of_archived)),
                    Ok(task) => tasks.extend(task),
                    Err(unread) => warn!(problem = %unread, "a task is left out of a listing"),
                }
            }
        }
    }

    /// Returns the fleet itself, for callers that read it in slices.
    pub fn fleet(&self) -> &SharedFleet {
        &self.fleet
    }

    /// Returns the next agents by id, a slice of bounded length, after yielding to other tasks; `None` after the last.
    pub async fn agents_after(&self, after: Option<AgentId>) -> Option<Vec<Arc<Agent>>> {
        tokio::task::yield_now().await;
        let agents: Vec<_> = self.look(|fleet| fleet.agents_after(after).take(MAX_AGENTS_READ).cloned().collect());
        (!agents.is_empty()).then_some(agents)
    }

    /// Returns the index of the newest entry that is applied here.
    pub fn applied_index(&self) -> u64 {
        self.observer.applied_indexes().borrow().saturating_sub(1)
    }

    /// Waits until everything that was accepted before the call is applied here, unless `consistency` is local.
    pub async fn ready_to_read(&self, consistency: i32) -> Result<(), Status> {
        if v1::Consistency::try_from(consistency) == Ok(v1::Consistency::Local) {
            return Ok(());
        }
        timeout(READ_TIMEOUT, self.barrier()).await.map_err(|_| {
            Status::unavailable(format!(
                "no coordinator led for {READ_TIMEOUT:?}; a majority of them must be up and reach each other (a read with \
                 consistency LOCAL needs no leader)"
            ))
        })
    }

    /// Waits until this coordinator has been out of touch with the others for a while, so that what it tells may be out
    /// of date. An idle fleet is no reason: before it gives up, it asks the leader. Cancellation-safe.
    pub async fn until_out_of_touch(&self) {
        loop {
            self.standing.until_stale().await;
            if self.ready_to_read(v1::Consistency::Linearizable.into()).await.is_err() {
                return;
            }
        }
    }

    async fn barrier(&self) {
        let index = loop {
            if let Some(index) = self.leaders_read_index().await {
                break index;
            }
            tokio::time::sleep(READ_RETRY).await;
        };
        let Some(index) = index else { return };
        let mut applied = self.observer.applied_indexes();
        // The sender lives in the observer, which `self` holds, so an error is impossible.
        let _ = applied.wait_for(|applied| *applied > index).await;
    }

    async fn leaders_read_index(&self) -> Option<Option<u64>> {
        match self.standing.role() {
            RaftRole::Leading { .. } => self.standing.read_index().await,
            RaftRole::Following { peer, .. } => {
                let ask = |mut peer: RaftClient<_>| async move { peer.read_index(internal::ReadIndexRequest {}).await };
                let response = self.records.peers.ask(&peer.address, ask).await?;
                Some(response.has_index.then_some(response.index))
            }
            RaftRole::Leaderless => None,
        }
    }
}
