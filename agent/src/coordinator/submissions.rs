//! Taking tasks: one submission, or a stream of them that also tells results.

use std::{collections::BTreeMap, sync::Arc};

use futures::{Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use robeing_fleet::{Command, Reply, RetryPolicy, TaskId};
use robeing_proto::v1::{self, streamed_answer::Answer};
use tokio::sync::mpsc;
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

/// Proposes commands in chunks that fit.
async fn propose(node: &Node, commands: &[Command]) -> Result<Vec<Reply>, ProposeError> {
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
    let mut replies = propose(node, &commands).await?.into_iter();
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
            node,
            mailbox: Arc::new(Mailbox::default()),
            waiting: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            proposed: 0,
            proposing: FuturesUnordered::new(),
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
}

type Proposed = (Vec<Asked>, Result<Vec<Reply>, ProposeError>);

struct Serving {
    node: Arc<Node>,
    mailbox: Arc<Mailbox>,
    /// Tags whose results are waited for.
    waiting: BTreeMap<u64, TaskId>,
    /// Of those, the ones whose acceptance is not told yet, with the results that came before it: a proposal that was repeated
    /// after a change of leaders may be answered after its task has run.
    unsettled: BTreeMap<u64, Vec<Answer>>,
    proposed: usize,
    proposing: FuturesUnordered<BoxFuture<'static, Proposed>>,
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
                Some(done) = self.proposing.next() => self.settle(done)?,
                () = mailbox.news(), if pending.is_empty() => {
                    pending = self.tellable(mailbox.take(MAX_ANSWERS));
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

    /// What may be told now: a result only after the acceptance.
    fn tellable(&mut self, answers: Vec<v1::StreamedAnswer>) -> Vec<v1::StreamedAnswer> {
        let mut told = Vec::with_capacity(answers.len());
        for v1::StreamedAnswer { tag, answer } in answers {
            match (answer, self.unsettled.get_mut(&tag)) {
                (Some(result @ Answer::Finished(_)), Some(early)) => early.push(result),
                (answer, _) => {
                    if let Some(Answer::Finished(_)) = answer {
                        self.waiting.remove(&tag);
                    }
                    told.push(v1::StreamedAnswer { tag, answer });
                }
            }
        }
        told
    }

    fn take(&mut self, tasks: Vec<v1::StreamedTask>) -> Result<(), Status> {
        if tasks.len() > MAX_OUTSTANDING {
            return Err(errors::too_many("tasks", tasks.len(), MAX_OUTSTANDING));
        }
        let default_retry = self.node.look(|fleet| fleet.config().retry);
        let (mut asked, mut commands) = (Vec::with_capacity(tasks.len()), Vec::with_capacity(tasks.len()));
        for task in tasks {
            match prepare(&self.node, default_retry, task.task.unwrap_or_default()) {
                Ok(command) => {
                    let id = submitted_id(&command);
                    if task.wait {
                        self.await_result(task.tag, id);
                        self.unsettled.entry(task.tag).or_default();
                    }
                    asked.push(Asked { tag: task.tag, id, wait: task.wait });
                    commands.push(command);
                }
                Err(refused) => self.mailbox.put(task.tag, Answer::Submitted(refused)),
            }
        }
        self.proposed += asked.len();
        let node = Arc::clone(&self.node);
        self.proposing.push(Box::pin(async move {
            let replies = propose(&node, &commands).await;
            (asked, replies)
        }));
        Ok(())
    }

    fn await_result(&mut self, tag: u64, id: TaskId) {
        self.node.hub.wait_for(id, &self.mailbox, tag);
        self.waiting.insert(tag, id);
    }

    fn settle(&mut self, (asked, replies): Proposed) -> Result<(), Status> {
        self.proposed -= asked.len();
        let mut replies = replies?.into_iter();
        for Asked { tag, id, wait } in asked {
            let Some(reply) = replies.next() else { return Err(Status::internal("a reply is missing")) };
            let existing = matches!(reply, Reply::Submitted { existing: true, .. });
            let (task, answer) = result(id, reply);
            self.mailbox.put(tag, Answer::Submitted(answer));
            for early in self.unsettled.remove(&tag).unwrap_or_default() {
                self.mailbox.put(tag, early);
            }
            if !wait {
                continue;
            }
            match task {
                Some(task) if existing => self.await_existing(tag, id, task),
                Some(_) => {}
                None => {
                    self.node.hub.forget(id, &self.mailbox, tag);
                    self.waiting.remove(&tag);
                }
            }
        }
        Ok(())
    }

    /// A task that had been accepted before may have ended before it was waited for.
    fn await_existing(&mut self, tag: u64, asked: TaskId, task: TaskId) {
        if asked != task {
            self.node.hub.forget(asked, &self.mailbox, tag);
            self.await_result(tag, task);
        }
        let ended = self.node.look(|fleet| Hub::result(fleet, task));
        if let Some(ended) = ended
            && self.node.hub.forget(task, &self.mailbox, tag)
        {
            self.mailbox.put(tag, Answer::Finished(ended));
        }
    }

    fn close(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.node.hub.forget_all(&self.mailbox, waiting.into_values());
    }
}
