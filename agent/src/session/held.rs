//! The attempts an agent holds in its session: waiting for a slot, running, or finished with a completion not
//! acknowledged yet. This module does not know how attempts run or how completions are sent. Nothing depends on the order
//! of its map, so that a simulated run is reproducible.

use std::collections::hash_map::Entry;

use ahash::HashMap;
use robeing_fleet::limits::MAX_SLOTS;
use robeing_proto::{
    budget::{MESSAGE_BUDGET_BYTES, MessageBudget},
    internal::v1::{self as internal, completion},
    v1,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::numbered::Numbered;

/// The maximum number of assignments waiting for a slot; further ones are handed back. The leader never assigns more
/// than there are slots, because a slot becomes free only when the agent reports how its attempt ended.
pub const MAX_WAITING: usize = MAX_SLOTS as usize;
/// Bytes of unacknowledged completions above which no attempt is started.
pub const MAX_UNACKNOWLEDGED_BYTES: usize = 32 * 1024 * 1024;
/// Approximate bytes of sent, unacknowledged completions above which no more are sent: the leader holds those of every
/// agent in memory until they are written.
pub const MAX_SENT_BYTES: usize = 2 * MESSAGE_BUDGET_BYTES;
/// The maximum number of completions in one message.
pub const BATCH_COMPLETIONS: usize = 1_024;
/// Bytes added to a completion's output when it is counted.
const COMPLETION_OVERHEAD: usize = 128;

/// One attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The task's id.
    pub task_id: String,
    /// The attempt's fencing number.
    pub attempt: u32,
}

impl From<&internal::Assignment> for Key {
    fn from(assignment: &internal::Assignment) -> Self {
        Self { task_id: assignment.task_id.clone(), attempt: assignment.attempt }
    }
}

/// A waiting assignment and when it arrived.
#[derive(Debug)]
pub struct Waiting {
    /// The assignment to run.
    pub assignment: internal::Assignment,
    /// When it arrived; its time limit counts from then.
    pub received: Instant,
}

#[derive(Debug)]
enum State {
    /// Number in [`Held::waiting`].
    Waiting(u64),
    Running {
        cancel: CancellationToken,
        /// The attempt is being stopped in order to be handed back.
        hand_back: bool,
    },
    /// Number in [`Held::finished`].
    Finished(u64),
}

/// All attempts held. Each goes from waiting to running to finished, and is forgotten when acknowledged.
#[derive(Debug)]
pub struct Held {
    slots: usize,
    states: HashMap<Key, State>,
    /// Assignments waiting for a slot, in order of arrival.
    waiting: Numbered<Waiting>,
    running: usize,
    finished: Numbered<internal::Completion>,
    finished_bytes: usize,
    /// Completions from this number on have not been sent on this connection.
    unsent: u64,
    /// Bytes of completions sent on this connection and not acknowledged.
    sent_bytes: usize,
}

impl Held {
    /// Creates an empty set of attempts, of which up to `slots` may run at once.
    pub fn new(slots: u32) -> Self {
        Self {
            slots: slots.max(1) as usize,
            states: HashMap::default(),
            waiting: Numbered::new(),
            running: 0,
            finished: Numbered::new(),
            finished_bytes: 0,
            unsent: 0,
            sent_bytes: 0,
        }
    }

    /// Adds an assignment. One that is already held changes nothing; one beyond [`MAX_WAITING`] is handed back.
    pub fn assigned(&mut self, assignment: internal::Assignment, now: Instant) {
        let key = Key::from(&assignment);
        if self.waiting.len() == MAX_WAITING {
            if !self.states.contains_key(&key) {
                self.finished(key, completion::Outcome::HandedBack(internal::HandedBack {}), 0);
            }
            return;
        }
        if let Entry::Vacant(free) = self.states.entry(key) {
            free.insert(State::Waiting(self.waiting.push(Waiting { assignment, received: now })));
        }
    }

    /// Returns the next attempt to start, with the token that cancels it, and marks it as running until
    /// [`Held::finished`]. `None`: no slot is free, nothing waits, or too many bytes of completions are unacknowledged.
    pub fn start_next(&mut self) -> Option<(Waiting, CancellationToken)> {
        if self.running >= self.slots || self.finished_bytes > MAX_UNACKNOWLEDGED_BYTES {
            return None;
        }
        let mut next = self.waiting.pop_first()?;
        let cancel = CancellationToken::new();
        // Its id is lent to the key, without a copy.
        let key = Key { task_id: std::mem::take(&mut next.assignment.task_id), attempt: next.assignment.attempt };
        if let Some(state) = self.states.get_mut(&key) {
            *state = State::Running { cancel: cancel.clone(), hand_back: false };
        }
        next.assignment.task_id = key.task_id;
        self.running += 1;
        Some((next, cancel))
    }

    /// Records how an attempt ended; the completion is sent until it is acknowledged.
    pub fn finished(&mut self, key: Key, mut outcome: completion::Outcome, ran_us: u64) {
        let number = self.finished.next_number();
        let known = self.states.get_mut(&key).map(|state| std::mem::replace(state, State::Finished(number)));
        match known {
            Some(State::Running { hand_back, .. }) => {
                self.running -= 1;
                if hand_back && matches!(outcome, completion::Outcome::Stopped(_)) {
                    outcome = completion::Outcome::HandedBack(internal::HandedBack {});
                }
            }
            Some(State::Finished(earlier)) => self.forget(earlier),
            Some(State::Waiting(number)) => drop(self.waiting.remove(number)),
            None => drop(self.states.insert(key.clone(), State::Finished(number))),
        }
        let completion =
            internal::Completion { task_id: key.task_id, attempt: key.attempt, ran_us, outcome: Some(outcome) };
        self.finished_bytes += size(&completion);
        self.finished.push(completion);
    }

    /// Stops an attempt at the coordinator's request: a running one is cancelled and ends in its own time; a waiting or
    /// unknown one counts as stopped already.
    pub fn cancel(&mut self, key: Key) {
        match self.states.get(&key) {
            Some(State::Finished(_)) => return,
            Some(State::Running { cancel, .. }) => return cancel.cancel(),
            Some(State::Waiting(_)) | None => {}
        }
        self.finished(key, completion::Outcome::Stopped(internal::Stopped {}), 0);
    }

    /// Removes a completion that the coordinator has acknowledged.
    pub fn acknowledged(&mut self, key: Key) {
        let Entry::Occupied(held) = self.states.entry(key) else { return };
        if let State::Finished(number) = *held.get() {
            held.remove();
            self.forget(number);
        }
    }

    /// Hands back all waiting attempts.
    pub fn hand_back_waiting(&mut self) {
        while let Some(waiting) = self.waiting.pop_first() {
            let key = Key::from(&waiting.assignment);
            self.finished(key, completion::Outcome::HandedBack(internal::HandedBack {}), 0);
        }
    }

    /// Hands back all running attempts, which the caller has stopped.
    pub fn hand_back_running(&mut self) {
        let running = self.states.iter().filter(|(_, state)| matches!(state, State::Running { .. }));
        let mut keys: Vec<Key> = running.map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        for key in keys {
            self.finished(key, completion::Outcome::HandedBack(internal::HandedBack {}), 0);
        }
    }

    /// Cancels all running attempts, each of which is handed back once it has stopped.
    pub fn stop_and_hand_back(&mut self) {
        let mut states: Vec<(&Key, &mut State)> = self.states.iter_mut().collect();
        states.sort_unstable_by_key(|(key, _)| *key);
        for (_, state) in states {
            if let State::Running { cancel, hand_back } = state {
                *hand_back = true;
                cancel.cancel();
            }
        }
    }

    /// Forgets everything because the session is over. The caller has stopped the running attempts.
    pub fn reset(&mut self) {
        *self = Self::new(u32::try_from(self.slots).unwrap_or(u32::MAX));
    }

    /// Returns all attempts held, for a Hello.
    pub fn refs(&self) -> Vec<internal::AttemptRef> {
        let mut keys: Vec<&Key> = self.states.keys().collect();
        keys.sort_unstable();
        let held = |key: &Key| internal::AttemptRef { task_id: key.task_id.clone(), attempt: key.attempt };
        keys.into_iter().map(held).collect()
    }

    /// Marks every unacknowledged completion as unsent, so that it is sent again.
    pub fn send_again(&mut self) {
        self.unsent = 0;
        self.sent_bytes = 0;
    }

    /// Whether [`Held::batch`] has completions to return that may be sent now.
    pub fn has_unsent(&self) -> bool {
        self.sent_bytes < MAX_SENT_BYTES && self.finished.last().is_some_and(|last| last >= self.unsent)
    }

    /// Whether a sent completion is not acknowledged yet.
    pub fn has_unacknowledged(&self) -> bool {
        self.finished.first().is_some_and(|first| first < self.unsent)
    }

    /// Returns the next completions to send and marks them as sent.
    pub fn batch(&mut self) -> Vec<internal::Completion> {
        let most = self.finished.since(self.unsent).take(BATCH_COMPLETIONS).count();
        let (mut batch, mut budget) = (Vec::with_capacity(most), MessageBudget::default());
        for (number, completion) in self.finished.since(self.unsent).take(BATCH_COMPLETIONS) {
            let bytes = size(completion);
            if !budget.take(bytes) {
                break;
            }
            batch.push(completion.clone());
            self.unsent = number + 1;
            self.sent_bytes += bytes;
        }
        batch
    }

    /// Whether this attempt is held.
    pub fn has(&self, key: &Key) -> bool {
        self.states.contains_key(key)
    }

    /// The number of attempts held.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether no attempt is held.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    /// The number of running attempts.
    pub fn running(&self) -> usize {
        self.running
    }

    fn forget(&mut self, number: u64) {
        if let Some(completion) = self.finished.remove(number) {
            let bytes = size(&completion);
            self.finished_bytes -= bytes;
            if number < self.unsent {
                self.sent_bytes -= bytes;
            }
        }
    }
}

fn size(completion: &internal::Completion) -> usize {
    let outcome = match &completion.outcome {
        Some(completion::Outcome::Output(output)) => output.len(),
        Some(completion::Outcome::Failure(failure)) => {
            failure.message.len() + failure.stderr_tail.len() + failure.name.len()
        }
        Some(completion::Outcome::Suspended(asked)) => {
            let depends_on = |of: &v1::TaskSpec| of.depends_on.iter().map(|on| on.task.len()).sum::<usize>();
            let subtask = |of: &v1::TaskSpec| {
                COMPLETION_OVERHEAD + of.kind.len() + of.input.len() + of.required_specialization.len() + depends_on(of)
            };
            asked.carried.len() + asked.subtasks.iter().map(subtask).sum::<usize>()
        }
        _ => 0,
    };
    COMPLETION_OVERHEAD + completion.task_id.len() + outcome
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn assignment(n: usize) -> internal::Assignment {
        internal::Assignment { task_id: format!("task-{n}"), attempt: 1, ..Default::default() }
    }

    fn key(n: usize) -> Key {
        Key::from(&assignment(n))
    }

    fn output(bytes: usize) -> completion::Outcome {
        completion::Outcome::Output(Bytes::from(vec![0; bytes]))
    }

    fn with(slots: u32, assignments: usize) -> Held {
        let mut held = Held::new(slots);
        for n in 0..assignments {
            held.assigned(assignment(n), Instant::now());
        }
        held
    }

    #[test]
    fn as_many_run_as_there_are_slots_and_in_the_order_they_came() {
        let mut held = with(2, 2);
        let started: Vec<String> =
            std::iter::from_fn(|| held.start_next()).map(|(w, _)| w.assignment.task_id).collect();
        assert_eq!(started, ["task-0", "task-1"]);
        held.assigned(assignment(2), Instant::now());
        assert!(held.start_next().is_none(), "both slots are taken");
        held.finished(key(1), output(0), 1);
        assert_eq!(held.start_next().map(|(w, _)| w.assignment.task_id).as_deref(), Some("task-2"));
    }

    #[test]
    fn an_attempt_that_is_held_is_not_taken_twice() {
        let mut held = with(4, 1);
        held.assigned(assignment(0), Instant::now());
        assert!(held.start_next().is_some());
        held.assigned(assignment(0), Instant::now());
        assert!(held.start_next().is_none());
        held.finished(key(0), output(0), 1);
        held.assigned(assignment(0), Instant::now());
        assert!(held.start_next().is_none());
        assert_eq!(held.len(), 1);
    }

    #[test]
    fn an_assignment_beyond_the_limit_is_handed_back() {
        let mut held = with(MAX_SLOTS, MAX_WAITING);
        assert!(!held.has_unsent(), "all slots may be given work at once");
        held.assigned(assignment(MAX_WAITING), Instant::now());
        let batch = held.batch();
        assert_eq!(batch.len(), 1);
        assert_eq!(batch[0].task_id, format!("task-{MAX_WAITING}"));
        assert!(matches!(batch[0].outcome, Some(completion::Outcome::HandedBack(_))));
        assert_eq!(std::iter::from_fn(|| held.start_next()).count(), MAX_SLOTS as usize);
    }

    #[test]
    fn what_waits_is_stopped_in_the_time_that_its_number_takes_and_never_started() {
        let most = MAX_SLOTS as usize;
        let mut held = with(MAX_SLOTS, most);
        for n in (0..most).rev().filter(|n| n % 2 == 0) {
            held.cancel(key(n));
        }
        let started: Vec<String> =
            std::iter::from_fn(|| held.start_next()).map(|(w, _)| w.assignment.task_id).collect();
        let left: Vec<String> = (0..most).filter(|n| n % 2 == 1).map(|n| format!("task-{n}")).collect();
        assert_eq!(started, left);
    }

    #[test]
    fn a_completion_is_sent_once_on_each_connection_until_acknowledged() {
        let mut held = with(2, 2);
        while held.start_next().is_some() {}
        held.finished(key(0), output(3), 7);
        assert_eq!(held.batch().len(), 1);
        assert!(!held.has_unsent());
        held.send_again();
        held.finished(key(1), output(3), 7);
        assert_eq!(held.batch().len(), 2);
        held.acknowledged(key(0));
        held.acknowledged(key(1));
        held.send_again();
        assert!(!held.has_unsent() && held.is_empty());
        assert_eq!(held.finished_bytes, 0);
    }

    #[test]
    fn a_batch_ends_at_its_limits() {
        let mut held = with(3, 3);
        while held.start_next().is_some() {}
        held.finished(key(0), output(MESSAGE_BUDGET_BYTES + 1), 1);
        held.finished(key(1), output(MESSAGE_BUDGET_BYTES - 4 * COMPLETION_OVERHEAD), 1);
        held.finished(key(2), output(0), 1);
        assert_eq!(held.batch().len(), 1, "one that is too large goes alone");
        assert_eq!(held.batch().len(), 2);
        assert!(!held.has_unsent());
        let mut held = with(BATCH_COMPLETIONS as u32 + 1, 0);
        for n in 0..=BATCH_COMPLETIONS {
            held.finished(key(n), output(0), 1);
        }
        assert_eq!(held.batch().len(), BATCH_COMPLETIONS);
        assert_eq!(held.batch().len(), 1);
    }

    #[test]
    fn no_more_is_sent_than_the_leader_must_hold_until_some_is_acknowledged() {
        let mut held = with(6, 6);
        while held.start_next().is_some() {}
        for n in 0..6 {
            held.finished(key(n), output(MESSAGE_BUDGET_BYTES / 2), 1);
        }
        let sent = |held: &mut Held| {
            let mut sent = 0;
            while held.has_unsent() {
                sent += held.batch().len();
            }
            sent
        };
        assert_eq!(sent(&mut held), 4);
        held.acknowledged(key(0));
        assert_eq!(sent(&mut held), 1);
        held.send_again();
        assert_eq!(sent(&mut held), 4, "on another connection it begins again");
        for n in 0..6 {
            held.acknowledged(key(n));
        }
        assert_eq!((held.sent_bytes, held.finished_bytes, held.has_unsent()), (0, 0, false));
    }

    #[test]
    fn nothing_is_started_while_too_much_waits_to_be_acknowledged() {
        let mut held = with(3, 3);
        held.start_next();
        held.finished(key(0), output(MAX_UNACKNOWLEDGED_BYTES), 1);
        assert!(held.start_next().is_none());
        held.acknowledged(key(0));
        assert!(held.start_next().is_some());
    }

    #[test]
    fn a_cancelled_attempt_that_waits_or_is_unknown_has_stopped_and_a_running_one_is_told() {
        let mut held = with(1, 1);
        let (_, cancel) = held.start_next().expect("a slot is free");
        held.assigned(assignment(1), Instant::now());
        held.cancel(key(0));
        assert!(cancel.is_cancelled());
        held.cancel(key(1));
        held.cancel(key(9));
        let stopped: Vec<String> = held.batch().into_iter().map(|c| c.task_id).collect();
        assert_eq!(stopped, ["task-1", "task-9"]);
        held.finished(key(0), output(1), 1);
        held.cancel(key(0));
        assert!(matches!(
            held.batch()[..],
            [internal::Completion { outcome: Some(completion::Outcome::Output(_)), .. }]
        ));
    }

    #[test]
    fn what_is_stopped_to_be_handed_back_is_handed_back_unless_it_ended_by_itself() {
        let mut held = with(2, 2);
        let (_, first) = held.start_next().expect("a slot is free");
        let (_, second) = held.start_next().expect("a slot is free");
        held.stop_and_hand_back();
        assert!(first.is_cancelled() && second.is_cancelled());
        assert_eq!(held.running(), 2, "they end in their own time");
        held.finished(key(0), completion::Outcome::Stopped(internal::Stopped {}), 1);
        held.finished(key(1), output(1), 1);
        let outcomes: Vec<_> = held.batch().into_iter().filter_map(|completion| completion.outcome).collect();
        assert!(
            matches!(outcomes[..], [completion::Outcome::HandedBack(_), completion::Outcome::Output(_)]),
            "{outcomes:?}"
        );
        assert_eq!(held.running(), 0);
    }

    #[test]
    fn what_is_held_is_listed_and_handed_back_in_the_same_order_each_time() {
        let mut held = with(50, 50);
        while held.start_next().is_some() {}
        let listed: Vec<String> = held.refs().into_iter().map(|of| of.task_id).collect();
        assert!(listed.is_sorted() && listed.len() == 50);
        held.hand_back_running();
        assert_eq!(held.batch().into_iter().map(|of| of.task_id).collect::<Vec<_>>(), listed);
    }

    #[test]
    fn after_a_session_nothing_is_left() {
        let mut held = with(3, 3);
        held.start_next();
        held.finished(key(0), output(5), 1);
        held.start_next();
        held.reset();
        assert!(held.is_empty() && !held.has_unsent() && held.refs().is_empty());
        assert_eq!(held.running(), 0);
    }
}
