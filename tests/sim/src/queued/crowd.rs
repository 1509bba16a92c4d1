//! The crowd: clients whose tasks are in queues of their own.

use std::time::Duration;

use futures::future::join_all;
use robeing_net::limited;
use robeing_proto::v1::{QueueLimit, QueueRate, TaskQueue, TaskSpec, UpdateQueuesRequest, queues_client::QueuesClient};
use tonic::Code;

use super::{BURST, KEYED, KEYED_AT_ONCE, PACE, PACED, SHARED, SHARED_AT_ONCE};
use crate::{
    calls::{Calls, PAUSE, is_refusal},
    checks::Check,
    executor::{Course, Needs},
    record::Notes,
    results,
    tasks::{self, millis},
};

/// The number of tasks of the submitter who has many, and of the other one.
const MANY: usize = 16;
const FEW: usize = 3;
/// The keys, and the number of tasks of each.
const KEYS: [&str; 2] = ["one", "other"];
const OF_EACH: usize = 3;
/// The number of tasks in the queue with a pace.
const PACED_TASKS: usize = 5;
/// How long an attempt takes, in milliseconds.
const LASTS: u64 = 300;
/// The longest pause before a task is read again, in milliseconds.
const READ_AGAIN: u64 = 4_000;

/// The crowd.
pub struct Crowd {
    /// Makes its calls.
    pub calls: Calls,
}

impl Crowd {
    /// Runs the crowd; returns when every task has ended.
    pub async fn run(self) {
        self.set_queues().await;
        tokio::join!(self.shared(), self.keyed(), self.paced());
    }

    /// Sets the queues, until that is acknowledged.
    async fn set_queues(&self) {
        let queue = |name: &str, limit| TaskQueue {
            name: name.to_owned(),
            weight: 1,
            limits: vec![limit],
            ..TaskQueue::default()
        };
        let most = |key: &str, most| QueueLimit { key: key.to_owned(), concurrency: Some(most), rate: None };
        let rate = QueueRate { count: 1, per: Some(millis(PACE)), burst: BURST };
        let set = vec![
            queue(SHARED, most("", SHARED_AT_ONCE)),
            queue(KEYED, most("*", KEYED_AT_ONCE)),
            queue(PACED, QueueLimit { rate: Some(rate), ..QueueLimit::default() }),
        ];
        loop {
            let request = UpdateQueuesRequest { set: set.clone(), remove: Vec::new() };
            let setting = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(QueuesClient::new(channel)).update_queues(request).await
            });
            let Err(status) = setting.await else { return };
            // The coordinators may not have agreed yet on the version that has queues.
            if is_refusal(status.code()) && status.code() != Code::FailedPrecondition {
                self.calls.record.violation(Check::Limited, format!("the queues are not set: {status}"));
            }
            self.calls.pause(PAUSE).await;
        }
    }

    fn spec(&self, queue: &str, key: &str, submitter: &str, priority: u32) -> TaskSpec {
        TaskSpec {
            id: tasks::new_id(&self.calls.platform),
            kind: Needs::Nothing.kind(),
            input: Course::Succeed(LASTS).input(0),
            priority,
            submitter: submitter.to_owned(),
            queue: queue.to_owned(),
            limit_key: key.to_owned(),
            ..TaskSpec::default()
        }
    }

    /// Submits tasks together until all are accepted. `note` records each.
    async fn submit(&self, specs: &[TaskSpec], note: impl Fn(&mut Notes, &str)) {
        {
            let mut notes = self.calls.record.notes();
            for spec in specs {
                notes.ask(spec);
                note(&mut notes, &spec.id);
            }
        }
        while self.calls.submit_all(specs).await.is_err() {
            self.calls.pause(PAUSE).await;
        }
    }

    /// Reads tasks until all have ended.
    async fn follow(&self, specs: Vec<TaskSpec>) {
        join_all(specs.iter().map(|spec| self.follow_one(&spec.id))).await;
    }

    async fn follow_one(&self, id: &str) {
        loop {
            self.calls.pause(READ_AGAIN).await;
            if let Some(task) = self.calls.task(id).await
                && results::note(&self.calls.record, &task)
            {
                return self.calls.record.notes().queues.ends();
            }
        }
    }

    /// Has one submit many urgent tasks, and then another one a few that are not.
    async fn shared(&self) {
        self.calls.pause_to_begin().await;
        let mut many: Vec<TaskSpec> = (0..MANY).map(|_| self.spec(SHARED, "", "many", 10)).collect();
        self.submit(&many, |notes, id| notes.queues.shares(id, true)).await;
        let few: Vec<TaskSpec> = (0..FEW).map(|_| self.spec(SHARED, "", "few", 1)).collect();
        self.submit(&few, |notes, id| notes.queues.shares(id, false)).await;
        self.calls.record.notes().queues.both_wait();
        many.extend(few);
        self.follow(many).await;
    }

    /// Submits tasks with keys.
    async fn keyed(&self) {
        self.calls.pause_to_begin().await;
        let name = &self.calls.name;
        let keys = KEYS.iter().flat_map(|key| [*key; OF_EACH]);
        let specs: Vec<TaskSpec> = keys.map(|key| self.spec(KEYED, key, name, 10)).collect();
        self.submit(&specs, |_, _| {}).await;
        self.follow(specs).await;
    }

    /// Submits tasks to the queue with a pace.
    async fn paced(&self) {
        self.calls.pause_to_begin().await;
        let specs: Vec<TaskSpec> = (0..PACED_TASKS).map(|_| self.spec(PACED, "", &self.calls.name, 10)).collect();
        self.submit(&specs, |notes, id| notes.queues.paces(id)).await;
        self.follow(specs).await;
    }
}
