//! How long a coordinator runs, and what has to end before it does.

use std::time::Duration;

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::members::Members;

/// The time for which this coordinator runs, and the tasks that end with it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Lifetime {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Lifetime {
    /// Tasks that are waited for when the coordinator stops. They see by themselves that it does.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Cancelled when the coordinator stops.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Runs a task until the coordinator stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        })
    }

    /// Has everything end, and waits for it no longer than `grace`.
    pub async fn end(&self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            warn!("some tasks did not end in time");
        }
    }
}

/// Whether this coordinator can go on with the streams of its clients. Cheap to clone.
#[derive(Clone)]
pub struct Leaving {
    stop: CancellationToken,
    members: Members,
}

impl Leaving {
    /// Of a coordinator that runs for so long and is one of these members.
    pub fn new(lifetime: &Lifetime, members: Members) -> Self {
        Self { stop: lifetime.stop.clone(), members }
    }

    /// Waits until this coordinator can't serve streams any more, because it stops, or was removed and learns nothing new.
    /// Cancellation-safe.
    pub async fn begins(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.members.until_removed() => {}
        }
    }
}
