//! A watch of tasks that outlives the coordinator that serves it: it resumes at another one from the last revision.

use std::time::Duration;

use robeing_proto::v1::{WatchTasksRequest, WatchTasksResponse};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{ClientError, FleetClient, calls::Tries};

/// Changes of tasks as they happen; see [`FleetClient::watch_tasks`].
pub struct TaskWatch {
    client: FleetClient,
    request: WatchTasksRequest,
    open: Option<Opened>,
    tries: Tries,
    never_opened: bool,
}

struct Opened {
    /// Index of the endpoint that serves the stream.
    target: usize,
    since: Instant,
    stream: Streaming<WatchTasksResponse>,
}

/// A stream that stayed open this long was healthy, even if nothing was received: the time limit and the retries are
/// reset.
const HEALTHY: Duration = Duration::from_secs(3);

impl FleetClient {
    /// Watches tasks. No request is sent before the first [`TaskWatch::next`].
    pub fn watch_tasks(&self, request: WatchTasksRequest) -> TaskWatch {
        TaskWatch { client: self.clone(), request, open: None, tries: Tries::new(self), never_opened: true }
    }
}

impl TaskWatch {
    /// Returns the next changes. A watch has no end. The watch and this future can be dropped at any time.
    ///
    /// # Errors
    /// If the fleet refuses the watch, or does not answer for as long as the client's settings allow.
    pub async fn next(&mut self) -> Result<WatchTasksResponse, ClientError> {
        loop {
            let Some(opened) = &mut self.open else {
                self.open().await?;
                continue;
            };
            let status = match opened.stream.message().await {
                Ok(Some(changes)) => {
                    self.tries.succeeded();
                    self.request.from_revision = self.request.from_revision.max(changes.revision);
                    return Ok(changes);
                }
                Ok(None) => Status::unavailable("the coordinator ended the watch"),
                Err(status) => status,
            };
            let (target, stood) = (opened.target, opened.since.elapsed());
            self.open = None;
            if stood >= HEALTHY {
                self.tries.succeeded();
            }
            self.tries.failed(target, status).await?;
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        let request = self.request.clone();
        if self.never_opened {
            self.never_opened = false;
            self.tries.succeeded();
        }
        let opened = self
            .client
            .call(|mut rpc| {
                let request = request.clone();
                async move { rpc.watch_tasks(request).await }
            })
            .await?;
        self.open = Some(Opened { target: self.client.current(), since: Instant::now(), stream: opened });
        Ok(())
    }
}
