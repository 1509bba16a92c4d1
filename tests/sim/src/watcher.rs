//! A watcher: it follows all tasks from the first revision, resumes at any coordinator when its watch breaks, and must
//! receive the end of every accepted task.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use robeing_net::{Transport, limited};
use robeing_platform::Platform;
use robeing_proto::v1::{self, fleet_client::FleetClient};
use tonic::Streaming;

use crate::{checks::Check, clients::below, record::Record, results};

/// A watch without a message for this long is resumed at another coordinator.
const PATIENCE: Duration = Duration::from_secs(2);

/// A watcher.
pub struct Watcher {
    /// Its platform.
    pub platform: Platform,
    /// The addresses of the coordinators.
    pub coordinators: Vec<String>,
    /// The number of tasks of submitters that there will be.
    pub tasks: usize,
    /// The record of the run.
    pub record: Record,
}

impl Watcher {
    async fn watch(&self, from_revision: u64) -> Option<Streaming<v1::WatchTasksResponse>> {
        let transport = Transport::new(Arc::clone(&self.platform.network));
        let at = below(&*self.platform.random, self.coordinators.len() as u64) as usize;
        let mut fleet = limited!(FleetClient::new(transport.channel(&self.coordinators[at]).ok()?));
        let request = v1::WatchTasksRequest { from_revision, include_output: true, ..Default::default() };
        let answer = tokio::time::timeout(PATIENCE, fleet.watch_tasks(request)).await;
        Some(answer.ok()?.ok()?.into_inner())
    }

    /// Watches until it has received the end of every task.
    pub async fn run(self) {
        let mut revision = 0;
        let mut finished = BTreeSet::new();
        while finished.len() < self.tasks {
            let Some(mut watch) = self.watch(revision).await else {
                tokio::time::sleep(Duration::from_millis(1 + below(&*self.platform.random, 300))).await;
                continue;
            };
            while let Ok(Ok(Some(told))) = tokio::time::timeout(PATIENCE, watch.message()).await {
                if told.revision < revision {
                    let went_back = format!("a watch went back from revision {revision} to {}", told.revision);
                    self.record.violation(Check::Watch, went_back);
                }
                revision = told.revision;
                let ended = told.tasks.into_iter().filter(|task| results::note(&self.record, task));
                // Parts and subtasks are no client's.
                let ended = ended.filter(|task| task.part_of.is_none()).map(|task| task.id);
                let ended: Vec<String> = ended.collect();
                let notes = self.record.notes();
                let is_awaited = |id: &String| !notes.fleeting.contains(id) && !notes.others.contains(id);
                finished.extend(ended.into_iter().filter(is_awaited));
            }
        }
    }
}
