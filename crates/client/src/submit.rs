//! Submits many tasks over streams, so that each task is accepted once even if streams break. Tasks that were not
//! answered are sent again with the same id, perhaps to another coordinator. Accepted tasks are watched until they
//! finish and are never resubmitted: if the result of one had expired meanwhile, the resubmission would be a new task.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use prost::Message;
use robeing_proto::{
    budget::{MESSAGE_BUDGET_BYTES, MessageBudget},
    v1::{
        StreamedAnswer, StreamedTask, SubmitResult, SubmitStreamRequest, SubmitStreamResponse, Task, TaskSpec,
        WatchTasksResponse, streamed_answer::Answer,
    },
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use super::{
    ClientError, FleetClient,
    calls::{ATTEMPT_TIMEOUT, Tries},
    is_finished, new_task_id,
    watch_pool::Awaited,
};

/// Maximum number of tasks that are sent and not yet answered, unless [`SubmitOptions`] override it.
pub const DEFAULT_WINDOW: usize = 1_024;
/// Maximum number of tasks that are sent and not yet finished, unless [`SubmitOptions`] override it. A coordinator
/// stops reading from a stream that has 16,384 of them, and would then look unresponsive.
pub const DEFAULT_UNFINISHED: usize = 8_192;
/// Maximum size in bytes of the tasks that are sent and not yet answered; a single larger task is sent alone. More
/// would only wait at the coordinator, which stops reading from a stream until some of its tasks are written.
pub const WINDOW_BYTES: usize = 4 * MESSAGE_BUDGET_BYTES;
/// What an input of a part counts for besides its bytes: a message of several tasks has fewer of them than a
/// coordinator takes.
const INPUT_BYTES: usize = 128;
/// Maximum number of tasks in one message of a stream.
const BATCH_TASKS: usize = 256;
/// Capacity of the channel of outgoing messages.
const OUTBOUND_MESSAGES: usize = 8;
/// Pause before a task that the fleet temporarily could not accept is sent again.
const RESUBMIT_PAUSE: Duration = Duration::from_millis(100);

/// Options of [`FleetClient::submit_many`].
#[derive(Clone, Debug)]
pub struct SubmitOptions {
    /// Maximum number of tasks that are sent and not yet answered.
    pub window: usize,
    /// Maximum number of tasks that are sent and not yet finished. Applies only with `wait`.
    pub unfinished: usize,
    /// Wait for the results.
    pub wait: bool,
}

impl Default for SubmitOptions {
    fn default() -> Self {
        Self { window: DEFAULT_WINDOW, unfinished: DEFAULT_UNFINISHED, wait: false }
    }
}

/// An update on a task that [`FleetClient::submit_many`] submits. `index` counts the tasks from 0.
#[derive(Clone, Debug, PartialEq)]
pub enum SubmitEvent {
    /// The task was accepted or refused.
    Submitted {
        /// Index of the task.
        index: usize,
        /// The fleet's answer.
        result: SubmitResult,
    },
    /// The task finished, successfully or not. Only with `wait`.
    Finished {
        /// Index of the task.
        index: usize,
        /// The task with its output.
        task: Box<Task>,
    },
    /// The task was accepted, but its result expired before it could be read.
    Expired {
        /// Index of the task.
        index: usize,
        /// The id of the task.
        task_id: String,
    },
    /// The fleet refused the caller, who may not submit, before it took any task: this one was not accepted. The error
    /// of [`FleetClient::submit_many`] follows.
    NotTaken {
        /// Index of the task.
        index: usize,
    },
}

impl FleetClient {
    /// Submits tasks and reports updates on each through `on_event`, as they arrive. A task without an id is assigned
    /// one, so that it remains one task however often it is sent. Tasks are taken from the iterator as the window has
    /// room for them.
    ///
    /// # Errors
    /// If the fleet refuses the whole stream, or does not answer for as long as the client's settings allow. Tasks that
    /// were not answered by then may or may not have been accepted, except those of a [`SubmitEvent::NotTaken`]. The
    /// refusal of a single task is not an error but an event.
    pub async fn submit_many<I, F>(&self, tasks: I, options: SubmitOptions, on_event: F) -> Result<(), ClientError>
    where
        I: IntoIterator<Item = TaskSpec>,
        F: FnMut(SubmitEvent),
    {
        let mut submission = Submission {
            client: self.clone(),
            options,
            source: tasks.into_iter(),
            exhausted: false,
            has_sent: false,
            drawn: 0,
            to_send: VecDeque::new(),
            postponed: None,
            unanswered: BTreeMap::new(),
            unanswered_bytes: 0,
            unfinished: HashMap::new(),
            watched: HashMap::new(),
            awaited: Awaited::new(self),
            tries: Tries::new(self),
            on_event,
        };
        self.find_answering().await?;
        submission.tries.succeeded();
        submission.draw();
        while !submission.is_done() {
            let target = self.current();
            let broke = submission.converse(target).await?;
            if let Some(status) = broke {
                if submission.unanswered.is_empty() {
                    // The stream owed no answer, however long it was quiet: what counts is the time since it broke.
                    submission.tries.succeeded();
                }
                submission.recover();
                submission.tries.failed(target, status).await?;
            }
        }
        Ok(())
    }
}

struct Unanswered {
    spec: TaskSpec,
    /// Encoded size of the task.
    bytes: usize,
}

/// State of a submission. A task is identified by its tag, which is its index.
struct Submission<I, F> {
    client: FleetClient,
    options: SubmitOptions,
    source: I,
    exhausted: bool,
    /// Whether a stream was opened, or perhaps opened: its tasks may have been accepted.
    has_sent: bool,
    drawn: u64,
    to_send: VecDeque<u64>,
    /// Tasks to be sent again, and when.
    postponed: Option<(Instant, Vec<u64>)>,
    unanswered: BTreeMap<u64, Unanswered>,
    unanswered_bytes: usize,
    /// Tasks accepted on the current stream, which will report their results, with the task's id.
    unfinished: HashMap<u64, String>,
    /// Tasks accepted on a stream that broke, by task id. Several submissions can be the same task, through their key.
    watched: HashMap<String, Vec<u64>>,
    awaited: Awaited,
    /// Time limit and retries since the last answer, or since a stream that owed none broke.
    tries: Tries,
    on_event: F,
}

impl<I: Iterator<Item = TaskSpec>, F: FnMut(SubmitEvent)> Submission<I, F> {
    fn is_done(&self) -> bool {
        self.exhausted && self.unanswered.is_empty() && self.unfinished.is_empty() && self.watched.is_empty()
    }

    /// Takes tasks from the source while the window has room.
    fn draw(&mut self) {
        let waiting_before = !self.unanswered.is_empty();
        while !self.exhausted
            && self.unanswered.len() < self.options.window.max(1)
            && self.unanswered_bytes < WINDOW_BYTES
            && self.unanswered.len() + self.unfinished.len() + self.watched.len() < self.options.unfinished.max(1)
        {
            let Some(mut spec) = self.source.next() else {
                self.exhausted = true;
                break;
            };
            if spec.id.is_empty() {
                spec.id = new_task_id();
            }
            self.to_send.push_back(self.drawn);
            let bytes = spec.encoded_len() + spec.inputs.len() * INPUT_BYTES;
            self.unanswered_bytes += bytes;
            self.unanswered.insert(self.drawn, Unanswered { spec, bytes });
            self.drawn += 1;
        }
        if !waiting_before && !self.unanswered.is_empty() {
            self.tries.succeeded();
        }
    }

    /// After a stream broke: queues everything unanswered to be sent again, and watches everything accepted.
    fn recover(&mut self) {
        self.postponed = None;
        self.to_send = self.unanswered.keys().copied().collect();
        let mut unwatched = Vec::new();
        for (tag, task_id) in self.unfinished.drain() {
            let tags = self.watched.entry(task_id.clone()).or_default();
            if tags.is_empty() {
                unwatched.push(task_id);
            }
            tags.push(tag);
        }
        self.awaited.add(unwatched);
    }

    /// Opens a stream at an endpoint and uses it until all tasks are done (`None`) or it breaks.
    async fn converse(&mut self, target: usize) -> Result<Option<Status>, ClientError> {
        if self.unanswered.is_empty() {
            return self.await_watched().await;
        }
        let (outbound, messages) = mpsc::channel(OUTBOUND_MESSAGES);
        // Send the first message before waiting for the response headers, which a server may send only after the first
        // message.
        if outbound.try_send(self.next_batch()).is_err() {
            return Ok(Some(Status::unavailable("the stream accepted no message")));
        }
        let mut rpc = self.client.rpc(target);
        let opening = rpc.submit_stream(ReceiverStream::new(messages));
        let mut answers = match timeout_at(self.tries.attempt_ends(), opening).await {
            Ok(Ok(answers)) => answers.into_inner(),
            Ok(Err(status)) => {
                self.note_unopened(&status);
                return Ok(Some(status));
            }
            Err(_) => {
                self.has_sent = true;
                return Ok(Some(self.silent(target)));
            }
        };
        self.has_sent = true;
        self.exchange(target, &outbound, &mut answers).await
    }

    /// Notes that a stream was not opened. A caller who may not submit is refused before any task is read.
    fn note_unopened(&mut self, status: &Status) {
        if !refuses_caller(status) {
            self.has_sent = true;
        }
        if self.has_sent {
            return;
        }
        for tag in self.unanswered.keys() {
            (self.on_event)(SubmitEvent::NotTaken { index: *tag as usize });
        }
    }

    async fn exchange(
        &mut self,
        target: usize,
        outbound: &mpsc::Sender<SubmitStreamRequest>,
        answers: &mut Streaming<SubmitStreamResponse>,
    ) -> Result<Option<Status>, ClientError> {
        let mut patience = self.patience();
        loop {
            if self.unanswered.is_empty() {
                patience = self.patience();
            }
            self.draw();
            if self.is_done() {
                return Ok(None);
            }
            let resend_at = self.postponed.as_ref().map_or_else(Instant::now, |(at, _)| *at);
            tokio::select! {
                permit = outbound.reserve(), if !self.to_send.is_empty() => match permit {
                    Ok(permit) => {
                        permit.send(self.next_batch());
                        patience = self.patience();
                    }
                    // The stream is closed; the answers carry its status.
                    Err(_) => self.to_send.clear(),
                },
                told = answers.message() => match told {
                    Ok(Some(told)) => {
                        patience = self.patience();
                        self.take_answers(told)?;
                    }
                    Ok(None) => return Ok(Some(Status::unavailable("the coordinator ended the stream"))),
                    Err(status) => return Ok(Some(status)),
                },
                told = self.awaited.next(), if !self.watched.is_empty() => {
                    let told = told?;
                    self.take_changes(told);
                }
                () = sleep_until(resend_at), if self.postponed.is_some() => {
                    if self.client.inner.targets.len() > 1 && self.tries.began.elapsed() >= ATTEMPT_TIMEOUT {
                        return Ok(Some(Status::unavailable("the coordinator cannot accept tasks at present")));
                    }
                    self.to_send.extend(self.postponed.take().map(|(_, tags)| tags).unwrap_or_default());
                }
                () = sleep_until(patience), if !self.unanswered.is_empty() => return Ok(Some(self.silent(target))),
            }
        }
    }

    /// Waits for the watched tasks. It needs no stream while there is nothing to submit.
    async fn await_watched(&mut self) -> Result<Option<Status>, ClientError> {
        while !self.watched.is_empty() && self.unanswered.is_empty() {
            let told = self.awaited.next().await?;
            self.take_changes(told);
            self.draw();
        }
        Ok(None)
    }

    /// Returns when to give up on a coordinator that owes answers and sends nothing.
    fn patience(&self) -> Instant {
        Instant::now()
            + if self.client.inner.targets.len() > 1 {
                ATTEMPT_TIMEOUT
            } else {
                self.client.inner.settings.request_timeout
            }
    }

    fn silent(&self, target: usize) -> Status {
        Status::unavailable(format!("{} did not answer in time", self.client.name(target)))
    }

    fn next_batch(&mut self) -> SubmitStreamRequest {
        let mut batch = SubmitStreamRequest::default();
        let mut budget = MessageBudget::default();
        while batch.tasks.len() < BATCH_TASKS {
            let Some(tag) = self.to_send.pop_front() else { break };
            let Some(Unanswered { spec, bytes }) = self.unanswered.get(&tag) else { continue };
            if !budget.take(*bytes) {
                self.to_send.push_front(tag);
                break;
            }
            batch.tasks.push(StreamedTask { tag, task: Some(spec.clone()), wait: self.options.wait });
        }
        batch
    }

    fn take_answers(&mut self, told: SubmitStreamResponse) -> Result<(), ClientError> {
        for StreamedAnswer { tag, answer } in told.answers {
            match answer {
                Some(Answer::Submitted(result)) => self.take_result(tag, result)?,
                Some(Answer::Finished(task)) => self.take_end(tag, task)?,
                Some(Answer::Expired(task_id)) => self.tell_expired(tag, task_id),
                None => {}
            }
        }
        Ok(())
    }

    fn take_result(&mut self, tag: u64, result: SubmitResult) -> Result<(), ClientError> {
        if !self.unanswered.contains_key(&tag) {
            return Ok(());
        }
        if let Some(refusal) = &result.refusal
            && is_passing(&refusal.code)
        {
            if Instant::now() + RESUBMIT_PAUSE >= self.tries.ends() {
                return Err(ClientError::Unavailable {
                    endpoints: self.client.endpoints().join(", "),
                    waited: self.tries.began.elapsed(),
                    cause: refusal.message.clone(),
                });
            }
            let at = Instant::now() + RESUBMIT_PAUSE;
            self.postponed.get_or_insert_with(|| (at, Vec::new())).1.push(tag);
            return Ok(());
        }
        self.tries.succeeded();
        if let Some(answered) = self.unanswered.remove(&tag) {
            self.unanswered_bytes -= answered.bytes;
        }
        if result.refusal.is_none() && self.options.wait {
            self.unfinished.insert(tag, result.task_id.clone());
        }
        (self.on_event)(SubmitEvent::Submitted { index: tag as usize, result });
        Ok(())
    }

    fn take_changes(&mut self, told: WatchTasksResponse) {
        for task in told.tasks {
            if !is_finished(task.state()) {
                continue;
            }
            for tag in self.watched.remove(&task.id).unwrap_or_default() {
                self.tell_finished(tag, task.clone());
            }
        }
        for task_id in told.gone_ids {
            for tag in self.watched.remove(&task_id).unwrap_or_default() {
                (self.on_event)(SubmitEvent::Expired { index: tag as usize, task_id: task_id.clone() });
            }
        }
    }

    /// Handles a result. A coordinator reports acceptance before the result; a result alone counts as both.
    fn take_end(&mut self, tag: u64, task: Task) -> Result<(), ClientError> {
        if self.unanswered.contains_key(&tag) {
            let result = SubmitResult { task_id: task.id.clone(), ..SubmitResult::default() };
            self.take_result(tag, result)?;
        }
        if self.unfinished.remove(&tag).is_some() {
            self.tell_finished(tag, task);
        }
        Ok(())
    }

    fn tell_expired(&mut self, tag: u64, task_id: String) {
        if self.unfinished.remove(&tag).is_some() {
            (self.on_event)(SubmitEvent::Expired { index: tag as usize, task_id });
        }
    }

    fn tell_finished(&mut self, tag: u64, task: Task) {
        (self.on_event)(SubmitEvent::Finished { index: tag as usize, task: Box::new(task) });
    }
}

/// Returns whether the fleet refused the caller, and not what was submitted.
fn refuses_caller(status: &Status) -> bool {
    // A status that was created on this side has a source.
    let is_answer = std::error::Error::source(status).is_none();
    is_answer && matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated)
}

/// Returns whether a refusal is temporary, for example because there is no leader, and not a decision about the task.
fn is_passing(code: &str) -> bool {
    matches!(code, "UNAVAILABLE" | "DEADLINE_EXCEEDED" | "CANCELLED" | "ABORTED")
}
