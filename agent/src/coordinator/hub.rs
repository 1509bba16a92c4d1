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
///
/// Invariant: for a tag that was [expected](Mailbox::expect), the answer to the submission is taken before any result. A
/// result may well be known first, as when a proposal that was repeated after a change of leaders is answered after its task
/// has run; the order is made here, since the two come from different tasks.
#[derive(Default)]
pub struct Mailbox {
    answers: Mutex<Vec<StreamedAnswer>>,
    /// Of each tag whose submission is not answered yet, the results that came before the answer. Held while answers are
    /// added, so that they are added in this order.
    early: Mutex<BTreeMap<u64, Vec<Answer>>>,
    news: Notify,
}

impl Mailbox {
    fn early(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Answer>>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds back results for this tag until its submission is answered.
    pub fn expect(&self, tag: u64) {
        self.early().entry(tag).or_default();
    }

    /// Adds an answer.
    pub fn put(&self, tag: u64, answer: Answer) {
        let mut early = self.early();
        let is_submission = matches!(answer, Answer::Submitted(_));
        if !is_submission && let Some(held_back) = early.get_mut(&tag) {
            held_back.push(answer);
            return;
        }
        let held_back = if is_submission { early.remove(&tag).unwrap_or_default() } else { Vec::new() };
        for answer in std::iter::once(answer).chain(held_back) {
            self.add(tag, answer);
        }
    }

    fn add(&self, tag: u64, answer: Answer) {
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
    installs: watch::Sender<u64>,
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
            installs: watch::Sender::new(0),
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

    /// How often the whole state was replaced by a snapshot. Whoever waits for a result must look at the state then: what
    /// happened within the gap is not told.
    pub fn installs(&self) -> watch::Receiver<u64> {
        self.installs.subscribe()
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
        let Some(task) = fleet.task(id) else {
            for waiter in waiting {
                waiter.mailbox.put(waiter.tag, Answer::Expired(id.to_string()));
            }
            return;
        };
        let mut told = view::task(task, FINISHED, fleet.now());
        let last = waiting.len() - 1;
        for (n, waiter) in waiting.into_iter().enumerate() {
            let task = if n == last { std::mem::take(&mut told) } else { told.clone() };
            waiter.mailbox.put(waiter.tag, Answer::Finished(task));
        }
    }

    /// A finished task, as waiters are told.
    pub fn result(fleet: &Fleet, id: TaskId) -> Option<v1::Task> {
        let task = fleet.task(id).filter(|task| task.state.is_final())?;
        Some(view::task(task, FINISHED, fleet.now()))
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
        self.installs.send_modify(|installs| *installs += 1);
        self.revision.send_replace(fleet.revision());
        self.timers.notify_one();
    }

    fn progressed(&self, index: u64) {
        self.applied.send_replace(index + 1);
    }
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1;

    use super::*;

    fn submitted() -> Answer {
        Answer::Submitted(v1::SubmitResult::default())
    }

    fn finished() -> Answer {
        Answer::Finished(v1::Task::default())
    }

    fn taken(mailbox: &Mailbox, limit: usize) -> Vec<(u64, &'static str)> {
        let name = |answer: StreamedAnswer| match answer.answer {
            Some(Answer::Submitted(_)) => (answer.tag, "submitted"),
            Some(Answer::Finished(_)) => (answer.tag, "finished"),
            Some(Answer::Expired(_)) => (answer.tag, "expired"),
            None => (answer.tag, "nothing"),
        };
        mailbox.take(limit).into_iter().map(name).collect()
    }

    #[test]
    fn a_result_is_told_after_the_acceptance_whichever_comes_first() {
        for is_taken_between in [false, true] {
            let mailbox = Mailbox::default();
            mailbox.expect(1);
            mailbox.expect(2);
            mailbox.put(1, finished());
            mailbox.put(2, Answer::Expired("id".into()));
            if is_taken_between {
                assert_eq!(taken(&mailbox, 10), []);
            }
            mailbox.put(1, submitted());
            mailbox.put(2, submitted());
            mailbox.put(1, finished());
            let all = [(1, "submitted"), (1, "finished"), (2, "submitted"), (2, "expired"), (1, "finished")];
            assert_eq!(taken(&mailbox, 10), all);
        }
    }

    #[test]
    fn a_tag_that_nobody_waits_for_holds_nothing_back() {
        let mailbox = Mailbox::default();
        mailbox.put(1, submitted());
        mailbox.expect(1);
        mailbox.put(2, finished());
        assert_eq!(taken(&mailbox, 10), [(1, "submitted"), (2, "finished")]);
    }

    #[tokio::test]
    async fn what_is_left_after_a_full_message_is_news() {
        let mailbox = Mailbox::default();
        (0..3).for_each(|tag| mailbox.put(tag, submitted()));
        mailbox.news().await;
        assert_eq!(taken(&mailbox, 2), [(0, "submitted"), (1, "submitted")]);
        mailbox.news().await;
        assert_eq!(taken(&mailbox, 2), [(2, "submitted")]);
    }
}
