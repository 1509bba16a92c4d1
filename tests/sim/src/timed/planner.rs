//! The planner: a client whose tasks have rules about their time and their retries. It has dead letters tried again,
//! and drops them.

use std::time::Duration;

use futures::future::join_all;
use robeing_net::limited;
use robeing_proto::v1::{
    self, DeadLetterRef, DropDeadLettersRequest, FailureMatch, ListDeadLettersRequest, Refusal,
    RetryDeadLettersRequest, RetryPolicy, TaskSpec, dead_letters_client::DeadLettersClient,
};
use tonic::Status;

use super::{DOOM, Plan};
use crate::{
    calls::{Calls, PAUSE, is_refusal},
    checks::Check,
    executor::{Course, Needs},
    results,
    tasks::{self, millis},
};

/// The number of tasks whose first attempts make no progress, and of those that fail for good.
const STALLING: usize = 2;
const DYING: usize = 2;
/// How many times a dead letter is tried again.
const RETRIES: u32 = 2;
/// How long a task that no agent fits may wait, in milliseconds.
const EXPIRY: u64 = 1_500;
/// How long attempts may be without progress, in milliseconds.
const PROGRESS: u64 = 800;
/// How long the attempts run that make progress, in milliseconds.
const STEADY_FOR: u64 = 4_000;
/// How long other attempts run, in milliseconds.
const LASTS: u64 = 300;
/// The first backoff, in milliseconds, and by how many percent it may be shortened.
const BACKOFF: u64 = 400;
const JITTER: u32 = 50;
/// The number of attempts: so many that none of these tasks uses them up.
const ATTEMPTS: u32 = 100;
/// The deadline, in milliseconds: a task that is still unfinished then was forgotten.
const DEADLINE: u64 = 45_000;
/// The priority: the highest, so that other tasks do not delay it.
const PRIORITY: u32 = 10;
/// The longest pause before a task is read again, in milliseconds.
const READ_AGAIN: u64 = 1_000;
/// A specialization that no agent has.
const UNHEARD_OF: &str = "unheard-of";
/// The kind of the tasks that fail for good.
const DOOMED: &str = "doomed";

/// The planner.
pub struct Planner {
    /// Makes its calls.
    pub calls: Calls,
}

impl Planner {
    /// Runs the planner; returns when every task has ended for good.
    pub async fn run(self) {
        let stalling = join_all((0..STALLING).map(|_| self.stalling()));
        let dying = join_all((0..DYING).map(|_| self.dying()));
        tokio::join!(self.expiring(), stalling, self.steady(), self.jittery(), dying);
    }

    fn spec(&self, course: Course) -> TaskSpec {
        let Calls { name, platform, .. } = &self.calls;
        let initial_backoff = Some(millis(BACKOFF));
        TaskSpec {
            id: tasks::new_id(platform),
            kind: Needs::Nothing.kind(),
            input: course.input(0),
            priority: PRIORITY,
            deadline_in: Some(millis(DEADLINE)),
            retry: Some(RetryPolicy { max_attempts: ATTEMPTS, initial_backoff, ..RetryPolicy::default() }),
            submitter: name.clone(),
            ..TaskSpec::default()
        }
    }

    /// Has a task wait for an agent that there is not.
    async fn expiring(&self) {
        self.calls.pause_to_begin().await;
        let needs = Needs::Specialization(UNHEARD_OF);
        let spec = TaskSpec {
            kind: needs.kind(),
            required_specialization: UNHEARD_OF.to_owned(),
            queue_expiry: Some(millis(EXPIRY)),
            ..self.spec(Course::Succeed(0))
        };
        self.submit(&spec, Plan::Expires(Duration::from_millis(EXPIRY))).await;
        self.follow(&spec.id).await;
    }

    /// Runs a task whose first attempt makes no progress.
    async fn stalling(&self) {
        self.calls.pause_to_begin().await;
        let progress_timeout = Some(millis(PROGRESS));
        let spec = TaskSpec { progress_timeout, ..self.spec(Course::Stall(self.calls.below(LASTS))) };
        self.submit(&spec, Plan::Stalls(Duration::from_millis(PROGRESS))).await;
        self.follow(&spec.id).await;
    }

    /// Runs a task that makes progress, once that can't be lost on its way for long.
    async fn steady(&self) {
        self.calls.calm().await;
        let spec = TaskSpec { progress_timeout: Some(millis(PROGRESS)), ..self.spec(Course::Steady(STEADY_FOR)) };
        self.submit(&spec, Plan::Steady).await;
        self.follow(&spec.id).await;
    }

    /// Runs a task that is tried again after pauses that are shortened by chance, which are checked like others.
    async fn jittery(&self) {
        self.calls.pause_to_begin().await;
        let mut spec = self.spec(Course::Retry(self.calls.below(LASTS)));
        spec.retry.get_or_insert_default().jitter_percent = JITTER;
        self.calls.record.notes().ask(&spec);
        while self.calls.submit(&spec).await.is_err() {
            self.calls.pause(PAUSE).await;
        }
        self.follow(&spec.id).await;
    }

    /// Has a task fail for good, be tried again, and be dropped.
    async fn dying(&self) {
        self.calls.pause_to_begin().await;
        let mut spec = TaskSpec { kind: DOOMED.to_owned(), ..self.spec(Course::Doom(self.calls.below(LASTS))) };
        let doom = FailureMatch { name: DOOM.to_owned(), ..FailureMatch::default() };
        spec.retry.get_or_insert_default().non_retryable = vec![doom];
        self.submit(&spec, Plan::Dies).await;
        for epoch in 0..RETRIES {
            let task = self.follow(&spec.id).await;
            self.find(&task).await;
            let next = self.retry(&task, epoch).await;
            self.calls.record.check(|notes| notes.timed.retried(&task, next));
        }
        let task = self.follow(&spec.id).await;
        self.discard(&task, RETRIES).await;
        self.calls.record.notes().timed.dropped(&spec.id);
        self.follow(&spec.id).await;
    }

    /// Submits a task until it is accepted.
    async fn submit(&self, spec: &TaskSpec, plan: Plan) {
        let now = self.calls.now();
        self.calls.record.notes().timed.asks(&spec.id, plan, now);
        while self.calls.submit(spec).await.is_err() {
            self.calls.pause(PAUSE).await;
        }
    }

    /// Reads a task until it has ended, and returns it.
    async fn follow(&self, id: &str) -> v1::Task {
        loop {
            if let Some(task) = self.calls.task(id).await {
                self.calls.record.check(|notes| notes.check_timed(&task));
                if results::note(&self.calls.record, &task) {
                    return task;
                }
            }
            self.calls.pause(READ_AGAIN).await;
        }
    }

    /// Takes note of a call that had no effect, and waits until it is made again.
    async fn fails(&self, task: &v1::Task, status: &Status) {
        if is_refusal(status.code()) {
            self.calls
                .record
                .violation(Check::Dead, format!("a call about the dead letter {} fails: {status}", task.id));
        }
        self.calls.pause(PAUSE).await;
    }

    /// Takes note of a refusal, and waits until the call is made again.
    async fn refused(&self, task: &v1::Task, refusal: &Refusal) {
        if !["UNAVAILABLE", "RESOURCE_EXHAUSTED"].contains(&refusal.code.as_str()) {
            self.calls.record.violation(Check::Dead, format!("the dead letter {} is refused: {refusal:?}", task.id));
        }
        self.calls.pause(PAUSE).await;
    }

    /// Finds a dead letter among the others.
    async fn find(&self, task: &v1::Task) {
        let mut page_token = String::new();
        loop {
            let consistency = v1::Consistency::Linearizable.into();
            let request = ListDeadLettersRequest { kind: DOOMED.to_owned(), page_size: 1, page_token, consistency };
            page_token = request.page_token.clone();
            let listing = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(DeadLettersClient::new(channel)).list_dead_letters(request).await
            });
            match listing.await {
                Ok(page) if page.tasks.iter().any(|listed| listed.id == task.id) => return,
                Ok(page) if page.next_page_token.is_empty() => {
                    let what = format!("task {} is a dead letter, but not in their list", task.id);
                    return self.calls.record.violation(Check::Dead, what);
                }
                Ok(page) => page_token = page.next_page_token,
                Err(status) => self.fails(task, &status).await,
            }
        }
    }

    /// Has a dead letter tried again, until that is acknowledged. Returns its epoch.
    async fn retry(&self, task: &v1::Task, epoch: u32) -> u32 {
        loop {
            let letters = vec![DeadLetterRef { task_id: task.id.clone(), epoch: Some(epoch) }];
            let retrying = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(DeadLettersClient::new(channel)).retry_dead_letters(RetryDeadLettersRequest { letters }).await
            });
            match retrying.await.map(|answer| answer.results.into_iter().next().unwrap_or_default()) {
                Ok(result) => match result.refusal {
                    None => return result.epoch,
                    Some(refusal) => self.refused(task, &refusal).await,
                },
                Err(status) => self.fails(task, &status).await,
            }
        }
    }

    /// Drops a dead letter, until that is acknowledged.
    async fn discard(&self, task: &v1::Task, epoch: u32) {
        loop {
            let letters = vec![DeadLetterRef { task_id: task.id.clone(), epoch: Some(epoch) }];
            let dropping = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(DeadLettersClient::new(channel)).drop_dead_letters(DropDeadLettersRequest { letters }).await
            });
            match dropping.await.map(|answer| answer.results.into_iter().next().unwrap_or_default()) {
                Ok(result) => match result.refusal {
                    None => return,
                    Some(refusal) => self.refused(task, &refusal).await,
                },
                Err(status) => self.fails(task, &status).await,
            }
        }
    }
}
