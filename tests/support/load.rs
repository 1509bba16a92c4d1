//! A steady load of recorded tasks, submitted over streams while a test kills what it likes, and watched from another
//! side at the same time.

use std::sync::Arc;

use robeing_client::{FleetClient, SubmitEvent, SubmitOptions, is_finished};
use robeing_proto::v1::{GetTaskRequest, TaskSpec, WatchTasksRequest};
use tokio::task::JoinHandle;

use crate::{
    history::{History, Seen},
    script::{answer, task},
    wait::{eventually, in_time},
};

/// Who submits, so that the watch tells these tasks alone.
const SUBMITTER: &str = "load";

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    history: Arc<History>,
    client: FleetClient,
    submitting: JoinHandle<()>,
    watching: JoinHandle<()>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.submitting.abort();
        self.watching.abort();
    }
}

/// A recorded task: a script that answers `text` after it did `before`.
pub fn recorded(history: &History, before: &str, text: &str) -> TaskSpec {
    let spec = TaskSpec { submitter: SUBMITTER.into(), ..task(&format!("{before}\n{}", answer(text))) };
    history.submitted(&spec.id, text);
    spec
}

impl Load {
    /// Begins to submit so many tasks, of which `in_flight` are on their way at once. Each runs `before` first.
    pub fn start(client: &FleetClient, count: usize, in_flight: usize, before: &str) -> Self {
        let history = Arc::new(History::default());
        let submitting =
            tokio::spawn(submit(client.clone(), Arc::clone(&history), count, in_flight, before.to_owned()));
        let watching = tokio::spawn(watch(client.clone(), Arc::clone(&history)));
        Self { history, client: client.clone(), submitting, watching }
    }

    /// The record.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Waits until so many tasks have ended.
    pub async fn ended(&self, count: usize) {
        eventually(&format!("{count} tasks at their end"), async || {
            let ended = self.history.ended_count();
            if ended >= count {
                Ok(())
            } else {
                Err(format!("{ended} ended, {} accepted", self.history.accepted_count()))
            }
        })
        .await;
    }

    /// Waits until everything was submitted, and has ended as seen by the stream, the watch, and by asking.
    ///
    /// # Panics
    /// When that does not happen.
    pub async fn complete(&mut self) -> Arc<History> {
        in_time("the end of the load", &mut self.submitting).await.expect("submission ends without a panic");
        for id in self.history.accepted_ids() {
            let request = GetTaskRequest { id: id.clone(), ..GetTaskRequest::default() };
            let task = eventually("the end of an accepted task", async || {
                let task = self.client.get_task(request.clone()).await.map_err(|error| error.to_string())?;
                if is_finished(task.state()) { Ok(task) } else { Err(format!("{task:?}")) }
            });
            self.history.seen(Seen::Get, &task.await);
        }
        eventually("every end told by the watch", async || {
            let unseen = self.history.unseen_by(Seen::Watch);
            if unseen.is_empty() { Ok(()) } else { Err(unseen) }
        })
        .await;
        Arc::clone(&self.history)
    }
}

async fn submit(client: FleetClient, history: Arc<History>, count: usize, in_flight: usize, before: String) {
    let tasks = (0..count).map(|index| recorded(&history, &before, &format!("number {index}"))).collect();
    submit_recorded(&client, &history, tasks, in_flight).await;
}

/// Submits tasks that the history knows, so many at once, and records what becomes of them until all have ended.
///
/// # Panics
/// When the fleet gives up, or forgets a result.
pub async fn submit_recorded(client: &FleetClient, history: &History, tasks: Vec<TaskSpec>, in_flight: usize) {
    let ids: Vec<String> = tasks.iter().map(|task| task.id.clone()).collect();
    let options = SubmitOptions { window: in_flight, unfinished: in_flight, wait: true };
    let ended = client.submit_many(tasks, options, |event| match event {
        SubmitEvent::Submitted { index, result } => match &result.refusal {
            None => history.accepted(&result.task_id),
            Some(refusal) => history.refused(&ids[index], &refusal.message),
        },
        SubmitEvent::Finished { task, .. } => history.seen(Seen::Stream, &task),
        SubmitEvent::Expired { task_id, .. } => panic!("the result of {task_id} expired during the test"),
    });
    ended.await.unwrap_or_else(|error| panic!("the fleet gave up on the load: {error}"));
}

async fn watch(client: FleetClient, history: Arc<History>) {
    let request =
        WatchTasksRequest { submitter: SUBMITTER.into(), include_output: true, ..WatchTasksRequest::default() };
    let mut watch = client.watch_tasks(request);
    loop {
        let told = watch.next().await.unwrap_or_else(|error| panic!("the watch broke for good: {error}"));
        for task in &told.tasks {
            history.seen(Seen::Watch, task);
        }
    }
}
