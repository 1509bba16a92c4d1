//! Watches for many tasks that were accepted and whose ends nobody else will tell. A coordinator watches a limited
//! number of ids for one call, so there are several watches, each run by a task of its own that ends with this.

use std::collections::BTreeSet;

use robeing_proto::v1::{WatchTasksRequest, WatchTasksResponse};
use tokio::{sync::mpsc, task::JoinSet};

use super::{ClientError, FleetClient, is_finished};

/// Ids in one watch, at most: what a coordinator takes.
const WATCHED_IDS: usize = 1_000;
/// Changes that wait to be taken.
const CHANGES: usize = 8;

type Told = Result<WatchTasksResponse, ClientError>;

/// Watches that run until each of their tasks has ended.
pub(super) struct Awaited {
    client: FleetClient,
    /// Aborts the watches when it is dropped.
    watches: JoinSet<()>,
    sender: mpsc::Sender<Told>,
    changes: mpsc::Receiver<Told>,
}

impl Awaited {
    pub(super) fn new(client: &FleetClient) -> Self {
        let (sender, changes) = mpsc::channel(CHANGES);
        Self { client: client.clone(), watches: JoinSet::new(), sender, changes }
    }

    /// Watches further tasks.
    pub(super) fn add(&mut self, ids: Vec<String>) {
        for ids in ids.chunks(WATCHED_IDS) {
            self.watches.spawn(watch(self.client.clone(), ids.to_vec(), self.sender.clone()));
        }
    }

    /// The next changes; waits for ever when there are none. May be dropped at any time.
    ///
    /// # Errors
    /// When the fleet refuses a watch, or does not answer for as long as the client's settings allow.
    pub(super) async fn next(&mut self) -> Told {
        // A watch that ended has told everything; here it only makes room.
        while self.watches.try_join_next().is_some() {}
        match self.changes.recv().await {
            Some(told) => told,
            // Not reached while `sender` is held here.
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
