//! Where what was applied becomes known to those who wait for it: watchers of the revision, submitters who wait for results,
//! and the sessions of agents. It is told within `apply`, so it only notes things and wakes tasks.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use robeing_fleet::{Effect, Fleet, TaskId};
use robeing_proto::v1::{self, streamed_answer::Answer};
use tokio::sync::{Notify, watch};
use tracing::info;

use super::{
    consensus::Observer,
    registry::Registry,
    view::{self, Parts},
};

/// Bytes of results that are kept for one stream whose client does not read them. Of further ones only the task is noted; they
/// are read from the state when their turn comes, where they stay until they expire.
pub const MAX_KEPT_BYTES: usize = 4 * 1024 * 1024;

/// What a stream of submissions is to tell.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "all but a few are answers")]
pub enum Told {
    /// This.
    Answer(Answer),
    /// The result of this task, which has ended.
    Ended(TaskId),
}

impl Told {
    /// Whether it is what became of a task.
    pub fn is_result(&self) -> bool {
        !matches!(self, Self::Answer(Answer::Submitted(_)))
    }
}

/// Answers collected for one stream of submissions, until it sends them.
///
/// Invariant: for a tag that was [expected](Mailbox::expect), the answer to the submission is taken before any result. A
/// result may well be known first, as when a proposal that was repeated after a change of leaders is answered after its task
/// has run; the order is made here, since the two come from different tasks.
#[derive(Default)]
pub struct Mailbox {
    kept: Mutex<Kept>,
    /// Of each tag whose submission is not answered yet, the results that came before the answer. Held while answers are
    /// added, so that they are added in this order.
    early: Mutex<BTreeMap<u64, Vec<Answer>>>,
    news: Notify,
}

#[derive(Default)]
struct Kept {
    answers: VecDeque<(u64, Told)>,
    /// Of the results among them.
    bytes: usize,
}

impl Kept {
    fn add(&mut self, tag: u64, answer: Answer) {
        let mut told = Told::Answer(answer);
        if let Told::Answer(Answer::Finished(task)) = &told {
            let bytes = self.bytes.saturating_add(view::result_size(task));
            match view::task_id(&task.id) {
                Ok(id) if bytes > MAX_KEPT_BYTES => told = Told::Ended(id),
                _ => self.bytes = bytes,
            }
        }
        self.answers.push_back((tag, told));
    }
}

impl Mailbox {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        let mut kept = self.kept();
        for answer in std::iter::once(answer).chain(held_back) {
            kept.add(tag, answer);
        }
        drop(kept);
        self.news.notify_one();
    }

    /// How many answers are in it.
    pub fn len(&self) -> usize {
        self.kept().answers.len()
    }

    /// All answers, the oldest first, by tag.
    pub fn take(&self) -> VecDeque<(u64, Told)> {
        std::mem::take(&mut *self.kept()).answers
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
    use bytes::Bytes;

    use super::*;

    fn submitted() -> Answer {
        Answer::Submitted(v1::SubmitResult::default())
    }

    fn finished() -> Answer {
        Answer::Finished(v1::Task::default())
    }

    fn taken(mailbox: &Mailbox) -> Vec<(u64, &'static str)> {
        let name = |(tag, told)| match told {
            Told::Answer(Answer::Submitted(_)) => (tag, "submitted"),
            Told::Answer(Answer::Finished(_)) => (tag, "finished"),
            Told::Answer(Answer::Expired(_)) => (tag, "expired"),
            Told::Ended(_) => (tag, "ended"),
        };
        mailbox.take().into_iter().map(name).collect()
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
                assert_eq!(taken(&mailbox), []);
            }
            mailbox.put(1, submitted());
            mailbox.put(2, submitted());
            mailbox.put(1, finished());
            let all = [(1, "submitted"), (1, "finished"), (2, "submitted"), (2, "expired"), (1, "finished")];
            assert_eq!(taken(&mailbox), all);
        }
    }

    #[test]
    fn a_tag_that_nobody_waits_for_holds_nothing_back() {
        let mailbox = Mailbox::default();
        mailbox.put(1, submitted());
        mailbox.expect(1);
        mailbox.put(2, finished());
        assert_eq!(taken(&mailbox), [(1, "submitted"), (2, "finished")]);
    }

    #[test]
    fn results_that_nobody_reads_are_kept_up_to_a_limit_and_then_only_noted() {
        let mailbox = Mailbox::default();
        let output = Bytes::from(vec![0; MAX_KEPT_BYTES / 4]);
        let result = |id| v1::Task { id: TaskId(id).to_string(), output: output.clone(), ..Default::default() };
        for tag in 0..6 {
            mailbox.put(tag, Answer::Finished(result(tag.into())));
            mailbox.put(tag, submitted());
        }
        let told = mailbox.take();
        let results: Vec<_> = told.iter().filter(|(_, told)| told.is_result()).collect();
        assert_eq!(results.iter().map(|(tag, _)| *tag).collect::<Vec<u64>>(), [0, 1, 2, 3, 4, 5], "none is lost");
        for (tag, told) in results {
            match told {
                Told::Ended(id) => assert!(*tag >= 3 && *id == TaskId((*tag).into()), "{told:?}"),
                Told::Answer(_) => assert!(*tag < 3, "three and what comes with them fit"),
            }
        }
        mailbox.put(9, Answer::Finished(result(9)));
        assert_eq!(taken(&mailbox), [(9, "finished")], "there is room again");
    }
}
