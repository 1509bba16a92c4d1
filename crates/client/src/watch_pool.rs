//! Watches many accepted tasks whose results no submission stream will report. A coordinator limits the number of ids
//! per watch, so there are several watches, each run by a tokio task that is aborted when the pool is dropped.

use std::collections::BTreeSet;

use robeing_proto::v1::{WatchTasksRequest, WatchTasksResponse};
use tokio::{sync::mpsc, task::JoinSet};

use super::{ClientError, FleetClient, is_finished};

/// Maximum number of ids in one watch: the coordinator's limit.
const WATCHED_IDS: usize = 1_000;
/// Capacity of the channel of changes.
const CHANGES: usize = 8;

type Told = Result<WatchTasksResponse, ClientError>;

/// Watches that run until all of their tasks have finished.
pub(super) struct Awaited {
    client: FleetClient,
    /// Aborts the watches on drop.
    watches: JoinSet<()>,
    sender: mpsc::Sender<Told>,
    changes: mpsc::Receiver<Told>,
}

impl Awaited {
    pub(super) fn new(client: &FleetClient) -> Self {
        let (sender, changes) = mpsc::channel(CHANGES);
        Self { client: client.clone(), watches: JoinSet::new(), sender, changes }
    }

    /// Starts watching more tasks.
    pub(super) fn add(&mut self, ids: Vec<String>) {
        for ids in ids.chunks(WATCHED_IDS) {
            self.watches.spawn(watch(self.client.clone(), ids.to_vec(), self.sender.clone()));
        }
    }

    /// Returns the next changes, or waits forever if there are none. Cancel safe.
    ///
    /// # Errors
    /// If the fleet refuses a watch, or does not answer for as long as the client's settings allow.
    pub(super) async fn next(&mut self) -> Told {
        // A finished watch has already sent its changes; joining it only frees its entry.
        while self.watches.try_join_next().is_some() {}
        match self.changes.recv().await {
            Some(told) => told,
            // Unreachable: `self.sender` keeps the channel open.
            None => std::future::pending().await,
        }
    }
}

async fn watch(client: FleetClient, ids: Vec<String>, changes: mpsc::Sender<Told>) {
    let mut left: BTreeSet<String> = ids.iter().cloned().collect();
    let mut watch = client.watch_tasks(WatchTasksRequest { ids, include_output: true, ..Default::default() });
    while !left.is_empty() {
        let told = watch.next().await;
        let is_last = told.is_err();
        if let Ok(told) = &told {
            for task in told.tasks.iter().filter(|task| is_finished(task.state())) {
                left.remove(&task.id);
            }
            for id in &told.gone_ids {
                left.remove(id);
            }
        }
        if changes.send(told).await.is_err() || is_last {
            return;
        }
    }
}
