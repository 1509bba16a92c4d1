//! Cancels tasks and, if asked to, waits until nothing of them runs any more.
//!
//! Whether anything runs is in the state: an agent keeps the slot of an attempt that it has to stop until it reports that
//! the attempt has stopped, or until it is proved to be gone. So any coordinator can tell, also after a change of leader.
//! Of a task with parts or subtasks, the whole tree below it is waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use robeing_fleet::{Command, Reply, TaskCommand, TaskId};
use robeing_proto::v1;
use tokio::{
    sync::Semaphore,
    time::{Instant, sleep_until},
};
use tonic::Status;

use crate::{
    api::{
        convert, errors,
        fleet::MAX_ITEMS,
        stopping::{Found, Running},
    },
    apply::observer::ApplyObserver,
    lifetime::Leaving,
    propose::Proposer,
    read::StateReader,
};

/// Maximum size of a cancellation reason, bytes. It is kept with every task that is cancelled for it.
pub const MAX_REASON_BYTES: usize = 1024;
/// Longest time that a call waits until nothing runs any more, ms: ten minutes.
pub const MAX_CANCEL_WAIT_MS: u64 = 600_000;
/// Maximum number of calls that wait at one coordinator.
pub const MAX_WAITING_CALLS: usize = 1_024;
/// Maximum number of agents of one task that a response names.
pub const MAX_NAMED_AGENTS: usize = 100;
/// Minimum time between two reads of the state by one call.
const LOOK_APART: Duration = Duration::from_millis(5);

/// Cancels tasks. Cheap to clone.
#[derive(Clone)]
pub struct Cancels {
    pub state: StateReader,
    pub proposer: Proposer,
    pub observer: Arc<ApplyObserver>,
    pub leaving: Leaving,
    /// The room for calls that wait, of [`MAX_WAITING_CALLS`].
    pub room: Arc<Semaphore>,
}

fn cancel_result(task: TaskId, reply: Option<&Reply>) -> v1::CancelResult {
    let (mut state, mut refusal) = (0, None);
    match reply {
        Some(Reply::Cancelled(now)) => state = convert::task_state(*now).into(),
        Some(Reply::Refused(refused)) => refusal = Some(convert::refusal(refused)),
        Some(other) => refusal = Some(errors::unexpected(other)),
        None => {}
    }
    v1::CancelResult { task_id: task.to_string(), state, refusal, ..Default::default() }
}

/// Checks a request. Returns the tasks, and how long to wait for them, if at all.
fn check(request: &v1::CancelTasksRequest) -> Result<(Vec<TaskId>, Option<Duration>), Status> {
    if request.ids.len() > MAX_ITEMS {
        return Err(errors::too_many("ids", request.ids.len(), MAX_ITEMS));
    }
    if request.reason.len() > MAX_REASON_BYTES {
        return Err(errors::too_long("reason", request.reason.len(), MAX_REASON_BYTES));
    }
    let wait = convert::millis("wait", request.wait)?;
    if let Some(wait) = wait.filter(|wait| *wait > MAX_CANCEL_WAIT_MS) {
        let [wait, most] = [wait, MAX_CANCEL_WAIT_MS].map(|ms| convert::span_text(Duration::from_millis(ms)));
        return Err(convert::bad("wait", format!("it is {wait}, the most is {most}")).into());
    }
    let tasks = request.ids.iter().map(|id| convert::task_id(id)).collect::<Result<Vec<_>, _>>()?;
    Ok((tasks, wait.map(Duration::from_millis)))
}

impl Cancels {
    /// Cancels tasks.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if something is out of bounds, RESOURCE_EXHAUSTED if too many calls wait, UNAVAILABLE if no
    /// coordinator leads or this one stops; the call can be repeated.
    pub async fn cancel(&self, request: v1::CancelTasksRequest) -> Result<v1::CancelTasksResponse, Status> {
        let (tasks, wait) = check(&request)?;
        let _room = wait.map(|_| self.room.try_acquire().map_err(|_| too_many_wait())).transpose()?;
        let mut found = Found::default();
        if wait.is_some() {
            self.state.ready_to_read(v1::Consistency::Linearizable.into()).await?;
            found.look_for(&self.state, &tasks).await;
        }
        // One command per task, however often it is named.
        let mut replies: BTreeMap<TaskId, Option<Reply>> = tasks.iter().map(|task| (*task, None)).collect();
        let cancel = |task: &TaskId| Command::Task(TaskCommand::Cancel { task: *task, reason: request.reason.clone() });
        let commands: Vec<Command> = replies.keys().map(cancel).collect();
        let applied = self.proposer.propose(self.proposer.sender(), &commands).await?;
        replies.values_mut().zip(applied).for_each(|(reply, applied)| *reply = Some(applied));
        let result = |task: &TaskId| cancel_result(*task, replies.get(task).and_then(Option::as_ref));
        let mut results: Vec<v1::CancelResult> = tasks.iter().map(result).collect();
        if let Some(wait) = wait {
            let accepted = tasks.iter().zip(&results).filter(|(_, result)| result.refusal.is_none());
            let accepted = accepted.map(|(task, _)| *task).collect();
            let running = self.until_stopped(accepted, found, wait).await?;
            for (task, result) in tasks.iter().zip(&mut results) {
                let agents = running.get(task);
                result.stopped = result.refusal.is_none() && agents.is_none();
                result.stopping_agents = agents.map(named).unwrap_or_default();
            }
        }
        Ok(v1::CancelTasksResponse { results })
    }

    /// Waits until nothing of these tasks runs any more, or for so long. Returns what runs then.
    async fn until_stopped(
        &self,
        tasks: BTreeSet<TaskId>,
        mut found: Found,
        within: Duration,
    ) -> Result<Running, Status> {
        let until = Instant::now() + within;
        // The commands may be applied at the leader alone so far.
        self.state.ready_to_read(v1::Consistency::Linearizable.into()).await?;
        let mut revisions = self.observer.revisions();
        let mut left: Vec<TaskId> = tasks.into_iter().collect();
        loop {
            revisions.mark_unchanged();
            let looked = Instant::now();
            let running = found.running(&self.state, &left).await;
            // A look at much takes no more than half of the time.
            let apart = LOOK_APART.max(looked.elapsed() * 2);
            if running.is_empty() || looked >= until {
                return Ok(running);
            }
            left = running.into_keys().collect();
            tokio::select! {
                () = self.leaving.begins() => {
                    return Err(Status::unavailable("this coordinator is leaving; repeat the call at another"));
                }
                () = sleep_until(until) => {}
                changed = revisions.changed() => {
                    changed.map_err(|_| Status::unavailable("this coordinator stops; repeat the call at another"))?;
                }
            }
            sleep_until((looked + apart).min(until)).await;
        }
    }
}

/// Returns the names of agents for a response, no more than fit.
fn named(agents: &BTreeSet<Arc<str>>) -> Vec<String> {
    agents.iter().take(MAX_NAMED_AGENTS).map(|agent| agent.to_string()).collect()
}

fn too_many_wait() -> Status {
    Status::resource_exhausted(format!(
        "{MAX_WAITING_CALLS} calls wait for cancelled tasks here, the most; call again later, or without wait"
    ))
}

#[cfg(test)]
mod tests {
    use robeing_fleet::TaskState;

    use super::*;

    fn request(ids: usize, reason: usize, wait_ms: u64) -> v1::CancelTasksRequest {
        v1::CancelTasksRequest {
            ids: (0..ids as u128).map(|id| TaskId(id).to_string()).collect(),
            reason: "r".repeat(reason),
            wait: Some(prost_types::Duration {
                seconds: (wait_ms / 1_000) as i64,
                nanos: (wait_ms % 1_000) as i32 * 1_000_000,
            }),
        }
    }

    #[test]
    fn a_request_is_bounded() {
        let (tasks, wait) =
            check(&request(MAX_ITEMS, MAX_REASON_BYTES, MAX_CANCEL_WAIT_MS)).expect("it is within them");
        assert_eq!((tasks.len(), wait), (MAX_ITEMS, Some(Duration::from_millis(MAX_CANCEL_WAIT_MS))));
        for beyond in [
            request(MAX_ITEMS + 1, 0, 0),
            request(1, MAX_REASON_BYTES + 1, 0),
            request(1, 0, MAX_CANCEL_WAIT_MS + 1),
            v1::CancelTasksRequest { ids: vec!["none".into()], ..Default::default() },
        ] {
            assert_eq!(check(&beyond).expect_err("beyond them").code(), tonic::Code::InvalidArgument);
        }
        assert_eq!(check(&v1::CancelTasksRequest::default()).expect("nothing is asked for").1, None);
    }

    #[test]
    fn as_many_agents_of_a_task_are_named_as_may_be() {
        let names =
            |count: usize| -> BTreeSet<Arc<str>> { (0..count).map(|n| Arc::from(format!("agent-{n:03}"))).collect() };
        assert_eq!(named(&names(MAX_NAMED_AGENTS)).len(), MAX_NAMED_AGENTS);
        let most = named(&names(MAX_NAMED_AGENTS + 1));
        assert_eq!((most.len(), most.first().map(String::as_str)), (MAX_NAMED_AGENTS, Some("agent-000")));
    }

    #[test]
    fn a_result_has_the_state_or_the_refusal_of_its_reply() {
        let done = cancel_result(TaskId(1), Some(&Reply::Cancelled(TaskState::Cancelled)));
        assert_eq!((done.state(), done.refusal, done.stopped), (v1::TaskState::Cancelled, None, false));
        let unknown = robeing_fleet::Refusal::UnknownTask { task: TaskId(1) };
        let refused = cancel_result(TaskId(1), Some(&Reply::Refused(unknown)));
        assert_eq!(refused.refusal.map(|refusal| refusal.code).as_deref(), Some("NOT_FOUND"));
    }
}
