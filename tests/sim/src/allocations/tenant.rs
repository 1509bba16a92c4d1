//! The tenant: a client that sets a queue with a quota, submits tasks that need resources, some of them from that
//! queue, and follows each to its end.

use std::time::Duration;

use futures::future::join_all;
use robeing_net::limited;
use robeing_proto::v1::{
    self, ResourceAmounts, ResourceQueue, ResourceQuota, SetQueuesRequest, resources_client::ResourcesClient,
};
use tonic::Code;

use super::draft::{DEFAULT, LIMITED, named};
use crate::{
    calls::{Calls, PAUSE, is_refusal},
    checks::Check,
    executor::{Course, Needs},
    profile::between,
    results,
    state::Amounts,
    tasks::{self, millis},
};

/// The number of tasks.
const TASKS: usize = 7;
/// What a task needs: thousandths of a processor, and bytes of memory.
const CPU: (u64, u64) = (250, 2_001);
const MEMORY: (u64, u64) = (1 << 20, 1 << 28);
/// The quota of the queue: at least what one task needs, and not enough for all of them.
const QUOTA_CPU: (u64, u64) = (2_000, 5_000);
const QUOTA_MEMORY: (u64, u64) = (1 << 28, 1 << 30);
/// The weight of the queue.
const WEIGHT: (u64, u64) = (1, 4);
/// How long an attempt takes, in milliseconds.
const LASTS: (u64, u64) = (100, 1_500);
/// The pause before the second attempt, in milliseconds.
const BACKOFF: u64 = 200;
/// The longest pause before a task is read again, in milliseconds.
const READ_AGAIN: u64 = 1_500;

/// The tenant.
pub struct Tenant {
    /// Makes its calls.
    pub calls: Calls,
}

impl Tenant {
    /// Runs the tenant; returns when every task has ended.
    pub async fn run(self) {
        self.set_quota().await;
        join_all((0..TASKS).map(|number| self.activity(number))).await;
        self.calls.record.notes().needs.close();
    }

    fn between(&self, bounds: (u64, u64)) -> u64 {
        between(&*self.calls.platform.random, bounds)
    }

    /// Sets the queue with its quota, which stays, until that is acknowledged.
    async fn set_quota(&self) {
        let quota = [self.between(QUOTA_CPU), self.between(QUOTA_MEMORY)];
        self.calls.record.notes().allocations.limits(quota);
        let [cpu, memory] = quota.map(Some);
        let queue = ResourceQueue {
            name: LIMITED.to_owned(),
            weight: self.between(WEIGHT) as u32,
            quota: Some(ResourceQuota { cpu_millis: cpu, memory_bytes: memory, ..ResourceQuota::default() }),
            ..ResourceQueue::default()
        };
        loop {
            let request = SetQueuesRequest { queues: vec![queue.clone()] };
            let setting = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(ResourcesClient::new(channel)).set_queues(request).await
            });
            match setting.await {
                Ok(_) => return self.calls.record.notes().allocations.is_limited(),
                // The coordinators have not agreed on the version that has resources yet.
                Err(status) if status.code() == Code::FailedPrecondition => {}
                Err(status) if is_refusal(status.code()) => {
                    self.calls.record.violation(Check::Quota, format!("a queue is refused: {status}"));
                }
                Err(_) => {}
            }
            self.calls.pause(PAUSE).await;
        }
    }

    /// Runs through the life of one task.
    async fn activity(&self, number: usize) {
        self.calls.pause_to_begin().await;
        let id = self.submit(number).await;
        loop {
            if let Some(task) = self.calls.task(&id).await
                && results::note(&self.calls.record, &task)
            {
                return self.calls.record.check(|notes| notes.needs.ends(&task));
            }
            self.calls.pause(READ_AGAIN).await;
        }
    }

    fn course(&self) -> Course {
        let ms = self.between(LASTS);
        match self.calls.below(4) {
            0 => Course::Retry(ms),
            1 => Course::Stubborn(ms),
            _ => Course::Succeed(ms),
        }
    }

    /// Submits a task until it is accepted, and returns its id.
    async fn submit(&self, number: usize) -> String {
        let Calls { name, platform, record, .. } = &self.calls;
        let id = tasks::new_id(platform);
        let needs: Amounts = [self.between(CPU), self.between(MEMORY)];
        let [cpu_millis, memory_bytes] = needs;
        // There are always some from both.
        let queue = if number.is_multiple_of(2) { LIMITED } else { DEFAULT };
        let retry = v1::RetryPolicy { initial_backoff: Some(millis(BACKOFF)), ..v1::RetryPolicy::default() };
        let spec = v1::TaskSpec {
            id: id.clone(),
            kind: Needs::Nothing.kind(),
            input: self.course().input(0),
            priority: 1 + self.calls.below(10) as u32,
            retry: Some(retry),
            submitter: name.clone(),
            resources: Some(ResourceAmounts { cpu_millis, memory_bytes, ..ResourceAmounts::default() }),
            queue: named(queue),
            ..v1::TaskSpec::default()
        };
        {
            let mut notes = record.notes();
            notes.ask(&spec);
            notes.needs.asks(&id, needs, queue);
        }
        while self.calls.submit(&spec).await.is_err() {
            self.calls.pause(PAUSE).await;
        }
        id
    }
}
