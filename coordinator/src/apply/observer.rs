//! Where what was applied becomes known to those who wait for it: watchers of the revision, submitters who wait for results,
//! and the sessions of agents. Applying waits for it, so it only notes things and wakes tasks; it holds no lock of the state,
//! and what it hands on is shared with the state and converted to messages by the receiver.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use robeing_fleet::{Effect, Fleet, Stamp, Task, TaskId};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use robeing_proto::v1::streamed_answer::Answer;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::info;

use crate::{
    api::convert::{self, Parts},
    leader::{recoveries::Recoveries, sessions::SessionTable},
    raft::{Observer, Told},
};

/// Bytes of results that are kept for one stream whose client does not read them. Of further ones only the task is noted; they
/// are read from the state when their turn comes, where they stay until they expire.
pub const MAX_KEPT_BYTES: usize = 4 * 1024 * 1024;
/// What a result counts for besides its input, output and the texts of its failure.
const RESULT_BYTES: usize = 1024;

/// What a stream of submissions is to tell.
#[derive(Clone, Debug)]
pub enum Letter {
    /// This.
    Answer(Box<Answer>),
    /// The task is finished, and was this at that time.
    Finished(Arc<Task>, Stamp),
    /// The result of this task, which has ended.
    Ended(TaskId),
}

impl From<Answer> for Letter {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

impl Letter {
    /// Whether it is what became of a task.
    pub fn is_result(&self) -> bool {
        !matches!(self, Self::Answer(answer) if matches!(**answer, Answer::Submitted(_)))
    }

    /// It in the form of the API; a result that was only noted is read from the state by `look`.
    pub fn into_answer(self, look: impl FnOnce(TaskId) -> Option<Letter>) -> Answer {
        let finished = |task: &Task, now| Answer::Finished(convert::task(task, FINISHED, now));
        match self {
            Self::Answer(answer) => *answer,
            Self::Finished(task, now) => finished(&task, now),
            Self::Ended(id) => match look(id) {
                Some(Self::Finished(task, now)) => finished(&task, now),
                _ => Answer::Expired(id.to_string()),
            },
        }
    }
}

/// Answers collected for one stream of submissions, until it sends them.
///
/// Invariant: for a tag that was [expected](ResultStream::expect), the answer to the submission is taken before any result. A
/// result may well be known first, as when a proposal that was repeated after a change of leaders is answered after its task
/// has run; the order is made here, since the two come from different tasks.
#[derive(Default)]
pub struct ResultStream {
    kept: Mutex<Kept>,
    /// Of each tag whose submission is not answered yet, the results that came before the answer. Held while answers are
    /// added, so that they are added in this order.
    early: Mutex<BTreeMap<u64, Vec<Letter>>>,
    news: Notify,
}

#[derive(Default)]
struct Kept {
    answers: VecDeque<(u64, Letter)>,
    /// Of the results among them.
    bytes: usize,
}

impl Kept {
    fn add(&mut self, tag: u64, mut letter: Letter) {
        if let Letter::Finished(task, _) = &letter {
            let bytes = self.bytes.saturating_add(result_bytes(task));
            if bytes > MAX_KEPT_BYTES {
                letter = Letter::Ended(task.id);
            } else {
                self.bytes = bytes;
            }
        }
        self.answers.push_back((tag, letter));
    }
}

/// What a finished task takes while it is kept, about.
fn result_bytes(task: &Task) -> usize {
    let failure = task.failure.as_ref().map_or(0, |failure| failure.message.len() + failure.stderr_tail.len());
    RESULT_BYTES + task.input.len() + task.output.as_ref().map_or(0, |output| output.len()) + failure
}

impl ResultStream {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn early(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Letter>>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds back results for this tag until its submission is answered.
    pub fn expect(&self, tag: u64) {
        self.early().entry(tag).or_default();
    }

    /// Adds an answer.
    pub fn put(&self, tag: u64, letter: impl Into<Letter>) {
        let letter = letter.into();
        let mut early = self.early();
        let is_submission = matches!(&letter, Letter::Answer(answer) if matches!(**answer, Answer::Submitted(_)));
        if !is_submission && let Some(held_back) = early.get_mut(&tag) {
            held_back.push(letter);
            return;
        }
        let held_back = if is_submission { early.remove(&tag).unwrap_or_default() } else { Vec::new() };
        let mut kept = self.kept();
        for letter in std::iter::once(letter).chain(held_back) {
            kept.add(tag, letter);
        }
        drop(kept);
        self.news.notify_one();
    }

    /// How many answers are in it.
    pub fn len(&self) -> usize {
        self.kept().answers.len()
    }

    /// All answers, the oldest first, by tag.
    pub fn take(&self) -> VecDeque<(u64, Letter)> {
        std::mem::take(&mut *self.kept()).answers
    }

    /// Returns when there may be something to take. Cancellation-safe.
    pub async fn news(&self) {
        self.news.notified().await;
    }
}

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

/// What a finished task is told with.
const FINISHED: Parts = Parts { input: false, output: true, attempts: true };

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
                None => Answer::Expired(id.to_string()).into(),
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::Outcome;
    use robeing_proto::v1;

    use super::*;
    use crate::fixture::fleet_with_ended;

    fn submitted() -> Answer {
        Answer::Submitted(v1::SubmitResult::default())
    }

    fn finished() -> Letter {
        let fleet = fleet_with_ended(1, &Outcome::Succeeded(Bytes::new()));
        ApplyObserver::result(&fleet, TaskId(1)).expect("it has ended")
    }

    fn taken(mailbox: &ResultStream) -> Vec<(u64, &'static str)> {
        let name = |(tag, letter): (u64, Letter)| match letter {
            Letter::Answer(answer) if matches!(*answer, Answer::Submitted(_)) => (tag, "submitted"),
            Letter::Answer(answer) if matches!(*answer, Answer::Expired(_)) => (tag, "expired"),
            Letter::Answer(_) | Letter::Finished(..) => (tag, "finished"),
            Letter::Ended(_) => (tag, "ended"),
        };
        mailbox.take().into_iter().map(name).collect()
    }

    #[test]
    fn a_result_is_told_after_the_acceptance_whichever_comes_first() {
        for is_taken_between in [false, true] {
            let mailbox = ResultStream::default();
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
        let mailbox = ResultStream::default();
        mailbox.put(1, submitted());
        mailbox.expect(1);
        mailbox.put(2, finished());
        assert_eq!(taken(&mailbox), [(1, "submitted"), (2, "finished")]);
    }

    #[test]
    fn results_that_nobody_reads_are_kept_up_to_a_limit_and_then_only_noted() {
        let mailbox = ResultStream::default();
        let fleet = fleet_with_ended(6, &Outcome::Succeeded(Bytes::from(vec![0; MAX_KEPT_BYTES / 4])));
        let result = |tag: u64| ApplyObserver::result(&fleet, TaskId(u128::from(tag) + 1)).expect("it has ended");
        for tag in 0..6 {
            mailbox.put(tag, result(tag));
            mailbox.put(tag, submitted());
        }
        let told = mailbox.take();
        let results: Vec<_> = told.iter().filter(|(_, told)| told.is_result()).collect();
        assert_eq!(results.iter().map(|(tag, _)| *tag).collect::<Vec<u64>>(), [0, 1, 2, 3, 4, 5], "none is lost");
        for (tag, told) in results {
            match told {
                Letter::Ended(id) => assert!(*tag >= 3 && *id == TaskId(u128::from(*tag) + 1), "{told:?}"),
                Letter::Answer(_) | Letter::Finished(..) => {
                    assert!(*tag < 3, "three and what comes with them fit");
                }
            }
        }
        mailbox.put(9, result(0));
        assert_eq!(taken(&mailbox), [(9, "finished")], "there is room again");
    }
}
