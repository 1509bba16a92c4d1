//! Submission of tasks: single calls, or a stream that also returns results.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use ahash::HashMap;
use futures::{Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use robeing_fleet::{Reply, TaskId};
use robeing_net::gate::Caller;
use robeing_platform::Platform;
use robeing_proto::{budget::MessageBudget, v1};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    api::{
        answers::{Outcome, answer, result, unanswered},
        convert, errors,
        preparing::Prepared,
        splitting::Preparing,
    },
    apply::{
        give_back_room,
        observer::ApplyObserver,
        result_stream::{Letter, ResultStream},
    },
    archive::Unread,
    ballots::Ballots,
    clock::FleetClock,
    disk_space::Rooms,
    lifetime::{Leaving, Lifetime},
    policies::Policies,
    propose::{ProposeError, Proposer, Sender},
    read::StateReader,
};

/// Maximum number of tasks of one stream that are not accepted yet or whose results are pending; at this limit the
/// stream is not read further.
pub const MAX_OUTSTANDING: usize = 16_384;
/// Maximum number of tasks read at once, so that commands do not wait long to be applied.
const MAX_LOOKED_AT: usize = 1_000;
/// Messages in flight to one client; what exceeds this waits in the stream's mailbox.
const SEND_BUFFER: usize = 1;
/// Bytes of tasks of one stream that are not accepted yet; at this limit reading stops, which slows its client down.
pub const MAX_PROPOSED_BYTES: usize = 2 * 1024 * 1024;
/// Bytes that a task counts for besides its input.
const TASK_BYTES: usize = 256;
/// Bytes that a task counts for if it asks for an approval: its ballot names all members, and so does the letter to them.
const BALLOT_BYTES: usize = 16 * 1024;

/// Maximum number of dependencies of all parts in one request, each of which has those of its task.
const MAX_DEPENDENCIES_OF_PARTS: usize = 1_000_000;

/// Accepts tasks. Cheap to clone.
#[derive(Clone)]
pub struct Submissions {
    pub state: StateReader,
    pub proposer: Proposer,
    pub observer: Arc<ApplyObserver>,
    pub clock: FleetClock,
    pub rooms: Arc<Rooms>,
    /// What decides about submissions before they are proposed.
    pub policies: Policies,
    /// What finds the members of the ballots that tasks wait for.
    pub ballots: Ballots,
    /// The source of task ids, and of the seeds of jitter.
    pub platform: Platform,
    pub leaving: Leaving,
    pub lifetime: Lifetime,
}

impl Submissions {
    /// Submits tasks of a caller, and returns an answer for each, in order.
    pub async fn submit(&self, tasks: Vec<v1::TaskSpec>, by: &Caller) -> Result<Vec<v1::SubmitResult>, Status> {
        check_inputs(tasks.iter())?;
        let mut submissions = Vec::with_capacity(tasks.len());
        let mut answers: Vec<Result<TaskId, v1::SubmitResult>> = Vec::with_capacity(tasks.len());
        let mut preparing = self.state.look(Preparing::begin);
        for spec in tasks {
            answers.push(self.prepare(spec, &mut preparing).map(|submission| {
                let id = submission.task.id;
                submissions.push(submission);
                id
            }));
        }
        let mut outcomes = self.propose(self.proposer.sender(), by, submissions).await?.into_iter();
        let answer = |prepared: Result<TaskId, v1::SubmitResult>| {
            prepared.map_or_else(Ok, |id| Ok(result(id, outcomes.next().ok_or_else(missing)?).1))
        };
        answers.into_iter().map(answer).collect()
    }

    /// Serves a stream of a caller's submissions. The task that serves it ends with the stream, or with the coordinator.
    pub fn stream(
        &self,
        inbound: Streaming<v1::SubmitStreamRequest>,
        by: Caller,
    ) -> impl Stream<Item = Result<v1::SubmitStreamResponse, Status>> + use<> {
        let (sender, receiver) = mpsc::channel(SEND_BUFFER);
        let submissions = self.clone();
        self.lifetime.tasks().spawn(async move {
            let leaving = submissions.leaving.clone();
            let mut serving = Serving {
                sender: submissions.proposer.sender(),
                by: Arc::new(by),
                installs: submissions.observer.installs(),
                submissions,
                mailbox: Arc::new(ResultStream::default()),
                waiting: HashMap::default(),
                proposed: 0,
                proposed_bytes: 0,
                held: VecDeque::new(),
                proposing: FuturesUnordered::new(),
                catching_up: None,
            };
            tokio::select! {
                () = leaving.begins() => {
                    let leaves = Status::unavailable("this coordinator is leaving; use another");
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
}

/// Refuses a request whose tasks have too many inputs of parts together, or whose parts would have too many
/// dependencies. A task that has too many inputs alone is refused by itself.
fn check_inputs<'a>(tasks: impl Iterator<Item = &'a v1::TaskSpec>) -> Result<(), Status> {
    let (mut inputs, mut dependencies) = (0, 0_usize);
    for spec in tasks.filter(|spec| spec.inputs.len() <= convert::MAX_INPUTS) {
        inputs += spec.inputs.len();
        dependencies = dependencies.saturating_add(spec.inputs.len().saturating_mul(spec.depends_on.len()));
    }
    if inputs > convert::MAX_INPUTS {
        return Err(errors::too_many("inputs of parts", inputs, convert::MAX_INPUTS));
    }
    if dependencies > MAX_DEPENDENCIES_OF_PARTS {
        return Err(errors::too_many("dependencies of parts", dependencies, MAX_DEPENDENCIES_OF_PARTS));
    }
    Ok(())
}

fn missing() -> Status {
    Status::internal("a reply is missing")
}

/// Returns the bytes that a task counts for while it is being proposed.
fn counted_bytes(Prepared { task, approval, parts, .. }: &Prepared) -> usize {
    let of_parts: usize = parts.iter().map(|part| part.input.len() + TASK_BYTES).sum();
    task.input.len() + of_parts + if approval.is_some() { BALLOT_BYTES } else { TASK_BYTES }
}

/// One task of a group that is being proposed.
struct Asked {
    tag: u64,
    id: TaskId,
    wait: bool,
    /// How many times the state had been replaced by a snapshot when it was proposed.
    installs: u64,
}

/// A task whose result is pending.
#[derive(Clone, Copy)]
struct Waiting {
    id: TaskId,
    /// Whether the task is known to be accepted. Only such a task can have expired if the state lacks it.
    accepted: bool,
}

/// A group that is to be proposed.
struct Group {
    asked: Vec<Asked>,
    bytes: usize,
    submissions: Vec<Prepared>,
}

/// A group that was proposed.
struct Proposed {
    asked: Vec<Asked>,
    bytes: usize,
    outcomes: Result<Vec<Outcome>, ProposeError>,
}

struct Serving {
    submissions: Submissions,
    /// The sender under which its tasks are proposed.
    sender: Sender,
    /// Who submits them.
    by: Arc<Caller>,
    mailbox: Arc<ResultStream>,
    /// Tasks whose results are pending, by tag.
    waiting: HashMap<u64, Waiting>,
    proposed: usize,
    proposed_bytes: usize,
    /// Groups that are proposed after those before them, because tasks may depend on tasks of these.
    held: VecDeque<Group>,
    proposing: FuturesUnordered<BoxFuture<'static, Proposed>>,
    installs: watch::Receiver<u64>,
    catching_up: Option<CatchingUp>,
}

/// Determines whether accepted tasks that the state lacks have expired or are not applied here yet.
struct CatchingUp {
    /// The missing tasks, by tag.
    missing: BTreeSet<(u64, TaskId)>,
    /// Completes when this coordinator has applied everything that was accepted before.
    barrier: BoxFuture<'static, Result<(), Status>>,
    /// Whether the state was replaced again meanwhile.
    again: bool,
}

/// Waits for the barrier; never returns if there is none.
async fn caught_up(catching_up: &mut Option<CatchingUp>) -> Result<(), Status> {
    match catching_up {
        Some(catching_up) => (&mut catching_up.barrier).await,
        None => std::future::pending().await,
    }
}

/// Returns the letter with the result of a task whose end was noted; an error if another coordinator may be able to read
/// it. One that is lost counts as expired, because it must not end the stream; `GetTask` tells the two apart.
pub async fn with_result(state: &StateReader, id: TaskId) -> Result<Letter, Unread> {
    let (kept, now) = state.look(|fleet| (fleet.kept_task(id), fleet.now()));
    let Some(kept) = kept else { return Ok(Letter::Expired(id)) };
    match state.read(kept).await {
        Ok(Some(task)) if task.state.is_final() => Ok(Letter::Finished(task, now)),
        Err(unread @ Unread::Unanswered(_)) => Err(unread),
        Ok(_) | Err(Unread::Lost(_)) => Ok(Letter::Expired(id)),
    }
}

/// Returns the answers of the next message, as many as fit. A result that can't be read here is a reason to ask another
/// coordinator, once the answers before it are sent.
async fn next_message(
    state: &StateReader,
    pending: &mut VecDeque<(u64, Letter)>,
) -> Result<Vec<v1::StreamedAnswer>, Status> {
    let mut answers = Vec::with_capacity(pending.len());
    let mut budget = MessageBudget::default();
    while let Some((tag, told)) = pending.pop_front() {
        let mut told = match told {
            Letter::Ended(id) => match with_result(state, id).await {
                Ok(told) => told,
                Err(unread) if answers.is_empty() => return Err(unread.into()),
                Err(_) => {
                    pending.push_front((tag, told));
                    break;
                }
            },
            told => told,
        };
        answers.push(v1::StreamedAnswer { tag, answer: Some(answer(&mut told)) });
        let size = answers.last().and_then(|last| last.answer.as_ref()).map_or(0, convert::answer_size);
        if !budget.take(size) {
            pending.push_front((tag, unanswered(told, answers.pop())));
            break;
        }
    }
    Ok(answers)
}

impl Serving {
    async fn run(
        &mut self,
        mut inbound: Streaming<v1::SubmitStreamRequest>,
        sender: &mpsc::Sender<Result<v1::SubmitStreamResponse, Status>>,
    ) -> Result<(), Status> {
        let mailbox = Arc::clone(&self.mailbox);
        let mut open = true;
        let mut pending: VecDeque<(u64, Letter)> = VecDeque::new();
        while open || self.proposed > 0 || !self.waiting.is_empty() || !pending.is_empty() {
            tokio::select! {
                Some(proposed) = self.proposing.next() => self.settle(proposed)?,
                Ok(()) = self.installs.changed() => self.look_again(),
                caught_up = caught_up(&mut self.catching_up) => self.tell_expired(caught_up.is_ok()),
                () = mailbox.news(), if pending.is_empty() => {
                    pending = mailbox.take();
                    self.told(&pending);
                }
                permit = sender.reserve(), if !pending.is_empty() => {
                    let Ok(permit) = permit else { return Ok(()) };
                    let answers = next_message(&self.submissions.state, &mut pending).await?;
                    permit.send(Ok(v1::SubmitStreamResponse { answers }));
                }
                next = inbound.next(), if open && self.may_read() => match next {
                    Some(request) => self.take(request?.tasks)?,
                    None => open = false,
                }
            }
        }
        Ok(())
    }

    /// Returns whether there is room for what the client sends next. Answers that it has not read take up room, too.
    fn may_read(&self) -> bool {
        self.proposed + self.waiting.len() < MAX_OUTSTANDING
            && self.proposed_bytes < MAX_PROPOSED_BYTES
            && self.mailbox.len() < MAX_OUTSTANDING
    }

    fn told(&mut self, answers: &VecDeque<(u64, Letter)>) {
        for (tag, told) in answers {
            if told.is_result() {
                self.waiting.remove(tag);
            }
        }
        give_back_room(&mut self.waiting);
    }

    /// Sends the results that a replacement of the state has brought. If a task is missing from the state, starts to
    /// determine whether it has expired or is not applied here yet.
    fn look_again(&mut self) {
        let missing = self.tell_results();
        if let Some(catching_up) = &mut self.catching_up {
            catching_up.again = true;
        } else if !missing.is_empty() {
            let state = self.submissions.state.clone();
            let barrier = Box::pin(async move { state.ready_to_read(v1::Consistency::Linearizable.into()).await });
            self.catching_up = Some(CatchingUp { missing, barrier, again: false });
        }
    }

    /// Sends the results that are available. Returns the accepted tasks that the state lacks, with their tags.
    fn tell_results(&mut self) -> BTreeSet<(u64, TaskId)> {
        let mut waiting: Vec<(u64, Waiting)> = self.waiting.iter().map(|(tag, waiting)| (*tag, *waiting)).collect();
        waiting.sort_unstable_by_key(|(tag, _)| *tag);
        let mut missing = BTreeSet::new();
        for group in waiting.chunks(MAX_LOOKED_AT) {
            let mut results = Vec::new();
            self.submissions.state.look(|fleet| {
                for (tag, Waiting { id, accepted }) in group {
                    match fleet.state_of(*id) {
                        Some(_) => results.extend(ApplyObserver::result(fleet, *id).map(|task| (*tag, *id, task))),
                        None if *accepted => drop(missing.insert((*tag, *id))),
                        None => {}
                    }
                }
            });
            for (tag, id, task) in results {
                self.answer(tag, id, task);
            }
        }
        missing
    }

    /// Sends the expiry of the tasks that were missing and still are, if this coordinator has caught up: then they have
    /// ended and their results have expired. Otherwise, for example without a leader, the check is repeated.
    fn tell_expired(&mut self, caught_up: bool) {
        let Some(CatchingUp { missing, again, .. }) = self.catching_up.take() else { return };
        if caught_up {
            for (tag, id) in self.tell_results().intersection(&missing) {
                self.answer(*tag, *id, Letter::Expired(*id));
            }
        }
        if again || !caught_up {
            self.look_again();
        }
    }

    /// Queues an answer, unless the observer has queued one when the log was applied.
    fn answer(&mut self, tag: u64, id: TaskId, letter: Letter) {
        if self.submissions.observer.forget(id, &self.mailbox, tag) {
            self.mailbox.put(tag, letter);
        }
    }

    fn take(&mut self, tasks: Vec<v1::StreamedTask>) -> Result<(), Status> {
        if tasks.len() > MAX_OUTSTANDING {
            return Err(errors::too_many("tasks", tasks.len(), MAX_OUTSTANDING));
        }
        check_inputs(tasks.iter().filter_map(|task| task.task.as_ref()))?;
        let installs = *self.installs.borrow();
        let (mut asked, mut submissions) = (Vec::with_capacity(tasks.len()), Vec::with_capacity(tasks.len()));
        let mut preparing = self.submissions.state.look(Preparing::begin);
        for task in tasks {
            match self.submissions.prepare(task.task.unwrap_or_default(), &mut preparing) {
                Ok(submission) => {
                    let id = submission.task.id;
                    if task.wait {
                        self.mailbox.expect(task.tag);
                        self.await_result(task.tag, id);
                    }
                    asked.push(Asked { tag: task.tag, id, wait: task.wait, installs });
                    submissions.push(submission);
                }
                Err(refused) => self.mailbox.put(task.tag, refused),
            }
        }
        let bytes = submissions.iter().map(counted_bytes).sum();
        self.proposed += asked.len();
        self.proposed_bytes += bytes;
        self.held.push_back(Group { asked, bytes, submissions });
        self.propose_held();
        Ok(())
    }

    /// Proposes the groups that need not wait for earlier ones: groups with links do, and all that come after them.
    fn propose_held(&mut self) {
        let has_links = |group: &Group| group.submissions.iter().any(|task| task.task.links.is_some());
        while self.held.front().is_some_and(|next| self.proposing.is_empty() || !has_links(next)) {
            let Some(Group { asked, bytes, submissions }) = self.held.pop_front() else { return };
            let (own, sender, by) = (self.submissions.clone(), self.sender, Arc::clone(&self.by));
            self.proposing.push(Box::pin(async move {
                let outcomes = own.propose(sender, &by, submissions).await;
                Proposed { asked, bytes, outcomes }
            }));
        }
    }

    fn await_result(&mut self, tag: u64, id: TaskId) {
        self.submissions.observer.wait_for(id, &self.mailbox, tag);
        self.waiting.insert(tag, Waiting { id, accepted: false });
    }

    fn settle(&mut self, Proposed { asked, bytes, outcomes }: Proposed) -> Result<(), Status> {
        self.proposed -= asked.len();
        self.proposed_bytes -= bytes;
        self.propose_held();
        let installs = *self.installs.borrow();
        let mut missed = false;
        let mut outcomes = outcomes?.into_iter();
        for Asked { tag, id, wait, installs: before } in asked {
            let outcome = outcomes.next().ok_or_else(missing)?;
            let existing = matches!(outcome, Ok(Reply::Submitted { existing: true, .. }));
            let (task, answer) = result(id, outcome);
            match task {
                Some(task) if wait => {
                    self.accepted(tag, id, task, existing);
                    // A task that its key still stands for may be forgotten.
                    let is_here = || self.submissions.state.look(|fleet| fleet.state_of(task).is_some());
                    missed |= before != installs || existing && !is_here();
                }
                None if wait => {
                    self.submissions.observer.forget(id, &self.mailbox, tag);
                    self.waiting.remove(&tag);
                }
                _ => {}
            }
            // The mailbox returns it before any result of this task, even one that was found above or reported
            // meanwhile.
            self.mailbox.put(tag, answer);
        }
        // The state was replaced meanwhile, and its results looked up before these tasks were known to be accepted.
        if missed {
            self.look_again();
        }
        Ok(())
    }

    fn accepted(&mut self, tag: u64, asked: TaskId, task: TaskId, existing: bool) {
        if asked != task {
            self.submissions.observer.forget(asked, &self.mailbox, tag);
            self.await_result(tag, task);
        }
        if let Some(waiting) = self.waiting.get_mut(&tag) {
            waiting.accepted = true;
        }
        // A task that had been accepted before may have ended before its result was awaited.
        if existing && let Some(ended) = self.submissions.state.look(|fleet| ApplyObserver::result(fleet, task)) {
            self.answer(tag, task, ended);
        }
    }

    fn close(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        self.submissions.observer.forget_all(&self.mailbox, waiting.into_values().map(|waiting| waiting.id));
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn the_parts_of_a_request_have_no_more_dependencies_than_they_may() {
        let split = |inputs: usize, depends_on: usize| v1::TaskSpec {
            inputs: vec![Bytes::new(); inputs],
            depends_on: vec![v1::Dependency::default(); depends_on],
            ..v1::TaskSpec::default()
        };
        let tasks = [split(1_000, 999), split(1_000, 1), split(0, 1_000)];
        assert!(check_inputs(tasks.iter()).is_ok());
        let one_more = [split(1_000, 999), split(1_000, 1), split(1, 1)];
        let refused = check_inputs(one_more.iter()).expect_err("it is one too many");
        assert!(refused.message().contains("1000001 dependencies of parts"), "{refused}");
    }
}
