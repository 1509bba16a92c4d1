//! Taking tasks: one submission, or a stream of them that also tells results.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use robeing_fleet::{Command, Refusal, Reply, RetryPolicy, TaskId};
use robeing_proto::v1::{self, streamed_answer::Answer};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;
use tonic::{Status, Streaming};

use super::{
    errors,
    hub::{Hub, Mailbox},
    node::Node,
    proposer::ProposeError,
    view,
};
use crate::platform::uuid_v7;

/// Tasks of one stream that are not accepted yet, or whose results are waited for; beyond it nothing more is read from it.
pub const MAX_OUTSTANDING: usize = 16_384;
/// Answers in one message.
const MAX_ANSWERS: usize = 1_000;
/// Tasks looked at in one go, so that applying does not wait long.
const MAX_LOOKED_AT: usize = 1_000;
/// Bytes of inputs proposed at once; a submission with more is split.
const CHUNK_BYTES: usize = 2 * 1024 * 1024;

/// A task that is refused before it is proposed, or its command.
fn prepare(node: &Node, default_retry: RetryPolicy, spec: v1::TaskSpec) -> Result<Command, v1::SubmitResult> {
    let task_id = spec.id.clone();
    let fresh = || uuid_v7(&*node.platform.clock, &*node.platform.random);
    view::submission(spec, default_retry, fresh).map_err(|error| v1::SubmitResult {
        task_id,
        existing: false,
        refusal: Some(view::bad_field(&error)),
    })
}

fn submitted_id(command: &Command) -> TaskId {
    match command {
        Command::Submit(submit) => submit.id,
        _ => TaskId(0),
    }
}

fn input_len(command: &Command) -> usize {
    match command {
        Command::Submit(submit) => submit.input.len(),
        _ => 0,
    }
}

/// The answer to a submission.
fn result(asked: TaskId, reply: Reply) -> (Option<TaskId>, v1::SubmitResult) {
    match reply {
        Reply::Submitted { task, existing } => {
            (Some(task), v1::SubmitResult { task_id: task.to_string(), existing, refusal: None })
        }
        Reply::Refused(refusal) => {
            let refusal = Some(view::refusal(&refusal));
            (None, v1::SubmitResult { task_id: asked.to_string(), existing: false, refusal })
        }
        other => {
            let refusal = v1::Refusal { code: "INTERNAL".into(), message: format!("unexpected reply {other:?}") };
            (None, v1::SubmitResult { task_id: asked.to_string(), existing: false, refusal: Some(refusal) })
        }
    }
}

/// The new tasks among these, by place, if the coordinators' disks have no room for new tasks.
///
/// Only a state as of now tells which are new: whoever asks again for a task that was accepted must be answered with it.
async fn without_room(node: &Node, commands: &[Command]) -> BTreeMap<usize, Refusal> {
    let Some(reason) = node.rooms.refusal(Instant::now()) else { return BTreeMap::new() };
    if node.ready_to_read(v1::Consistency::Linearizable.into()).await.is_err() {
        return BTreeMap::new();
    }
    let mut refused = BTreeMap::new();
    for (group, start) in commands.chunks(MAX_LOOKED_AT).zip((0..).step_by(MAX_LOOKED_AT)) {
        node.look(|fleet| {
            let is_new = |command: &Command| matches!(command, Command::Submit(submit) if !fleet.knows(submit));
            let new = group.iter().enumerate().filter(|(_, command)| is_new(command));
            refused.extend(new.map(|(n, _)| (start + n, Refusal::NoRoom { reason: reason.clone() })));
        });
    }
    refused
}

/// Proposes commands, but for new tasks that there is no room for.
async fn propose(node: &Node, mut commands: Vec<Command>) -> Result<Vec<Reply>, ProposeError> {
    let mut refused = without_room(node, &commands).await;
    if refused.is_empty() {
        return propose_all(node, &commands).await;
    }
    let count = commands.len();
    let mut n = 0..;
    commands.retain(|_| n.next().is_some_and(|n| !refused.contains_key(&n)));
    let mut replies = propose_all(node, &commands).await?.into_iter();
    let reply = |n| refused.remove(&n).map(Reply::Refused).or_else(|| replies.next());
    Ok((0..count).filter_map(reply).collect())
}

/// Proposes commands in chunks that fit.
async fn propose_all(node: &Node, commands: &[Command]) -> Result<Vec<Reply>, ProposeError> {
    let mut replies = Vec::with_capacity(commands.len());
    let mut start = 0;
    while start < commands.len() {
        let mut bytes = 0;
        let fits = |command: &&Command| {
            bytes += input_len(command);
            bytes <= CHUNK_BYTES
        };
        let count = commands[start..].iter().take_while(fits).count().max(1);
        replies.extend(node.proposer.propose(&commands[start..start + count]).await?);
        start += count;
    }
    Ok(replies)
}

/// Submits tasks: an answer for each, in order.
pub async fn submit(node: &Node, tasks: Vec<v1::TaskSpec>) -> Result<Vec<v1::SubmitResult>, Status> {
    let default_retry = node.look(|fleet| fleet.config().retry);
    let prepared: Vec<_> = tasks.into_iter().map(|spec| prepare(node, default_retry, spec)).collect();
    let commands: Vec<Command> = prepared.iter().filter_map(|p| p.as_ref().ok()).cloned().collect();
    let mut replies = propose(node, commands).await?.into_iter();
    let answers = prepared.into_iter().map(|prepared| match prepared {
        Err(refused) => refused,
        Ok(command) => {
            let missing = || Reply::Refused(robeing_fleet::Refusal::StaleSession);
            result(submitted_id(&command), replies.next().unwrap_or_else(missing)).1
        }
    });
    Ok(answers.collect())
}

/// A stream of submissions. The task that serves it ends with the stream, or with the node.
pub fn stream(
    node: Arc<Node>,
    tasks: &TaskTracker,
    inbound: Streaming<v1::SubmitStreamRequest>,
) -> impl Stream<Item = Result<v1::SubmitStreamResponse, Status>> + use<> {
    let (sender, receiver) = mpsc::channel(4);
    tasks.spawn(async move {
        let leaving = Arc::clone(&node);
        let mut serving = Serving {
            installs: node.hub.installs(),
            node,
            mailbox: Arc::new(Mailbox::default()),
            waiting: BTreeMap::new(),
            proposed: 0,
            proposing: FuturesUnordered::new(),
            catching_up: None,
        };
        tokio::select! {
            () = leaving.leaves() => {
                let leaves = Status::unavailable("this coordinator leaves; ask another");
                let _ = sender.try_send(Err(leaves));
            }
            () = sender.closed() => {}
            served = serving.run(inbound, &sender) => {
                if let Err(status) = served {
                    let _ = sender.send(Err(status)).await;
                }
            }
        }
        serving.close();
    });
    ReceiverStream::new(receiver)
}

/// One task of a group that is being proposed.
struct Asked {
    tag: u64,
    id: TaskId,
    wait: bool,
    /// How often the state had been replaced.
    installs: u64,
}

/// A task whose result is waited for.
#[derive(Clone, Copy)]
struct Waiting {
    id: TaskId,
    /// Whether it was accepted, as far as told: only then it is gone if the state lacks it.
    accepted: bool,
}

type Proposed = (Vec<Asked>, Result<Vec<Reply>, ProposeError>);

struct Serving {
    node: Arc<Node>,
    mailbox: Arc<Mailbox>,
    /// By tag.
    waiting: BTreeMap<u64, Waiting>,
    proposed: usize,
    proposing: FuturesUnordered<BoxFuture<'static, Proposed>>,
    installs: watch::Receiver<u64>,
    catching_up: Option<CatchingUp>,
}

/// Finds out whether accepted tasks that the state lacks are gone or still to be applied here.
struct CatchingUp {
    /// Those it is about.
    missing: BTreeSet<(u64, TaskId)>,
    /// Done when this coordinator has applied everything that was accepted before.
    barrier: BoxFuture<'static, Result<(), Status>>,
    /// The state was replaced once more meanwhile.
    again: bool,
}

/// Waits for the barrier, if there is one.
async fn caught_up(catching_up: &mut Option<CatchingUp>) -> Result<(), Status> {
    match catching_up {
        Some(catching_up) => (&mut catching_up.barrier).await,
        None => std::future::pending().await,
    }
}

impl Serving {
    async fn run(
        &mut self,
        mut inbound: Streaming<v1::SubmitStreamRequest>,
        sender: &mpsc::Sender<Result<v1::SubmitStreamResponse, Status>>,
    ) -> Result<(), Status> {
        let mailbox = Arc::clone(&self.mailbox);
        let mut open = true;
        let mut pending: Vec<v1::StreamedAnswer> = Vec::new();
        while open || self.proposed > 0 || !self.waiting.is_empty() || !pending.is_empty() {
            tokio::select! {
                Some(proposed) = self.proposing.next() => self.settle(proposed)?,
                Ok(()) = self.installs.changed() => self.look_again(),
                caught_up = caught_up(&mut self.catching_up) => self.tell_expired(caught_up.is_ok()),
                () = mailbox.news(), if pending.is_empty() => {
                    pending = mailbox.take(MAX_ANSWERS);
                    self.told(&pending);
                }
                permit = sender.reserve(), if !pending.is_empty() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    permit.send(Ok(v1::SubmitStreamResponse { answers: std::mem::take(&mut pending) }));
                }
                next = inbound.next(), if open && self.proposed + self.waiting.len() < MAX_OUTSTANDING => match next {
                    Some(request) => self.take(request?.tasks)?,
                    None => open = false,
                }
            }
        }
        Ok(())
    }

    fn told(&mut self, answers: &[v1::StreamedAnswer]) {
        for v1::StreamedAnswer { tag, answer } in answers {
            if matches!(answer, Some(Answer::Finished(_) | Answer::Expired(_))) {
                self.waiting.remove(tag);
            }
        }
    }

    /// After the state was replaced: tells results that came with it, and if a task is not in it, finds out whether it is gone
    /// or still to come.
    fn look_again(&mut self) {
        let missing = self.tell_results();
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.again = true;
        } else if !missing.is_empty() {
            let node = Arc::clone(&self.node);
            let barrier = Box::pin(async move { node.ready_to_read(v1::Consistency::Linearizable.into()).await });
            self.catching_up = Some(CatchingUp { missing, barrier, again: false });
        }
    }

    /// Tells the results that are there: the tags of accepted tasks that are not.
    fn tell_results(&mut self) -> BTreeSet<(u64, TaskId)> {
        let waiting: Vec<(u64, Waiting)> = self.waiting.iter().map(|(tag, waiting)| (*tag, *waiting)).collect();
        let mut missing = BTreeSet::new();
        for group in waiting.chunks(MAX_LOOKED_AT) {
            let mut results = Vec::new();
            self.node.look(|fleet| {
                for (tag, Waiting { id, accepted }) in group {
                    match fleet.task(*id) {
                        Some(_) => results.extend(Hub::result(fleet, *id).map(|task| (*tag, *id, task))),
                        None if *accepted => drop(missing.insert((*tag, *id))),
                        None => {}
                    }
                }
            });
            for (tag, id, task) in results {
                self.answer(tag, id, Answer::Finished(task));
            }
        }
        missing
    }

    /// If this coordinator has caught up, the tasks that were missing and still are have ended and expired. Without a leader
    /// nothing can be known, and it is asked again.
    fn tell_expired(&mut self, caught_up: bool) {
        let Some(CatchingUp { missing, again, .. }) = self.catching_up.take() else { return };
        if caught_up {
            for (tag, id) in self.tell_results().intersection(&missing) {
                self.answer(*tag, *id, Answer::Expired(id.to_string()));
            }
        }
        if again || !caught_up {
            self.look_again();
        }
    }

    /// Answers, unless whoever applied the log was quicker.
    fn answer(&mut self, tag: u64, id: TaskId, answer: Answer) {
        if self.node.hub.forget(id, &self.mailbox, tag) {
            self.mailbox.put(tag, answer);
        }
    }

    fn take(&mut self, tasks: Vec<v1::StreamedTask>) -> Result<(), Status> {
        if tasks.len() > MAX_OUTSTANDING {
            return Err(errors::too_many("tasks", tasks.len(), MAX_OUTSTANDING));
        }
        let default_retry = self.node.look(|fleet| fleet.config().retry);
        let installs = *self.installs.borrow();
        let (mut asked, mut commands) = (Vec::with_capacity(tasks.len()), Vec::with_capacity(tasks.len()));
        for task in tasks {
            match prepare(&self.node, default_retry, task.task.unwrap_or_default()) {
                Ok(command) => {
                    let id = submitted_id(&command);
                    if task.wait {
                        self.mailbox.expect(task.tag);
                        self.await_result(task.tag, id);
                    }
                    asked.push(Asked { tag: task.tag, id, wait: task.wait, installs });
                    commands.push(command);
                }
                Err(refused) => self.mailbox.put(task.tag, Answer::Submitted(refused)),
            }
        }
        self.proposed += asked.len();
        let node = Arc::clone(&self.node);
        self.proposing.push(Box::pin(async move {
            let replies = propose(&node, commands).await;
            (asked, replies)
        }));
        Ok(())
    }

    fn await_result(&mut self, tag: u64, id: TaskId) {
        self.node.hub.wait_for(id, &self.mailbox, tag);
        self.waiting.insert(tag, Waiting { id, accepted: false });
    }

    fn settle(&mut self, (asked, replies): Proposed) -> Result<(), Status> {
        self.proposed -= asked.len();
        let installs = *self.installs.borrow();
        let mut missed = false;
        let mut replies = replies?.into_iter();
        for Asked { tag, id, wait, installs: before } in asked {
            let Some(reply) = replies.next() else { return Err(Status::internal("a reply is missing")) };
            let existing = matches!(reply, Reply::Submitted { existing: true, .. });
            let (task, answer) = result(id, reply);
            self.mailbox.put(tag, Answer::Submitted(answer));
            if !wait {
                continue;
            }
            match task {
                Some(task) => {
                    self.accepted(tag, id, task, existing);
                    missed |= before != installs;
                }
                None => {
                    self.node.hub.forget(id, &self.mailbox, tag);
                    self.waiting.remove(&tag);
                }
            }
        }
        // The state was replaced meanwhile, and its results were looked for before these were known to be accepted.
        if missed {
            self.look_again();
        }
        Ok(())
    }

    fn accepted(&mut self, tag: u64, asked: TaskId, task: TaskId, existing: bool) {
        if asked != task {
            self.node.hub.forget(asked, &self.mailbox, tag);
            self.await_result(tag, task);
        }
        if let Some(waiting) = self.waiting.get_mut(&tag) {
            waiting.accepted = true;
        }
        // One that had been accepted before may have ended before it was waited for.
        if existing && let Some(ended) = self.node.look(|fleet| Hub::result(fleet, task)) {
            self.answer(tag, task, Answer::Finished(ended));
        }
    }

    fn close(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.node.hub.forget_all(&self.mailbox, waiting.into_values().map(|waiting| waiting.id));
    }
}
