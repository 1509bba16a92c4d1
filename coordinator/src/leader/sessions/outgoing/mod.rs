//! The messages on their way to one agent: the most urgent first, and each of a bounded size. Attempts wait as their
//! keys; their contents are read from the state in slices when they are sent, so that a slow agent keeps nothing in
//! memory, and an attempt that has ended meanwhile is not sent at all.

mod given;
mod reading;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use prost::Message;
use robeing_fleet::{Archived, FleetMillis, Task, TaskId};
use robeing_proto::{
    budget::MessageBudget,
    internal::v1::{self as internal, coordinator_message::Message as ToAgent},
};
use tracing::error;

use self::given::{Given, NotGiven, assignment, read};
pub use self::reading::{ReadResults, Reading};
use crate::{
    leader::sessions::{AttemptKey, Outbox},
    raft::SharedFleet,
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
    /// How many of them are being read. Until they are, no attempt is sent, nor what comes after all of them.
    being_read: usize,
    /// The first of those that were read which no coordinator can read any more.
    lost: Option<TaskId>,
    /// Attempts whose results could not be read, until that is tried again at the next heartbeat.
    held: Vec<AttemptKey>,
    /// The agent has an object store, from which it fetches inputs.
    has_store: bool,
    /// The attempts that were not sent because a part of their input is in the object store, and the agent has none.
    unreadable: Vec<AttemptKey>,
    /// The attempts that were not sent before the agent was to hand back all that it has.
    handed_back: Vec<AttemptKey>,
    /// The attempts that were not sent because no coordinator can read the result of this task, which they would be given.
    lacking_results: Vec<(AttemptKey, TaskId)>,
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

    /// Takes the attempts that were not sent, and are to be handed back as if the agent did.
    pub fn take_handed_back(&mut self) -> Vec<AttemptKey> {
        std::mem::take(&mut self.handed_back)
    }

    /// Takes the attempts that were not sent because the result of a task is lost that they would be given.
    pub fn take_lacking_results(&mut self) -> Vec<(AttemptKey, TaskId)> {
        std::mem::take(&mut self.lacking_results)
    }

    /// Takes the archived tasks that have to be read before the next attempt is sent; see [`Reading`]. Meanwhile,
    /// everything else is sent that need not come after it.
    pub fn take_lacking(&mut self) -> Vec<Archived> {
        let lacking = std::mem::take(&mut self.lacking);
        self.being_read += lacking.len();
        lacking
    }

    /// Adds what was read of the archived tasks that were taken.
    pub fn add_results(&mut self, read: ReadResults) {
        self.being_read = 0;
        self.archived.extend(read.found);
        self.lost = read.lost;
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
            self.being_read = 0;
        }
    }

    /// Returns whether nothing can be sent now.
    pub fn is_empty(&self) -> bool {
        let are_others_empty = || {
            self.assignments.is_empty()
                && self.follows.is_empty()
                && !self.hand_back
                && !self.drained
                && self.ended.is_none()
        };
        self.heartbeat.is_none()
            && self.health_check.is_none()
            && self.acks.is_empty()
            && self.stops.is_empty()
            && (self.being_read > 0 || are_others_empty())
    }

    /// Returns the next message; `None` if nothing is left to send, or the results of archived tasks have to be read first.
    /// The stop of an attempt is never sent before its assignment: it is queued only after the state has changed, an
    /// assignment is sent as soon as it is read from the state, and an attempt that is no longer current is not assigned.
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
        if assignments.is_some() || !self.lacking.is_empty() || self.being_read > 0 {
            return assignments.map(ToAgent::Assignments);
        }
        // Sent after all assignments, so that the agent knows the attempts.
        if let Some((_, order)) = self.follows.pop_first() {
            return Some(ToAgent::FollowAttempt(order));
        }
        // Sent after all assignments, so that the agent hands back those, too.
        if std::mem::take(&mut self.hand_back) {
            // The agent does not know of those that could not be sent.
            self.handed_back.append(&mut self.held);
            return Some(ToAgent::HandBack(internal::HandBack {}));
        }
        if std::mem::take(&mut self.drained) {
            return Some(ToAgent::Drained(internal::Drained {}));
        }
        self.ended.take().map(|reason| ToAgent::SessionEnded(internal::SessionEnded { reason }))
    }

    /// Returns the next attempts that are still current; `None` if there are none, or if something is lacking.
    fn next_assignments(&mut self, fleet: &SharedFleet, now: FleetMillis) -> Option<internal::Assignments> {
        while !self.assignments.is_empty() && self.being_read == 0 {
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
                        let mut assignments = Vec::with_capacity(tasks.len());
                        assignments.extend(tasks.into_iter().filter_map(|given| assignment(given, now)));
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
                    if self.lost.take() == Some(id) {
                        // It would wait in vain, in a slot of its agent.
                        self.lacking_results.extend(key.map(|key| (key, id)));
                    } else {
                        self.held.extend(key);
                        error!(task = %id, "a result that an attempt is to be given can't be read; its agent has to wait");
                    }
                }
            }
        }
        if self.being_read == 0 {
            self.archived.clear();
        }
        None
    }
}

/// Takes as many items as fit in one message.
fn drain<T>(queue: &mut VecDeque<T>, size: impl Fn(&T) -> usize) -> Vec<T> {
    let mut budget = MessageBudget::default();
    let fitting = queue.iter().take_while(|item| budget.take(size(item))).count();
    queue.drain(..fitting).collect()
}

#[cfg(test)]
mod tests;
