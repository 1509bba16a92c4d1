//! The messages on their way to one agent: the most urgent first, and each of a bounded size. Attempts wait as their
//! keys; their contents are read from the state in slices when they are sent, so that a slow agent keeps nothing in
//! memory, and an attempt that has ended meanwhile is not sent at all.

mod given;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use prost::Message;
use robeing_fleet::{Archived, FleetMillis, Task};
use robeing_proto::{
    budget::MessageBudget,
    internal::v1::{self as internal, coordinator_message::Message as ToAgent},
};
use tracing::error;

use self::given::{Given, NotGiven, assignment, read};
use crate::{
    leader::sessions::{AttemptKey, Outbox},
    raft::SharedFleet,
    read::{READ_AT_ONCE, StateReader},
};

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
    /// The agent has an object store, from which it fetches inputs.
    has_store: bool,
    /// The attempts that were not sent because a part of their input is in the object store, and the agent has none.
    unreadable: Vec<AttemptKey>,
}

impl Outgoing {
    /// Returns what is on its way to an agent that has an object store, or none.
    pub fn to(has_store: bool) -> Self {
        Self { has_store, ..Self::default() }
    }

    /// Takes the attempts that were not sent because the agent can't read their input.
    pub fn take_unreadable(&mut self) -> Vec<AttemptKey> {
        std::mem::take(&mut self.unreadable)
    }

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
            for rows in lacking.chunks(READ_AT_ONCE) {
                for (row, read) in rows.iter().zip(state.read_rows(rows).await) {
                    self.archived.insert(row.record, read.ok().flatten().map(without_input));
                }
                if self.archived.values().any(Option::is_none) {
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
                    if !self.has_store {
                        let unreadable = tasks.extract_if(.., |given| given.needs_store());
                        self.unreadable.extend(unreadable.filter_map(|given| given.key()));
                    }
                    if !tasks.is_empty() {
                        let assignments = tasks.into_iter().filter_map(|given| assignment(given, now)).collect();
                        return Some(internal::Assignments { assignments });
                    }
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

#[cfg(test)]
mod tests;
