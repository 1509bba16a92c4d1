//! What the attempts of a task say, whichever coordinator serves it: it is resumed at another one after the last line.

use std::{collections::BTreeMap, time::Duration};

use robeing_proto::v1::{LogPosition, TaskLogsRequest, TaskLogsResponse};
use tokio::time::Instant;
use tonic::{Status, Streaming};

use super::{ClientError, FleetClient, calls::Tries};

/// Maximum number of positions in a request; the newest attempts count.
const MAX_POSITIONS: usize = 16;
/// A stream that stayed open this long was healthy, even if nothing was received.
const HEALTHY: Duration = Duration::from_secs(3);

/// What the attempts of a task say; see [`FleetClient::task_logs`].
pub struct TaskLogs {
    client: FleetClient,
    request: TaskLogsRequest,
    /// The next line of each attempt, by its number and the agent's name.
    positions: BTreeMap<(u32, String), u64>,
    open: Option<Opened>,
    tries: Tries,
    never_opened: bool,
    has_ended: bool,
}

struct Opened {
    /// Index of the endpoint that serves the stream.
    target: usize,
    since: Instant,
    stream: Streaming<TaskLogsResponse>,
}

impl FleetClient {
    /// Reads the lines and the progress of a task's attempts. No request is sent before the first [`TaskLogs::next`].
    pub fn task_logs(&self, request: TaskLogsRequest) -> TaskLogs {
        let after = request.after.iter().map(|of| ((of.attempt, of.agent.clone()), of.next));
        TaskLogs {
            client: self.clone(),
            positions: after.collect(),
            request,
            open: None,
            tries: Tries::new(self),
            never_opened: true,
            has_ended: false,
        }
    }
}

impl TaskLogs {
    /// Returns what comes next; `None` if nothing does. This future can be dropped at any time.
    ///
    /// # Errors
    /// If the fleet refuses the call, or does not answer for as long as the client's settings allow.
    pub async fn next(&mut self) -> Result<Option<TaskLogsResponse>, ClientError> {
        while !self.has_ended {
            let Some(opened) = &mut self.open else {
                self.open().await?;
                continue;
            };
            let status = match opened.stream.message().await {
                Ok(Some(said)) => {
                    self.tries.succeeded();
                    self.note(&said);
                    return Ok(Some(said));
                }
                Ok(None) if !self.request.follow => {
                    self.has_ended = true;
                    continue;
                }
                Ok(None) => Status::unavailable("the coordinator ended the stream"),
                Err(status) => status,
            };
            let (target, stood) = (opened.target, opened.since.elapsed());
            self.open = None;
            if stood >= HEALTHY {
                self.tries.succeeded();
            }
            self.tries.failed(target, status).await?;
        }
        Ok(None)
    }

    /// Takes note of where to resume.
    fn note(&mut self, said: &TaskLogsResponse) {
        self.has_ended = said.finished;
        if !said.finished {
            let next = said.first.saturating_add(said.lines.len() as u64);
            self.positions.insert((said.attempt, said.agent.clone()), next);
        }
        while self.positions.len() > MAX_POSITIONS {
            self.positions.pop_first();
        }
    }

    async fn open(&mut self) -> Result<(), ClientError> {
        let position = |((attempt, agent), next): (&(u32, String), &u64)| LogPosition {
            attempt: *attempt,
            agent: agent.clone(),
            next: *next,
        };
        let request = TaskLogsRequest { after: self.positions.iter().map(position).collect(), ..self.request.clone() };
        if self.never_opened {
            self.never_opened = false;
            self.tries.succeeded();
        }
        let opened = self
            .client
            .call(|mut rpc| {
                let request = request.clone();
                async move { rpc.task_logs(request).await }
            })
            .await?;
        self.open = Some(Opened { target: self.client.current(), since: Instant::now(), stream: opened });
        Ok(())
    }
}
