//! Calls to the coordinators for clients.

use std::{error::Error, sync::Arc, time::Duration};

use robeing_net::limited;
use robeing_platform::{Platform, jittered, uuid_v7};
use robeing_proto::v1::{
    self, Task, TaskState, WatchTasksRequest, fleet_client::FleetClient, messages_client::MessagesClient,
};
use robeing_sealing::letters::{self, Prepared};
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status, transport::Channel};
use uuid::Uuid;

use super::caller::Caller;
use crate::upstream::SharedUpstream;

/// How long a call may take that waits for nothing but the coordinators.
pub const CALL_WITHIN: Duration = Duration::from_secs(15);
/// How long one coordinator may take for such a call, before another one is asked.
pub const TRY_WITHIN: Duration = Duration::from_secs(5);
/// The first and the longest pause before another coordinator is asked.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Why a message is not sent to coordinators that don't tell the keys of its receivers.
const TOO_OLD: &str = "the coordinators do not say for which keys to seal messages, and this gateway sends none unsealed \
                       to a fleet with TLS: upgrade them to the gateway's version";

/// The ways to the coordinators.
pub struct Coordinators {
    /// With the messenger's certificate.
    pub named: SharedUpstream,
    /// Without it.
    pub nameless: SharedUpstream,
    /// The platform.
    pub platform: Platform,
}

impl Coordinators {
    /// Returns a new id for a task or message, as text.
    pub fn new_id(&self) -> String {
        Uuid::from_u128(uuid_v7(&*self.platform.clock, &*self.platform.random)).to_string()
    }

    fn upstream(&self, caller: &Caller) -> &SharedUpstream {
        match caller {
            Caller::Client(_) => &self.named,
            Caller::Token(_) | Caller::Anonymous => &self.nameless,
        }
    }

    /// Calls a coordinator for somebody, and another one if it can't answer. The call must be one that may be made
    /// twice. It waits for `wait` besides what the coordinators need.
    async fn call<T, R, F>(
        &self,
        caller: &Caller,
        message: T,
        wait: Duration,
        call: impl Fn(Channel, Request<T>) -> F,
    ) -> Result<R, Status>
    where
        T: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        let (until, mut pause) = (Instant::now() + wait + CALL_WITHIN, PAUSES.0);
        loop {
            let (generation, channel) = self.upstream(caller).channel().ok_or_else(no_coordinator)?;
            let until_here = until.min(Instant::now() + wait + TRY_WITHIN);
            let mut request = Request::new(message.clone());
            caller.mark(&mut request);
            request.set_timeout(until_here.saturating_duration_since(Instant::now()));
            let status = match timeout_at(until_here, call(channel, request)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("the coordinator did not answer in time"),
            };
            if !is_worth_another(&status) {
                return Err(status);
            }
            self.upstream(caller).failed(generation);
            let paused = jittered(&*self.platform.random, pause);
            if Instant::now() + paused >= until {
                return Err(status);
            }
            tokio::time::sleep(paused).await;
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    /// Submits tasks, each of which has an id.
    pub async fn submit(&self, caller: &Caller, tasks: Vec<v1::TaskSpec>) -> Result<Vec<v1::SubmitResult>, Status> {
        let request = v1::SubmitRequest { tasks };
        let answer = self.call(caller, request, Duration::ZERO, async |channel, request| {
            limited!(FleetClient::new(channel)).submit(request).await
        });
        Ok(answer.await?.results)
    }

    /// Returns a task.
    pub async fn task(&self, caller: &Caller, id: &str) -> Result<Task, Status> {
        let request = v1::GetTaskRequest { id: id.to_owned(), ..v1::GetTaskRequest::default() };
        self.call(caller, request, Duration::ZERO, async |channel, request| {
            limited!(FleetClient::new(channel)).get_task(request).await
        })
        .await
    }

    /// Cancels a task.
    pub async fn cancel(&self, caller: &Caller, id: &str, reason: &str) -> Result<v1::CancelResult, Status> {
        let request = v1::CancelTasksRequest { ids: vec![id.to_owned()], reason: reason.to_owned(), wait: None };
        let answer = self.call(caller, request, Duration::ZERO, async |channel, request| {
            limited!(FleetClient::new(channel)).cancel_tasks(request).await
        });
        let result = answer.await?.results.pop();
        result.ok_or_else(|| Status::internal("the coordinator did not say what became of the task"))
    }

    /// Seals a message that has an id for its receivers, sends it, and waits for what becomes of it. To a fleet that
    /// accepts plaintext it is sent as it is if a receiver has no key, or the coordinators do not tell the keys.
    pub async fn send_sealed(
        &self,
        caller: &Caller,
        message: v1::SendMessageRequest,
        wait: Duration,
    ) -> Result<v1::SendMessageResponse, Status> {
        let Some(resolving) = letters::resolving(&message) else { return self.send(caller, message, wait).await };
        let resolved = self.call(caller, resolving, Duration::ZERO, async |channel, request| {
            limited!(MessagesClient::new(channel)).resolve_message(request).await
        });
        let resolved = match resolved.await {
            Ok(resolved) => resolved,
            Err(status) if status.code() == Code::Unimplemented => {
                if self.named.proves_name() {
                    return Err(Status::failed_precondition(TOO_OLD));
                }
                return self.send(caller, message, wait).await;
            }
            Err(status) => return Err(status),
        };
        let random = Arc::clone(&self.platform.random);
        // A broadcast may have 10,000 receivers.
        let sealing = tokio::task::spawn_blocking(move || letters::seal(message, resolved, &*random)).await;
        let sealing = sealing.map_err(|error| Status::internal(format!("the message was not sealed: {error}")))?;
        match sealing.map_err(|error| Status::invalid_argument(error.to_string()))? {
            Prepared::Plain(message) => self.send(caller, message, wait).await,
            Prepared::Sealed(mut sealed) => {
                let outcomes = match sealed.request.take() {
                    Some(request) => self.send(caller, request, wait).await?.outcomes,
                    None => Vec::new(),
                };
                Ok(v1::SendMessageResponse { outcomes: sealed.finish(outcomes) })
            }
        }
    }

    /// Sends a message that has an id, and waits for what becomes of it.
    async fn send(
        &self,
        caller: &Caller,
        message: v1::SendMessageRequest,
        wait: Duration,
    ) -> Result<v1::SendMessageResponse, Status> {
        self.call(caller, message, wait, async |channel, request| {
            limited!(MessagesClient::new(channel)).send_message(request).await
        })
        .await
    }

    /// Returns what became of a message.
    pub async fn message(
        &self,
        caller: &Caller,
        request: v1::GetMessageRequest,
        wait: Duration,
    ) -> Result<v1::MessageStatus, Status> {
        self.call(caller, request, wait, async |channel, request| {
            limited!(MessagesClient::new(channel)).get_message(request).await
        })
        .await
    }

    /// Waits until a task has ended, and returns it with its output; `None` if it has not ended in time.
    pub async fn ended(&self, caller: &Caller, id: &str, within: Duration) -> Result<Option<Task>, Status> {
        let until = Instant::now() + within;
        loop {
            match timeout_at(until, self.watched(caller, id)).await {
                Err(_) => return Ok(None),
                Ok(Ok(Some(task))) => return Ok(Some(task)),
                // The coordinator ended the watch, or is gone: another one continues.
                Ok(Ok(None)) => {}
                Ok(Err(status)) if is_worth_another(&status) => {}
                Ok(Err(status)) => return Err(status),
            }
            let paused = jittered(&*self.platform.random, PAUSES.0 * 4);
            if Instant::now() + paused >= until {
                return Ok(None);
            }
            tokio::time::sleep(paused).await;
        }
    }

    /// Watches a task at one coordinator until it has ended; `None` if the watch ended before.
    async fn watched(&self, caller: &Caller, id: &str) -> Result<Option<Task>, Status> {
        let (generation, channel) = self.upstream(caller).channel().ok_or_else(no_coordinator)?;
        let failed = |status: Status| {
            if is_worth_another(&status) {
                self.upstream(caller).failed(generation);
            }
            status
        };
        let request =
            WatchTasksRequest { ids: vec![id.to_owned()], include_output: true, ..WatchTasksRequest::default() };
        let mut request = Request::new(request);
        caller.mark(&mut request);
        let mut watch = limited!(FleetClient::new(channel)).watch_tasks(request).await.map_err(failed)?.into_inner();
        while let Some(seen) = watch.message().await.map_err(failed)? {
            if let Some(task) = seen.tasks.into_iter().find(|task| task.id == id && has_ended(task.state())) {
                return Ok(Some(task));
            }
            if seen.gone_ids.iter().any(|gone| gone == id) {
                return Err(Status::not_found(format!("no task {id}: it never existed, or its result has expired")));
            }
        }
        Ok(None)
    }
}

/// Returns whether a task in this state has ended.
pub fn has_ended(state: TaskState) -> bool {
    match state {
        TaskState::Succeeded | TaskState::Failed | TaskState::Cancelled | TaskState::DeadLettered => true,
        TaskState::Unspecified | TaskState::Queued | TaskState::Assigned => false,
    }
}

/// Returns whether another coordinator may answer what this one did not.
fn is_worth_another(status: &Status) -> bool {
    // A coordinator that does not answer in time may hang; a message's own deadline is no error of a call. A status with
    // a source was made here, for a connection that broke.
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) || status.source().is_some()
}

fn no_coordinator() -> Status {
    Status::unavailable("this messenger knows no coordinator with a usable address")
}
