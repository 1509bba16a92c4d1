//! The lifetime of a coordinator: its shutdown signal, and the tasks that must end before it stops.

use std::time::Duration;

use tokio::{task::JoinHandle, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::members::Members;

/// The coordinator's shutdown signal and the tasks that end with it. Cheap to clone.
#[derive(Clone, Default)]
pub struct Lifetime {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Lifetime {
    /// The tasks that shutdown waits for. They must observe the shutdown signal themselves.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Cancelled when the coordinator stops.
    pub fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Spawns a task that is dropped when the coordinator stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        })
    }

    /// Signals shutdown and waits up to `grace` for all tasks to end.
    pub async fn end(&self, grace: Duration) {
        self.stop.cancel();
        self.tasks.close();
        if timeout(grace, self.tasks.wait()).await.is_err() {
            warn!("some tasks did not end in time");
        }
    }
}

/// Signals that this coordinator can no longer serve its clients' streams. Cheap to clone.
#[derive(Clone)]
pub struct Leaving {
    stop: CancellationToken,
    members: Members,
}

impl Leaving {
    /// Creates the signal for a coordinator with this lifetime and these members.
    pub fn new(lifetime: &Lifetime, members: Members) -> Self {
        Self { stop: lifetime.stop.clone(), members }
    }

    /// Waits until this coordinator can no longer serve streams: it is stopping, or it was removed from the members and
    /// receives no new entries. Cancellation-safe.
    pub async fn begins(&self) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.members.until_removed() => {}
        }
    }
}
