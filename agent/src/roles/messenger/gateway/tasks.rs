//! Tasks: submitting, getting and cancelling them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::LOCATION};
use http_body_util::Full;
use robeing_proto::v1::{self, SubmitResponse, SubmitResult};

use super::{
    caller::Caller,
    coordinators::has_ended,
    media::Media,
    problem::Problem,
    requests::Tasks,
    server::{Permit, Server},
    views::{BatchView, CancelledView, SubmittedView, TaskView},
};

/// The path of tasks.
pub const TASKS: &str = "/v1/tasks";

impl Server {
    /// Submits tasks, and waits for the end of a single one if `wait` is given.
    pub(super) async fn submit(
        &self,
        caller: &Caller,
        tasks: Tasks,
        wanted: Media,
        wait: Option<Duration>,
        permit: Permit,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let is_batch = tasks.is_batch;
        if is_batch && wait.is_some() {
            return Err(Problem::malformed(
                "only for a single task can be waited; get the tasks of a list by their ids",
            ));
        }
        let results = self.submitted(caller, tasks).await?;
        if is_batch {
            // Some may be refused; each says so.
            let view = BatchView::from(&results[..]);
            return wanted.response(StatusCode::OK, &view, &SubmitResponse { results: results.clone() });
        }
        let result = results.into_iter().next().unwrap_or_default();
        if let Some(refusal) = result.refusal {
            return Err(Problem::from(refusal).after(result.retry_after_ms));
        }
        let id = result.task_id.clone();
        if let Some(wait) = wait {
            // The task is accepted, also if it can't be waited for.
            let with_id = |problem: Problem| problem.with("id", id.as_str().into());
            let waiting = self.waits(permit).map_err(with_id)?;
            let ended = self.until_stopped(self.coordinators.ended(caller, &id, wait)).await;
            drop(waiting);
            if let Some(Some(task)) = ended.transpose().map_err(|status| with_id(status.into()))? {
                return wanted.response(StatusCode::OK, &TaskView::from(&task), &task);
            }
        }
        let view = SubmittedView::from(&result);
        let message = SubmitResponse { results: vec![result.clone()] };
        let mut response = wanted.response(StatusCode::ACCEPTED, &view, &message)?;
        if let Ok(location) = HeaderValue::try_from(format!("{TASKS}/{id}")) {
            response.headers_mut().insert(LOCATION, location);
        }
        Ok(response)
    }

    /// Submits the tasks that are right, and returns the results of all in their order.
    async fn submitted(&self, caller: &Caller, tasks: Tasks) -> Result<Vec<SubmitResult>, Problem> {
        let mut specs = Vec::with_capacity(tasks.tasks.len());
        // What is `None` is submitted.
        let mut results: Vec<Option<SubmitResult>> = Vec::with_capacity(tasks.tasks.len());
        for task in tasks.tasks {
            match task {
                Ok(mut spec) => {
                    // A submission that is repeated after a lost answer is the same task.
                    if spec.id.is_empty() {
                        spec.id = self.coordinators.new_id();
                    }
                    specs.push(spec);
                    results.push(None);
                }
                Err(refusal) => results.push(Some(SubmitResult { refusal: Some(refusal), ..SubmitResult::default() })),
            }
        }
        let answers = if specs.is_empty() { Vec::new() } else { self.coordinators.submit(caller, specs).await? };
        let mut answers = answers.into_iter();
        let unanswered = || SubmitResult {
            refusal: Some(v1::Refusal {
                code: "INTERNAL".to_owned(),
                message: "the coordinator did not say what became of the task".to_owned(),
            }),
            ..SubmitResult::default()
        };
        Ok(results.into_iter().map(|known| known.or_else(|| answers.next()).unwrap_or_else(unanswered)).collect())
    }

    /// Returns a task, as it is or, if `wait` is given, once it has ended.
    pub(super) async fn task(
        &self,
        caller: &Caller,
        id: &str,
        wanted: Media,
        wait: Option<Duration>,
        permit: Permit,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let mut task = self.coordinators.task(caller, id).await?;
        if let Some(wait) = wait.filter(|_| !has_ended(task.state())) {
            let waiting = self.waits(permit)?;
            let ended = self.until_stopped(self.coordinators.ended(caller, id, wait)).await;
            drop(waiting);
            if let Some(Some(ended)) = ended.transpose()? {
                task = ended;
            }
        }
        wanted.response(StatusCode::OK, &TaskView::from(&task), &task)
    }

    /// Cancels a task. One that has ended stays as it is.
    pub(super) async fn cancel(
        &self,
        caller: &Caller,
        id: &str,
        wanted: Media,
        reason: &str,
    ) -> Result<Response<Full<Bytes>>, Problem> {
        let result = self.coordinators.cancel(caller, id, reason).await?;
        if let Some(refusal) = result.refusal {
            return Err(refusal.into());
        }
        let message = v1::CancelTasksResponse { results: vec![result.clone()] };
        wanted.response(StatusCode::OK, &CancelledView::from(&result), &message)
    }
}
