//! Dead letters: tasks that have used up their attempts or failed in a way that is not tried again. They are kept for
//! longer than other results, so that somebody can look at them, and have them tried again or drop them.
//!
//! A dead letter that is tried again is the same task under the next *epoch*: it has its attempts, its deadline and its
//! queue expiry afresh, and its fencing numbers continue. A command that names the epoch that its sender has
//! seen has one effect however often it is sent, also if the task has died again meanwhile.
//!
//! There are at most [`MAX_DEAD_LETTERS`], and they have at most a part of the fleet's room
//! ([`FleetConfig::dead_letter_room`]). Beyond it, the ones that died first are none any more, and are forgotten when
//! their results expire, as those of other tasks are.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use bilrost::Message;

use super::{retries::Jitter, timing::TaskTiming};
use crate::{
    AuditOutcome, Effect, FailureKind, Fleet, FleetConfig, FleetMillis, Refusal, Reply, Stamp, Task, TaskId, TaskState,
    audit_log::action,
    config::invalid,
    limits::{
        DEAD_LETTER_TTL_MS, DROPPED_TTL_MS, LEAST_DEAD_LETTER_BYTES, MAX_DEAD_LETTERS, MAX_PAGE, MAX_SCANNED,
        MAX_VERIFIED_TASKS, PLACES_PER_DEAD_LETTER,
    },
    sabotage::{Mistake, planted},
    schedule::needing::Shape,
};

/// That a dead letter was tried again.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Revival {
    /// How many times it was.
    #[bilrost(1)]
    pub epoch: u32,
    /// When it was last. Its deadline and its queue expiry count from then.
    #[bilrost(2)]
    pub at: Stamp,
}

/// A command to try a dead letter again.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct RetryDead {
    /// The task.
    #[bilrost(1)]
    pub task: TaskId,
    /// The epoch in which it died. `None`: whichever it is in.
    #[bilrost(2)]
    pub epoch: Option<u32>,
    /// The random number for the jitter of its backoffs from then on. The coordinator that proposes the command draws
    /// it.
    #[bilrost(3)]
    pub seed: u64,
    /// Who has it tried again, for the audit log.
    #[bilrost(4)]
    pub by: String,
}

/// A command to drop a dead letter.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct DropDead {
    /// The task.
    #[bilrost(1)]
    pub task: TaskId,
    /// The epoch in which it died. `None`: whichever it is in.
    #[bilrost(2)]
    pub epoch: Option<u32>,
    /// Who drops it, for the audit log.
    #[bilrost(3)]
    pub by: String,
}

/// The place of a dead letter among the others: when it died, and its number.
pub type DeadCursor = (FleetMillis, u64);

/// The dead letters, the one that died first in front.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct DeadLetters {
    order: BTreeSet<DeadCursor>,
    /// What they count for, bytes.
    bytes: u64,
}

/// Returns what a dead letter counts for, bytes.
fn weight(task: &Task) -> u64 {
    task.stored_bytes().max(LEAST_DEAD_LETTER_BYTES)
}

impl DeadLetters {
    /// Indexes a task after a change.
    pub(crate) fn enter(&mut self, task: &Task) {
        if task.dead {
            self.order.insert(task.dead_cursor());
            self.bytes += weight(task);
        }
    }

    /// Removes a task before a change.
    pub(crate) fn leave(&mut self, task: &Task) {
        if task.dead {
            self.order.remove(&task.dead_cursor());
            self.bytes -= weight(task);
        }
    }
}

/// Refuses an epoch that a task, which is in this one, has not got to.
pub(crate) fn check_epoch(epoch: Option<u32>, current: u32) -> Result<(), Refusal> {
    match epoch {
        Some(epoch) if epoch > current => {
            Err(invalid("epoch", format!("is {epoch}, and the task is in its epoch {current}; see the task")))
        }
        _ => Ok(()),
    }
}

impl FleetConfig {
    /// Returns how many dead letters are kept, and how many bytes they may count for.
    pub fn dead_letter_room(&self) -> (usize, u64) {
        let most = self.max_tasks as usize / PLACES_PER_DEAD_LETTER;
        (most.min(MAX_DEAD_LETTERS), self.max_bytes / PLACES_PER_DEAD_LETTER as u64)
    }
}

impl Task {
    /// Returns how many times the task was a dead letter that was tried again.
    pub fn epoch(&self) -> u32 {
        self.revival.as_ref().map_or(0, |revival| revival.epoch)
    }

    /// Returns the place of a dead letter among the others.
    pub fn dead_cursor(&self) -> DeadCursor {
        (self.finished_at.map_or(0, |at| at.fleet), self.seq)
    }

    /// Returns when the task was accepted, or last tried again as a dead letter.
    pub(crate) fn epoch_began(&self) -> Stamp {
        self.revival.as_ref().map_or(self.submitted_at, |revival| revival.at)
    }

    /// Makes a task that has just ended a dead letter, if it ended as those do. One whose time was over, or that nobody
    /// has approved, would not end otherwise if it were tried again; and of one with links, others have noted how it
    /// ended, or may be forgotten.
    pub(crate) fn note_death(&mut self, now: Stamp) {
        let kind = self.failure.as_ref().map(|failure| failure.kind);
        let hopeless = [FailureKind::Deadline, FailureKind::Expired, FailureKind::NotApproved];
        let is_failure = matches!(self.state, TaskState::Failed | TaskState::DeadLettered);
        let is_alone = self.member_of.is_none() && self.links.is_none();
        self.dead = is_failure && is_alone && kind.is_some_and(|kind| !hopeless.contains(&kind));
        if self.dead {
            let kept = now.fleet.saturating_add(DEAD_LETTER_TTL_MS);
            self.expires_at = self.expires_at.map(|at| at.max(kept));
        }
    }

    /// Makes a dead letter a result as any other, which is kept for as long as those are, and until `least`.
    fn bury(&mut self, least: FleetMillis) {
        let ended = self.finished_at.map_or(0, |at| at.fleet);
        self.dead = false;
        self.expires_at = Some(ended.saturating_add(self.result_ttl.max(1)).max(least));
    }

    /// Queues a dead letter again, under the next epoch.
    fn revive(&mut self, now: Stamp, seed: u64) {
        let began = self.epoch_began().fleet;
        let epoch = self.epoch().saturating_add(u32::from(!planted(Mistake::EpochStays)));
        self.dead = false;
        self.state = TaskState::Queued;
        self.failure = None;
        self.finished_at = None;
        self.expires_at = None;
        self.attempts_used = 0;
        self.hand_backs = 0;
        self.deadline = self.deadline.map(|at| now.fleet.saturating_add(at.saturating_sub(began)));
        if let Some(timing) = &mut self.timing {
            let mut asked = std::mem::take(&mut timing.asked);
            asked.jitter = asked.jitter.map(|jitter| Jitter { seed, ..jitter });
            **timing = TaskTiming::of(asked, now.fleet);
        }
        if let Some(verification) = &mut self.verification {
            **verification = verification.again();
            // Each agent has another turn.
            self.attempts.clear();
        }
        self.revival = Some(Box::new(Revival { epoch, at: now }));
    }
}

impl Fleet {
    /// Buries the dead letters that died first until the others have room. Each counts for so much that a large one
    /// makes few small ones go.
    pub(crate) fn bound_dead_letters(&mut self) {
        let (most, bytes) = self.state.config.dead_letter_room();
        let soon = self.state.now.fleet.saturating_add(1);
        while self.indexes.tasks.dead.order.len() > most || self.indexes.tasks.dead.bytes > bytes {
            let Some((_, seq)) = self.indexes.tasks.dead.order.first().copied() else { return };
            self.change_task(seq, |task| task.bury(soon));
        }
    }

    /// Returns the number of dead letters.
    pub fn dead_letter_count(&self) -> usize {
        self.indexes.tasks.dead.order.len()
    }

    /// Returns at most `limit` (clamped to 1 to [`MAX_PAGE`]) dead letters, of this kind if one is given, in the order
    /// in which they died, after the cursor `after`; and the cursor after which the next page starts, `None` if this is
    /// the last one. Looks at no more than [`MAX_SCANNED`] of them, so a page may be short and still have a next one.
    pub fn dead_letters(
        &self,
        kind: Option<&str>,
        after: Option<DeadCursor>,
        limit: usize,
    ) -> (Vec<&Arc<Task>>, Option<DeadCursor>) {
        let limit = limit.clamp(1, MAX_PAGE);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let (mut found, mut last) = (Vec::new(), None);
        for (looked_at, place) in self.indexes.tasks.dead.order.range((start, Bound::Unbounded)).enumerate() {
            if found.len() == limit || looked_at == MAX_SCANNED {
                return (found, last);
            }
            last = Some(*place);
            let task = self.state.tasks.kept.get(&place.1);
            found.extend(task.filter(|task| kind.is_none_or(|kind| kind == task.kind)));
        }
        (found, None)
    }

    /// Returns the number of a task that was submitted, in this epoch if one is given.
    ///
    /// # Errors
    /// There is no such task, or it has not got to that epoch.
    fn in_epoch(&self, id: TaskId, epoch: Option<u32>) -> Result<(u64, &Arc<Task>), Refusal> {
        let task = self.task(id).filter(|task| task.member_of.is_none()).ok_or(Refusal::UnknownTask { task: id })?;
        check_epoch(epoch, task.epoch())?;
        Ok((task.seq, task))
    }

    pub(crate) fn retry_dead(&mut self, command: RetryDead, effects: &mut Vec<Effect>) -> Reply {
        let RetryDead { task: id, epoch, seed, by } = command;
        if let Some(row) = self.archived(id) {
            return row.retried(epoch);
        }
        let (seq, task) = match self.in_epoch(id, epoch) {
            Ok(found) => found,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let (current, state) = (task.epoch(), task.state);
        let again = Reply::DeadRetried { epoch: current, existing: true };
        if epoch.is_some_and(|epoch| epoch < current) {
            return again;
        }
        if !task.dead {
            // Whoever names no epoch may have sent the command before.
            let is_retried = epoch.is_none() && current > 0 && !state.is_final();
            return if is_retried { again } else { Reply::Refused(Refusal::NotDead { task: id, state }) };
        }
        if let Err(refusal) = self.check_retry_room(task) {
            return Reply::Refused(refusal);
        }
        let (team, detail) = (task.team, epitaph(task));
        let (now, aging) = (self.state.now, self.aging_of(task.queue()));
        self.change_task(seq, |task| {
            task.revive(now, seed);
            task.set_aging(aging);
        });
        self.count_team_task(team);
        self.record(&by, action::RETRY_DEAD, &id.to_string(), AuditOutcome::Done, detail);
        self.place(seq, effects);
        Reply::DeadRetried { epoch: self.task(id).map_or(current, |task| task.epoch()), existing: false }
    }

    pub(crate) fn drop_dead(&mut self, command: DropDead) -> Reply {
        let DropDead { task: id, epoch, by } = command;
        if let Some(row) = self.archived(id) {
            return row.dropped(epoch);
        }
        let (seq, task) = match self.in_epoch(id, epoch) {
            Ok(found) => found,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let state = task.state;
        if epoch.is_some_and(|epoch| epoch < task.epoch()) {
            return Reply::Refused(Refusal::NotDead { task: id, state });
        }
        if !task.dead {
            let was_dead = matches!(state, TaskState::Failed | TaskState::DeadLettered);
            return match was_dead {
                true => Reply::DeadDropped { existing: true },
                false => Reply::Refused(Refusal::NotDead { task: id, state }),
            };
        }
        let detail = epitaph(task);
        let least = self.state.now.fleet.saturating_add(DROPPED_TTL_MS);
        self.change_task(seq, |task| task.bury(least));
        self.record(&by, action::DROP_DEAD, &id.to_string(), AuditOutcome::Done, detail);
        Reply::DeadDropped { existing: false }
    }

    /// Refuses to try a dead letter again if others depend on its end, there is no room for another unfinished task, or
    /// it could not run.
    fn check_retry_room(&self, task: &Task) -> Result<(), Refusal> {
        if self.indexes.links.has_dependents(task.seq) {
            return Err(Refusal::StillNeeded { task: task.id });
        }
        if let Some(team) = task.team {
            self.open_team(team)?;
        }
        let runs = task.verification.as_ref().map_or(0, |of| of.asked.most_runs());
        self.check_queue_places(task.required_role, u64::from(runs))?;
        let (limit, more) = (self.state.config.max_tasks, u64::from(runs) + self.indexes.links.expected);
        if runs > 0 && (self.kept_count() as u64).saturating_add(more) > u64::from(limit) {
            return Err(Refusal::TooManyTasks { limit });
        }
        if runs > 0 && self.indexes.tasks.verified >= MAX_VERIFIED_TASKS {
            return Err(Refusal::Full {
                what: "unfinished tasks with results to be verified".to_owned(),
                limit: u64::from(MAX_VERIFIED_TASKS),
                remedy: "have this one tried again when some have finished".to_owned(),
            });
        }
        let group = (task.queue(), task.limit_key());
        self.check_group_room(group, (task.needs().domain, task.team), Some(u64::from(runs)))?;
        let Some(claim) = &task.resources else { return self.check_demand_room(task.needs(), task.team, group) };
        self.check_asked(&claim.asked, || Shape::of_task(task))
    }
}

/// Returns what the audit log says about a dead letter besides its id.
fn epitaph(task: &Task) -> String {
    let why = task.failure.as_ref().map_or("", |failure| failure.message.as_str());
    format!("epoch {}, {:?} after {} attempts: {why}", task.epoch(), task.state, task.attempts_used)
}
