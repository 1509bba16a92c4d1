//! The timers in one ordered set. Each timer is derived from a task, an agent, a letter, a ballot, a team or an
//! allocation, from the resource pool, from token buckets, or from idempotency keys, so none is part of a snapshot. The
//! expiry of a task that is kept for others is not in it.

mod due;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Agent, AgentId, Allocation, Archived, Ballot, FleetMillis, Letter, Task, TaskState, Team,
    archive::pairs::{Pair, Pairs},
    limits::MAX_TIME_MS,
};

/// What falls due. Timers with the same due time fire in this order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Timer {
    /// A task's deadline.
    Deadline(u64),
    /// The timeout of a task's current attempt, plus the grace.
    Attempt(u64),
    /// The end of a task's delay or backoff.
    Ready(u64),
    /// The expiry of a finished task.
    Expiry(u64),
    /// The end of the time for which a lost agent is remembered.
    Forget(AgentId),
    /// The expiry of a letter that waits, or the end of the time for which the outcome of a settled one is kept.
    Letter(u64),
    /// The deadline of an open ballot, or the end of the time for which a closed one is kept.
    Ballot(u64),
    /// The end of the time for which a disbanded team is kept.
    Team(u64),
    /// The end of the time for which a task may wait for its first attempt.
    Queue(u64),
    /// The end of the time within which another part of a task must be accepted.
    Assembly(u64),
    /// The end of the wait or the lease of an allocation, or of the time for which an ended one is kept; or [`SWEEP`].
    Allocation(u64),
    /// The end of the first window of an idempotency key, while too many keys are kept.
    Keys,
    /// The first moment at which a token bucket has a token again, or is full.
    Buckets,
}

/// A timer and its due time as one number, because an ordered set compares numbers in a few instructions and enums in
/// many. From the highest bits: the due time, at most [`MAX_TIME_MS`], in 60; the kind of timer in 4; its task, agent,
/// letter, ballot, team or allocation in 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Due(u128);

/// The number of the timer by which the requests that wait for resources are looked at. No allocation has it, and of those
/// of its moment only [`Timer::Keys`] and [`Timer::Buckets`] come later, so that everything that ends then is free.
pub(crate) const SWEEP: u64 = u64::MAX;
const KIND_BITS: u32 = 4;
const OWNER_BITS: u32 = 64;
const _: () = assert!(MAX_TIME_MS < 1 << (u128::BITS - KIND_BITS - OWNER_BITS));

impl Due {
    fn new(at: FleetMillis, timer: Timer) -> Due {
        let (kind, owner) = match timer {
            Timer::Deadline(seq) => (0, seq),
            Timer::Attempt(seq) => (1, seq),
            Timer::Ready(seq) => (2, seq),
            Timer::Expiry(seq) => (3, seq),
            Timer::Forget(agent) => (4, u64::from(agent.0)),
            Timer::Letter(seq) => (5, seq),
            Timer::Ballot(seq) => (6, seq),
            Timer::Team(seq) => (7, seq),
            Timer::Queue(seq) => (8, seq),
            Timer::Assembly(seq) => (9, seq),
            Timer::Allocation(seq) => (10, seq),
            Timer::Keys => (11, 0),
            Timer::Buckets => (14, 0),
        };
        // A timer that is due after the latest representable time never fires. Its due time must fit its bits.
        let at = at.min(MAX_TIME_MS + 1);
        Due(u128::from(at) << (KIND_BITS + OWNER_BITS) | kind << OWNER_BITS | u128::from(owner))
    }

    fn at(self) -> FleetMillis {
        (self.0 >> (KIND_BITS + OWNER_BITS)) as FleetMillis
    }

    fn timer(self) -> Timer {
        let owner = self.0 as u64;
        match self.0 >> OWNER_BITS & ((1 << KIND_BITS) - 1) {
            0 => Timer::Deadline(owner),
            1 => Timer::Attempt(owner),
            2 => Timer::Ready(owner),
            3 => Timer::Expiry(owner),
            5 => Timer::Letter(owner),
            6 => Timer::Ballot(owner),
            7 => Timer::Team(owner),
            8 => Timer::Queue(owner),
            9 => Timer::Assembly(owner),
            10 => Timer::Allocation(owner),
            11 => Timer::Keys,
            14 => Timer::Buckets,
            _ => Timer::Forget(AgentId(owner as u32)),
        }
    }
}

/// The timers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<Due>,
    /// The expiries of archived tasks: when, and of which one.
    archived: Pairs,
    /// The tasks that are kept for others, by their numbers: their expiries are not due meanwhile.
    pinned: BTreeMap<u64, Pinned>,
}

/// A task that is kept for others.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Pinned {
    /// For how many.
    count: u32,
    /// When it expires otherwise, if it has ended.
    expiry: Option<FleetMillis>,
    is_archived: bool,
}

/// Calls `each` with the timers of a task in its current state.
fn of_task(task: &Task, mut each: impl FnMut(FleetMillis, Timer)) {
    let seq = task.seq;
    if let Some(due) = task.deadline
        && !task.state.is_final()
    {
        each(due, Timer::Deadline(seq));
    }
    if let Some(due) = task.attempt_due() {
        each(due, Timer::Attempt(seq));
    }
    if let Some(due) = task.not_before
        && task.state == TaskState::Queued
    {
        each(due, Timer::Ready(seq));
    }
    if let Some(due) = task.assembly_due() {
        each(due, Timer::Assembly(seq));
    }
    if let Some(due) = task.expires_at {
        each(due, Timer::Expiry(seq));
    }
    if let Some(due) = task.queue_until() {
        each(due, Timer::Queue(seq));
    }
}

/// Returns the expiry of an archived task. As another timer, it has to be one that [`Due`] has room for.
fn expiry(at: FleetMillis, seq: u64) -> Pair {
    (at.min(MAX_TIME_MS + 1), seq)
}

fn of_agent(agent: &Agent) -> Option<Due> {
    let loss = agent.lost?;
    Some(Due::new(loss.forget_at, Timer::Forget(agent.id)))
}

impl Timers {
    /// Sets the timers of a task.
    pub(crate) fn set_task(&mut self, task: &Task) {
        of_task(task, |due, timer| {
            if let Some(pinned) = self.pinned_expiry(timer) {
                pinned.expiry = Some(due);
            } else {
                self.due.insert(Due::new(due, timer));
            }
        });
    }

    /// Clears the timers of a task, which must not have changed since they were set.
    pub(crate) fn clear_task(&mut self, task: &Task) {
        of_task(task, |due, timer| {
            if let Some(pinned) = self.pinned_expiry(timer) {
                pinned.expiry = None;
            } else {
                self.due.remove(&Due::new(due, timer));
            }
        });
    }

    /// Returns the pinned task whose expiry this is.
    fn pinned_expiry(&mut self, timer: Timer) -> Option<&mut Pinned> {
        match timer {
            Timer::Expiry(seq) => self.pinned.get_mut(&seq),
            _ => None,
        }
    }

    /// Keeps a task for one more that needs its result: it does not expire until as many have let go of it.
    pub(crate) fn pin(&mut self, task: &Task) {
        self.pin_kept(task.seq, task.expires_at, false);
    }

    /// As [`Timers::pin`], for an archived task.
    pub(crate) fn pin_archived(&mut self, row: &Archived) {
        self.pin_kept(row.seq, Some(row.expires_at), true);
    }

    fn pin_kept(&mut self, seq: u64, expires_at: Option<FleetMillis>, is_archived: bool) {
        let Self { due, archived, pinned } = self;
        let pinned = pinned.entry(seq).or_insert_with(|| {
            if let Some(at) = expires_at {
                if is_archived {
                    archived.remove(expiry(at, seq));
                } else {
                    due.remove(&Due::new(at, Timer::Expiry(seq)));
                }
            }
            Pinned { count: 0, expiry: expires_at, is_archived }
        });
        pinned.count = pinned.count.saturating_add(1);
    }

    /// Lets go of a task that was pinned.
    pub(crate) fn unpin(&mut self, seq: u64) {
        let Some(pinned) = self.pinned.get_mut(&seq) else { return };
        pinned.count = pinned.count.saturating_sub(1);
        if pinned.count > 0 {
            return;
        }
        let Some(Pinned { expiry: Some(at), is_archived, .. }) = self.pinned.remove(&seq) else { return };
        if is_archived {
            self.archived.insert(expiry(at, seq));
        } else {
            self.due.insert(Due::new(at, Timer::Expiry(seq)));
        }
    }

    /// Returns whether a task is kept for others.
    pub(crate) fn is_pinned(&self, seq: u64) -> bool {
        self.pinned.contains_key(&seq)
    }

    /// Sets the timer of a task that was archived, which is not kept for others.
    pub(crate) fn set_archived(&mut self, row: &Archived) {
        self.archived.insert(expiry(row.expires_at, row.seq));
    }

    /// Clears the timer of an archived task.
    pub(crate) fn clear_archived(&mut self, row: &Archived) {
        self.archived.remove(expiry(row.expires_at, row.seq));
    }

    /// Sets the timers of all archived tasks.
    pub(crate) fn set_all_archived(&mut self, rows: impl Iterator<Item = Archived>) {
        self.archived = Pairs::of(rows.map(|row| expiry(row.expires_at, row.seq)).collect());
    }

    /// Sets the timer of an agent.
    pub(crate) fn set_agent(&mut self, agent: &Agent) {
        self.due.extend(of_agent(agent));
    }

    /// Clears the timer of an agent, which must not have changed since it was set.
    pub(crate) fn clear_agent(&mut self, agent: &Agent) {
        if let Some(timer) = of_agent(agent) {
            self.due.remove(&timer);
        }
    }

    /// Sets the timer of a letter.
    pub(crate) fn set_letter(&mut self, letter: &Letter) {
        self.due.insert(Due::new(letter.due(), Timer::Letter(letter.seq)));
    }

    /// Clears the timer of a letter, which must not have changed since it was set.
    pub(crate) fn clear_letter(&mut self, letter: &Letter) {
        self.due.remove(&Due::new(letter.due(), Timer::Letter(letter.seq)));
    }

    /// Sets the timer of a ballot.
    pub(crate) fn set_ballot(&mut self, ballot: &Ballot) {
        self.due.insert(Due::new(ballot.due(), Timer::Ballot(ballot.seq)));
    }

    /// Clears the timer of a ballot, which must not have changed since it was set.
    pub(crate) fn clear_ballot(&mut self, ballot: &Ballot) {
        self.due.remove(&Due::new(ballot.due(), Timer::Ballot(ballot.seq)));
    }

    /// Sets the timer of a team.
    pub(crate) fn set_team(&mut self, team: &Team) {
        self.due.extend(team.due().map(|due| Due::new(due, Timer::Team(team.seq))));
    }

    /// Clears the timer of a team, which must not have changed since it was set.
    pub(crate) fn clear_team(&mut self, team: &Team) {
        if let Some(due) = team.due() {
            self.due.remove(&Due::new(due, Timer::Team(team.seq)));
        }
    }

    /// Sets the timer of an allocation. One of an attempt has none.
    pub(crate) fn set_allocation(&mut self, allocation: &Allocation) {
        if allocation.is_of_attempt() {
            return;
        }
        self.due.insert(Due::new(allocation.due(), Timer::Allocation(allocation.seq)));
    }

    /// Clears the timer of an allocation, which must not have changed since it was set.
    pub(crate) fn clear_allocation(&mut self, allocation: &Allocation) {
        if allocation.is_of_attempt() {
            return;
        }
        self.due.remove(&Due::new(allocation.due(), Timer::Allocation(allocation.seq)));
    }

    /// Sets the timer by which the requests that wait for resources are looked at.
    pub(crate) fn set_sweep(&mut self, at: FleetMillis) {
        self.due.insert(Due::new(at, Timer::Allocation(SWEEP)));
    }

    /// Clears the timer by which the requests that wait for resources are looked at, which was set for `at`.
    pub(crate) fn clear_sweep(&mut self, at: FleetMillis) {
        self.due.remove(&Due::new(at, Timer::Allocation(SWEEP)));
    }

    /// Sets the timer by which idempotency keys are dropped.
    pub(crate) fn set_keys(&mut self, at: FleetMillis) {
        self.due.insert(Due::new(at, Timer::Keys));
    }

    /// Clears the timer by which idempotency keys are dropped, which was set for `at`.
    pub(crate) fn clear_keys(&mut self, at: FleetMillis) {
        self.due.remove(&Due::new(at, Timer::Keys));
    }

    /// Sets the timer for the first one of the token buckets.
    pub(crate) fn set_buckets(&mut self, at: FleetMillis) {
        self.due.insert(Due::new(at, Timer::Buckets));
    }

    /// Clears the timer for the first one of the token buckets, which was set for `at`.
    pub(crate) fn clear_buckets(&mut self, at: FleetMillis) {
        self.due.remove(&Due::new(at, Timer::Buckets));
    }

    /// Returns the first timer.
    fn first(&self) -> Option<Due> {
        let archived = self.archived.first().map(|(at, seq)| Due::new(at, Timer::Expiry(seq)));
        self.due.first().copied().into_iter().chain(archived).min()
    }

    /// Returns the earliest due time.
    pub(crate) fn next_due(&self) -> Option<FleetMillis> {
        self.first().map(Due::at)
    }

    /// Removes and returns the first timer that is due by `now`.
    pub(crate) fn pop_due(&mut self, now: FleetMillis) -> Option<Timer> {
        let first = self.first().filter(|first| first.at() <= now)?;
        let timer = first.timer();
        if !self.due.remove(&first)
            && let Timer::Expiry(seq) = timer
        {
            self.archived.remove(expiry(first.at(), seq));
        }
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{
        arbitrary::any,
        prop_assert_eq, prop_oneof, proptest,
        strategy::{Just, Strategy},
    };

    use super::*;

    fn timer() -> impl Strategy<Value = Timer> {
        prop_oneof![
            any::<u64>().prop_map(Timer::Deadline),
            any::<u64>().prop_map(Timer::Attempt),
            any::<u64>().prop_map(Timer::Ready),
            any::<u64>().prop_map(Timer::Expiry),
            any::<u32>().prop_map(|agent| Timer::Forget(AgentId(agent))),
            any::<u64>().prop_map(Timer::Letter),
            any::<u64>().prop_map(Timer::Ballot),
            any::<u64>().prop_map(Timer::Team),
            any::<u64>().prop_map(Timer::Queue),
            any::<u64>().prop_map(Timer::Assembly),
            any::<u64>().prop_map(Timer::Allocation),
            Just(Timer::Keys),
            Just(Timer::Buckets),
        ]
    }

    /// The timer's place among those that are due at the same time.
    fn place(timer: Timer) -> (u8, u64) {
        match timer {
            Timer::Deadline(seq) => (0, seq),
            Timer::Attempt(seq) => (1, seq),
            Timer::Ready(seq) => (2, seq),
            Timer::Expiry(seq) => (3, seq),
            Timer::Forget(agent) => (4, u64::from(agent.0)),
            Timer::Letter(seq) => (5, seq),
            Timer::Ballot(seq) => (6, seq),
            Timer::Team(seq) => (7, seq),
            Timer::Queue(seq) => (8, seq),
            Timer::Assembly(seq) => (9, seq),
            Timer::Allocation(seq) => (10, seq),
            Timer::Keys => (11, 0),
            Timer::Buckets => (14, 0),
        }
    }

    proptest! {
        #[test]
        fn as_a_number_a_timer_is_the_same_and_in_the_same_order(
            (one, first) in (0..=MAX_TIME_MS, timer()),
            (other, second) in (0..=MAX_TIME_MS, timer()),
        ) {
            for other in [one, other] {
                let numbers = (Due::new(one, first), Due::new(other, second));
                prop_assert_eq!(numbers.0.cmp(&numbers.1), (one, place(first)).cmp(&(other, place(second))));
                prop_assert_eq!((numbers.0.at(), numbers.0.timer()), (one, first));
            }
        }
    }

    #[test]
    fn a_task_that_is_pinned_expires_when_all_have_let_go_of_it() {
        let mut timers = Timers::default();
        let mut task = Task::accept(
            crate::SubmitTask::new(crate::TaskId(1), "k", bytes::Bytes::new()),
            7,
            crate::Stamp::at(1),
            &crate::FleetConfig::default(),
            0,
        );
        task.expires_at = Some(50);
        timers.set_task(&task);
        timers.pin(&task);
        timers.pin(&task);
        assert_eq!(timers.pop_due(100), None);
        timers.clear_task(&task);
        task.expires_at = Some(60);
        timers.set_task(&task);
        timers.unpin(7);
        assert_eq!(timers.pop_due(100), None);
        timers.unpin(7);
        assert_eq!(timers.next_due(), Some(60));
        assert_eq!(timers.pop_due(100), Some(Timer::Expiry(7)));
        timers.unpin(7);
        assert_eq!(timers, Timers::default());
    }

    #[test]
    fn what_is_due_after_the_last_moment_is_never_due() {
        let mut timers = Timers::default();
        timers.due.extend([MAX_TIME_MS + 1, u64::MAX].map(|at| Due::new(at, Timer::Expiry(at))));
        assert_eq!((timers.due.len(), timers.pop_due(MAX_TIME_MS)), (2, None));
    }
}
