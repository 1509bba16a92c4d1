//! Where what was applied becomes known to those who wait for it: watchers of the revision, submitters who wait for results,
//! and the sessions of agents. Applying waits for it, so it only notes things and wakes tasks; it holds no lock of the state,
//! and what it hands on is shared with the state and put into messages by the receiver.

use std::{collections::BTreeMap, sync::Arc};

use robeing_fleet::{Effect, Fleet, Stamp, Task, TaskId};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::info;

use crate::{
    apply::result_stream::{Letter, ResultStream},
    leader::{recoveries::Recoveries, sessions::SessionTable},
    raft::{Observer, Told},
};

struct Waiter {
    mailbox: Arc<ResultStream>,
    tag: u64,
}

/// The observer of one coordinator.
pub struct ApplyObserver {
    revision: watch::Sender<u64>,
    applied: watch::Sender<u64>,
    installs: watch::Sender<u64>,
    waiters: Mutex<BTreeMap<TaskId, Vec<Waiter>>>,
    /// The sessions this coordinator serves as leader.
    pub sessions: SessionTable,
    /// How long recoveries take.
    pub recoveries: Recoveries,
    /// Wakes the timers: something may be due earlier than before.
    pub timers: Notify,
}

impl ApplyObserver {
    /// With nobody waiting.
    pub fn new(sessions: SessionTable) -> Self {
        Self {
            revision: watch::Sender::new(0),
            applied: watch::Sender::new(0),
            installs: watch::Sender::new(0),
            waiters: Mutex::default(),
            sessions,
            recoveries: Recoveries::default(),
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

    /// How often the whole state was replaced by a snapshot. Whoever waits for a result must look at the state then: what
    /// happened within the gap is not told.
    pub fn installs(&self) -> watch::Receiver<u64> {
        self.installs.subscribe()
    }

    fn waiters(&self) -> MutexGuard<'_, BTreeMap<TaskId, Vec<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for the result of a task. To be called before the state is looked at, or the end may be missed.
    pub fn wait_for(&self, task: TaskId, mailbox: &Arc<ResultStream>, tag: u64) {
        self.waiters().entry(task).or_default().push(Waiter { mailbox: Arc::clone(mailbox), tag });
    }

    /// Takes back what was asked for: whether it had not been answered.
    pub fn forget(&self, task: TaskId, mailbox: &Arc<ResultStream>, tag: u64) -> bool {
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
    pub fn forget_all(&self, mailbox: &Arc<ResultStream>, tasks: impl IntoIterator<Item = TaskId>) {
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

    /// Tells those who wait for a task that it is finished, as of `now`; without it, that its result has expired already.
    fn finished(&self, id: TaskId, task: Option<&Arc<Task>>, now: Stamp) {
        let waiting = self.waiters().remove(&id);
        for waiter in waiting.unwrap_or_default() {
            let letter = match task {
                Some(task) => Letter::Finished(Arc::clone(task), now),
                None => Letter::Expired(id),
            };
            waiter.mailbox.put(waiter.tag, letter);
        }
    }

    /// A finished task, as waiters are told.
    pub fn result(fleet: &Fleet, id: TaskId) -> Option<Letter> {
        let task = fleet.task(id).filter(|task| task.state.is_final()).cloned()?;
        Some(Letter::Finished(task, fleet.now()))
    }

    fn carry_out(&self, Told { effect, task, agent, now }: Told) {
        let name = || agent.as_ref().map(|agent| agent.name.to_string()).unwrap_or_default();
        match effect {
            Effect::Assign { agent, session, task, attempt } => self.sessions.assign(agent, session, (task, attempt)),
            Effect::Stop { agent, session, task, attempt, .. } => self.sessions.stop(agent, session, (task, attempt)),
            Effect::SessionStarted { agent: id, session } => {
                let process = agent.as_ref().and_then(|agent| agent.process);
                self.sessions.started(id, session, process, Instant::now());
            }
            Effect::SessionEnded { agent, session } => self.sessions.ended(agent, session),
            Effect::Finished { task: id } => self.finished(id, task.as_ref(), now),
            Effect::Redistributed { tasks, .. } => {
                info!(agent = name(), tasks, "tasks of a lost agent were redistributed");
            }
            Effect::StandbyActivated { .. } => info!(agent = name(), "a standby agent was activated"),
            Effect::Recovery { agent: id, step } => self.recoveries.done(id, &name(), &step),
        }
    }
}

impl Observer for ApplyObserver {
    fn applied(&self, revision: u64, told: Vec<Told>) {
        for told in told {
            self.carry_out(told);
        }
        self.revision.send_if_modified(|known| {
            let changed = *known != revision;
            *known = revision;
            changed
        });
        self.timers.notify_one();
    }

    fn installed(&self, revision: u64) {
        self.installs.send_modify(|installs| *installs += 1);
        self.revision.send_replace(revision);
        self.timers.notify_one();
    }

    fn progressed(&self, index: u64) {
        self.applied.send_replace(index + 1);
    }
}
