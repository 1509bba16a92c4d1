//! Keeps the directory up to date with the state.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use robeing_identity::Realm;

use super::{
    Directory,
    changed::Noted,
    entries::Found,
    log::{DirectoryLog, Look},
};
use crate::{apply::observer::ApplyObserver, read::StateReader};

/// Maximum number of agents read from the state at once, so that commands do not wait long to be applied.
const MAX_READ: usize = 500;

/// Keeps the directory of one coordinator.
pub struct DirectoryKeeper {
    pub state: StateReader,
    pub observer: Arc<ApplyObserver>,
    pub directory: Directory,
    /// The realm of the fleet's certificates, if it has any.
    pub realm: Option<Realm>,
}

impl DirectoryKeeper {
    /// Looks at what has changed, as long as the coordinator runs.
    pub async fn run(self) {
        // A state without any revision is that of a coordinator that knows nothing of its fleet yet.
        if self.observer.revisions().wait_for(|revision| *revision > 0).await.is_err() {
            return;
        }
        self.observer.directory.note_everything();
        loop {
            self.observer.directory.woken().await;
            if self.look().await {
                self.directory.notify().await;
            }
        }
    }

    /// Looks at the agents that have changed. Returns whether there is anything new for watchers.
    async fn look(&self) -> bool {
        // In this order: the effects up to the revision were noted before it was known.
        let complete = *self.observer.revisions().borrow();
        match self.observer.directory.take() {
            Noted::Agents(names) => {
                let mut look = Look { complete, up_to: complete };
                let names: Vec<_> = names.into_iter().collect();
                let mut changes = Vec::with_capacity(names.len());
                for names in names.chunks(MAX_READ) {
                    let found: Vec<Option<Found>>;
                    (found, look.up_to) = self
                        .state
                        .look(|fleet| (names.iter().map(|name| Found::named(fleet, name)).collect(), fleet.revision()));
                    let entries = found.iter().map(|found| Some(found.as_ref()?.encoded(self.realm.as_ref())));
                    changes.extend(names.iter().cloned().zip(entries));
                    tokio::task::yield_now().await;
                }
                self.record(|log| log.change(changes, look))
            }
            Noted::Everything => {
                let (present, up_to) = self.everything().await;
                self.record(|log| {
                    log.replace(present, Look { complete, up_to });
                    true
                })
            }
        }
    }

    /// Reads all agents. Changes meanwhile are noted.
    async fn everything(&self) -> (BTreeMap<Arc<str>, Bytes>, u64) {
        let (mut present, mut last) = (BTreeMap::new(), None::<Arc<str>>);
        loop {
            let (found, revision): (Vec<Found>, u64) = self.state.look(|fleet| {
                let agents = fleet.agents_by_name(last.as_deref()).take(MAX_READ);
                (agents.map(|agent| Found::of(fleet, agent)).collect(), fleet.revision())
            });
            let Some(end) = found.last() else { return (present, revision) };
            last = Some(Arc::clone(end.name()));
            present.extend(found.iter().map(|found| (Arc::clone(found.name()), found.encoded(self.realm.as_ref()))));
            tokio::task::yield_now().await;
        }
    }

    fn record(&self, look: impl FnOnce(&mut DirectoryLog) -> bool) -> bool {
        let mut log = self.directory.log();
        let is_new = look(&mut log);
        let complete = log.complete();
        drop(log);
        self.directory.0.complete.send_replace(complete);
        is_new
    }
}
