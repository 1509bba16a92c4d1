//! The requester: a client that submits tasks whose results are verified, and follows each to its end.

use futures::future::join_all;
use robeing_proto::v1;

use super::{COMPARER, input};
use crate::{
    calls::{Calls, PAUSE},
    executor::Needs,
    results,
    tasks::{self, millis},
};

/// The number of tasks. Every second one has outputs that only comparisons find to be equal.
const TASKS: usize = 4;
/// On how many agents each runs, and how many of them must agree.
const AGENTS: u32 = 3;
const AGREE: u32 = 2;
/// How long an agent takes at most, in milliseconds.
const LASTS: u64 = 400;
/// The deadline, in milliseconds: there may be fewer agents that fit.
const DEADLINE: u64 = 10_000;
/// The priority: the highest, so that other tasks do not delay it.
const PRIORITY: u32 = 10;
/// The longest pause before a task is read again, in milliseconds.
const READ_AGAIN: u64 = 1_500;

/// The requester.
pub struct Requester {
    /// Makes its calls.
    pub calls: Calls,
}

impl Requester {
    /// Runs the requester; returns when every task has ended.
    pub async fn run(self) {
        join_all((0..TASKS).map(|n| self.activity(n % 2 == 1))).await;
    }

    /// Runs through the life of one task.
    async fn activity(&self, is_loose: bool) {
        self.calls.pause_to_begin().await;
        let id = self.submit(is_loose).await;
        loop {
            if let Some(task) = self.calls.task(&id).await
                && results::note(&self.calls.record, &task)
            {
                self.calls.record.check(|notes| notes.verified.ends(&task));
                return;
            }
            self.calls.pause(READ_AGAIN).await;
        }
    }

    /// Submits a task until it is accepted, and returns its id.
    async fn submit(&self, is_loose: bool) -> String {
        let Calls { name, platform, record, .. } = &self.calls;
        let id = tasks::new_id(platform);
        let compare = if is_loose { COMPARER.to_owned() } else { String::new() };
        let spec = v1::TaskSpec {
            id: id.clone(),
            kind: Needs::Nothing.kind(),
            input: input(&id, self.calls.below(LASTS), is_loose).into_bytes().into(),
            priority: PRIORITY,
            deadline_in: Some(millis(DEADLINE)),
            submitter: name.clone(),
            verify: Some(v1::Verify { agents: AGENTS, agree: AGREE, pointer: None, compare }),
            ..v1::TaskSpec::default()
        };
        record.notes().verified.asks(&id, AGENTS as usize, AGREE as usize, is_loose);
        while self.calls.submit(&spec).await.is_err() {
            self.calls.pause(PAUSE).await;
        }
        id
    }
}
