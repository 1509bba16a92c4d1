//! The messages on their way to one agent: the most urgent first, and each of a bounded size. Attempts wait as their
//! keys; their contents are read from the state in slices when they are sent, so that a slow agent keeps nothing in
//! memory, and an attempt that has ended meanwhile is not sent at all.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message;
use robeing_fleet::{
    Archived, Fleet, FleetMillis, Join, Kept, Passing, Task, TaskId,
    sabotage::{Mistake, planted},
};
use robeing_platform::compute;
use robeing_proto::{
    budget::MessageBudget,
    internal::v1::{self as internal, coordinator_message::Message as ToAgent},
};
use tracing::error;

use crate::{
    api::convert,
    leader::sessions::{AttemptKey, Outbox},
    raft::SharedFleet,
    read::StateReader,
};

/// Maximum number of attempts, or of results for one attempt, read from the state at once.
const MAX_ATTEMPTS_READ: usize = 256;
/// Approximate size of an assignment besides its input and kind, bytes.
const ASSIGNMENT_BYTES: usize = 160;

/// What waits to be sent.
#[derive(Default)]
pub struct Outgoing {
    heartbeat: Option<u64>,
    health_check: Option<internal::HealthCheck>,
    acks: VecDeque<internal::CompletionAck>,
    stops: VecDeque<AttemptKey>,
    assignments: VecDeque<AttemptKey>,
    follows: BTreeMap<AttemptKey, internal::FollowAttempt>,
    hand_back: bool,
    drained: bool,
    ended: Option<String>,
    /// The archived tasks whose results the next attempt is given, by their records; `None`: it can't be read.
    archived: BTreeMap<u64, Option<Arc<Task>>>,
    /// Those that have to be read before the next attempt is sent.
    lacking: Vec<Archived>,
    /// Attempts whose results could not be read, until that is tried again at the next heartbeat.
    held: Vec<AttemptKey>,
}

impl Outgoing {
    /// Adds the contents of an outbox.
    pub fn add(&mut self, outbox: Outbox) {
        if outbox.heartbeat.is_some() {
            self.assignments.extend(self.held.drain(..));
        }
        self.heartbeat = outbox.heartbeat.or(self.heartbeat);
        self.health_check = outbox.health_check.or(self.health_check.take());
        self.acks.extend(outbox.acks);
        self.stops.extend(outbox.stops);
        self.assignments.extend(outbox.assignments);
        self.follows.extend(outbox.follows);
        self.hand_back |= outbox.hand_back;
        self.drained |= outbox.drained;
        self.ended = outbox.ended.or(self.ended.take());
        if self.ended.is_some() {
            self.stops.clear();
            self.assignments.clear();
            self.held.clear();
            self.follows.clear();
        }
    }

    /// Returns whether nothing can be sent.
    pub fn is_empty(&self) -> bool {
        self.heartbeat.is_none()
            && self.health_check.is_none()
            && self.acks.is_empty()
            && self.stops.is_empty()
            && self.assignments.is_empty()
            && self.follows.is_empty()
            && !self.hand_back
            && !self.drained
            && self.ended.is_none()
    }

    /// Returns the next message; `None` if nothing is left to send. Reads the results of archived tasks that an attempt
    /// is given.
    pub async fn next_of(&mut self, state: &StateReader, now: FleetMillis) -> Option<ToAgent> {
        loop {
            let next = self.next(state.fleet(), now);
            let lacking = std::mem::take(&mut self.lacking);
            if lacking.is_empty() {
                return next;
            }
            for row in lacking {
                let task = state.read(Kept::Archived(row)).await.ok().flatten();
                let is_read = task.is_some();
                self.archived.insert(row.record, task.map(without_input));
                if !is_read {
                    // The others would not help, and the agent must not wait for each.
                    break;
                }
            }
        }
    }

    /// As [`Outgoing::next_of`], but `None` also if the results of archived tasks have to be read first. The stop of an
    /// attempt is never sent before its assignment: it is queued only after the state has changed, an assignment is sent
    /// as soon as it is read from the state, and an attempt that is no longer current is not assigned.
    pub fn next(&mut self, fleet: &SharedFleet, now: FleetMillis) -> Option<ToAgent> {
        if let Some(seq) = self.heartbeat.take() {
            return Some(ToAgent::HeartbeatAck(internal::HeartbeatAck { seq }));
        }
        if let Some(check) = self.health_check.take() {
            return Some(ToAgent::HealthCheck(check));
        }
        if !self.acks.is_empty() {
            let acks = drain(&mut self.acks, Message::encoded_len);
            return Some(ToAgent::CompletionAcks(internal::CompletionAcks { acks }));
        }
        if !self.stops.is_empty() {
            let wire = |(task, attempt): AttemptKey| internal::AttemptRef { task_id: task.to_string(), attempt };
            let attempts = drain(&mut self.stops, |_| ASSIGNMENT_BYTES).into_iter().map(wire).collect();
            return Some(ToAgent::Cancels(internal::Cancels { attempts }));
        }
        let assignments = self.next_assignments(fleet, now);
        if assignments.is_some() || !self.lacking.is_empty() {
            return assignments.map(ToAgent::Assignments);
        }
        // Sent after all assignments, so that the agent knows the attempts.
        if let Some((_, order)) = self.follows.pop_first() {
            return Some(ToAgent::FollowAttempt(order));
        }
        // Sent after all assignments, so that the agent hands back those, too.
        if std::mem::take(&mut self.hand_back) {
            return Some(ToAgent::HandBack(internal::HandBack {}));
        }
        if std::mem::take(&mut self.drained) {
            return Some(ToAgent::Drained(internal::Drained {}));
        }
        self.ended.take().map(|reason| ToAgent::SessionEnded(internal::SessionEnded { reason }))
    }

    /// Returns the next attempts that are still current; `None` if there are none, or if something is lacking.
    fn next_assignments(&mut self, fleet: &SharedFleet, now: FleetMillis) -> Option<internal::Assignments> {
        while !self.assignments.is_empty() {
            let mut tasks = read(&fleet.read(), &mut self.assignments);
            if tasks.is_empty() {
                continue;
            }
            // One that is given results is alone.
            let key = tasks.first().and_then(Given::key);
            match tasks.iter_mut().try_for_each(|given| given.add_results(fleet, &self.archived)) {
                Ok(()) => {
                    self.archived.clear();
                    let assignments = tasks.iter().filter_map(|given| assignment(given, now)).collect();
                    return Some(internal::Assignments { assignments });
                }
                Err(NotGiven::Lacking(lacking)) => {
                    key.into_iter().for_each(|key| self.assignments.push_front(key));
                    self.lacking = lacking;
                    return None;
                }
                Err(NotGiven::Unreadable(id)) => {
                    self.archived.clear();
                    self.held.extend(key);
                    error!(task = %id, "a result that an attempt is to be given can't be read; its agent has to wait");
                }
            }
        }
        None
    }
}

/// Returns a task without its input, which can be large, and which nobody is given with its result.
fn without_input(task: Arc<Task>) -> Arc<Task> {
    let mut task = Arc::unwrap_or_clone(task);
    task.input = Bytes::new();
    Arc::new(task)
}

/// Takes as many items as fit in one message.
fn drain<T>(queue: &mut VecDeque<T>, size: impl Fn(&T) -> usize) -> Vec<T> {
    let mut budget = MessageBudget::default();
    let fitting = queue.iter().take_while(|item| budget.take(size(item))).count();
    queue.drain(..fitting).collect()
}

/// A task of which an agent gets an attempt. A run of a task whose result is verified has the input and deadline of that one;
/// one that compares outputs, these and that deadline.
struct Given {
    task: Arc<Task>,
    input: Bytes,
    deadline: Option<FleetMillis>,
    /// How many results of other tasks it is given.
    results_given: usize,
    results: Vec<internal::PassedResult>,
    carried: Bytes,
}

impl Given {
    fn of(fleet: &Fleet, task: &Arc<Task>) -> Self {
        Self {
            input: fleet.input_of(task),
            deadline: fleet.deadline_of(task),
            results_given: fleet.results_given(task),
            results: Vec::new(),
            carried: fleet.carried_to(task),
            task: Arc::clone(task),
        }
    }

    /// Returns the attempt.
    fn key(&self) -> Option<AttemptKey> {
        Some((self.task.id, self.task.current()?.number))
    }

    /// Reads the results of other tasks that the attempt is given, in slices, so that commands do not wait for all of
    /// them. Those of archived tasks have to be among `archived`.
    fn add_results(
        &mut self,
        fleet: &SharedFleet,
        archived: &BTreeMap<u64, Option<Arc<Task>>>,
    ) -> Result<(), NotGiven> {
        if self.results_given == 0 {
            return Ok(());
        }
        let rows = fleet.read().archived_results(&self.task);
        let is_unreadable = |row: &&Archived| archived.get(&row.record).is_some_and(Option::is_none);
        if let Some(row) = rows.iter().find(is_unreadable) {
            return Err(NotGiven::Unreadable(row.id()));
        }
        let lacking: Vec<Archived> = rows.into_iter().filter(|row| !archived.contains_key(&row.record)).collect();
        if !lacking.is_empty() {
            return Err(NotGiven::Lacking(lacking));
        }
        compute(|| self.read_results(fleet, archived))
    }

    fn read_results(
        &mut self,
        fleet: &SharedFleet,
        archived: &BTreeMap<u64, Option<Arc<Task>>>,
    ) -> Result<(), NotGiven> {
        let passing = fleet.read().passing_of(&self.task);
        let mut found: Vec<Arc<Task>> = Vec::with_capacity(self.results_given);
        while found.len() < self.results_given {
            let slice = fleet.read().results_for(&self.task, found.len(), MAX_ATTEMPTS_READ);
            // If some are gone, so is the attempt, and its agent is told to stop it.
            if slice.is_empty() {
                break;
            }
            for kept in slice {
                match kept {
                    Kept::Here(task) => found.push(task),
                    Kept::Archived(row) => match archived.get(&row.record) {
                        Some(Some(task)) => found.push(Arc::clone(task)),
                        Some(None) => return Err(NotGiven::Unreadable(row.id())),
                        // It was archived a moment ago.
                        None => return Err(NotGiven::Lacking(vec![row])),
                    },
                }
            }
        }
        let seq = self.task.seq;
        let is_child = |of: &Task| of.child_of().is_some_and(|place| place.seq == seq);
        // Who asked for subtasks has to know of each how it ended.
        let has_asked = self.task.children().is_some_and(|children| children.join == Join::Resume);
        let is_input = |of: &Arc<Task>| passing == Passing::AsInput && !(has_asked && is_child(of));
        let (inputs, others): (Vec<_>, Vec<_>) = found.into_iter().partition(is_input);
        self.results = others.iter().map(|of| convert::passed_result(of, is_child(of))).collect();
        if !inputs.is_empty() {
            let outputs = inputs.iter().filter_map(|task| task.output.as_ref());
            let parts: Vec<&[u8]> = std::iter::once(&self.input).chain(outputs).map(|part| &part[..]).collect();
            let input = parts.concat();
            self.input = input.into();
        }
        Ok(())
    }
}

/// Why an attempt is not sent with the results that it is to be given.
enum NotGiven {
    /// These archived tasks have to be read first.
    Lacking(Vec<Archived>),
    /// The result of this task can't be read.
    Unreadable(TaskId),
}

/// Takes the tasks of the next attempts that are still current, about as many as fit in one message.
fn read(fleet: &Fleet, attempts: &mut VecDeque<AttemptKey>) -> Vec<Given> {
    let (mut tasks, mut budget) = (Vec::new(), MessageBudget::default());
    for _ in 0..MAX_ATTEMPTS_READ {
        let Some(&(id, attempt)) = attempts.front() else { break };
        let task = fleet.task(id).filter(|task| task.current().is_some_and(|current| current.number == attempt));
        if let Some(task) = task {
            let given = Given::of(fleet, task);
            // One that is given results is sent alone, because their size is known only once they are read.
            let is_alone = given.results_given > 0;
            let bytes = given.input.len() + given.carried.len() + task.kind.len() + ASSIGNMENT_BYTES;
            if is_alone && !tasks.is_empty() || !budget.take(bytes) {
                break;
            }
            tasks.push(given);
            if is_alone {
                attempts.pop_front();
                break;
            }
        }
        attempts.pop_front();
    }
    tasks
}

/// Returns the current attempt of a task as an assignment at this fleet time.
fn assignment(given: &Given, now: FleetMillis) -> Option<internal::Assignment> {
    let Given { task, input, deadline, results, carried, .. } = given;
    let current = task.current()?;
    // An agent that receives it late has less time left. 0 would mean that there is no limit.
    let left = |due: FleetMillis| due.saturating_sub(now).max(1);
    let assigned_at = current.assigned_at.fleet;
    Some(internal::Assignment {
        task_id: task.id.to_string(),
        attempt: current.number,
        kind: task.kind.clone(),
        input: if planted(Mistake::InputCut) { input.slice(..input.len().saturating_sub(1)) } else { input.clone() },
        deadline_in_ms: deadline.map_or(0, left),
        time_limit_ms: task.attempt_timeout.map_or(0, |limit| left(assigned_at.saturating_add(limit))),
        resources: task.resources.as_ref().map(|claim| convert::told_amounts(claim.asked.amounts)),
        progress_timeout_ms: task.progress_timeout().unwrap_or_default(),
        results: results.clone(),
        carried: carried.clone(),
    })
}

#[cfg(test)]
mod tests;
