//! Where what was applied becomes known to those who wait for it: watchers of the revision, submitters who wait for results,
//! and the sessions of agents. It is told within `apply`, so it only notes things and wakes tasks.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use robeing_fleet::{Effect, Fleet, TaskId};
use robeing_proto::v1::{self, StreamedAnswer, streamed_answer::Answer};
use tokio::sync::{Notify, watch};
use tracing::info;

use super::{
    consensus::Observer,
    registry::Registry,
    view::{self, Parts},
};

/// Answers collected for one stream of submissions, until it sends them.
#[derive(Default)]
pub struct Mailbox {
    answers: Mutex<Vec<StreamedAnswer>>,
    news: Notify,
}

impl Mailbox {
    /// Adds an answer.
    pub fn put(&self, tag: u64, answer: Answer) {
        let answer = StreamedAnswer { tag, answer: Some(answer) };
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
        self.news.notify_one();
    }

    /// Up to `limit` answers, oldest first.
    pub fn take(&self, limit: usize) -> Vec<StreamedAnswer> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() <= limit {
            return std::mem::take(&mut *answers);
        }
        self.news.notify_one();
        answers.drain(..limit).collect()
    }

    /// Returns when there may be something to take. Cancellation-safe.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}

struct Waiter {
    mailbox: Arc<Mailbox>,
    tag: u64,
}

/// The hub of one coordinator.
pub struct Hub {
    revision: watch::Sender<u64>,
    applied: watch::Sender<u64>,
    waiters: Mutex<BTreeMap<TaskId, Vec<Waiter>>>,
    /// The sessions this coordinator serves as leader.
    pub registry: Registry,
    /// Wakes the timers: something may be due earlier than before.
    pub timers: Notify,
}

/// What a finished task is told with.
const FINISHED: Parts = Parts { input: false, output: true, attempts: true };

impl Hub {
    /// With nobody waiting.
    pub fn new(registry: Registry) -> Self {
        Self {
            revision: watch::Sender::new(0),
            applied: watch::Sender::new(0),
            waiters: Mutex::default(),
            registry,
            timers: Notify::new(),
        }
    }

    /// The fleet's revision, as it grows.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// The index of the newest log entry applied, plus one, as it grows.
    pub fn applied_indexes(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn waiters(&self) -> MutexGuard<'_, BTreeMap<TaskId, Vec<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the result of a task. To be called before the state is looked at, or the end may be missed.
    pub fn wait_for(&self, task: TaskId, mailbox: &Arc<Mailbox>, tag: u64) {
        self.waiters().entry(task).or_default().push(Waiter { mailbox: Arc::clone(mailbox), tag });
    }

    /// Takes back what was asked for: whether it had not been answered.
    pub fn forget(&self, task: TaskId, mailbox: &Arc<Mailbox>, tag: u64) -> bool {
        let mut waiters = self.waiters();
        let Some(of_task) = waiters.get_mut(&task) else { return false };
        let before = of_task.len();
        of_task.retain(|waiter| !(Arc::ptr_eq(&waiter.mailbox, mailbox) && waiter.tag == tag));
        let found = of_task.len() < before;
        if of_task.is_empty() {
            waiters.remove(&task);
        }
        found
    }

    /// Takes back all that a stream asked for.
    pub fn forget_all(&self, mailbox: &Arc<Mailbox>, tasks: impl IntoIterator<Item = TaskId>) {
        let mut waiters = self.waiters();
        for task in tasks {
            if let Some(of_task) = waiters.get_mut(&task) {
                of_task.retain(|waiter| !Arc::ptr_eq(&waiter.mailbox, mailbox));
                if of_task.is_empty() {
                    waiters.remove(&task);
                }
            }
        }
    }

    fn finished(&self, fleet: &Fleet, id: TaskId) {
        let Some(waiting) = self.waiters().remove(&id) else { return };
        let Some(task) = fleet.task(id) else { return };
        let mut told = view::task(task, FINISHED);
        let last = waiting.len() - 1;
        for (n, waiter) in waiting.into_iter().enumerate() {
            let task = if n == last { std::mem::take(&mut told) } else { told.clone() };
            waiter.mailbox.put(waiter.tag, Answer::Finished(task));
        }
    }

    /// A finished task, as waiters are told.
    pub fn result(fleet: &Fleet, id: TaskId) -> Option<v1::Task> {
        let task = fleet.task(id).filter(|task| task.state.is_final())?;
        Some(view::task(task, FINISHED))
    }

    fn carry_out(&self, fleet: &Fleet, effect: &Effect) {
        match effect {
            Effect::Assign { agent, session, task, attempt } => {
                self.registry.assign(fleet, *agent, *session, *task, *attempt);
            }
            Effect::Stop { agent, session, task, attempt, .. } => self.registry.stop(*agent, *session, *task, *attempt),
            Effect::SessionEnded { agent, session } => self.registry.ended(*agent, *session),
            Effect::Finished { task } => self.finished(fleet, *task),
            Effect::Redistributed { from, tasks } => {
                let agent = fleet.agent(*from).map(|agent| agent.name.to_string()).unwrap_or_default();
                info!(agent, tasks, "tasks of a lost agent were redistributed");
            }
            Effect::StandbyActivated { agent } => {
                let agent = fleet.agent(*agent).map(|agent| agent.name.to_string()).unwrap_or_default();
                info!(agent, "a standby agent was activated");
            }
        }
    }
}

impl Observer for Hub {
    fn applied(&self, fleet: &Fleet, effects: &[Effect]) {
        for effect in effects {
            self.carry_out(fleet, effect);
        }
        self.revision.send_if_modified(|revision| {
            let changed = *revision != fleet.revision();
            *revision = fleet.revision();
            changed
        });
        self.timers.notify_one();
    }

    fn installed(&self, fleet: &Fleet) {
        // Results that came with the snapshot: those who wait for them would never hear otherwise.
        let waiting: Vec<TaskId> = self.waiters().keys().copied().collect();
        for id in waiting {
            if fleet.task(id).is_some_and(|task| task.state.is_final()) {
                self.finished(fleet, id);
            }
        }
        self.revision.send_replace(fleet.revision());
        self.timers.notify_one();
    }

    fn progressed(&self, index: u64) {
        self.applied.send_replace(index + 1);
    }
}
