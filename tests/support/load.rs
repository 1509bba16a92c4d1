//! A steady load of recorded tasks, submitted over streams while a test kills processes, and observed by a watch at the
//! same time.

use std::sync::Arc;

use robeing_client::{FleetClient, SubmitEvent, SubmitOptions, is_finished};
use robeing_proto::v1::{GetTaskRequest, TaskSpec, WatchTasksRequest};
use tokio::task::JoinHandle;

use crate::{
    history::{History, Seen},
    script::{answer, task},
    wait::{eventually, in_time},
};

/// The submitter of these tasks; the watch filters by it.
const SUBMITTER: &str = "load";

/// A running load.
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

/// Creates a recorded task: a script that runs `before` and then outputs `text`.
pub fn recorded(history: &History, before: &str, text: &str) -> TaskSpec {
    let spec = TaskSpec { submitter: SUBMITTER.into(), ..task(&format!("{before}\n{}", answer(text))) };
    history.submitted(&spec.id, text);
    spec
}

impl Load {
    /// Starts to submit `count` tasks, at most `in_flight` at once. Each runs `before` first.
    pub fn start(client: &FleetClient, count: usize, in_flight: usize, before: &str) -> Self {
        let history = Arc::new(History::default());
        let submitting =
            tokio::spawn(submit(client.clone(), Arc::clone(&history), count, in_flight, before.to_owned()));
        let watching = tokio::spawn(watch(client.clone(), Arc::clone(&history)));
        Self { history, client: client.clone(), submitting, watching }
    }

    /// Returns the record.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Waits until this many tasks have ended.
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

    /// Waits until everything was submitted and has ended, as reported by the stream, the watch and a get.
    ///
    /// # Panics
    /// If that does not happen in time.
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
        eventually("the watch reports every end", async || {
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

/// Submits tasks that are in the history, at most `in_flight` at once, and records their results until all have ended.
///
/// # Panics
/// If the client gives up, or a result expires.
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
        SubmitEvent::NotTaken { index } => panic!("{} was not taken: the test may not submit", ids[index]),
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
