//! Notifies everything that waits for applied commands: watches of the revision, submitters that wait for results, and
//! agents' sessions. The state machine waits for it, so it only records changes and wakes tasks. It holds no
//! lock on the state; what it passes on is shared with the state, and the receiver converts it into messages.

use std::{collections::hash_map::Entry, sync::Arc};

use ahash::HashMap;
use robeing_fleet::{AllocationId, Ballot, BallotId, Effect, Fleet, Kept, Stamp, Task, TaskId};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tracing::info;

use crate::{
    apply::{
        give_back_room,
        result_stream::{Letter, ResultStream},
        waiters::Waiters,
    },
    ballots::{self, counters::BallotCounters},
    directory::changed::ChangedAgents,
    leader::{recoveries::Recoveries, sessions::SessionTable, shortages::Shortages},
    logs::KeptLogs,
    mail::{mailboxes::Mailboxes, waiters::LetterWaiters},
    policies::PolicyNews,
    raft::{Observer, Told},
    resources,
};

struct Waiter {
    mailbox: Arc<ResultStream>,
    tag: u64,
}

/// The observer of one coordinator.
pub struct ApplyObserver {
    revision: watch::Sender<u64>,
    audited: watch::Sender<u64>,
    applied: watch::Sender<u64>,
    installs: watch::Sender<u64>,
    waiters: Mutex<HashMap<TaskId, Vec<Waiter>>>,
    /// The sessions that this coordinator serves as leader.
    pub sessions: SessionTable,
    /// What this coordinator keeps, as leader, of attempts that are followed.
    pub logs: KeptLogs,
    /// The agents that have changed in the directory.
    pub directory: ChangedAgents,
    /// The agents that were barred.
    pub barred: ChangedAgents,
    /// Measures how long recoveries take.
    pub recoveries: Recoveries,
    /// Those who wait for the outcomes of letters.
    pub letters: Arc<LetterWaiters>,
    /// Those who wait for ballots to close.
    pub ballots: Arc<Waiters<BallotId, Arc<Ballot>>>,
    /// Those who wait for allocations to change.
    pub allocations: Arc<Waiters<AllocationId, ()>>,
    /// Counts votes, and ballots that close.
    pub ballot_counters: BallotCounters,
    /// The mailboxes that agents have opened here.
    pub mailboxes: Mailboxes,
    /// Records what is refused in a shortage.
    pub shortages: Shortages,
    /// Whether there are policies, and when they may have changed.
    pub policies: PolicyNews,
    /// Wakes the timers: something may be due earlier than before.
    pub timers: Notify,
    /// Wakes what fires schedules: one may be due earlier than before.
    pub schedules: Notify,
}

impl ApplyObserver {
    /// Creates an observer without waiters.
    pub fn new(sessions: SessionTable) -> Self {
        Self {
            revision: watch::Sender::new(0),
            audited: watch::Sender::new(0),
            applied: watch::Sender::new(0),
            installs: watch::Sender::new(0),
            waiters: Mutex::default(),
            sessions,
            logs: KeptLogs::default(),
            directory: ChangedAgents::default(),
            barred: ChangedAgents::default(),
            recoveries: Recoveries::default(),
            letters: Arc::default(),
            ballots: Waiters::new(ballots::MAX_WAITING),
            allocations: Waiters::new(resources::MAX_WAITING),
            ballot_counters: BallotCounters::default(),
            mailboxes: Mailboxes::default(),
            shortages: Shortages::default(),
            policies: PolicyNews::default(),
            timers: Notify::new(),
            schedules: Notify::new(),
        }
    }

    /// Returns a watch of the fleet's revision.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// Returns a watch of the number of the newest record of the audit log.
    pub fn audited(&self) -> watch::Receiver<u64> {
        self.audited.subscribe()
    }

    /// Returns a watch of the index of the newest applied log entry, plus one.
    pub fn applied_indexes(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Returns a watch of how many times a snapshot has replaced the whole state. A caller that waits for a result must
    /// read the state after each: the effects of the skipped entries are not reported.
    pub fn installs(&self) -> watch::Receiver<u64> {
        self.installs.subscribe()
    }

    fn waiters(&self) -> MutexGuard<'_, HashMap<TaskId, Vec<Waiter>>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a waiter for the result of a task. Call it before reading the state, or the task's end may be missed.
    pub fn wait_for(&self, task: TaskId, mailbox: &Arc<ResultStream>, tag: u64) {
        let waiter = Waiter { mailbox: Arc::clone(mailbox), tag };
        match self.waiters().entry(task) {
            // There is hardly ever another one.
            Entry::Vacant(free) => {
                free.insert(vec![waiter]);
            }
            Entry::Occupied(mut of_task) => of_task.get_mut().push(waiter),
        }
    }

    /// Removes a waiter. Returns whether it had not been notified yet.
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

    /// Removes a stream's waiters for these tasks.
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

    /// Notifies a task's waiters that it has finished, as of `now`; or, if `task` is `None`, that its result has
    /// already expired.
    fn finished(&self, id: TaskId, task: Option<&Arc<Task>>, now: Stamp) {
        let mut waiters = self.waiters();
        let waiting = waiters.remove(&id);
        give_back_room(&mut waiters);
        drop(waiters);
        for waiter in waiting.unwrap_or_default() {
            let letter = match task {
                Some(task) => Letter::Finished(Arc::clone(task), now),
                None => Letter::Expired(id),
            };
            waiter.mailbox.put(waiter.tag, letter);
        }
    }

    /// Returns the letter for a finished task; `None` if the task is unknown or not finished. The result of an archived
    /// one is to be read.
    pub fn result(fleet: &Fleet, id: TaskId) -> Option<Letter> {
        match fleet.kept_task(id)? {
            Kept::Here(task) if task.state.is_final() => Some(Letter::Finished(task, fleet.now())),
            Kept::Here(_) => None,
            Kept::Archived(_) => Some(Letter::Ended(id)),
        }
    }

    fn carry_out(&self, Told { effect, task, agent, letter, ballot, now }: Told) {
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
            Effect::DirectoryChanged { agent } => self.directory.note(agent),
            Effect::EnrolmentChanged { agent } => self.mailboxes.wake(&agent),
            Effect::Barred { agent } => {
                self.mailboxes.wake(&agent);
                self.barred.note(agent);
            }
            Effect::Mail { receiver, .. } => self.mailboxes.wake(&receiver),
            Effect::LetterSettled { .. } => {
                if let Some(letter) = letter {
                    self.letters.settled(&letter);
                    self.mailboxes.wake(&letter.receiver);
                }
            }
            Effect::BallotClosed { .. } => {
                if let Some(ballot) = ballot {
                    self.ballot_counters.closed(&ballot);
                    self.ballots.tell(ballot.id, ballot);
                }
            }
            Effect::VoteCast { choice, .. } => self.ballot_counters.cast(choice),
            Effect::AllocationChanged { id } => self.allocations.tell(id, ()),
            Effect::PoliciesChanged => self.policies.changed(),
            Effect::SchedulesChanged => self.schedules.notify_one(),
            Effect::TrustChanged
            | Effect::BallotOpened { .. }
            | Effect::TeamChanged { .. }
            | Effect::Archived { .. }
            | Effect::RecordExpired { .. } => {}
        }
    }
}

impl Observer for ApplyObserver {
    fn applied(&self, revision: u64, audited: u64, told: Vec<Told>) {
        for told in told {
            self.carry_out(told);
        }
        for (watched, now) in [(&self.revision, revision), (&self.audited, audited)] {
            watched.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
        }
        self.timers.notify_one();
    }

    fn installed(&self, revision: u64, audited: u64) {
        self.installs.send_modify(|installs| *installs += 1);
        self.allocations.tell_all(&());
        self.directory.note_everything();
        self.barred.note_everything();
        self.mailboxes.wake_all();
        self.policies.changed();
        self.revision.send_replace(revision);
        self.audited.send_replace(audited);
        self.schedules.notify_one();
        self.timers.notify_one();
    }

    fn progressed(&self, index: u64) {
        self.applied.send_replace(index + 1);
    }
}
